"""Comparing the daily roll-ups with the calls that they add up, and putting them right.

What a roll-up is stands in migration 0003, where the ledger adds to it. A repair is one statement
a table, hence one snapshot: calls that are posted meanwhile are on both sides or on neither, and
what is added is the difference, so that nothing they add is lost. It writes in the order of keys,
as the ledger does, so that the two cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType

from attrs import frozen

from shared.db.import_spend import DEPLOYMENT
from shared.db.rows import Connection, Queryable

# Days (UTC) that are over, with all that is left of the ledger on both sides of them: where
# retention has dropped a part, or figures were imported, there is nothing to compare with.
_COMPLETE_DAYS = f"""
select d.day::date as day
from generate_series(
    (clock_timestamp() at time zone 'UTC')::date - $1::integer,
    (clock_timestamp() at time zone 'UTC')::date - 1, interval '1 day') as d (day)
where (select bool_and(spend_log_has('spend_log_' || to_char(d.day + o.days, 'YYYYMMDD')))
       from (values (interval '-1 day'), (interval '0'), (interval '1 day')) as o (days))
  and not exists (
      select from daily_spend i where i.day = d.day::date and i.deployment_id = '{DEPLOYMENT}')
order by d.day
"""  # noqa: S608 - a constant
_SUMS: Mapping[str, str] = {
    "spend": "sum(r.cost)",
    "prompt_tokens": "sum(r.prompt_tokens)",
    "completion_tokens": "sum(r.completion_tokens)",
    "cached_tokens": "sum(r.cached_tokens)",
    "cache_write_tokens": "sum(r.cache_write_tokens)",
    "reasoning_tokens": "sum(r.reasoning_tokens)",
    "calls": "count(*)",
    "successes": "count(*) filter (where r.status in ('success', 'client_closed'))",
    "failures": "count(*) filter (where r.status in ('failure', 'interrupted'))",
    "duration_ms": "sum(round(extract(epoch from r.ended_at - r.started_at) * 1000)::bigint)",
}
_MODEL = {name: f"r.{name}" for name in ("model_group", "model", "provider", "route")}
_OWNERS = "cross join lateral spend_owners(r) o"
_KINDS = """cross join lateral (values
        ('key', true), ('user', r.user_id is not null), ('team', r.team_id is not null),
        ('organization', r.organization_id is not null),
        ('end_user', r.end_user is not null), ('tag', r.tags is not null)) o (kind, has)"""
_OWNER_KINDS = "'key', 'user', 'team', 'organization', 'end_user', 'tag'"


@frozen
class _Rollup:
    """A table: what names its rows besides the day, out of `spend_row r`, `beside` and `where`."""

    table: str
    names: Mapping[str, str]
    beside: str
    where: str

    @property
    def repair(self) -> str:
        """The statement; ids hold the time at which a call was begun, the hour is for clocks."""
        names = ", ".join(self.names)
        own = ", ".join(f'{value} collate "C" as {name}' for name, value in self.names.items())
        sums = ", ".join(f"{value} as {name}" for name, value in _SUMS.items())
        missing = ", ".join(f"coalesce(t.{n}, 0) - coalesce(d.{n}, 0) as {n}" for n in _SUMS)
        differs = " or ".join(f"coalesce(t.{n}, 0) <> coalesce(d.{n}, 0)" for n in _SUMS)
        places = ", ".join(str(place) for place in range(1, len(self.names) + 1))
        added = ", ".join(f"{n} = t.{n} + excluded.{n}" for n in _SUMS)
        return f"""
with truth as (
    select {own}, {sums}
    from spend_row r {self.beside}
    where r.id >= spend_log_floor(($1::date)::timestamp at time zone 'UTC' - interval '1 hour')
      and r.id < spend_log_floor(($1::date + 1)::timestamp at time zone 'UTC' + interval '1 hour')
      and (r.started_at at time zone 'UTC')::date = $1::date and {self.where}
    group by {places}
), off as (
    select {names}, {missing}
    from truth t full join (select * from {self.table} where day = $1::date) d using ({names})
    where {differs}
), fixed as (
    insert into {self.table} as t (day, {names}, {", ".join(_SUMS)})
    select $1::date, {names}, {", ".join(_SUMS)} from off order by {names}
    on conflict (day, {names}) do update set {added}
)
select count(*) as rows, coalesce(sum(spend) filter (where kind = 'key'), 0) as spend,
    coalesce(sum(calls) filter (where kind = 'key'), 0)::bigint as calls
from off
"""  # noqa: S608 - only constants of this module

    @property
    def drop_empty(self) -> str:
        """Takes away rows of calls that there never were."""
        empty = " and ".join(f"{name} = 0" for name in _SUMS)
        return f"delete from {self.table} where day = $1::date and {empty}"  # noqa: S608 - as above


# In the order in which the ledger writes them.
_ROLLUPS = (
    _Rollup(
        "daily_spend",
        MappingProxyType(
            {"kind": "o.kind", "id": "o.id", "key": "r.key", **_MODEL}
            | {"deployment_id": "case when o.kind = 'key' then r.deployment_id else '' end"}
        ),
        _OWNERS,
        f"o.kind in ({_OWNER_KINDS})",
    ),
    _Rollup(
        "daily_owner_spend",
        MappingProxyType({"kind": "o.kind", "id": "o.id"}),
        _OWNERS,
        f"o.kind in ({_OWNER_KINDS})",
    ),
    _Rollup(
        "daily_model_spend",
        MappingProxyType({"kind": "o.kind", **_MODEL, "deployment_id": "r.deployment_id"}),
        _KINDS,
        "o.has",
    ),
)


@frozen
class Repair:
    """What was wrong with the roll-ups of a day: rows, and by how much spend (USD) and calls were
    too low over all keys."""

    rows: int
    spend: Decimal
    calls: int


async def complete_days(connection: Queryable, most: int) -> list[date]:
    """The last days that are over and whose calls are all still there."""
    return [row["day"] for row in await connection.fetch(_COMPLETE_DAYS, most)]


async def repair_day(connection: Connection, day: date) -> Repair:
    """Makes a day's roll-ups say what its calls add up to."""
    rows, spend, calls = 0, Decimal(0), 0
    for rollup in _ROLLUPS:
        off = await connection.fetchrow(rollup.repair, day)
        assert off is not None
        if off["rows"]:
            await connection.execute(rollup.drop_empty, day)
        rows += off["rows"]
        if rollup is _ROLLUPS[0]:
            spend, calls = off["spend"], off["calls"]
    return Repair(rows, spend, calls)
