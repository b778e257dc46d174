"""Pages of the spend log, newest or oldest first, or by another order.

By time, for filters that the roll-ups know, the days' counts say how many calls there are and on
which days a page lies, so that any page of any length of time reads a day or two. Everything else
reads the calls themselves: no further back than the newest `MOST_READ` of all calls, unless an
index finds what is asked for. `LogPage.since` says where that ended; the total is of what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from shared.db.import_spend import DEPLOYMENT as IMPORTED
from shared.db.pool import Store
from shared.db.rows import Connection
from shared.db.spend_log import BY_TIME, SORTABLE, CallFilter, Where
from shared.db.spend_reading import reading
from shared.db.table import Row

MOST_READ = 500_000
MOST_GROUPED = 100_000
"""As many calls of the newest days are read, and grouped by session, at most; a whole day at
least."""

_DAY = timedelta(days=1)


@frozen
class Slice:
    """`limit` calls after `offset` others, in an order of `SORTABLE`; `by_session` shows of each
    session only the call that comes first."""

    limit: int
    offset: int = 0
    sort_by: str = BY_TIME
    descending: bool = True
    by_session: bool = False


@frozen
class LogPage:
    """Rows as `spend_row` has them. `since` is set when older calls were not looked at; with
    sessions grouped, rows have `session_calls` and `session_cost` too."""

    rows: list[Row]
    total: int
    since: datetime | None = None


@frozen
class _Span:
    """A stretch of time and how many calls that are meant it holds."""

    start: datetime
    end: datetime
    calls: int


async def read_page(store: Store, chosen: CallFilter, part: Slice) -> LogPage:
    """One page and how many calls there are on all pages, as of one instant."""
    async with reading(store) as connection:
        if part.sort_by == BY_TIME and not part.by_session and _rolled_up(chosen):
            return await _page_by_days(connection, chosen, part)
        return await _page_by_reading(connection, chosen, part)


async def find_call(connection: Connection, call_id: UUID) -> Row | None:
    """One call."""
    rows = await _rows(connection, [call_id])
    return rows[0] if rows else None


# ---------------------------------------------------------------- by days

_KEPT = """
select to_date(right(c.relname, 8), 'YYYYMMDD') as day
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'spend_log'::regclass and c.relname ~ '^spend_log_[0-9]{8}$'
"""
_STRAYS = "select exists (select from spend_log_default)"
_COUNTS = """
select day, sum({calls})::bigint as calls from {table}
where {where} and day between $1 and $2 and deployment_id <> '{imported}' group by day
"""
_COUNT = "select count(*) from spend_log l where {where}"
_STRAY_COUNTS = """
select (l.started_at at time zone 'UTC')::date as day, count(*) as calls
from spend_log_default l where {where} group by 1
"""
_IN_TIME = "select l.id from spend_log l where {where} order by l.id {order} limit {n} offset {m}"
# Materialized, so that the few calls of a name are found by it and then sorted.
_NAMED_IN_TIME = """
with matched as materialized (select l.id from spend_log l where {where})
select l.id from matched l order by l.id {order} limit {n} offset {m}
"""
# The rows of spend_row. Each call is looked up by itself, in the one partition that can hold it,
# and gets its names afterwards.
_ROWS = """
with l as materialized (
    select c.*, u.place from unnest($1::uuid[]) with ordinality u (id, place)
    cross join lateral (select * from spend_log s where s.id = u.id offset 0) c
)
select l.id, l.started_at, l.ended_at, l.ttft_ms, l.status, l.http_status, p.route, p.model,
    p.model_group, p.deployment_id, p.provider, p.api_base, p.region, p.instance, o.key,
    nullif(o.key_alias, '') as key_alias, nullif(o.user_id, '') as user_id,
    nullif(o.team_id, '') as team_id, nullif(o.organization_id, '') as organization_id,
    l.end_user, l.prompt_tokens, l.completion_tokens, l.cached_tokens, l.cache_write_tokens,
    l.reasoning_tokens, l.estimated, l.cost, l.tags, l.session_id, l.requester_ip, l.attempts,
    l.error_type, l.upstream_id, l.stream
