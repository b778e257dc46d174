"""Writing objects that come from another gateway's database, many at a time.

Rows are plain mappings with every column that is imported. What an import has taken over is
remembered (`import_litellm`, migration 0001): a row is written again when the source has changed
it, and one that was deleted here does not come back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import msgspec
from attrs import field, frozen

from shared.db.migrate import check_schema
from shared.db.refusing import contending
from shared.db.rows import DRIVER_ERRORS, Connection, dial, is_fault, prepare, server_settings
from shared.domain.errors import ConfigError, StoreUnavailable

SEPARATOR = "\x1f"
"""Between the two ids of a membership."""

_STATEMENT_TIMEOUT_S = 3600.0
_LOCK = "select pg_try_advisory_xact_lock(hashtextextended('meridian import', 0))"
_SEEN_TABLE = """
create temporary table import_seen (
    kind text collate "C" not null, id text collate "C" not null, primary key (kind, id)
) on commit drop
"""
_SEEN = "insert into import_seen select $1, unnest($2::text[]) on conflict do nothing"
_DIGESTS = "select id, digest from import_litellm where kind = $1 and id = any($2::text[])"
_REMEMBER = """
insert into import_litellm as i (kind, id, digest)
select $1, d.id, d.digest from unnest($2::text[], $3::bytea[]) as d(id, digest)
on conflict (kind, id) do update set digest = excluded.digest where i.digest <> excluded.digest
"""
_FORGET = "delete from import_litellm where kind = $1 and id = any($2::text[])"
_GONE = """
select i.id from import_litellm i
where i.kind = $1 and not exists (select from import_seen s where s.kind = $1 and s.id = i.id)
order by i.id limit $2
"""
_GONE_COUNT = """
select count(*) from import_litellm i
where i.kind = $1 and not exists (select from import_seen s where s.kind = $1 and s.id = i.id)
"""
# Keys that were taken over once, which the source has archived since and has no more.
_DELETED_KEYS = """
select i.id from import_litellm i
where i.kind = 'key' and not exists (select from import_seen s where s.kind = 'key' and s.id = i.id)
  and exists (select from deleted_virtual_key d where d.token = i.id)
order by i.id
"""
_GONE_MEMBERS = """
select i.id from import_litellm i
where i.kind = $1 and not exists (select from import_seen s where s.kind = $1 and s.id = i.id)
  and exists (
      select from import_seen g where g.kind = $2 and g.id = split_part(i.id, chr(31), 1))
order by i.id
"""

Row: TypeAlias = "Mapping[str, Any]"

_REFUSALS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
)


class DryRun(Exception):
    """Ends a transaction that was only to be tried."""


@frozen
class Written:
    """What became of rows, by id. `refused` has the constraint or the kind of error."""

    done: frozenset[str]
    refused: Mapping[str, str] = field(factory=dict)


@frozen
class ImportTable:
    """A table that rows are imported into; `key` names the columns that make up their ids. An
    archive has none: its rows are only ever added, and only the memory of imports knows their ids.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    def id_of(self, row: Row) -> str:
        """The id of a row."""
        return SEPARATOR.join(str(row[name]) for name in self.key)

    async def insert(self, connection: Connection, rows: Mapping[str, Row]) -> Written:
        """Adds the rows, by id, whose key is not there."""
        columns = ", ".join(self.columns)
        added = f"select {columns} from jsonb_populate_recordset(null::{self.name}, $1::jsonb)"  # noqa: S608 - names of the code
        return await self._write(
            connection,
            f"insert into {self.name} ({columns}) {added} "
            f"on conflict do nothing returning {self._id()} as id",
            rows,
        )

    async def update(self, connection: Connection, rows: Mapping[str, Row]) -> Written:
        """Makes rows that are there what they should be; those that differ are done."""
        own = [name for name in self.columns if name not in self.key]
        compared = [name for name in own if name != "updated_at"]
        return await self._write(
            connection,
            f"update {self.name} t set {', '.join(f'{n} = n.{n}' for n in own)} "  # noqa: S608 - as above
            f"from jsonb_populate_recordset(null::{self.name}, $1::jsonb) n "
            f"where {' and '.join(f't.{n} = n.{n}' for n in self.key)} "
            f"and ({', '.join(f't.{n}' for n in compared)}) is distinct from "
            f"({', '.join(f'n.{n}' for n in compared)}) returning {self._id('t.')} as id",
            rows,
        )

    async def delete(self, connection: Connection, ids: Sequence[str]) -> int:
        """Takes rows away, and answers how many there were."""
        done = await connection.execute(
            f"delete from {self.name} where {self._id()} = any($1::text[])",  # noqa: S608 - as above
            list(ids),
        )
        return int(done.split()[-1])

    async def existing(self, connection: Connection, ids: Iterable[str]) -> set[str]:
        """Which of some ids there are."""
        rows = await connection.fetch(
            f"select {self._id()} as id from {self.name} where {self._id()} = any($1::text[])",  # noqa: S608 - as above
            list(ids),
        )
        return {row["id"] for row in rows}

    async def holders(
        self, connection: Connection, column: str, values: Iterable[str], *, folded: bool
    ) -> dict[str, str]:
        """Who has some values of a column that is unique, by value; `folded` ones in lower case."""
        value = f"lower({column})" if folded else column
        rows = await connection.fetch(
            f"select {value} as value, {self._id()} as id from {self.name} "  # noqa: S608 - as above
            f"where {value} = any($1::text[]) and {column} is not null",
            list(values),
        )
        return {row["value"]: row["id"] for row in rows}

    async def count_taken(self, connection: Connection, kind: str) -> tuple[int, int]:
        """Of the rows that the source has and an import took over at some time: how many there
        are here, and how many were deleted here since."""
        here = f"(select {self._id()} as id, true as found from {self.name})"  # noqa: S608 - as above
        if not self.key:
            here = "(select id, true as found from import_litellm where kind = $1)"
        row = await connection.fetchrow(
            "select count(*) filter (where t.found) as here, "  # noqa: S608 - as above
            "count(*) filter (where t.found is null) as gone from import_litellm i "
            f"join import_seen s using (kind, id) left join {here} t using (id) "
            "where i.kind = $1",
            kind,
        )
        assert row is not None
        return int(row["here"]), int(row["gone"])

    def _id(self, alias: str = "") -> str:
        return " || chr(31) || ".join(f"{alias}{name}" for name in self.key) or "''"

    async def _write(
        self, connection: Connection, statement: str, rows: Mapping[str, Row]
    ) -> Written:
        """One statement for all; where one row is refused, the rest goes in without it."""
        if not rows:
            return Written(frozenset())
        try:
            async with connection.transaction():
                found = await connection.fetch(statement, msgspec.json.encode(list(rows.values())))
        except _REFUSALS as error:
            if len(rows) == 1:
                what = getattr(error, "constraint_name", None) or type(error).__name__
                return Written(frozenset(), dict.fromkeys(rows, str(what)))
            items, half = list(rows.items()), len(rows) // 2
            first = await self._write(connection, statement, dict(items[:half]))
            second = await self._write(connection, statement, dict(items[half:]))
            return Written(first.done | second.done, {**first.refused, **second.refused})
        return Written(frozenset(row["id"] for row in found) if self.key else frozenset(rows))


