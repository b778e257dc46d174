"""Reading the audit log: pages, one after the other for an export, and the check of its chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from attrs import frozen

from shared.db.pool import Store
from shared.db.rows import Connection, Queryable

_COLUMNS = (
    "l.id, l.seq, l.changed_at, l.changed_by, l.actor, l.changed_by_api_key, l.source_ip, "
    "l.route, l.action, l.table_name, l.object_id, l.before_value, l.updated_values"
)
# Of an update only what differs is kept, so the team of a key is looked up.
_WHERE = """
where ($1::text is null or l.changed_by = $1)
  and ($2::text is null or l.changed_by_api_key = $2)
  and ($3::text is null or l.action = $3)
  and ($4::text is null or l.table_name = $4)
  and ($5::text is null or l.object_id = $5)
  and ($6::timestamptz is null or l.changed_at >= $6)
  and ($7::timestamptz is null or l.changed_at <= $7)
  and ($8::text is null or l.before_value ->> 'team_id' = $8 or l.updated_values ->> 'team_id' = $8
       or l.table_name = 'LiteLLM_TeamTable' and l.object_id = $8
       or l.table_name = 'LiteLLM_VerificationToken' and l.object_id in (
           select k.token from virtual_key k where k.team_id = $8
           union all select d.token from deleted_virtual_key d where d.team_id = $8))
  and ($9::text is null or l.before_value ->> 'token' = $9 or l.updated_values ->> 'token' = $9
       or l.table_name = 'LiteLLM_VerificationToken' and l.object_id = $9)
  and ($10::text is null
       or strpos(lower(concat_ws(' ', l.changed_by, l.actor, l.changed_by_api_key, l.action,
                                 l.table_name, l.object_id, l.route, l.source_ip)),
                 lower($10)) > 0)
"""
SORTABLE: Mapping[str, str] = {
    "updated_at": "l.changed_at",
    "changed_by": "l.changed_by",
    "changed_by_api_key": "l.changed_by_api_key",
    "action": "l.action",
    "table_name": "l.table_name",
    "object_id": "l.object_id",
}
"""What lists can be sorted by, and the expression that does it."""

_ONE = f"select {_COLUMNS} from audit_log l where l.id = $1"  # noqa: S608 - constants of this module
_COUNT = f"select count(*) from audit_log l {_WHERE}"  # noqa: S608 - constants of this module
_AFTER = (
    f"select {_COLUMNS} from audit_log l {_WHERE} "  # noqa: S608 - constants of this module
    "and l.seq > $11 and l.seq <= $12 order by l.seq limit $13"
)
_HEAD = "select seq from audit_head"
_ENDS = """
select b.seq as base_seq, b.digest as base_digest, h.seq as head_seq, h.digest as head_digest
from audit_base b, audit_head h
"""
# `bad`: the first row that does not follow the one before it, as [seq, id, why].
_CHECK = """
select count(*) as rows, max(c.seq) as last_seq,
    (array_agg(c.digest order by c.seq desc))[1] as last_digest,
    (array_agg(jsonb_build_array(c.seq, c.id, c.why) order by c.seq)
        filter (where c.why is not null))[1] as bad