from l join call_path p on p.id = l.path_id join call_payer o on o.id = l.payer_id
order by l.place
"""


def _rolled_up(chosen: CallFilter) -> bool:
    """Whether sums per day exist of just what the filter asks for."""
    others = (
        chosen.key_alias, chosen.session_id, chosen.call_id, chosen.http_status,
        chosen.least_cost, chosen.most_cost, chosen.error, chosen.search,
    )  # fmt: skip
    owners = [chosen.user_id, chosen.team_id, chosen.end_user]
    named = sum(owner is not None for owner in owners)
    return (
        all(other is None for other in others)
        and named <= 1
        and not (named and chosen.deployment_id is not None)
    )


async def _page_by_days(connection: Connection, chosen: CallFilter, part: Slice) -> LogPage:
    spans = await _spans(connection, chosen)
    if part.descending:
        spans.reverse()
    total = sum(span.calls for span in spans)
    before, skipped = 0, 0
    covering: list[_Span] = []
    for span in spans:
        if before < part.offset + part.limit and before + span.calls > part.offset:
            if not covering:
                skipped = part.offset - before
            covering.append(span)
        before += span.calls
    if not covering:
        return LogPage([], total)
    narrowed = evolve(
        chosen,
        start=min(span.start for span in covering),
        end=max(span.end for span in covering),
    )
    where = Where(narrowed)
    named = any((chosen.token, chosen.user_id, chosen.team_id, chosen.end_user, chosen.failed,
                 chosen.model, chosen.model_group, chosen.deployment_id))  # fmt: skip
    statement = (_NAMED_IN_TIME if named else _IN_TIME).format(
        where=where.text,
        order="desc" if part.descending else "asc",
        n=where.next(part.limit),
        m=where.next(skipped),
    )
    ids = [row["id"] for row in await connection.fetch(statement, *where.args)]
    return LogPage(await _rows(connection, ids), total)


async def _spans(connection: Connection, chosen: CallFilter) -> list[_Span]:
    """Stretches that hold calls, oldest first: whole days by the roll-ups, the ends counted."""
    whole_from, whole_to = _whole_days(chosen.start, chosen.end)
    if whole_from >= whole_to:
        calls = await _count(connection, chosen)
        return [_Span(chosen.start, chosen.end, calls)] if calls else []
    found = []
    for start, end in ((chosen.start, whole_from), (whole_to, chosen.end)):
        calls = await _count(connection, evolve(chosen, start=start, end=end))
        found.append(_Span(start, end, calls))
    days = await _days(connection, chosen, whole_from.date(), (whole_to - _DAY).date())
    for day, calls in days.items():
        start = datetime.combine(day, time(0), UTC)
        found.append(_Span(start, start + _DAY, calls))
    return sorted((span for span in found if span.calls), key=lambda span: span.start)


def _whole_days(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    first = datetime.combine(start.astimezone(UTC).date(), time(0), UTC)
    last = datetime.combine(end.astimezone(UTC).date(), time(0), UTC)
    return (first if first == start else first + _DAY), last


async def _days(
    connection: Connection, chosen: CallFilter, first: date, last: date
) -> dict[date, int]:
    """Calls per day that are in the log: not those of which only sums were imported, nor of days
    that retention has dropped. Days that never had a partition are counted where they lie."""
    table, where, args = _roll_up(chosen)
    calls = {None: "calls", True: "failures", False: "successes"}[chosen.failed]
    statement = _COUNTS.format(table=table, where=where, calls=calls, imported=IMPORTED)
    counted = {row["day"]: row["calls"] for row in
               await connection.fetch(statement, first, last, *args)}  # fmt: skip
    kept = {row["day"] for row in await connection.fetch(_KEPT)}
    days = {day: calls for day, calls in counted.items() if day in kept}
    if await connection.fetchval(_STRAYS):
        start = datetime.combine(first, time(0), UTC)
        end = datetime.combine(last, time(0), UTC) + _DAY
        stray = Where(evolve(chosen, start=start, end=end))
        statement = _STRAY_COUNTS.format(where=stray.text)
        for row in await connection.fetch(statement, *stray.args):
            if row["day"] not in kept:
                days[row["day"]] = row["calls"]
    return days


def _roll_up(chosen: CallFilter) -> tuple[str, str, list[Any]]:
    """The table, the condition and its parameters (from the third on)."""
    wanted: dict[str, str | None] = {}
    for kind in ("user", "team", "end_user"):
        owner = chosen.end_user if kind == "end_user" else getattr(chosen, f"{kind}_id")
        if owner is not None:
            wanted = {"kind": kind, "id": owner, "key": chosen.token}
    if not wanted and chosen.token is not None:
        wanted = {"kind": "key", "id": chosen.token}
    table = "daily_spend" if wanted else "daily_model_spend"
    wanted = {
        "kind": "key",
        **wanted,
        "model": chosen.model,
        "model_group": chosen.model_group,
        "deployment_id": chosen.deployment_id,
    }
    named = {name: value for name, value in wanted.items() if value is not None}
    where = " and ".join(f"{name} = ${place}" for place, name in enumerate(named, 3))
    return table, where, list(named.values())


async def _count(connection: Connection, chosen: CallFilter) -> int:
    if chosen.start >= chosen.end:
        return 0
    where = Where(chosen)
    calls: int = await connection.fetchval(_COUNT.format(where=where.text), *where.args)
    return calls


# ---------------------------------------------------------------- by reading

_NEWEST = """
select day, sum(calls) over (order by day desc) as calls
from (select day, sum(calls) as calls from daily_model_spend
      where kind = 'key' and day between $1 and $2 group by day) d
