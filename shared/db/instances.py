"""The rows of serving processes: liveness, what they have applied, and how many share limits."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from shared.db.rows import Queryable

# An instance that was not seen for so long is taken for dead: its parallel slots are free again.
LIVE_S = 8.0

_REGISTER = """
insert into instance (
    id, boot, binary_name, region, host, version, schema_version, capabilities
) values (
    $1::text, nextval('instance_boot'), $2::text, $3::text, $4::text, $5::text, $6::integer,
    $7::text[]
)
on conflict (id) do update set
    boot = excluded.boot, binary_name = excluded.binary_name, region = excluded.region,
    host = excluded.host, version = excluded.version, schema_version = excluded.schema_version,
    capabilities = excluded.capabilities, applied_version = 0,
    started_at = clock_timestamp(), last_seen = clock_timestamp(), stopped_at = null
returning boot
"""
# One statement, one round trip. Losing the newest beat in a crash costs nothing, so its commit
# waits for no disk. `prior` reads the row as it was before the update.
_BEAT = """
with prior as materialized (
    select boot, last_seen from instance where id = $1::text
), beat as (
    update instance set last_seen = clock_timestamp(), applied_version = $3::bigint,
        stopped_at = null
    where id = $1::text and boot = $2::bigint
    returning id
)
select
    extract(epoch from clock_timestamp())::float8 as now_s,
    extract(epoch from pg_postmaster_start_time())::float8 as server_started_s,
    (select boot from prior) as boot,
    extract(epoch from clock_timestamp() - (select last_seen from prior))::float8 as silent_s,
    (select version from change_head) as head_version,
    (select wanted from change_ack) as ack_wanted,
    (select count(*) from instance
     where 'llm' = any(capabilities) and stopped_at is null
       and (last_seen > clock_timestamp() - make_interval(secs => $4::float8)
            or id = $1::text)) as live_servers,
    (select count(*) from instance
     where 'llm' = any(capabilities) and stopped_at is null and id < $1::text
       and last_seen > clock_timestamp() - make_interval(secs => $4::float8)) as rank,
    (select count(*) from beat) as beaten,
    set_config('synchronous_commit', 'off', true)
"""
_ACK = """
with ack as (
    update instance set applied_version = $3::bigint
    where id = $1::text and boot = $2::bigint
)
select set_config('synchronous_commit', 'off', true)
"""
_STOP = """
update instance set stopped_at = clock_timestamp() where id = $1::text and boot = $2::bigint
"""
_LIST = """
select id, boot, binary_name, region, host, version, schema_version, capabilities,
    applied_version, started_at, last_seen, stopped_at,
    stopped_at is null and last_seen > clock_timestamp() - make_interval(secs => $2::float8)
        as live
from instance
where stopped_at is null and last_seen > clock_timestamp() - make_interval(secs => $1::float8)
   or $1::float8 is null
order by region, binary_name, id
"""
# Of the instances that may still serve cached state: has it applied $1, is it alive?
_CONFIRMED = """
select count(*) filter (where applied_version >= $1::bigint) as applied,
    count(*) filter (where applied_version < $1::bigint and live) as pending,
    count(*) filter (where applied_version < $1::bigint and not live) as unreachable
from (
    select applied_version,
        last_seen > clock_timestamp() - make_interval(secs => $3::float8) as live
    from instance
    where stopped_at is null and last_seen > clock_timestamp() - make_interval(secs => $2::float8)
) as serving
"""


@frozen
class InstanceFacts:
    """What an instance says of itself. `capabilities` are the names that it holds."""

    binary: str
    region: str
    host: str
    version: str
    schema_version: int
    capabilities: tuple[str, ...]


@frozen
class Instance:
    """A row of the fleet. `live`: seen within `LIVE_S` and not stopped. Times are aware UTC."""

    id: str
    boot: int
    binary: str
    region: str
    host: str
    version: str
    schema_version: int
    capabilities: tuple[str, ...]
    applied_version: int
    started_at: datetime
    last_seen: datetime
    stopped_at: datetime | None
    live: bool


@frozen
class Beat:
    """What a heartbeat brings back. Times are seconds on the database's clock.

    `boot` is that of the row under our id, `None` if there is none; `silent_s` how long the row
    had not been written. `live_servers` counts live instances with the LLM capability, the
    caller's own included; `rank` those of them whose id comes before the caller's.
    """

    now_s: float
    server_started_s: float
    boot: int | None
    silent_s: float | None
    head_version: int
    ack_wanted: int
    live_servers: int
    rank: int
    beaten: bool


@frozen
class Confirmations:
    """How many instances have applied a version, have yet to, or were not seen lately."""

    applied: int
    pending: int
    unreachable: int


async def register(link: Queryable, instance_id: str, facts: InstanceFacts) -> int:
    """Takes the row of an id for a process that has just started; returns its boot number."""
    boot: int = await link.fetchval(
        _REGISTER,
        instance_id,
        facts.binary,
        facts.region,
        facts.host,
        facts.version,
        facts.schema_version,
        list(facts.capabilities),
    )
    return boot


async def heartbeat(link: Queryable, instance_id: str, boot: int, applied_version: int) -> Beat:
    """Says that a process lives and what it has applied. `beaten` is false if its row is gone."""
    row = await link.fetchrow(_BEAT, instance_id, boot, applied_version, LIVE_S)
    assert row is not None
    return Beat(
        now_s=row["now_s"],
        server_started_s=row["server_started_s"],
        boot=row["boot"],
        silent_s=row["silent_s"],
        head_version=row["head_version"],
        ack_wanted=row["ack_wanted"],
        live_servers=row["live_servers"],
        rank=row["rank"],
        beaten=row["beaten"] == 1,
    )


async def acknowledge(link: Queryable, instance_id: str, boot: int, applied_version: int) -> None:
    """Reports what was applied, between two heartbeats."""
    await link.execute(_ACK, instance_id, boot, applied_version)


async def mark_stopped(link: Queryable, instance_id: str, boot: int) -> None:
    """Says that a process has ended in order: nobody waits for it any longer."""
    await link.execute(_STOP, instance_id, boot)


async def list_instances(link: Queryable, seen_within_s: float | None = None) -> list[Instance]:
    """Instances that have not stopped and were seen lately; with `None` all that ever were."""
    rows = await link.fetch(_LIST, seen_within_s, LIVE_S)
    return [
        Instance(
            id=row["id"],
            boot=row["boot"],
            binary=row["binary_name"],
            region=row["region"],
            host=row["host"],
            version=row["version"],
            schema_version=row["schema_version"],
            capabilities=tuple(row["capabilities"]),
            applied_version=row["applied_version"],
            started_at=row["started_at"],
            last_seen=row["last_seen"],
            stopped_at=row["stopped_at"],
            live=row["live"],
        )
        for row in rows
    ]


async def confirmations(link: Queryable, version: int, stale_limit_s: float) -> Confirmations:
    """Who has applied a version. Instances unseen for the staleness limit serve nothing cached
    any more and are left out."""
    row = await link.fetchrow(_CONFIRMED, version, stale_limit_s, LIVE_S)
    assert row is not None
    return Confirmations(row["applied"], row["pending"], row["unreachable"])
