"""What another gateway has counted, added to our counters and daily figures.

Amounts are staged in temporary tables first and applied by one statement a table, in the order of
keys and of tables that the ledger keeps (migration 0003). Applying twice adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

from attrs import frozen

from shared.db.rows import Connection

DEPLOYMENT = "litellm"
"""In the place of a deployment's id: daily figures that were imported."""

_AMOUNTS = (
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "calls",
    "successes",
    "failures",
    "duration_ms",
)
_NAMES = ("kind", "id", "day", "key", "model_group", "model", "provider", "route")
_STAGES = """
create temporary table import_spend (
    kind text collate "C" not null, id text collate "C" not null, window_start_s bigint not null,
    spend numeric not null, restarts boolean not null, primary key (kind, id, window_start_s)
) on commit drop;
create temporary table import_activity (
    token text not null primary key, last_active timestamptz not null
) on commit drop;
create temporary table import_daily (like daily_spend including defaults) on commit drop
"""
_STAGE_SPEND = """
insert into import_spend as t
select kind, id, window_start_s, max(spend), bool_or(restarts)
from unnest($1::text[], $2::text[], $3::bigint[], $4::numeric[], $5::boolean[])
    as s(kind, id, window_start_s, spend, restarts)
group by 1, 2, 3
on conflict (kind, id, window_start_s) do update set spend = greatest(t.spend, excluded.spend)
"""
_STAGE_ACTIVITY = """
insert into import_activity as t
select token, max(at) from unnest($1::text[], $2::timestamptz[]) as a(token, at) group by 1
on conflict (token) do update set last_active = greatest(t.last_active, excluded.last_active)
"""
_APPLY_ACTIVITY = """
with changed as (
    insert into key_activity as t (token, last_active)
    select token, last_active from import_activity order by token
    on conflict (token) do update set last_active = excluded.last_active
        where t.last_active < excluded.last_active
    returning token
) select count(*) from changed
"""
# A lifetime whose source starts anew with each period goes on from there; all else is corrected.
_APPLY_SPEND = """
with change as materialized (
    select s.kind, s.id, s.window_start_s, s.spend,
        case when s.restarts and s.spend < m.spend then s.spend
            else s.spend - coalesce(m.spend, 0) end as delta
    from import_spend s left join import_litellm_spend m using (kind, id, window_start_s)
    where s.spend <> coalesce(m.spend, 0)
), remembered as (
    insert into import_litellm_spend as m (kind, id, window_start_s, spend, counted)
    select kind, id, window_start_s, spend, delta from change
    on conflict (kind, id, window_start_s) do update
        set spend = excluded.spend, counted = m.counted + excluded.counted
), added as (
    insert into spend_counter as c (kind, id, window_start_s, shard, spend)
    select kind, id, window_start_s, 0, greatest(delta, 0) from change where delta <> 0
    order by 1, 2, 3
    on conflict (kind, id, window_start_s, shard)
        do update set spend = greatest(0, c.spend + (
            select d.delta from change d
            where d.kind = c.kind and d.id = c.id and d.window_start_s = c.window_start_s))
)
select count(*) from change
"""
_SPEND_TOTALS = """
select s.kind, sum(s.spend) as source, coalesce(sum(m.spend), 0) as imported,
    coalesce(sum(m.counted), 0) as counted,
    coalesce(sum((select sum(c.spend) from spend_counter c
        where c.kind = s.kind and c.id = s.id and c.window_start_s = 0)), 0) as here
from import_spend s left join import_litellm_spend m using (kind, id, window_start_s)
where s.window_start_s = 0
group by 1
"""
_named = ", ".join(_NAMES)
_given = ", ".join(f"d.{name}" for name in (*_NAMES, *_AMOUNTS))
_STAGE_DAILY = f"""
insert into import_daily ({_named}, deployment_id, {", ".join(_AMOUNTS)})
select d.kind, d.id, d.day, d.key, d.model_group, d.model, d.provider, d.route, '{DEPLOYMENT}',
    {", ".join(f"d.{name}" for name in _AMOUNTS)}
from unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::numeric[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
    $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[])
    as d({_named}, {", ".join(_AMOUNTS)})
"""  # noqa: S608 - names of this module
_off = ", ".join(f"coalesce(s.{name}, 0) - coalesce(t.{name}, 0) as {name}" for name in _AMOUNTS)
_differs = " or ".join(f"coalesce(s.{name}, 0) <> coalesce(t.{name}, 0)" for name in _AMOUNTS)
# Days that the source has no longer, retention for one, stay here.
_DAILY_OFF = f"""
create temporary table import_daily_off on commit drop as
select {_named}, '{DEPLOYMENT}' as deployment_id, {_off}
from (select {_named}, {", ".join(f"sum({name}) as {name}" for name in _AMOUNTS)}
      from import_daily group by {_named}) s
left join (select * from daily_spend where deployment_id = '{DEPLOYMENT}') t using ({_named})
where {_differs}
"""  # noqa: S608 - names of this module


