"""Daily activity of users, teams and other owners, out of the roll-ups.

Kinds of owners are daily_spend's; calls are not attributed to agents yet, so `agent` has none.
Days are UTC days. Pages over all owners of a kind read the compact roll-ups; the larger one, whose
rows are of one key and model each, is read for named owners and for the keys that spend most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import TypeAlias

import asyncpg
from attrs import define, evolve, field, frozen

from shared.db.activity_sources import (
    KEYLESS,
    ActivityFilter,
    Source,
    by_models,
    details,
    owners,
    ranked,
)
from shared.db.pool import Store
from shared.db.rows import Connection
from shared.db.spend_names import known_keys, owner_aliases
from shared.db.spend_reading import reading
from shared.db.table import Row

_PAYER_COLUMNS = MappingProxyType(
    {"user": "user_id", "team": "team_id", "organization": "organization_id"}
)

_METRICS = (
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "calls",
    "successes",
    "failures",
    "duration_ms",
)
_SUMS = ", ".join(
    f"sum({name}) as {name}" if name == "spend" else f"sum({name})::bigint as {name}"
    for name in _METRICS
)
_DIMENSIONS: tuple[str, ...] = ("model_group", "model", "provider", "route")


@define
class Metrics:
    """Sums over calls, to be added up further by whoever made them. Spend in USD, the duration in
    milliseconds; a call is a success or a failure as in the roll-ups."""

    spend: Decimal = Decimal(0)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    calls: int = 0
    successes: int = 0
    failures: int = 0
    duration_ms: int = 0

    def add(self, other: Metrics) -> None:
        """Counts other calls in."""
        self.spend += other.spend
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.calls += other.calls
        self.successes += other.successes
        self.failures += other.failures
        self.duration_ms += other.duration_ms


@frozen
class Slot:
    """A day's sums under some names. `owner` and `key` are '' where they are summed over."""

    day: date
    metrics: Metrics
    model_group: str = ""
    model: str = ""
    provider: str = ""
    route: str = ""
    owner: str = ""
    key: str = ""


@frozen
class Activity:
    """Sums per day: by model and route, by owner, and of the keys that spend most by everything.

    `aliases` are what owners are called, `keys` what is known of the keys.
    """

    by_model: tuple[Slot, ...] = ()
    by_owner: tuple[Slot, ...] = ()
    by_key: tuple[Slot, ...] = ()
    aliases: Mapping[str, str] = field(factory=dict)
    keys: Mapping[str, Row] = field(factory=dict)


@frozen
class Most:
    """How many owners and keys are told apart, those that spent most."""

    owners: int
    keys: int


Ranked: TypeAlias = "tuple[str, Metrics]"


async def active_days(connection: Connection, chosen: ActivityFilter) -> list[date]:
    """The days with calls, newest first."""
    source = by_models(chosen) if chosen.everybody else details(chosen)
    rows = await connection.fetch(
        f"select day from {source.text} group by day order by day desc",  # noqa: S608 - see Source
        *source.args,
    )
    return [row["day"] for row in rows]


async def read_activity(
    connection: Connection, chosen: ActivityFilter, days: Sequence[date], *, most: Most
) -> Activity:
    """The activity of days that follow one another in `active_days`; named owners are all there."""
    if not days:
        return Activity()
    chosen = evolve(chosen, first=min(days), last=max(days))
    if chosen.keys is not None:
        by_key = await _by_key(connection, chosen, chosen.keys)
        by_model = [evolve(slot, owner="", key="") for slot in by_key]
    elif chosen.everybody:
        by_model = await _slots(connection, by_models(chosen), _DIMENSIONS)
        by_key = await _by_key(connection, chosen, await _top_keys(connection, chosen, most.keys))
    else:
        by_model, by_key = await _at_once(connection, chosen, most.keys)
    if chosen.keys is not None and not chosen.all_calls:
        by_owner = [Slot(slot.day, slot.metrics, owner=slot.owner) for slot in by_key]
    else:
        by_owner = await _by_owner(connection, chosen, days, most.owners)
    names = sorted({slot.owner for slot in (*by_owner, *by_key) if slot.owner})
    return Activity(
        tuple(by_model),
        tuple(by_owner),
        tuple(by_key),
        await owner_aliases(connection, chosen.kind, names),
        await known_keys(connection, sorted({slot.key for slot in by_key})),
    )


async def rank_keys(
    connection: Connection,
    chosen: ActivityFilter,
    *,
    search: str | None = None,
    limit: int,
    offset: int = 0,
) -> tuple[list[Ranked], int]:
    """Keys by what they spent, the most first, and how many there are on all pages. `search` is a
    part of the alias of a key, its team, or the beginning of its token."""
    source = ranked(chosen)
    source.search(search)
    statement = _RANKING.format(
        key=source.key,
        metrics=", ".join(_METRICS),
        source=source.text,
        sums=_SUMS,
        limit=source.next(limit),
        offset=source.next(offset),
    )
    rows = await connection.fetch(statement, *source.args)
    if not rows and offset:
        return [], (await rank_keys(connection, chosen, search=search, limit=1))[1]
    return [(row["key"], _metrics(row)) for row in rows], rows[0]["total"] if rows else 0


