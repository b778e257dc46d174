"""What limits do while the database is away (docs/consistency.md, section by section)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from urllib.parse import urlsplit

import pytest

from shared.domain.errors import BudgetExceeded, RateLimited
from shared.domain.limits import Dimension, ScopeRef
from shared.limits.leases import Demand, LimitSettings
from shared.limits.settings import OutageBudgets, OutageLimits
from tests.support.lease_fleet import CHEAP, PLAIN, Process, eventually, fleet, limit, value
from tests.support.postgres import Postgres

QUICK = LimitSettings(window_s=1.0, reask_s=0.02, idle_s=0.1, probe_s=0.05)
PRICED = Demand(input_tokens=0, max_output_tokens=200, model="m", rates=CHEAP)


@asynccontextmanager
async def outage(postgres: Postgres, dsn: str) -> AsyncIterator[None]:
    """The database takes no connections, and those it had are cut."""
    name = urlsplit(dsn).path[1:]
    postgres.execute(f"alter database {name} with allow_connections false")
    postgres.execute(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    )
    try:
        yield
    finally:
        postgres.execute(f"alter database {name} with allow_connections true")


async def admitted(process: Process, scopes: tuple[ScopeRef, ...], tries: int = 60) -> int:
    """How many of so many requests get through."""
    count = 0
    for _ in range(tries):
        try:
            await process.leases.acquire(scopes, PLAIN)
        except RateLimited:
            continue
        count += 1
    return count


async def back(process: Process) -> None:
    """Waits until the process has reached the database again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while process.leases.dark or not process.link.up:
        assert loop.time() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("live", "shares"), [(2, [6, 5]), (3, [4, 4])])
async def test_each_process_admits_its_share_of_a_window(
    postgres: Postgres, database: str, live: int, shares: list[int]
) -> None:
    """Eleven requests over W processes: limit / W each, the first ranks one more, per window."""
    scopes = (limit(Dimension.REQUESTS, 11),)
    async with fleet(database, 2, QUICK) as processes:
        for rank, process in enumerate(processes):
            await process.beat(live, rank)
        async with outage(postgres, database):
            for _ in range(2):
                got = await asyncio.gather(*(admitted(p, scopes) for p in processes))
                assert got == shares
                await asyncio.sleep(1.0)


async def test_shares_go_by_the_most_processes_of_the_day(
    postgres: Postgres, database: str
) -> None:
    """A process that last saw few others still divides by the most it saw."""
    scopes = (limit(Dimension.REQUESTS, 12),)
    async with fleet(database, 1, QUICK) as [process]:
        await process.beat(4, 0)
        await process.beat(2, 0)
        async with outage(postgres, database):
            assert await admitted(process, scopes) == 3


async def test_a_process_that_never_saw_the_others_has_no_share(
    postgres: Postgres, database: str
) -> None:
    """Without a heartbeat so far, limited keys get nothing during an outage."""
    scopes = (limit(Dimension.REQUESTS, 100),)
    process = Process(database, "new", QUICK)
    await process.start()
    try:
        async with outage(postgres, database):
            assert await admitted(process, scopes) == 0
            with pytest.raises(RateLimited) as refused:
                process.leases.reserve(scopes, PLAIN)
            assert "this instance serves 0" in refused.value.message
            assert "retry-after" in dict(refused.value.headers)
            assert process.leases.reserve((), PLAIN)
    finally:
        await process.stop()


async def test_tokens_are_shared_too(postgres: Postgres, database: str) -> None:
    """Of 10,000 tokens half a fleet of two admits five calls of about 1,000."""
    scopes = (limit(Dimension.TOKENS, 10_340),)
    async with fleet(database, 1, QUICK) as [process]:
        await process.beat(2, 0)
        async with outage(postgres, database):
            assert await admitted(process, scopes) == 5


async def test_slots_are_shared_and_running_calls_finish(postgres: Postgres, database: str) -> None:
    """During an outage a process runs its share of parallel requests and restates them after."""
    scopes = (limit(Dimension.PARALLEL, 6),)
    async with fleet(database, 1, QUICK) as [process]:
        await process.beat(2, 0)
        async with outage(postgres, database):
            running = [await process.leases.acquire(scopes, PLAIN) for _ in range(3)]
            with pytest.raises(RateLimited):
                await process.leases.acquire(scopes, PLAIN)
            process.leases.settle(running.pop(), 1, Decimal(0))
            running.append(await process.leases.acquire(scopes, PLAIN))
        await back(process)
        await eventually(database, "select sum(held)::int from slot_hold", 3, 5)
        for reservation in running:
            process.leases.settle(reservation, 1, Decimal(0))
        await eventually(database, "select sum(held)::int from slot_hold", 0, 5)


