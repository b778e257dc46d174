"""Several gateway processes' worth of leases in one test: own connections, own identities."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import asyncpg

from shared.db.ask import Asker
from shared.db.leases import LeaseAsk, LeaseGrant
from shared.db.link import Link
from shared.domain.clock import Clock
from shared.domain.errors import StoreUnavailable
from shared.domain.limits import Dimension, ScopeRef
from shared.domain.usage import Rates
from shared.limits.leases import Demand, Leases, LimitSettings

CHEAP = Rates(input=Decimal(0), output=Decimal("0.0001"))
PLAIN = Demand(input_tokens=10, max_output_tokens=None, model="m", rates=None)


def limit(dimension: Dimension, amount: int | str, scope: str = "key:k", **more: Any) -> ScopeRef:
    """A limit of the key `k`."""
    return ScopeRef(scope=scope, dimension=dimension, limit=Decimal(amount), **more)


class CountedAsker:
    """Passes asks on and keeps them. `deaf`: they are carried out, but the answers get lost."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.asks: list[LeaseAsk] = []
        self.deaf = False

    async def leases(self, ask: LeaseAsk) -> Sequence[LeaseGrant]:
        self.asks.append(ask)
        grants = await self._asker.leases(ask)
        if self.deaf:
            raise StoreUnavailable("The answer was lost.")
        return grants


class Process:
    """One process: its connection, its leases and its heartbeat."""

    def __init__(self, dsn: str, name: str, settings: LimitSettings) -> None:
        self.dsn = dsn
        self.name = name
        self.clock = Clock()
        self.settings = settings
        self.boot = 0
        self.link = Link(f"ask-{name}", dsn, application_name=f"test {name}")
        self.asker = Asker(self.link)
        self.counted = CountedAsker(self.asker)
        self.leases: Leases

    async def start(self) -> None:
        await self.link.open()
        self.boot = await self.link.fetchval(
            "insert into instance (id, binary_name, region, host, version, schema_version,"
            " capabilities) values ($1, 'worker', 'r', 'h', '0', 4, '{llm}') returning boot",
            self.name,
        )
        self.leases = Leases(
            self.counted, self.clock, self.settings, instance=self.name, boot=self.boot
        )

    async def beat(self, live: int, rank: int) -> None:
        """One heartbeat."""
        sent = self.clock.mono()
        await self.link.execute(
            "update instance set last_seen = clock_timestamp() where id = $1", self.name
        )
        self.leases.observe_fleet(live, rank, sent)

    async def stop(self) -> None:
        await self.leases.close()
        await self.asker.close()
        await self.link.close()


@contextlib.asynccontextmanager
async def fleet(dsn: str, size: int, settings: LimitSettings) -> AsyncIterator[list[Process]]:
    """`size` processes that have each had one heartbeat."""
    processes = [Process(dsn, f"w{number}", settings) for number in range(size)]
    try:
        for process in processes:
            await process.start()
        for rank, process in enumerate(processes):
            await process.beat(size, rank)
        yield processes
    finally:
        for process in processes:
            if hasattr(process, "leases"):
                await process.stop()


async def value(dsn: str, query: str, *arguments: Any) -> Any:
    """One value, over a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def eventually(dsn: str, query: str, expected: Any, within_s: float) -> float:
    """Waits until a query answers `expected`; how long that took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    connection = await asyncpg.connect(dsn)
    try:
        while (found := await connection.fetchval(query)) != expected:
            if loop.time() - started > within_s:
                raise AssertionError(f"still {found!r} after {within_s} s, not {expected!r}")
            await asyncio.sleep(0.01)
        return loop.time() - started
    finally:
        await connection.close()