from (
    select (p.l).seq as seq, (p.l).id as id, (p.l).digest as digest,
        case when (p.l).seq <> lag((p.l).seq, 1, $1::bigint) over w + 1 then 'missing'
             when (p.l).digest <> audit_digest(lag((p.l).digest, 1, $2::bytea) over w, p.l)
             then 'changed' end as why
    from (select l from audit_log l where l.seq > $1::bigint order by l.seq limit $3) p
    window w as (order by (p.l).seq)
) c
"""
_DROP = "select drop_audit_before(clock_timestamp() - make_interval(secs => $1::float8), $2)"

_PAGE_ROWS = 200
_CHECKED_ROWS = 2000


@frozen(kw_only=True)
class AuditFilter:
    """Which entries are meant; `None` does not narrow. Times are aware, both ends included."""

    changed_by: str | None = None
    changed_by_api_key: str | None = None
    action: str | None = None
    table_name: str | None = None
    object_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    object_team_id: str | None = None
    object_key_hash: str | None = None
    search: str | None = None


@frozen
class LoggedChange:
    """An entry as it is stored. `before` and `after` are decoded JSON."""

    id: str
    seq: int
    changed_at: datetime
    changed_by: str
    actor: str
    changed_by_api_key: str | None
    source_ip: str | None
    route: str
    action: str
    table_name: str
    object_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@frozen
class Break:
    """Where a chain breaks: the row `seq` is `changed`, or rows before it are `missing`. `id` is
    absent where no row is left to name."""

    seq: int
    id: str | None
    reason: str


@frozen
class ChainReport:
    """What a check found. Rows up to `dropped_seq` went by retention and are not looked at."""

    entries: int
    dropped_seq: int
    last_seq: int
    broken: Break | None


async def list_changes(
    connection: Connection,
    chosen: AuditFilter,
    *,
    sort_by: str,
    descending: bool,
    limit: int,
    offset: int,
) -> tuple[list[LoggedChange], int]:
    """A page of entries, and how many there are on all pages. `sort_by` is one of `SORTABLE`."""
    args = _filter_args(chosen)
    direction = "desc" if descending else "asc"
    rows = await connection.fetch(
        f"select {_COLUMNS} from audit_log l {_WHERE} "  # noqa: S608 - constants of this module
        f"order by {SORTABLE[sort_by]} {direction} nulls last, l.seq {direction} "
        "limit $11 offset $12",
        *args,
        limit,
        offset,
    )
    total = await connection.fetchval(_COUNT, *args)
    return [_change(row) for row in rows], int(total)


async def find_change(connection: Queryable, change_id: str) -> LoggedChange | None:
    """One entry."""
    row = await connection.fetchrow(_ONE, change_id)
    return None if row is None else _change(row)


async def pages_of_changes(
    store: Store, chosen: AuditFilter
) -> AsyncIterator[tuple[LoggedChange, ...]]:
    """All entries there are now, oldest first, a page at a time.

    Pages are found by their place in the chain, so that a slow reader holds neither a connection
    nor a snapshot; entries are never changed, so the pages fit together.
    """
    args = _filter_args(chosen)
    last, end = 0, await store.fetchval(_HEAD)
    while rows := await store.fetch(_AFTER, *args, last, end, _PAGE_ROWS):
        yield tuple(_change(row) for row in rows)
        last = rows[-1]["seq"]


async def check_chain(store: Store) -> ChainReport:
    """Walks the kept chain in one snapshot, up to its first break."""
    async with (
        store.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        ends = await connection.fetchrow(_ENDS)
        assert ends is not None
        seq, digest, entries = ends["base_seq"], ends["base_digest"], 0
        broken = None
        while broken is None:
            page = await connection.fetchrow(_CHECK, seq, digest, _CHECKED_ROWS)
            assert page is not None
            if not page["rows"]:
                break
            entries += page["rows"]
            seq, digest = page["last_seq"], page["last_digest"]
            if page["bad"] is not None:
                broken = Break(*msgspec.json.decode(page["bad"]))
        if broken is None and (seq, digest) != (ends["head_seq"], ends["head_digest"]):
            # The end was cut off, or its last row exchanged for another.
            reason = "missing" if seq != ends["head_seq"] else "changed"
            broken = Break(ends["head_seq"], None, reason)
        return ChainReport(entries, ends["base_seq"], ends["head_seq"], broken)


async def drop_before(connection: Queryable, age_s: float, most: int) -> int:
    """Drops the oldest entries that are older than `age_s`, and returns how many went."""
    return int(await connection.fetchval(_DROP, age_s, most))


def _filter_args(chosen: AuditFilter) -> tuple[Any, ...]:
    return (
        chosen.changed_by,
        chosen.changed_by_api_key,
        chosen.action,
        chosen.table_name,
        chosen.object_id,
        chosen.start,
        chosen.end,
        chosen.object_team_id,
        chosen.object_key_hash,
        chosen.search,
    )


def _change(row: asyncpg.Record) -> LoggedChange:
    return LoggedChange(
        row["id"],
        row["seq"],
        row["changed_at"],
        row["changed_by"],
        row["actor"],
        row["changed_by_api_key"],
        row["source_ip"],
        row["route"],
        row["action"],
        row["table_name"],
        row["object_id"],
        _decoded(row["before_value"]),
        _decoded(row["updated_values"]),
    )


def _decoded(value: bytes | None) -> Mapping[str, Any] | None:
    return None if value is None else msgspec.json.decode(value)
