"""Committing changes: announced once, shared where many come at once, confirmed where asked.

A transaction on a watched table is numbered under one lock at its end, so commits come one after
the other. Keys made within a few milliseconds share a transaction, each in its own savepoint, so
that one that is refused spoils no other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import structlog
from attrs import define, frozen

from shared.db.audit import AuditEntry, append
from shared.db.feed import transaction_version
from shared.db.pool import Store
from shared.db.refusing import Contended, contending
from shared.db.rows import Connection, is_fault, unavailable
from shared.domain.errors import GatewayError, StoreUnavailable
from shared.fleet.applied import Applied, wait_applied

_T = TypeVar("_T")
Work = Callable[[Connection], Awaitable[_T]]
Note = Callable[[_T], Iterable[AuditEntry]]

_GATHER_S = 0.005
_MOST_AT_ONCE = 100
_MOST_TRIES = 5

_log = structlog.get_logger(__name__)


@frozen
class Committed(Generic[_T]):
    """What the work gave, and the feed version it is visible under if that was asked for."""

    result: _T
    version: int | None


@define
class _Pending:
    """One piece of work of a shared transaction; `order` keeps lock orders alike everywhere."""

    work: Work[Any]
    note: Note[Any]
    order: str
    numbered: bool
    done: asyncio.Future[Committed[Any]]
    tries: int = _MOST_TRIES


class Commits:
    """Runs work in transactions. For one event loop; `announce` is a plain call after commits."""

    def __init__(self, store: Store, announce: Callable[[], None], *, stale_limit_s: float) -> None:
        self._store = store
        self._announce = announce
        self._stale_limit_s = stale_limit_s
        self._waiting: list[_Pending] = []
        self._task: asyncio.Task[None] | None = None

    async def alone(self, work: Work[_T], *, numbered: bool) -> Committed[_T]:
        """In a transaction of its own. Work that ran into a deadlock has done nothing, and is
        done again."""
        tries = _MOST_TRIES
        while True:
            try:
                committed = await self._alone(work, numbered=numbered)
            except Contended:
                tries -= 1
                if not tries:
                    raise
                await asyncio.sleep(_pause_s())
            else:
                self._announce()
                return committed

    async def _alone(self, work: Work[_T], *, numbered: bool) -> Committed[_T]:
        with contending():
            async with self._store.transaction() as connection:
                result = await work(connection)
                version = await transaction_version(connection) if numbered else None
        return Committed(result, version)

    async def shared(
        self, work: Work[_T], note: Note[_T], *, order: str, numbered: bool
    ) -> Committed[_T]:
        """With other work that comes now. It is committed even if the caller goes meanwhile.

        `note` makes audit entries of what the work gave. They are added when all work is done: the
        end of the log stays locked from then on, so nothing that may wait for others can follow.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(work, note, order, numbered, loop.create_future())
        self._waiting.append(pending)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._flush())
        return await pending.done

    async def confirm(self, version: int, timeout_s: float) -> Applied | None:
        """Who has applied a committed version; `None` when that cannot be learnt now."""
        try:
            return await wait_applied(
                self._store, version, timeout_s, stale_limit_s=self._stale_limit_s
            )
        except StoreUnavailable:
            return None

    async def close(self) -> None:
        """Waits for work that was taken on."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                await self._commit(sorted(batch, key=lambda pending: pending.order))
            except Contended as error:
                # Nothing of it is done; what is answered or waits already stays as it is.
                for pending in batch:
                    if not pending.done.done() and pending not in self._waiting:
                        self._again(pending, error)
            except Exception as error:  # noqa: BLE001 - it is the callers', whose task this is not
                for pending in batch:
                    _fail(pending, error)

    def _again(self, pending: _Pending, error: Contended) -> None:
        """Puts work that ran into a deadlock into a later transaction."""
        pending.tries -= 1
        if pending.tries:
            self._waiting.append(pending)
        else:
            _fail(pending, error)

    async def _commit(self, batch: list[_Pending]) -> None:
        version = None
        with contending():
            async with self._store.transaction() as connection:
                results = await self._run(connection, batch)
                notes = [entry for pending, result in results for entry in pending.note(result)]
                await append(connection, *notes)
                if any(pending.numbered for pending, _ in results):
                    version = await transaction_version(connection)
        self._announce()
        for pending, result in results:
            if not pending.done.done():
                pending.done.set_result(Committed(result, version))

    async def _run(
        self, connection: Connection, batch: list[_Pending]
    ) -> list[tuple[_Pending, Any]]:
        """The work that can be done, and what each piece gave; the rest is refused or put off."""
        results: list[tuple[_Pending, Any]] = []
        for pending in batch:
            try:
                with contending():
                    async with connection.transaction():
                        results.append((pending, await pending.work(connection)))
            except Contended as error:
                self._again(pending, error)
            except Exception as error:  # noqa: BLE001 - one caller's, which spoils no other's
                _fail(pending, unavailable(error) if is_fault(error) else error)
        return results


def _pause_s() -> float:
    return random.uniform(0.005, 0.05)  # noqa: S311 - spreads contenders


def _fail(pending: _Pending, error: Exception) -> None:
    if pending.done.done():
        if not isinstance(error, GatewayError):
            _log.warning("commit_failed_unheard", error=type(error).__name__)
    else:
        pending.done.set_exception(error)
