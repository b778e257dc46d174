"""Limits of a key over two workers, by what the upstream counted.

Rate windows are counted from a key's first request, so what a run of a known number of windows may
admit is exact: never more than the limit in each, and nearly all of it when more is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from decimal import Decimal

import pytest

from tests.support.fleet import INPUT_PRICE, OUTPUT_PRICE, WINDOW_S, Answer, Calls, until

pytestmark = pytest.mark.xdist_group("fleet")

WINDOWS = 2
# The run ends before another window could open.
RUN_S = WINDOWS * WINDOW_S - 0.25
OVERLOAD = 3
USED = 0.95


async def offer(calls: Calls, key: str, model: str, rate: float) -> Counter[int]:
    """Calls at a steady rate for the run, in turn to either worker; answers by status."""
    started = time.monotonic()
    tasks: list[asyncio.Task[Answer]] = []
    while (elapsed := time.monotonic() - started) < RUN_S:
        while len(tasks) < elapsed * rate:
            worker = calls.fleet.workers[len(tasks) % 2]
            tasks.append(asyncio.create_task(calls.chat(worker, key, model, "[[usage:12,8]]")))
        await asyncio.sleep(0.005)
    return Counter(answer.status for answer in await asyncio.gather(*tasks))


async def test_requests(calls: Calls) -> None:
    """rpm: two workers together let through never more than the limit per window and at least 95 %
    of it; who is refused is told so with a 429."""
    limit = 60
    key = await calls.new_key(rpm_limit=limit)
    statuses = await offer(calls, key, "up/rpm", OVERLOAD * limit / WINDOW_S)
    admitted = (await calls.stats())["by_model"]["rpm"]
    assert set(statuses) == {200, 429}
    assert admitted == statuses[200]
    assert USED * WINDOWS * limit <= admitted <= WINDOWS * limit


async def test_tokens(calls: Calls) -> None:
    """tpm: the same for tokens, counted as the upstream reports them."""
    limit, each = 1200, 20
    key = await calls.new_key(tpm_limit=limit)
    statuses = await offer(calls, key, "up/tpm", OVERLOAD * limit / each / WINDOW_S)
    tokens = (await calls.stats())["by_model"]["tpm"] * each
    assert set(statuses) == {200, 429}
    assert tokens == statuses[200] * each
    assert USED * WINDOWS * limit <= tokens <= WINDOWS * limit


async def test_parallel_requests(calls: Calls) -> None:
    """max_parallel_requests: the upstream never has more in flight than the limit, and at least
    95 % of it on average once both workers have calls."""
    limit, hold_s, run_s, settled_s = 10, 0.5, 3.0, 0.75
    key = await calls.new_key(max_parallel_requests=limit)
    end = time.monotonic() + run_s
    statuses: Counter[int] = Counter()
    in_flight: list[int] = []

    async def watch() -> None:
        await asyncio.sleep(settled_s)
        while time.monotonic() < end:
            in_flight.append((await calls.stats())["in_flight"])
            await asyncio.sleep(0.01)

    async def client(number: int) -> None:
        worker = calls.fleet.workers[number % 2]
        while time.monotonic() < end:
            text = f"[[delay-ms:{hold_s * 1000:.0f}]]"
            answer = await calls.chat(worker, key, "up/parallel", text)
            statuses[answer.status] += 1
            if answer.status != 200:
                await asyncio.sleep(0.01)

    await asyncio.gather(watch(), *(client(number) for number in range(OVERLOAD * limit)))
    stats = await calls.stats()
    assert set(statuses) == {200, 429}
    assert stats["by_model"]["parallel"] == statuses[200]
    assert stats["max_in_flight"] == limit
    assert sum(in_flight) / len(in_flight) >= USED * limit


async def test_parallel_slots_come_back(calls: Calls) -> None:
    """A slot is free again after a refusal by the upstream, an error, and a client that went."""
    key = await calls.new_key(max_parallel_requests=1)
    worker = calls.fleet.workers[0]
    assert (await calls.chat(worker, key, "up/status:500")).status == 500
    assert (await calls.chat(worker, key, "no-such-model")).status == 400
    gone = asyncio.create_task(calls.chat(worker, key, "up/slot+hang"))

    async def in_flight() -> bool:
        return bool((await calls.stats())["in_flight"])

    await until(in_flight, what="the call to be in flight")
    assert (await calls.chat(worker, key, "up/any")).status == 429
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    async def served() -> bool:
        return (await calls.chat(worker, key, "up/any")).status == 200

    assert await until(served, what="the slot to come back") < 1


@pytest.mark.parametrize("duration", [None, "30d"], ids=["lifetime", "monthly"])
async def test_budget(calls: Calls, duration: str | None) -> None:
    """max_budget: what calls cost together exceeds it by one call of each worker at most, and
    comes to 95 % of it; what the key has spent is the sum of its ledger rows to the last digit."""
    model = f"budget-{duration}"
    each = 12 * Decimal(INPUT_PRICE) + 8 * Decimal(OUTPUT_PRICE)
    budget = 60 * each
    key = await calls.new_key(max_budget=float(budget), budget_duration=duration)
    answers: list[Answer] = []

    async def client(number: int) -> None:
        worker = calls.fleet.workers[number % 2]
        for _ in range(18):
            answers.append(await calls.chat(worker, key, f"up/{model}", "[[usage:12,8]]"))
            await asyncio.sleep(0.05)

    await asyncio.gather(*(client(number) for number in range(10)))
    assert {answer.status for answer in answers} == {200, 422}
    made = (await calls.stats())["by_model"][model]
    assert Decimal(str(USED)) * budget <= made * each <= budget + 2 * each
    rows = await calls.ledger(made, model)
    assert len(rows) == made
    spent = sum(row["cost"] for row in rows)
    assert spent == made * each
    info = (await calls.admin(f"/key/info?key={key}", method="GET"))["info"]
    assert Decimal(str(info["spend"])) == spent


async def test_limits_of_a_refused_call(calls: Calls) -> None:
    """A call that the upstream never saw takes nothing from the limits."""
    key = await calls.new_key(rpm_limit=2, models=["up/any"])
    worker = calls.fleet.workers[0]
    for model, status in (("chat-one", 403), ("up/any", 200), ("chat-one", 403), ("up/any", 200)):
        assert (await calls.chat(worker, key, model)).status == status
    assert (await calls.chat(worker, key, "up/any")).status == 429
