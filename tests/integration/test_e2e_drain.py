"""How a process ends: on the first signal in order, on the second at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.domain.capabilities import Binary
from tests.support.fleet import Answer, Calls, Fleet, Member, until
from tests.support.postgres import Postgres

pytestmark = pytest.mark.xdist_group("fleet")


async def ended(member: Member, timeout_s: float = 15.0) -> int:
    """The exit code, without holding up the loop."""
    return await asyncio.to_thread(member.wait, timeout_s)


async def in_flight(calls: Calls, count: int) -> None:
    """Wait until so many calls have reached the upstream and not ended."""

    async def reached() -> bool:
        return bool((await calls.stats())["in_flight"] == count)

    await until(reached, what=f"{count} calls in flight")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_drain(calls: Calls, fleet: Fleet, loop: str) -> None:
    """SIGTERM: readiness fails at once while calls are still taken; running calls end whole; then
    the port is closed, every row is in the ledger, the instance has left the fleet, and the exit
    code is 0."""
    model = f"drained-{loop}"
    env = {"MERIDIAN_DRAIN_DELAY_S": "0.6", "MERIDIAN_EVENT_LOOP": loop}
    with fleet.member(f"drains-{loop}", Binary.WORKER, **env) as member:
        key = await calls.new_key()
        knobs = "[[chunks:12]][[chunk-delay-ms:100]][[delay-ms:900]]"
        running = [
            asyncio.create_task(calls.chat(member, key, f"up/{model}", knobs, stream=stream))
            for stream in (True, True, True, False)
        ]
        await in_flight(calls, len(running))
        member.terminate()

        async def failing() -> bool:
            answer = await calls.request("GET", f"{member.url}/health/readiness")
            return (answer.status, answer.body) == (503, {"status": "shutting_down"})

        assert await until(failing, what="readiness to fail") < 0.5
        assert (await calls.request("GET", f"{member.url}/health/liveliness")).status == 200
        late = await calls.chat(member, key, f"up/{model}")
        assert late.status == 200
        answers: list[Answer] = await asyncio.gather(*running)
        assert {answer.status for answer in answers} == {200}
        for answer in answers[:3]:
            assert answer.body.endswith("data: [DONE]\n\n")
        assert await ended(member) == 0
    rows = await calls.sql("select status, http_status from spend_row where model = $1", model)
    assert [tuple(row) for row in rows] == [("success", 200)] * 5
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection("127.0.0.1", member.port)
    query = "select stopped_at is not null from instance where host like '%:' || $1"
    assert [tuple(row) for row in await calls.sql(query, str(member.process.pid))] == [(True,)]


async def test_drain_deadline(calls: Calls, fleet: Fleet) -> None:
    """A call that outlasts the deadline is cut off, has its one row, and the exit code is 0."""
    with fleet.member("cuts-off", Binary.WORKER, MERIDIAN_DRAIN_TIMEOUT_S="0.3") as member:
        key = await calls.new_key()
        knobs = "[[chunks:500]][[chunk-delay-ms:50]]"
        call = asyncio.create_task(calls.chat(member, key, "up/cut-off", knobs, stream=True))
        await in_flight(calls, 1)
        member.terminate()
        started = time.monotonic()
        assert await ended(member) == 0
        assert time.monotonic() - started < 3
        await asyncio.gather(call, return_exceptions=True)
    (row,) = await calls.sql("select status from spend_row where model = 'cut-off'")
    assert row["status"] in ("client_closed", "failure")
    await in_flight(calls, 0)


async def test_nothing_to_drain(fleet: Fleet) -> None:
    """An idle process ends at once."""
    with fleet.member("idle", Binary.ADMIN) as member:
        member.terminate()
        started = time.monotonic()
        assert await ended(member) == 0
        assert time.monotonic() - started < 2


async def test_second_signal(calls: Calls, fleet: Fleet, postgres: Postgres) -> None:
    """A second signal ends the process without waiting for its calls."""
    # A database of its own: who ends like this stays listed as unreachable.
    database = postgres.create()
    try:
        with fleet.member("impatient", Binary.WORKER, DATABASE_URL=database) as member:
            call = asyncio.create_task(calls.chat(member, fleet.master_key, "up/hang"))
            await in_flight(calls, 1)
            member.terminate()
            await asyncio.sleep(0.2)
            assert member.process.poll() is None
            member.terminate()
            started = time.monotonic()
            assert await ended(member) == 1
            assert time.monotonic() - started < 1
            await asyncio.gather(call, return_exceptions=True)
            await in_flight(calls, 0)
    finally:
        postgres.drop(database)
