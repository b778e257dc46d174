"""Posting to the ledger: what the flusher and the adopter of journals ask of the database.

Every call here is one statement and one round trip. Deadlocks and serialization failures are
tried again at once; every other fault of the database is `StoreUnavailable`, so that the caller
keeps its rows and comes back. `RowsRefused` alone says that the rows themselves are at fault.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import asyncpg
from attrs import frozen

from shared.db.rows import Queryable
from shared.domain.errors import StoreUnavailable

_APPLY = """
select applied, stored, inserted from ledger_apply(
    $1::uuid, $2::integer, $3::bigint, $4::bigint, $5::text, $6::bigint, $7::jsonb,
    $8::boolean)
"""
_REJECT = """
select applied, stored from ledger_reject(
    $1::uuid, $2::integer, $3::bigint, $4::bigint, $5::text, $6::bigint, $7::bytea, $8::text,
    $9::text)
"""
_CURSORS = "select segment, position from journal_cursor where journal = $1::uuid"
_FORGET = (
    "delete from journal_cursor where journal = $1::uuid and segment between 0 and $2::integer"
)
_FORGET_ALL = "delete from journal_cursor where journal = $1::uuid"
_RELEASE = "select lease_forget($1::text, $2::bigint)"
_ENSURE_PARTITIONS = "select spend_log_ensure_partitions($1::integer)"
_DROP_BEFORE = "select spend_log_drop_before($1::timestamptz)"
_STRAYS = "select exists (select from spend_log_default)"

_T = TypeVar("_T")

_TIMEOUT_S = 30.0
_TRIES = 5
_TRANSIENT = frozenset({"40001", "40P01"})
# Data exceptions, integrity violations, and values too long for an index.
_REFUSED_CLASSES = frozenset({"22", "23", "54"})


class RowsRefused(Exception):
    """The database will never take these rows as they are. `reason` may quote their values."""

    def __init__(self, sqlstate: str, reason: str) -> None:
        super().__init__(f"refused by the database ({sqlstate})")
        self.sqlstate = sqlstate
        self.reason = reason


@frozen
class Stretch:
    """A part of a journal: the bytes from `start` to `end` of a segment, and whose calls they are.

    `owner_dead` says that the owner's holds are only taken from, never made anew.
    """

    journal: UUID
    segment: int
    start: int
    end: int
    instance: str
    boot: int
    owner_dead: bool = False


@frozen
class Applied:
    """Whether the stretch was taken, where its segment's cursor stands, how many rows were new."""

    applied: bool
    stored: int
    inserted: int


async def apply(link: Queryable, stretch: Stretch, rows: bytes) -> Applied:
    """Posts the stretch. `rows` is a JSON array of objects with the fields of both call records."""
    row = await _only_row(link, _APPLY, *_where(stretch), rows, stretch.owner_dead)
    return Applied(row["applied"], row["stored"], row["inserted"])


async def reject(
    link: Queryable, stretch: Stretch, payload: bytes, refusal: RowsRefused
) -> Applied:
    """Sets the stretch's one row aside and moves the cursor past it."""
    row = await _only_row(
        link, _REJECT, *_where(stretch), payload, refusal.sqlstate, refusal.reason
    )
    return Applied(row["applied"], row["stored"], 0)


async def cursors(link: Queryable, journal: UUID) -> dict[int, int]:
    """How far each segment of a journal has been posted."""
    rows = await _steady(lambda: link.fetch(_CURSORS, journal, timeout=_TIMEOUT_S))
    return {row["segment"]: row["position"] for row in rows}


async def forget(link: Queryable, journal: UUID, through: int | None = None) -> None:
    """Drops the cursors of segments up to `through`, or all; their files must be gone."""
    if through is None:
        await _steady(lambda: link.execute(_FORGET_ALL, journal, timeout=_TIMEOUT_S))
    else:
        await _steady(lambda: link.execute(_FORGET, journal, through, timeout=_TIMEOUT_S))


async def release_holds(link: Queryable, instance: str, boot: int) -> None:
    """Gives back what a dead owner held of budgets and slots; its journal must be posted."""
    await _steady(lambda: link.execute(_RELEASE, instance, boot, timeout=_TIMEOUT_S))


async def ensure_partitions(link: Queryable, days: int = 7) -> int:
    """Makes the missing day partitions up to `days` ahead; returns how many. For one leader."""
    made: int = await _steady(lambda: link.fetchval(_ENSURE_PARTITIONS, days, timeout=_TIMEOUT_S))
    return made


async def has_strays(link: Queryable) -> bool:
    """Whether rows wait in the default partition: a clock is wrong, or partitions are missing."""
    found: bool = await _steady(lambda: link.fetchval(_STRAYS, timeout=_TIMEOUT_S))
    return found


async def drop_before(link: Queryable, before: datetime) -> int:
    """Retention: drops the days that end at or before `before` (aware); returns how many."""
    dropped: int = await _steady(lambda: link.fetchval(_DROP_BEFORE, before, timeout=_TIMEOUT_S))
    return dropped


def _where(stretch: Stretch) -> tuple[UUID, int, int, int, str, int]:
    return (
        stretch.journal,
        stretch.segment,
        stretch.start,
        stretch.end,
        stretch.instance,
        stretch.boot,
    )


async def _only_row(link: Queryable, query: str, *args: object) -> asyncpg.Record:
    row = await _steady(lambda: link.fetchrow(query, *args, timeout=_TIMEOUT_S))
    assert row is not None, "a function answers with one row"
    return row


async def _steady(statement: Callable[[], Awaitable[_T]]) -> _T:
    for left in reversed(range(_TRIES)):
        try:
            return await statement()
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state[:2] in _REFUSED_CLASSES:
                raise RowsRefused(state, str(error)) from error
            if state not in _TRANSIENT or not left:
                raise StoreUnavailable(f"the ledger cannot be posted to ({state})") from error
        except TimeoutError as error:
            raise StoreUnavailable("the ledger did not answer in time") from error
        await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - spreads contenders
    raise AssertionError("the last try returns or raises")
