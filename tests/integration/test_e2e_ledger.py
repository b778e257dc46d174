"""One ledger row for each call that the upstream counted, right to the token, whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from decimal import Decimal
from typing import Any

import pytest
from attrs import frozen

from tests.support.fleet import INPUT_PRICE, OUTPUT_PRICE, Calls, Member, chat_body, until

pytestmark = pytest.mark.xdist_group("fleet")

SEEN_S = 0.25


@frozen
class Plan:
    """One call of the mixed load; its model's name is its own."""

    kind: str
    model: str
    prompt: int
    completion: int
    leave_after_s: float


KINDS = ("whole", "streamed", "error", "refused", "cut", "leaves-whole", "leaves-stream")
# Kinds whose row is the same every time: status, HTTP status, whether the usage is the upstream's.
CERTAIN = {
    "whole": ("success", 200, True),
    "streamed": ("success", 200, True),
    "error": ("failure", 503, False),
    "refused": ("failure", 400, False),
    "cut": ("failure", 200, False),
}


def plans(count: int) -> list[Plan]:
    """Calls of all kinds in a random order that is always the same."""
    source = random.Random(7)
    return [
        Plan(
            kind=KINDS[number % len(KINDS)],
            model=f"mix-{number}",
            prompt=source.randrange(1, 5000),
            completion=source.randrange(1, 5000),
            leave_after_s=source.choice((0.0, source.random() * 0.02, source.random() * 0.3)),
        )
        for number in source.sample(range(count), count)
    ]


async def run(calls: Calls, worker: Member, key: str, plan: Plan) -> None:
    """Make the call as planned."""
    knobs = {"error": "[[status:503]]", "refused": "[[status:400]]", "cut": "[[cut:2]]"}
    text = f"[[usage:{plan.prompt},{plan.completion}]]" + knobs.get(plan.kind, "")
    stream = plan.kind in ("streamed", "cut", "leaves-stream")
    if not plan.kind.startswith("leaves"):
        await calls.chat(worker, key, f"up/{plan.model}", text, stream=stream)
        return
    text += "[[delay-ms:100]]" if plan.kind == "leaves-whole" else "[[chunk-delay-ms:30]]"
    call = asyncio.create_task(calls.chat(worker, key, f"up/{plan.model}", text, stream=stream))
    await asyncio.wait([call], timeout=plan.leave_after_s)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_mixed_load(calls: Calls) -> None:
    """Streams, whole replies, errors, cut streams and clients that leave at any moment: exactly
    one row per upstream call, with the right key, status, tokens and cost. Beside them are only
    calls whose client left before anything reached the upstream, and these cost nothing."""
    keys = [await calls.new_key(key_alias=f"mixed-{number}") for number in range(3)]
    hashes = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    load = plans(210)
    gate = asyncio.Semaphore(20)

    async def one(number: int, plan: Plan) -> None:
        async with gate:
            worker = calls.fleet.workers[number % 2]
            await run(calls, worker, keys[number % 3], plan)

    await asyncio.gather(*(one(number, plan) for number, plan in enumerate(load)))

    async def quiet() -> bool:
        return bool((await calls.stats())["in_flight"] == 0)

    await until(quiet, what="the upstream to be idle")
    counted = (await calls.stats())["by_model"]
    rows = await calls.ledger(sum(counted.values()), "mix-%")
    found = {row["model"]: row for row in rows}
    assert len(found) == len(rows)
    assert set(counted.values()) == {1}
    assert set(counted) <= set(found)
    for number, plan in enumerate(load):
        if plan.model not in found:
            assert plan.kind.startswith("leaves")
            continue
        row = found[plan.model]
        assert (row["key"], row["key_alias"]) == (hashes[number % 3], f"mixed-{number % 3}")
        check(row, plan)
        if plan.model not in counted:
            assert (row["status"], row["cost"]) == ("client_closed", 0)
    for number, key in enumerate(keys):
        info = (await calls.admin(f"/key/info?key={key}", method="GET"))["info"]
        costs = [row["cost"] for row in rows if row["key"] == hashes[number]]
        assert Decimal(str(info["spend"])) == sum(costs)


def check(row: Any, plan: Plan) -> None:
    """The row is that of the plan."""
    tokens = (row["prompt_tokens"], row["completion_tokens"])
    assert row["cost"] == tokens[0] * Decimal(INPUT_PRICE) + tokens[1] * Decimal(OUTPUT_PRICE)
    assert row["model_group"] == f"up/{plan.model}"
    assert (row["route"], row["provider"]) == ("/v1/chat/completions", "openai")
    assert (row["region"], row["attempts"]) == ("north", 1)
    assert row["started_at"] <= row["ended_at"]
    if plan.kind.startswith("leaves"):
        expected = ("client_closed", 499) if row["status"] != "success" else ("success", 200)
        assert (row["status"], row["http_status"]) == expected
        return
    status, http_status, exact = CERTAIN[plan.kind]
    assert (row["status"], row["http_status"]) == (status, http_status), plan
    assert row["stream"] == (plan.kind in ("streamed", "cut"))
    if exact:
        assert tokens == (plan.prompt, plan.completion)
        assert not row["estimated"]
        assert row["upstream_id"] == "chatcmpl-scripted"
    elif plan.kind == "cut":
        assert row["estimated"]
        assert tokens[1] > 0
    else:
        assert tokens == (0, 0)


