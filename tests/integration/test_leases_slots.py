"""Parallel requests over several processes."""

from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal

import pytest

from shared.domain.errors import RateLimited
from shared.domain.limits import Dimension
from shared.limits.leases import LimitSettings
from tests.support.lease_fleet import CHEAP, PLAIN, Demand, Process, eventually, fleet, limit, value

TEN = (limit(Dimension.PARALLEL, 10),)
HELD = "select coalesce(sum(held), 0)::int from slot_hold"


class Gauge:
    """Calls in flight over all processes, their peak and their mean over time."""

    def __init__(self) -> None:
        self.running = self.peak = 0
        self.area = 0.0
        self.changed_at = self.started_at = time.monotonic()

    def add(self, by: int) -> None:
        now = time.monotonic()
        self.area += self.running * (now - self.changed_at)
        self.changed_at = now
        self.running += by
        self.peak = max(self.peak, self.running)

    def mean(self) -> float:
        self.add(0)
        return self.area / (self.changed_at - self.started_at)


async def caller(process: Process, gauge: Gauge, until: float) -> None:
    """Calls of 5 to 25 ms, one after the other; a refused one is tried again."""
    while time.monotonic() < until:
        try:
            reservation = await process.leases.acquire(TEN, PLAIN)
        except RateLimited:
            await asyncio.sleep(0.01)
            continue
        gauge.add(1)
        await asyncio.sleep(random.uniform(0.005, 0.025))
        gauge.add(-1)
        process.leases.settle(reservation, 1, reservation.estimate)


async def test_never_more_than_the_limit_and_all_of_it(database: str) -> None:
    """Ten slots over two processes under saturation: never eleven, nearly always ten."""
    async with fleet(database, 2, LimitSettings()) as processes:
        warm = Gauge()
        until = time.monotonic() + 0.3
        await asyncio.gather(*(caller(p, warm, until) for p in processes for _ in range(15)))
        gauge = Gauge()
        until = time.monotonic() + 1.5
        await asyncio.gather(*(caller(p, gauge, until) for p in processes for _ in range(15)))
        assert max(warm.peak, gauge.peak) == 10
        assert gauge.mean() >= 9


async def test_idle_slots_are_back_within_a_quarter_second(database: str) -> None:
    """Slots that calls have freed here can be used elsewhere soon after."""
    async with fleet(database, 2, LimitSettings()) as [first, second]:
        held = [await first.leases.acquire(TEN, PLAIN) for _ in range(10)]
        with pytest.raises(RateLimited) as refused:
            await second.leases.acquire(TEN, PLAIN)
        headers = dict(refused.value.headers)
        assert headers["rate_limit_type"] == "max_parallel_requests"
        assert headers["retry-after"] == "1"
        for reservation in held:
            first.leases.settle(reservation, 1, reservation.estimate)
        assert await eventually(database, HELD, 0, 2) < 0.4
        await asyncio.sleep(0.26)
        await asyncio.gather(*(second.leases.acquire(TEN, PLAIN) for _ in range(10)))


async def test_freed_slots_are_used_again_without_an_ask(database: str) -> None:
    """One call after the other costs one round trip, not one each."""
    async with fleet(database, 1, LimitSettings()) as [process]:
        for _ in range(100):
            reservation = await process.leases.acquire(TEN, PLAIN)
            process.leases.settle(reservation, 1, reservation.estimate)
        assert len(process.counted.asks) == 1


async def test_a_dead_owners_slots_come_back(database: str) -> None:
    """When a process has not been seen for the time to live, others get its slots."""
    settings = LimitSettings(slot_ttl_s=0.6, reask_s=0.02)
    async with fleet(database, 2, settings) as [dead, alive]:
        for _ in range(10):
            await dead.leases.acquire(TEN, PLAIN)
        died = time.monotonic()
        await alive.beat(2, 1)
        while True:
            try:
                await alive.leases.acquire(TEN, PLAIN)
                break
            except RateLimited:
                await asyncio.sleep(0.02)
        assert 0.5 < time.monotonic() - died < 1.5
        for _ in range(9):
            await alive.leases.acquire(TEN, PLAIN)


