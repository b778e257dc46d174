"""Requests and tokens of a window, leased by several processes at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from shared.domain.errors import RateLimited
from shared.domain.limits import Dimension
from shared.limits.leases import Demand, LimitSettings, Reservation
from tests.support.lease_fleet import PLAIN, Process, eventually, fleet, limit, value

SHORT = LimitSettings(window_s=1.0, reask_s=0.02, idle_s=0.2)
Split = Callable[[float, int], float]


def head_fields(head: str) -> dict[str, str]:
    """Header lines as a mapping."""
    return dict(line.split(": ", 1) for line in head.split("\r\n") if line)


class Traffic:
    """Paced requests to several processes, and which window each admitted one belongs to."""

    def __init__(self, processes: list[Process], scopes: tuple, demand: Demand) -> None:
        self.processes = processes
        self.scopes = scopes
        self.demand = demand
        self.windows: Counter[int] = Counter()
        self.early_or_late = 0
        self.refused = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, per_s: float, seconds: float, split: Split, tokens: int = 1) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        owed = [0.0] * len(self.processes)
        last = started
        while (now := loop.time()) - started < seconds:
            for number, process in enumerate(self.processes):
                owed[number] += per_s * split(now - started, number) * (now - last)
                while owed[number] >= 1:
                    owed[number] -= 1
                    self._send(process, tokens)
            last = now
            await asyncio.sleep(0.005)
        await asyncio.gather(*self._tasks)

    def _send(self, process: Process, tokens: int) -> None:
        try:
            reservation = process.leases.reserve(self.scopes, self.demand)
        except RateLimited:
            self.refused += 1
            return
        if reservation is not None:
            self._admitted(process, reservation, tokens)
            return
        task = asyncio.get_running_loop().create_task(self._wait(process, tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, process: Process, tokens: int) -> None:
        try:
            reservation = await process.leases.acquire(self.scopes, self.demand)
        except RateLimited:
            self.refused += 1
        else:
            self._admitted(process, reservation, tokens)

    def _admitted(self, process: Process, reservation: Reservation, tokens: int) -> None:
        assert reservation.takes is not None
        window = reservation.takes[0][1]
        now_ms = time.time() * 1000
        self.windows[window] += tokens
        # 20 ms for a task that is served in time and runs a little later.
        if not window - 1 <= now_ms < window + SHORT.window_s * 1000 + 20:
            self.early_or_late += 1
        process.leases.settle(reservation, tokens, reservation.estimate)


SPLITS: dict[str, Split] = {
    "even": lambda _at, _number: 0.25,
    "90/10": lambda _at, number: (0.9, 0.1, 0.0, 0.0)[number],
    "switch": lambda at, number: 1.0 if number == (0 if at < 1.3 else 1) else 0.0,
}


@pytest.mark.parametrize("name", SPLITS)
async def test_a_limit_holds_and_is_used_whatever_the_split(database: str, name: str) -> None:
    """At three times the limit every window admits at most the limit, and 95 % of it at least."""
    most = 300
    scopes = (limit(Dimension.REQUESTS, most),)
    async with fleet(database, 4, SHORT) as processes:
        traffic = Traffic(processes, scopes, PLAIN)
        await traffic.run(3 * most, 3.3, SPLITS[name])
    full = sorted(traffic.windows)[:-1]
    assert len(full) >= 3
    assert max(traffic.windows.values()) <= most
    assert sum(traffic.windows[each] for each in full) >= 0.95 * most * len(full)
    assert traffic.early_or_late == 0


async def test_tokens_hold_with_learnt_estimates(database: str) -> None:
    """Calls that use what was learnt stay within the token limit and use 95 % of it."""
    most, used = 6000, 60
    scopes = (limit(Dimension.TOKENS, most),)
    async with fleet(database, 2, SHORT) as processes:
        for process in processes:
            first = await process.leases.acquire(scopes, PLAIN)
            process.leases.settle(first, used, first.estimate)
        traffic = Traffic(processes, scopes, PLAIN)
        await traffic.run(3 * most / used, 3.3, lambda _at, _number: 0.5, tokens=used)
    full = sorted(traffic.windows)[1:-1]
    assert len(full) >= 2
    assert max(traffic.windows.values()) <= most
    assert sum(traffic.windows[each] for each in full) >= 0.95 * most * len(full)


async def test_known_demand_asks_ahead_of_need(database: str) -> None:
    """With a large limit and steady traffic, requests after the first few wait for no ask, at the
    change of windows too."""
    scopes = (limit(Dimension.REQUESTS, 100_000),)
    async with fleet(database, 1, SHORT) as [process]:
        waited = 0
        for number in range(440):
            reservation = process.leases.reserve(scopes, PLAIN)
            if reservation is None:
                waited += number > 50
                reservation = await process.leases.acquire(scopes, PLAIN)
            process.leases.settle(reservation, 1, reservation.estimate)
            await asyncio.sleep(0.005)
        assert waited <= 4


async def test_an_exhausted_scope_costs_four_asks_a_second(database: str) -> None:
    """Refusals are local: a flood on a used-up limit makes at most four asks a second."""
    scopes = (limit(Dimension.REQUESTS, 5),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        traffic = Traffic([process], scopes, PLAIN)
        await traffic.run(100, 0.3, lambda _at, _number: 1.0)
        before = len(process.counted.asks)
        await traffic.run(2000, 1.5, lambda _at, _number: 1.0)
        assert sum(traffic.windows.values()) == 5
        assert traffic.refused > 2000
        assert 1 <= len(process.counted.asks) - before <= 7


async def test_requests_that_wait_share_one_ask(database: str) -> None:
    """A burst of first requests makes one round trip, not one each."""
    scopes = (limit(Dimension.REQUESTS, 100),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        await asyncio.gather(*(process.leases.acquire(scopes, PLAIN) for _ in range(80)))
        needy = [ask for ask in process.counted.asks if any(item.need for item in ask.items)]
        assert len(needy) == 1


async def test_refusal_names_limit_and_wait(database: str) -> None:
    """A used-up limit answers 429 with the contract's type and headers, and never the key."""
    scopes = (limit(Dimension.REQUESTS, 2, scope="key:secret"),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        reservations = [await process.leases.acquire(scopes, PLAIN) for _ in range(2)]
        assert head_fields(reservations[-1].head()) == {
            "x-ratelimit-api_key-limit-requests": "2",
            "x-ratelimit-api_key-remaining-requests": "0",
        }
        with pytest.raises(RateLimited) as refused:
            await process.leases.acquire(scopes, PLAIN)
    error = refused.value
    headers = dict(error.headers)
    assert (error.status, error.type) == (429, "throttling_error")
    assert 58 <= int(headers["retry-after"]) <= 60
    assert headers["rate_limit_type"] == "requests"
    assert headers["reset_at"].endswith("Z")
    assert "2 requests per 60 s" in error.message
    assert "2 used" in error.message
    assert "secret" not in error.message


async def test_all_or_nothing_over_scopes(database: str) -> None:
    """A request that one limit refuses uses nothing of the others."""
    requests, tokens = limit(Dimension.REQUESTS, 50), limit(Dimension.TOKENS, 100)
    demand = Demand(input_tokens=40, max_output_tokens=20, model="m", rates=None)
    async with fleet(database, 1, LimitSettings()) as [process]:
        await process.leases.acquire((requests, tokens), demand)
        scopes = (requests, tokens)
        for _ in range(5):
            with pytest.raises(RateLimited) as refused:
                await process.leases.acquire(scopes, demand)
            assert dict(refused.value.headers)["rate_limit_type"] == "tokens"
        last = await process.leases.acquire((requests,), demand)
        assert head_fields(last.head())["x-ratelimit-api_key-remaining-requests"] == "48"


async def test_released_calls_cost_nothing(database: str) -> None:
    """A call that never went upstream gives its request and its tokens back, once."""
    scopes = (limit(Dimension.REQUESTS, 1), limit(Dimension.TOKENS, 2000))
    async with fleet(database, 1, LimitSettings()) as [process]:
        for _ in range(10):
            reservation = await process.leases.acquire(scopes, PLAIN)
            process.leases.release(reservation)
            process.leases.release(reservation)
            process.leases.settle(reservation, 10_000, reservation.estimate)
        assert await process.leases.acquire(scopes, PLAIN)
        with pytest.raises(RateLimited):
            await process.leases.acquire(scopes, PLAIN)


async def test_tokens_beyond_the_estimate_are_owed(database: str) -> None:
    """What a call used beyond its reservation counts in the current window, for everybody."""
    scopes = (limit(Dimension.TOKENS, 2000),)
    demand = Demand(input_tokens=10, max_output_tokens=10, model="m", rates=None)
    settings = LimitSettings(idle_s=0.05)
    async with fleet(database, 2, settings) as [first, second]:
        reservation = await first.leases.acquire(scopes, demand)
        first.leases.settle(reservation, 1995, reservation.estimate)
        await eventually(database, "select used >= 1995 from rate_window", True, 3)
        with pytest.raises(RateLimited):
            await second.leases.acquire(scopes, demand)


async def test_strict_mode_names_both_numbers_of_a_request_too_large(database: str) -> None:
    """A request that can never fit is refused at once, without an ask and without retry-after."""
    scopes = (limit(Dimension.TOKENS, 1000),)
    demand = Demand(input_tokens=500, max_output_tokens=700, model="m", rates=None)
    async with fleet(database, 1, LimitSettings(strict=True)) as [process]:
        with pytest.raises(RateLimited) as refused:
            process.leases.reserve(scopes, demand)
        assert "1200 tokens" in refused.value.message
        assert "limit of 1000" in refused.value.message
        assert "retry-after" not in dict(refused.value.headers)
        assert process.counted.asks == []


async def test_strict_mode_reserves_the_bound(database: str) -> None:
    """Input bound and output cap are reserved whatever was learnt, and what is unused returns."""
    scopes = (limit(Dimension.TOKENS, 1000),)
    demand = Demand(10, None, "m", None, output_cap=590, input_bound=10)
    async with fleet(database, 1, LimitSettings(strict=True, reask_s=0.001)) as [process]:
        first = await process.leases.acquire(scopes, demand)
        with pytest.raises(RateLimited):
            await process.leases.acquire(scopes, demand)
        process.leases.settle(first, 100, first.estimate)
        await asyncio.sleep(0.005)
        assert await process.leases.acquire(scopes, demand)


async def test_a_limit_of_zero_refuses_everything(database: str) -> None:
    """A limit of nothing is a limit."""
    async with fleet(database, 1, LimitSettings()) as [process]:
        for dimension in (Dimension.REQUESTS, Dimension.TOKENS, Dimension.PARALLEL):
            with pytest.raises(RateLimited):
                await process.leases.acquire((limit(dimension, 0),), PLAIN)
        assert process.counted.asks == []


async def test_a_changed_limit_voids_local_blocks(database: str) -> None:
    """Allowance leased under an old limit is not used under the new one."""
    async with fleet(database, 1, LimitSettings()) as [process]:
        old = (limit(Dimension.REQUESTS, 1000),)
        for _ in range(5):
            await process.leases.acquire(old, PLAIN)
        new = (limit(Dimension.REQUESTS, 7),)
        assert process.leases.reserve(new, PLAIN) is None
        for _ in range(2):
            await process.leases.acquire(new, PLAIN)
        with pytest.raises(RateLimited):
            await process.leases.acquire(new, PLAIN)


async def test_idle_allowance_goes_back(database: str) -> None:
    """What one process leased and does not use, another can."""
    scopes = (limit(Dimension.REQUESTS, 20),)
    settings = LimitSettings(window_s=20.0, idle_s=0.1, reask_s=0.05)
    async with fleet(database, 2, settings) as [first, second]:
        leased = [await first.leases.acquire(scopes, PLAIN) for _ in range(20)]
        for reservation in leased[:10]:
            first.leases.release(reservation)
        await eventually(database, "select used from rate_window", 10, 3)
        await asyncio.gather(*(second.leases.acquire(scopes, PLAIN) for _ in range(10)))


async def test_a_closed_process_gives_back(database: str) -> None:
    """After a clean stop the counters show what was used and nothing more."""
    scopes = (limit(Dimension.REQUESTS, 100),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        for _ in range(3):
            await process.leases.acquire(scopes, PLAIN)
    assert await value(database, "select used from rate_window") == 3


async def test_a_dead_owners_block_counts_as_used(database: str) -> None:
    """Nobody gets what a process that vanished had leased of the running window."""
    scopes = (limit(Dimension.REQUESTS, 60),)
    settings = LimitSettings(slot_ttl_s=0.1, money_ttl_s=0.1, idle_s=30)
    async with fleet(database, 2, settings) as [dead, alive]:
        await asyncio.gather(*(dead.leases.acquire(scopes, PLAIN) for _ in range(20)))
        leased = await value(database, "select used::int from rate_window")
        await value(database, "delete from instance where id = 'w0' returning 1")
        await asyncio.sleep(0.2)
        admitted = 0
        while True:
            try:
                await alive.leases.acquire(scopes, PLAIN)
            except RateLimited:
                break
            admitted += 1
        assert admitted == 60 - leased
        assert leased >= 20
