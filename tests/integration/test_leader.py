"""One process at a time runs a job, once per period, and one that was overtaken writes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from shared.db.leader import add_jobs, finish, give_back, take_due
from shared.db.pool import Store
from shared.domain.errors import StoreUnavailable
from shared.fleet.leader import Job, Leader, TakenOver, Term
from tests.support.fleet import ROOT, until
from tests.support.leader_process import TABLE, deed

EVERY = {"deed": 3600.0}


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = Store(database, application_name="test-leader", size=8)
    await opened.open()
    await opened.execute(TABLE)
    await add_jobs(opened, list(EVERY))
    yield opened
    await opened.close()


async def deeds(store: Store) -> list[tuple[str, int, str]]:
    """What was written, in order."""
    rows = await store.fetch("select owner, epoch, step from deed order by at")
    return [(row["owner"], row["epoch"], row["step"]) for row in rows]


async def taken(store: Store, owner: str, lease_s: float = 10.0) -> Term:
    """The one job's run, which must be free."""
    run = await take_due(store, owner, EVERY, lease_s)
    assert run is not None
    return Term(store, run, lease_s)


async def lapse(store: Store) -> None:
    """Lets all leases end."""
    await store.execute("update leader set until = clock_timestamp()")


@contextmanager
def process(database: str, owner: str, lease_s: float, hold_s: float) -> Iterator[Any]:
    """A process that offers to run the job."""
    command = [sys.executable, "-m", "tests.support.leader_process"]
    started = subprocess.Popen(
        [*command, database, owner, str(lease_s), str(hold_s)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


async def test_a_run_is_one_owner_s_until_its_lease_ends(store: Store):
    """Others get nothing while it lasts; after it they get the job under a higher epoch."""
    first = await taken(store, "a")
    assert await take_due(store, "b", EVERY, 10) is None
    assert await take_due(store, "a", EVERY, 10) is None
    await lapse(store)
    second = await taken(store, "b")
    assert second.run.epoch == first.run.epoch + 1


async def test_work_under_an_old_epoch_is_refused(store: Store):
    """Whoever was overtaken commits nothing, cannot finish and cannot give back."""
    late = await taken(store, "a")
    await deed(late, "begun")
    await lapse(store)
    current = await taken(store, "b")
    with pytest.raises(TakenOver):
        await deed(late, "late")
    await finish(store, late.run)
    await give_back(store, late.run)
    assert await take_due(store, "c", EVERY, 10) is None
    await deed(current, "ended")
    await finish(store, current.run)
    assert await deeds(store) == [("a", 1, "begun"), ("b", 2, "ended")]


async def test_same_owner_again_is_another_epoch(store: Store):
    """A process that lost its lease unseen does not take its new run for the old one."""
    old = await taken(store, "a")
    await lapse(store)
    await taken(store, "a")
    with pytest.raises(TakenOver):
        await deed(old, "late")


async def test_done_is_due_again_after_its_period(store: Store):
    """A finished job rests for its period, by the database's clock."""
    term = await taken(store, "a")
    await finish(store, term.run)
    assert await take_due(store, "b", EVERY, 10) is None
    await store.execute("update leader set done_at = clock_timestamp() - interval '3601 s'")
    assert (await taken(store, "b")).run.epoch == 2


async def test_a_transaction_outlives_its_lease(store: Store):
    """Nobody takes a job in the middle of a transaction of it, and asking does not wait."""
    term = await taken(store, "a", 0.3)
    async with term.transaction() as connection:
        await connection.execute("insert into deed (owner, epoch, step) values ('a', 1, 'x')")
        for _ in range(5):
            await connection.fetchval("select pg_sleep(0.1)")
            asked = time.monotonic()
            assert await take_due(store, "b", EVERY, 10) is None
            assert time.monotonic() - asked < 2
    assert await deeds(store) == [("a", 1, "x")]


async def test_a_transaction_that_stands_still_is_ended(store: Store):
    """A process that hangs inside a transaction loses it with its lease."""
    term = await taken(store, "a", 0.3)

    async def hang() -> None:
        async with term.transaction() as connection:
            await connection.execute("insert into deed (owner, epoch, step) values ('a', 1, 'x')")
            await until(taken_by_other, what="the other to take the job")
            await connection.execute("insert into deed (owner, epoch, step) values ('a', 1, 'y')")

    async def taken_by_other() -> bool:
        return await take_due(store, "b", EVERY, 10) is not None

    with pytest.raises((StoreUnavailable, asyncpg.PostgresError)):
        await hang()
    assert await deeds(store) == []


async def test_many_offer_and_one_runs(store: Store, database: str):
    """Eight leaders at once run each of three jobs once per period."""
    ran: dict[str, int] = {"a": 0, "b": 0, "c": 0}

    def job(name: str) -> Job:
        async def work(term: Term) -> dict[str, Any]:
            async with term.transaction():
                ran[name] += 1
            return {}

        return Job(name=name, every_s=3600, work=work)

    async def offer(owner: int) -> None:
        leader = Leader(store, f"owner-{owner}", [job(name) for name in ran])
        while await leader.run_one():
            pass

    await asyncio.gather(*(offer(owner) for owner in range(8)))
    await asyncio.gather(*(offer(owner) for owner in range(8)))
    assert ran == {"a": 1, "b": 1, "c": 1}
    await store.execute("update leader set done_at = done_at - interval '2 hours'")
    await asyncio.gather(*(offer(owner) for owner in range(8)))
    assert ran == {"a": 2, "b": 2, "c": 2}


async def test_a_job_that_fails_spoils_no_other_and_is_tried_again(store: Store):
    """Its transaction is rolled back; it is due when its lease ends, and not before."""
    tries = 0
    others = 0

    async def fail(term: Term) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        async with term.transaction() as connection:
            await connection.execute("insert into deed (owner, epoch, step) values ('a', 1, 'x')")
            raise ValueError("on purpose")

    async def work(term: Term) -> dict[str, Any]:
        nonlocal others
        others += 1
        return {}

    jobs = [Job(name="deed", every_s=3600, work=fail), Job(name="z", every_s=3600, work=work)]
    leader = Leader(store, "a", jobs)
    while await leader.run_one():
        pass
    assert (tries, others) == (1, 1)
    await lapse(store)
    while await leader.run_one():
        pass
    assert (tries, others) == (2, 1)
    assert await deeds(store) == []


async def test_a_leader_that_is_stopped_gives_its_run_back(store: Store):
    """After a clean stop nobody waits for the lease."""
    begun = asyncio.Event()

    async def work(term: Term) -> dict[str, Any]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    leader = Leader(store, "a", [Job(name="deed", every_s=3600, work=work)], lease_s=600)
    task = asyncio.create_task(leader.run())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert (await taken(store, "b")).run.epoch == 2


async def test_killed_leader_is_replaced_within_its_lease(store: Store, database: str):
    """kill -9 in the middle of a run: another process does it from the start, once."""
    lease_s = 1.0
    with process(database, "a", lease_s, 60) as first:

        async def begun() -> bool:
            return bool(await deeds(store))

        await until(begun, 20, "the first run")
        with process(database, "b", lease_s, 0.0):
            first.send_signal(signal.SIGKILL)

            async def replaced() -> bool:
                return len(await deeds(store)) == 3

            await until(replaced, 20, "the second run")
    assert await deeds(store) == [("a", 1, "begun"), ("b", 2, "begun"), ("b", 2, "ended")]
    gap = await store.fetchval("select extract(epoch from max(at) - min(at)) from deed")
    assert gap < 15, "the start of a process included"


async def test_paused_leader_writes_nothing_when_it_wakes_up_late(store: Store, database: str):
    """One that is stopped past its lease finds its job done by another, and leaves it so."""
    with process(database, "a", 0.5, 1.0) as first:

        async def begun() -> bool:
            return bool(await deeds(store))

        await until(begun, 20, "the first run")
        first.send_signal(signal.SIGSTOP)
        await lapse(store)
        term = await taken(store, "b")
        await deed(term, "begun")
        first.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            while b"job_taken_over" not in await asyncio.to_thread(first.stdout.readline):
                pass
        await deed(term, "ended")
        await finish(store, term.run)
    assert await deeds(store) == [("a", 1, "begun"), ("b", 2, "begun"), ("b", 2, "ended")]