"""
_MATCHED = """
with matched as materialized (select l.id, {by} as place from spend_log l where {where})
select (select count(*) from matched) as total,
    array(select m.id from matched m order by m.place {order} nulls last, m.id {order}
          limit {n} offset {m}) as ids
"""
_SESSIONS = """
with matched as materialized (
    select l.id, {by} as place, coalesce(l.session_id, l.id::text) as session, l.cost
    from spend_log l where {where}
), first as materialized (
    select distinct on (session) id, place, count(*) over s as calls, sum(cost) over s as cost
    from matched window s as (partition by session)
    order by session, place {order} nulls last, id {order}
), part as (
    select * from first order by place {order} nulls last, id {order} limit {n} offset {m}
)
select (select count(*) from first) as total, array(select id from part) as ids,
    array(select calls from part) as calls, array(select cost from part) as costs
"""


async def _page_by_reading(connection: Connection, chosen: CallFilter, part: Slice) -> LogPage:
    most = MOST_GROUPED if part.by_session else MOST_READ
    since = None if chosen.few else await _reach(connection, chosen, most)
    where = Where(chosen if since is None else evolve(chosen, start=since))
    statement = (_SESSIONS if part.by_session else _MATCHED).format(
        by=SORTABLE[part.sort_by],
        where=where.text,
        order="desc" if part.descending else "asc",
        n=where.next(part.limit),
        m=where.next(part.offset),
    )
    found = await connection.fetchrow(statement, *where.args)
    assert found is not None
    rows = await _rows(connection, found["ids"])
    if part.by_session:
        for row, calls, cost in zip(rows, found["calls"], found["costs"], strict=True):
            row |= {"session_calls": calls, "session_cost": cost}
    return LogPage(rows, found["total"], since)


async def _reach(connection: Connection, chosen: CallFilter, most: int) -> datetime | None:
    """The first day that is read, when that is after the start; `None` when all is."""
    first = chosen.start.astimezone(UTC).date()
    last = chosen.end.astimezone(UTC).date()
    rows = await connection.fetch(_NEWEST, first, last)
    near = [row["day"] for row in rows if row["calls"] <= most]
    if len(near) == len(rows):
        return None
    reached = min(near) if near else max(row["day"] for row in rows)
    start = datetime.combine(reached, time(0), UTC)
    return start if start > chosen.start else None


async def _rows(connection: Connection, ids: Sequence[UUID]) -> list[Row]:
    """Whole rows of those calls that there are, in the order of their ids."""
    return [dict(row) for row in await connection.fetch(_ROWS, ids)]