@asynccontextmanager
async def open_target(dsn: str, *, dry_run: bool) -> AsyncIterator[Connection]:
    """A transaction on our own database, rolled back at its end where it was only to be tried.
    One import at a time. Raises `StoreUnavailable` or `ConfigError`."""
    settings = server_settings("meridian-import", _STATEMENT_TIMEOUT_S, pooled=False)
    try:
        connection = await dial(dsn, settings, _STATEMENT_TIMEOUT_S, pooled=False)
    except DRIVER_ERRORS as error:
        what = type(error).__name__
        raise StoreUnavailable(f"the database cannot be reached ({what})") from None
    try:
        await prepare(connection)
        await check_schema(connection)
        with contending():
            async with connection.transaction():
                if not await connection.fetchval(_LOCK):
                    raise ConfigError("another import is running")
                await connection.execute(_SEEN_TABLE)
                yield connection
                if dry_run:
                    raise DryRun
    except DryRun:
        pass
    except DRIVER_ERRORS as error:
        what = type(error).__name__
        if is_fault(error):
            raise StoreUnavailable(
                f"the connection to the database was lost ({what}); nothing was imported"
            ) from None
        raise ConfigError(f"the database refuses ({what}); nothing was imported") from None
    finally:
        await connection.close(timeout=10)


async def digests(connection: Connection, kind: str, ids: Sequence[str]) -> dict[str, bytes]:
    """What was taken over of some ids, and from what."""
    rows = await connection.fetch(_DIGESTS, kind, list(ids))
    return {row["id"]: row["digest"] for row in rows}


async def remember(connection: Connection, kind: str, taken: Mapping[str, bytes]) -> None:
    """Notes that ids were taken over from these digests."""
    await connection.execute(_REMEMBER, kind, list(taken), list(taken.values()))


async def forget(connection: Connection, kind: str, ids: Sequence[str]) -> None:
    """Notes nothing of some ids any more."""
    await connection.execute(_FORGET, kind, list(ids))


async def saw(connection: Connection, kind: str, ids: Sequence[str]) -> None:
    """Notes, for this run, that the source has some ids."""
    await connection.execute(_SEEN, kind, list(ids))


async def gone(connection: Connection, kind: str, most: int) -> tuple[list[str], int]:
    """What was taken over once and is in the source no more: some ids, and how many."""
    rows = await connection.fetch(_GONE, kind, most)
    return [row["id"] for row in rows], int(await connection.fetchval(_GONE_COUNT, kind))


async def weigh(connection: Connection) -> None:
    """Makes the planner know how many rows the memory of imports has; to be called once all rows
    of a kind were seen."""
    await connection.execute("analyze import_seen")
    await connection.execute("analyze import_litellm")


async def deleted_keys(connection: Connection) -> list[str]:
    """Keys that were taken over once and that the source has deleted or rotated since."""
    return [row["id"] for row in await connection.fetch(_DELETED_KEYS)]


async def gone_members(connection: Connection, kind: str, group_kind: str) -> list[str]:
    """Memberships that were taken over once, whose group is in the source still without them."""
    rows = await connection.fetch(_GONE_MEMBERS, kind, group_kind)
    return [row["id"] for row in rows]