async def each_day(
    store: Store, chosen: ActivityFilter, days: Sequence[date]
) -> AsyncIterator[tuple[Slot, ...]]:
    """Every sum by owner, key, model and route, a day at a time, oldest first."""
    for day in sorted(days):
        source = details(evolve(chosen, first=day, last=day))
        async with reading(store) as connection:
            slots = await _slots(connection, source, _named(source))
        yield tuple(slots)


# Materialized: the rows of named owners lie far apart and are found by their names.
_RANKING = """
with d as materialized (select {key} as key, {metrics} from {source})
select key, {sums}, count(*) over () as total from d
group by key order by sum(spend) desc, key limit {limit} offset {offset}
"""
_AT_ONCE = """
with d as materialized (
    select day, id, key, model_group, model, provider, route, {metrics} from {source}
), top as (
    select key from d group by key order by sum(spend) desc, key limit {most}
)
select '' as id, '' as key, day, model_group, model, provider, route, {sums} from d
group by 3, 4, 5, 6, 7
union all
select id, key, day, model_group, model, provider, route, {sums} from d
where key in (select key from top) group by 1, 2, 3, 4, 5, 6, 7
"""


async def _at_once(
    connection: Connection, chosen: ActivityFilter, keys: int
) -> tuple[list[Slot], list[Slot]]:
    source = details(chosen)
    statement = _AT_ONCE.format(
        metrics=", ".join(_METRICS), source=source.text, most=source.next(keys), sums=_SUMS
    )
    rows = await connection.fetch(statement, *source.args)
    slots = [_slot(row, (*_DIMENSIONS, "id", "key")) for row in rows]
    return [slot for slot in slots if not slot.key], [slot for slot in slots if slot.key]


async def _by_owner(
    connection: Connection, chosen: ActivityFilter, days: Sequence[date], most: int
) -> list[Slot]:
    chosen = await _of_payers(connection, chosen)
    if chosen.ids is None:
        source = owners(chosen)
        top = await connection.fetch(
            f"select id from {source.text} group by id order by sum(spend) desc, id "  # noqa: S608 - see Source
            f"limit {source.next(most)}",
            *source.args,
        )
        chosen = evolve(chosen, ids=tuple(row["id"] for row in top))
    return await _slots(connection, owners(chosen, days), ("id",))


async def _of_payers(connection: Connection, chosen: ActivityFilter) -> ActivityFilter:
    """The same with those owners named that have paid for calls with the keys."""
    column = _PAYER_COLUMNS.get(chosen.kind)
    if chosen.ids is not None or chosen.keys is None or column is None:
        return chosen
    rows = await connection.fetch(
        f"select distinct {column} as id from call_payer where key = any($1::text[])",  # noqa: S608 - a constant
        chosen.keys,
    )
    return evolve(chosen, ids=tuple(row["id"] for row in rows if row["id"]))


async def _top_keys(connection: Connection, chosen: ActivityFilter, most: int) -> tuple[str, ...]:
    if chosen.kind in KEYLESS:
        return ()
    source = ranked(chosen)
    rows = await connection.fetch(
        f"select {source.key} as key from {source.text} "  # noqa: S608 - see Source
        f"group by {source.key} order by sum(spend) desc, 1 limit {source.next(most)}",
        *source.args,
    )
    return tuple(row["key"] for row in rows)


async def _by_key(
    connection: Connection, chosen: ActivityFilter, keys: tuple[str, ...]
) -> list[Slot]:
    if not keys:
        return []
    source = details(evolve(chosen, keys=keys))
    return await _slots(connection, source, _named(source))


def _named(source: Source) -> tuple[str, ...]:
    """All that a row of the details is named by besides the day."""
    return (*_DIMENSIONS, "id", "key") if source.owned else (*_DIMENSIONS, "key")


async def _slots(connection: Connection, source: Source, columns: tuple[str, ...]) -> list[Slot]:
    names = ", ".join(("day", *columns))
    rows = await connection.fetch(
        f"select {names}, {_SUMS} from {source.text} group by {names} order by {names}",  # noqa: S608 - see Source
        *source.args,
    )
    return [_slot(row, columns) for row in rows]


def _slot(row: asyncpg.Record, columns: tuple[str, ...]) -> Slot:
    names = {"owner" if name == "id" else name: row[name] for name in columns}
    return Slot(row["day"], _metrics(row), **names)


def _metrics(row: asyncpg.Record) -> Metrics:
    return Metrics(*(row[name] for name in _METRICS))