@pytest.mark.parametrize("kind", ["streaming", "before-first-byte", "whole"])
async def test_client_leaves(calls: Calls, kind: str) -> None:
    """When a client goes, its upstream call is cut within 250 ms, and the row says so."""
    key = await calls.new_key()
    stream = kind != "whole"
    knobs = {"streaming": "[[chunks:200]][[chunk-delay-ms:30]]"}.get(kind, "[[hang]]")
    left: list[float] = []
    count = 12

    async def client(number: int) -> None:
        worker = calls.fleet.workers[number % 2]
        body = chat_body(f"up/leaves-{kind}", knobs, stream=stream)
        url = f"{worker.url}/v1/chat/completions"
        headers = {"authorization": f"Bearer {key}"}
        call = asyncio.create_task(calls.session.post(url, json=body, headers=headers))
        if kind == "streaming":
            answer = await call
            await answer.content.readuntil(b"gateway")
            await asyncio.sleep(number * 0.02)
            left.append(time.monotonic())
            answer.close()
            return
        await asyncio.sleep(0.2 + number * 0.02)
        left.append(time.monotonic())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    await asyncio.gather(*(client(number) for number in range(count)))

    async def all_cut() -> bool:
        return len((await calls.stats())["disconnects"]) == count

    await until(all_cut, timeout_s=3, what="the upstream to see all disconnects")
    seen = sorted(gone["at_s"] for gone in (await calls.stats())["disconnects"])
    delays = [at - gone for gone, at in zip(sorted(left), seen, strict=True)]
    assert max(delays) < SEEN_S, delays
    rows = await calls.ledger(count, f"leaves-{kind}")
    assert len(rows) == count
    assert {(row["status"], row["http_status"]) for row in rows} == {("client_closed", 499)}
    if kind == "streaming":
        assert all(row["completion_tokens"] > 0 and row["estimated"] for row in rows)


async def test_client_leaves_before_its_body_is_there(calls: Calls) -> None:
    """A client that goes in the middle of its request costs no upstream call and no row."""
    worker = calls.fleet.workers[0]
    for sent in (b"", b'{"model": "up/half", "mess'):
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n"
            b"content-type: application/json\r\nauthorization: Bearer "
            + calls.fleet.master_key.encode()
            + b"\r\n\r\n"
            + sent
        )
        await writer.drain()
        writer.transport.abort()
    assert (await calls.chat(worker, calls.fleet.master_key, "up/half-after")).status == 200
    assert (await calls.stats())["by_model"] == {"half-after": 1}
    assert len(await calls.ledger(1, "half%")) == 1


async def test_retries_are_one_row(calls: Calls) -> None:
    """A call that took two attempts is one row that counts both."""
    key = await calls.new_key()
    await calls.upstream("/_script", ["status:500", "usage:3,4"])
    answer = await calls.chat(calls.fleet.workers[0], key, "up/tries", num_retries=2)
    assert answer.status == 200
    assert (await calls.stats())["by_model"] == {"tries": 2}
    (row,) = await calls.ledger(1, "tries")
    assert (row["status"], row["attempts"], row["prompt_tokens"]) == ("success", 2, 3)


async def test_owners_and_tags(calls: Calls) -> None:
    """A row names the end user, the tags and the session that the request gave."""
    key = await calls.new_key()
    url = f"{calls.fleet.workers[0].url}/v1/chat/completions"
    body = chat_body(
        "up/owners", user="eve", tags=["a"], metadata={"tags": ["b"], "session_id": "s-1"}
    )
    headers = {"x-litellm-tags": "c, d"}
    assert (await calls.request("POST", url, key, body, headers=headers)).status == 200
    (row,) = await calls.ledger(1, "owners")
    assert (row["end_user"], row["tags"]) == ("eve", ["a", "b", "c", "d"])
    assert (row["session_id"], row["requester_ip"]) == ("s-1", "127.0.0.1")


async def test_slow_reader(calls: Calls) -> None:
    """A client that does not read stops its upstream; when it reads on, everything arrives."""
    key = await calls.new_key()
    worker = calls.fleet.workers[0]
    # More than the system keeps for three sockets.
    size, chunks = 32 * 1024 * 1024, 128
    body = chat_body("up/slow-reader", f"[[chunks:{chunks}]][[size:{size // chunks}]]", stream=True)
    url, headers = f"{worker.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    async with calls.session.post(url, json=body, headers=headers) as answer:
        await asyncio.sleep(0.3)
        assert (await calls.stats())["in_flight"] == 1
        raw = await answer.read()
    assert raw.endswith(b"data: [DONE]\n\n")
    assert len(raw) > size
    (row,) = await calls.ledger(1, "slow-reader")
    assert (row["status"], row["completion_tokens"]) == ("success", chunks)
