"""Key misses and leases of a process, coalesced: one statement in flight, one round trip each.

What comes in while a statement is in flight waits for the next one, which takes it all. Unknown
keys get at most half of a batch and wait in a bounded queue, so that a flood of random keys does
not delay the leases of known ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import asyncpg

from shared.db.leases import LeaseAsk, LeaseGrant, lease_arguments, lease_grants
from shared.domain.errors import Overloaded, StoreUnavailable

BATCH_ITEMS = 512
BATCH_TOKENS = BATCH_ITEMS // 2
QUEUED_TOKENS = 4096

_BOTH = """
select case when cardinality($1::text[]) > 0 then load_principals($1::text[]) end as principals,
       case when $8::jsonb is not null then lease_take(
           $2::text, $3::bigint, $4::bigint, $5::integer, $6::bigint, $7::bigint, $8::jsonb
       ) end as grants
"""
_NO_LEASES = (None,) * 7


class Row(Protocol):
    """What is read of an answer."""

    def __getitem__(self, column: str) -> Any: ...


class Statements(Protocol):
    """The connection: `Link` in practice. Raises `StoreUnavailable` when it is down."""

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Row | None:
        """The first row."""


class _Misses:
    """Tokens that one caller asks for."""

    __slots__ = ("answer", "tokens")

    def __init__(self, tokens: tuple[str, ...], answer: asyncio.Future[bytes]) -> None:
        self.tokens = tokens
        self.answer = answer


class _Leases:
    """An ask for leases that waits for its turn."""

    __slots__ = ("answer", "ask")

    def __init__(self, ask: LeaseAsk, answer: asyncio.Future[tuple[LeaseGrant, ...]]) -> None:
        self.ask = ask
        self.answer = answer


class Asker:
    """Owner of the `ask` connection's time, for one event loop.

    A statement that takes longer than `timeout_s` counts as an outage. All waiting callers of a
    statement that failed get `StoreUnavailable`.
    """

    def __init__(self, link: Statements, *, timeout_s: float = 2.0) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._misses: deque[_Misses] = deque()
        self._queued = 0
        self._leases: deque[_Leases] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def principals(self, tokens: Sequence[str]) -> bytes:
        """The answer of `load_principals`, as JSON.

        It may hold keys that other callers asked for. All callers of one statement get the same
        object, which may be decoded once. At most `BATCH_TOKENS` tokens; raises `Overloaded` when
        the queue is full.
        """
        if self._queued + len(tokens) > QUEUED_TOKENS:
            raise Overloaded(
                "Too many unknown keys are being looked up.", headers=(("retry-after", "1"),)
            )
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._misses.append(_Misses(tuple(tokens), answer))
        self._queued += len(tokens)
        self._wake()
        return await answer

    async def leases(self, ask: LeaseAsk) -> tuple[LeaseGrant, ...]:
        """One grant per item, in order. At most half a batch of items, one ask at a time."""
        answer: asyncio.Future[tuple[LeaseGrant, ...]] = asyncio.get_running_loop().create_future()
        self._leases.append(_Leases(ask, answer))
        self._wake()
        return await answer

    async def close(self) -> None:
        """Fails what waits, and ends."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        _fail(_answers(self._misses, self._leases), "This process is shutting down.")
        self._misses.clear()
        self._leases.clear()

    def _wake(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._pump(), name="asker")

    async def _pump(self) -> None:
        try:
            while self._misses or self._leases:
                await self._send(self._next_misses(), self._next_leases())
        finally:
            self._task = None

    def _next_misses(self) -> list[_Misses]:
        """As many callers as fit; those that have gone are dropped."""
        batch: list[_Misses] = []
        room = BATCH_TOKENS
        while self._misses and (not batch or len(self._misses[0].tokens) <= room):
            misses = self._misses.popleft()
            self._queued -= len(misses.tokens)
            if not misses.answer.done():
                batch.append(misses)
                room -= len(misses.tokens)
        return batch

    def _next_leases(self) -> _Leases | None:
        while self._leases:
            leases = self._leases.popleft()
            if not leases.answer.done():
                return leases
        return None

    async def _send(self, misses: list[_Misses], leases: _Leases | None) -> None:
        """One statement. One refused by the database is tried again, each half for itself."""
        waiting = _answers(misses, [leases] if leases is not None else [])
        try:
            if waiting:
                await self._ask(misses, leases)
        except StoreUnavailable as error:
            _fail(waiting, error.message)
        except asyncpg.PostgresError:
            await self._send_again(misses, None)
            await self._send_again([], leases)
        except BaseException:
            _fail(waiting, "The database was not asked.")
            raise

    async def _send_again(self, misses: list[_Misses], leases: _Leases | None) -> None:
        """A second try: deadlocks pass, and a fault of one half must not fail the other."""
        waiting = _answers(misses, [leases] if leases is not None else [])
        try:
            if waiting:
                await self._ask(misses, leases)
        except StoreUnavailable as error:
            _fail(waiting, error.message)
        except asyncpg.PostgresError as error:
            _fail(waiting, f"The database refused the statement ({type(error).__name__}).")

    async def _ask(self, misses: list[_Misses], leases: _Leases | None) -> None:
        tokens = list(dict.fromkeys(token for each in misses for token in each.tokens))
        arguments = _NO_LEASES if leases is None else lease_arguments(leases.ask)
        row = await self._link.fetchrow(_BOTH, tokens, *arguments, timeout=self._timeout_s)
        assert row is not None
        for each in misses:
            if not each.answer.done():
                each.answer.set_result(row["principals"])
        if leases is not None and not leases.answer.done():
            leases.answer.set_result(lease_grants(row["grants"]))


def _fail(answers: list[asyncio.Future[Any]], message: str) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(StoreUnavailable(message))


def _answers(misses: Iterable[_Misses], leases: Iterable[_Leases]) -> list[asyncio.Future[Any]]:
    return [*(each.answer for each in misses), *(each.answer for each in leases)]