async def test_serve_admits_without_limit(postgres: Postgres, database: str) -> None:
    """With the policy `serve` no rate or slot limit holds during an outage."""
    scopes = (
        limit(Dimension.REQUESTS, 2),
        limit(Dimension.TOKENS, 10),
        limit(Dimension.PARALLEL, 1),
    )
    settings = LimitSettings(outage_limits=OutageLimits.SERVE)
    async with fleet(database, 1, settings) as [process], outage(postgres, database):
        assert await admitted(process, scopes) == 60


async def test_what_was_admitted_meanwhile_is_reported(postgres: Postgres, database: str) -> None:
    """Back at the database, the requests of the running window count as used."""
    scopes = (limit(Dimension.REQUESTS, 40),)
    settings = LimitSettings(window_s=30.0, idle_s=0.05, probe_s=0.05)
    async with fleet(database, 1, settings) as [process]:
        await process.beat(2, 0)
        async with outage(postgres, database):
            assert await admitted(process, scopes) == 20
        await back(process)
        await eventually(database, "select used::int from rate_window", 20, 5)
        assert await admitted(process, scopes) == 20


async def test_money_is_served_to_the_end_of_the_lease(postgres: Postgres, database: str) -> None:
    """The default: what was leased of a budget is used, then 429 `budget_unavailable`."""
    scopes = (limit(Dimension.MONEY, "1.00"),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        first = await process.leases.acquire(scopes, PRICED)
        process.leases.release(first)
        held = await value(database, "select sum(held) from budget_hold")
        async with outage(postgres, database):
            reserved = Decimal(0)
            with pytest.raises(RateLimited) as refused:  # noqa: PT012 - until it is refused
                for _ in range(100):
                    reservation = await process.leases.acquire(scopes, PRICED)
                    assert reservation.takes is not None
                    reserved += reservation.takes[0][2]
            assert reserved == held
            assert (refused.value.status, refused.value.type) == (429, "budget_unavailable")
            assert "retry-after" in dict(refused.value.headers)


async def test_money_is_served_freely_on_request(postgres: Postgres, database: str) -> None:
    """With the policy `serve` budgets do not refuse, and the spend is owed afterwards."""
    scopes = (limit(Dimension.MONEY, "0.10"),)
    settings = LimitSettings(outage_budgets=OutageBudgets.SERVE, probe_s=0.05, idle_s=0.05)
    async with fleet(database, 1, settings) as [process]:
        async with outage(postgres, database):
            for _ in range(10):
                reservation = await process.leases.acquire(scopes, PRICED)
                process.leases.settle(reservation, 200, Decimal("0.02"))
        await back(process)
        with pytest.raises(BudgetExceeded):
            await process.leases.acquire(scopes, PRICED)


async def test_money_is_refused_on_request(postgres: Postgres, database: str) -> None:
    """With the policy `refuse` not even the lease in hand is used; free models still work."""
    scopes = (limit(Dimension.MONEY, "1.00"),)
    settings = LimitSettings(outage_budgets=OutageBudgets.REFUSE)
    async with fleet(database, 1, settings) as [process]:
        process.leases.release(await process.leases.acquire(scopes, PRICED))
        async with outage(postgres, database):
            # Notices the outage with a request that needs an ask.
            await admitted(process, (limit(Dimension.REQUESTS, 5),), 1)
            with pytest.raises(RateLimited) as refused:
                process.leases.reserve(scopes, PRICED)
            assert refused.value.type == "budget_unavailable"
            assert process.leases.reserve(scopes, PLAIN)


async def test_requests_that_wait_are_answered_when_the_database_goes(
    postgres: Postgres, database: str
) -> None:
    """Nobody who waits for a lease is left waiting; each gets the outage's answer."""
    scopes = (limit(Dimension.REQUESTS, 10),)
    async with fleet(database, 1, QUICK) as [process]:
        await process.beat(2, 0)
        async with outage(postgres, database):
            async with asyncio.timeout(3):
                ends = await asyncio.gather(
                    *(process.leases.acquire(scopes, PLAIN) for _ in range(20)),
                    return_exceptions=True,
                )
        refused = [end for end in ends if isinstance(end, BaseException)]
        assert len(refused) == 15
        assert {type(end) for end in refused} == {RateLimited}