async def test_a_beating_owner_keeps_its_slots(database: str) -> None:
    """The heartbeat alone keeps slots, without an ask of their own."""
    settings = LimitSettings(slot_ttl_s=0.4, reask_s=0.02)
    async with fleet(database, 2, settings) as [owner, other]:
        for _ in range(10):
            await owner.leases.acquire(TEN, PLAIN)
        asks = len(owner.counted.asks)
        for _ in range(10):
            await asyncio.sleep(0.1)
            await owner.beat(2, 0)
            with pytest.raises(RateLimited):
                await other.leases.acquire(TEN, PLAIN)
        assert len(owner.counted.asks) == asks


async def test_an_owner_that_was_cut_off_admits_nothing_above_the_limit(database: str) -> None:
    """A process that comes back states its running calls and starts none before there is room."""
    settings = LimitSettings(slot_ttl_s=0.4, reask_s=0.01)
    async with fleet(database, 2, settings) as [cut, other]:
        running = [await cut.leases.acquire(TEN, PLAIN) for _ in range(8)]
        await asyncio.sleep(0.5)
        await other.beat(2, 1)
        theirs = [await other.leases.acquire(TEN, PLAIN) for _ in range(10)]
        await cut.beat(2, 0)
        cut.leases.settle(running[0], 1, running[0].estimate)
        with pytest.raises(RateLimited):
            await cut.leases.acquire(TEN, PLAIN)
        assert await value(database, HELD) == 17
        for reservation in running[1:4]:
            cut.leases.settle(reservation, 1, reservation.estimate)
        await other.beat(2, 1)
        await asyncio.sleep(0.02)
        with pytest.raises(RateLimited):
            await cut.leases.acquire(TEN, PLAIN)
        for reservation in theirs[:5]:
            other.leases.settle(reservation, 1, reservation.estimate)
        await other.beat(2, 1)
        await eventually(database, HELD, 9, 2)
        await asyncio.sleep(0.02)
        assert await cut.leases.acquire(TEN, PLAIN)


async def test_nothing_leaks_over_random_exits(database: str) -> None:
    """A thousand calls that end, fail, are refused or are cancelled anywhere leave nothing held."""
    scopes = (
        limit(Dimension.REQUESTS, 100_000),
        limit(Dimension.TOKENS, 10_000_000),
        limit(Dimension.PARALLEL, 7),
        limit(Dimension.MONEY, "5"),
    )
    demand = Demand(10, 50, "m", CHEAP)
    chance = random.Random(5)
    settings = LimitSettings(idle_s=0.02, reask_s=0.02)

    async def one(process: Process) -> None:
        reservation = await process.leases.acquire(scopes, demand)
        try:
            await asyncio.sleep(chance.uniform(0, 0.002))
        finally:
            if chance.random() < 0.5:
                process.leases.release(reservation)
            else:
                process.leases.settle(reservation, chance.randint(0, 60), Decimal(0))

    async with fleet(database, 2, settings) as processes:
        for _ in range(50):
            tasks = [asyncio.create_task(one(chance.choice(processes))) for _ in range(20)]
            await asyncio.sleep(chance.uniform(0, 0.005))
            for task in tasks:
                if chance.random() < 0.4:
                    task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for end in ends:
                assert end is None or isinstance(end, asyncio.CancelledError | RateLimited)
        await eventually(database, HELD, 0, 3)
        await eventually(database, "select sum(held) = 0 from budget_hold", True, 3)
        await eventually(database, "select count(*)::int from budget_hold where held <> 0", 0, 3)


async def test_a_lowered_limit_waits_for_running_calls(database: str) -> None:
    """Calls above a lowered limit finish, and none starts before fewer run than it allows."""
    lower = (limit(Dimension.PARALLEL, 2),)
    async with fleet(database, 1, LimitSettings(reask_s=0.001)) as [process]:
        running = [await process.leases.acquire(TEN, PLAIN) for _ in range(4)]
        for reservation in running[:2]:
            with pytest.raises(RateLimited):
                await process.leases.acquire(lower, PLAIN)
            process.leases.settle(reservation, 1, reservation.estimate)
            await asyncio.sleep(0.002)
        with pytest.raises(RateLimited):
            await process.leases.acquire(lower, PLAIN)
        process.leases.settle(running[2], 1, running[2].estimate)
        await asyncio.sleep(0.002)
        assert await process.leases.acquire(lower, PLAIN)