def _adding(table: str, names: Sequence[str], where: str) -> str:
    listed = ", ".join(names)
    sums = ", ".join(f"sum({name}) as {name}" for name in _AMOUNTS)
    added = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in _AMOUNTS)
    return f"""
insert into {table} as t ({listed}, {", ".join(_AMOUNTS)})
select {listed}, {sums} from import_daily_off where {where} group by {listed} order by {listed}
on conflict ({listed}) do update set {added}
"""  # noqa: S608 - names of this module


_ADD_DAILY = _adding("daily_spend", (*_NAMES, "deployment_id"), "true")
_ADD_OWNERS = _adding("daily_owner_spend", ("kind", "day", "id"), "true")
_ADD_MODELS = _adding(
    "daily_model_spend",
    ("kind", "day", "model_group", "model", "provider", "route", "deployment_id"),
    "true",
)
_DAILY_TOTALS = f"""
select kind, sum(spend) as spend, sum(calls)::bigint as calls
from (select distinct {_named} from import_daily) s join daily_spend t using ({_named})
where t.deployment_id = '{DEPLOYMENT}' group by 1
"""  # noqa: S608 - as above


@frozen
class Amount:
    """What an owner has spent in a window (USD), as in `spend_counter`. `restarts`: the source
    begins again from 0 with each period of a budget."""

    kind: str
    id: str
    window_start_s: int
    spend: Decimal
    restarts: bool = False


@frozen
class DailyFigure:
    """What was counted on one UTC day, as in `daily_spend`."""

    kind: str
    id: str
    day: date
    key: str
    model_group: str
    model: str
    provider: str
    route: str
    spend: Decimal
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    calls: int
    successes: int
    failures: int
    duration_ms: int


@frozen
class SpendTotal:
    """Lifetime spend of all owners of a kind (USD): what the source says, how much of it was
    taken over, how much was added here for it, and what the counters say now."""

    source: Decimal
    imported: Decimal
    counted: Decimal
    here: Decimal


async def prepare_stages(connection: Connection) -> None:
    """Makes the temporary tables."""
    await connection.execute(_STAGES)


async def stage_spend(connection: Connection, amounts: Iterable[Amount]) -> None:
    """Notes what owners have spent; of several words on one window the greatest counts."""
    rows = [(a.kind, a.id, a.window_start_s, a.spend, a.restarts) for a in amounts]
    if rows:
        await connection.execute(_STAGE_SPEND, *map(list, zip(*rows, strict=True)))


async def stage_activity(connection: Connection, seen: Mapping[str, datetime]) -> None:
    """Notes when keys were last used."""
    await connection.execute(_STAGE_ACTIVITY, list(seen), list(seen.values()))


async def stage_daily(connection: Connection, figures: Iterable[DailyFigure]) -> None:
    """Notes daily figures; those of one name add up."""
    rows = [
        (f.kind, f.id, f.day, f.key, f.model_group, f.model, f.provider, f.route, f.spend,
         f.prompt_tokens, f.completion_tokens, f.cached_tokens, f.cache_write_tokens, 0, f.calls,
         f.successes, f.failures, f.duration_ms)
        for f in figures
    ]  # fmt: skip
    if rows:
        await connection.execute(_STAGE_DAILY, *map(list, zip(*rows, strict=True)))


async def apply_stages(connection: Connection) -> tuple[int, int]:
    """Adds what is new, and answers how many windows of owners and how many daily rows changed.
    The last thing before the end of a transaction: the ledger waits for these rows."""
    await connection.execute("analyze import_spend, import_daily")
    await connection.execute(_DAILY_OFF)
    await connection.execute(_ADD_DAILY)
    daily: int = await connection.fetchval("select count(*) from import_daily_off")
    await connection.fetchval(_APPLY_ACTIVITY)
    windows: int = await connection.fetchval(_APPLY_SPEND)
    await connection.execute("analyze import_litellm_spend")
    await connection.execute(_ADD_OWNERS)
    await connection.execute(_ADD_MODELS)
    return windows, daily


async def spend_totals(connection: Connection) -> dict[str, SpendTotal]:
    """Lifetime totals by kind of owner, after `apply_stages`."""
    return {
        row["kind"]: SpendTotal(row["source"], row["imported"], row["counted"], row["here"])
        for row in await connection.fetch(_SPEND_TOTALS)
    }


async def daily_totals(connection: Connection) -> dict[str, tuple[Decimal, int]]:
    """Spend and calls of the imported daily figures that the source has, by kind."""
    return {
        row["kind"]: (row["spend"], row["calls"]) for row in await connection.fetch(_DAILY_TOTALS)
    }
