"""Workers that die and workers that are told to stop, under load: every call is one row."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from shared.domain.keys import hash_key
from tests.support.fleet import tail, until
from tests.support.one_worker import CHAT, Subject, chat, chat_bytes, headers_of, starting_worker
from tests.support.raw_http import RawClient, events, request
from tests.support.upstream_server import UpstreamServer

pytestmark = pytest.mark.xdist_group("faults")

CALLERS = 24
KINDS = (
    "[[delay-ms:5]]",
    "[[delay-ms:60]]",
    "[[chunks:12]] [[chunk-delay-ms:8]]",
    "[[chunks:300]] [[chunk-delay-ms:10]]",
    "[[status:500]]",
    "[[cut:2]]",
    "[[hang]]",
)


@pytest.fixture
async def up() -> AsyncIterator[UpstreamServer]:
    """The upstream, which sees everything that was really sent."""
    async with UpstreamServer() as server:
        yield server


class Load:
    """Callers that call without pause, each call with a model of its own; some leave early."""

    def __init__(self, subject: Subject, key: str) -> None:
        self._subject = subject
        self._headers = headers_of(key)
        self._numbers = iter(range(1_000_000))
        self._tasks: list[asyncio.Task[None]] = []
        self._chance = random.Random(11)
        self.answered: Counter[str] = Counter()
        self.stopping = False

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        self._tasks = [asyncio.create_task(self._call_on()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No new calls; those under way are given up if nothing ends them."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _call_on(self) -> None:
        while not self.stopping:
            name = f"k{next(self._numbers)}"
            text = self._chance.choice(KINDS)
            body = chat(f"up/{name}", text, stream="chunk" in text or "cut" in text)
            patience_s = self._chance.choice((0.05, 0.5, 20.0))
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(patience_s):
                    if await self._call(body):
                        self.answered[name] += 1
            if self._subject.member.process.poll() is not None:
                return

    async def _call(self, body: dict[str, Any]) -> bool:
        """Whether a complete, good answer came."""
        url = self._subject.member.url + CHAT
        async with self._session.post(url, json=body, headers=self._headers) as answer:
            data = await answer.read()
            if answer.status != 200:
                return False
            return not body["stream"] or (b"[DONE]" in data and b'"error"' not in data)


async def check_ledger(subject: Subject, up: UpstreamServer, load: Load, key: str) -> Counter[str]:
    """One row for each call that the upstream has seen, complete answers as successes, and
    counters that are the sum of the rows. The rows by status."""
    seen = {name for name in up.by_model if name.startswith("k")}
    assert max(up.by_model.values()) == 1
    query = "select model, status, cost from spend_row where key = $1"
    token = hash_key(key)

    async def all_there() -> bool:
        rows = await subject.sql(query, token)
        return seen <= {row["model"] for row in rows}

    await until(all_there, 20, "the rows of all calls")
    await subject.until_posted()
    rows = await subject.sql(query, token)
    models = Counter(row["model"] for row in rows)
    assert max(models.values()) == 1
    statuses = {row["model"]: row["status"] for row in rows}
    # The journal has a call before the upstream has it.
    never_sent = set(models) - seen
    assert {statuses[name] for name in never_sent} <= {"interrupted", "client_closed"}
    assert {statuses[name] for name in load.answered} <= {"success"}
    (counted,) = await subject.sql(
        "select coalesce(sum(spend), 0) as spend from spend_counter where kind = 'key' and id = $1",
        token,
    )
    assert counted["spend"] == sum(row["cost"] for row in rows)
    return Counter(statuses.values())


@pytest.mark.parametrize("adopted", [False, True], ids=["restarted", "adopted"])
async def test_killed_under_load(
    database: str, tmp_path: Path, up: UpstreamServer, adopted: bool
) -> None:
    """A worker is killed in the middle of everything. Its next life, or a neighbour with the same
    state directory while it stays dead, posts one row for each call that the upstream has seen:
    those that were on their way as interrupted."""
    with contextlib.ExitStack() as stack:
        subject = stack.enter_context(starting_worker(tmp_path, database, up.port))
        neighbour = stack.enter_context(subject.neighbour()) if adopted else None
        key = await subject.new_key()
        async with Load(subject, key) as load:
            await up.until(lambda: len(up.requests) > 200 and up.in_flight >= 10, timeout_s=20)
            subject.member.process.kill()
            subject.member.process.wait()
            await load.stop()
        await up.until(lambda: up.in_flight == 0)
        survivor = neighbour or stack.enter_context(subject.next_life())
        statuses = await check_ledger(survivor, up, load, key)
        assert statuses["interrupted"] >= 5
        assert statuses["success"] >= 50
        assert statuses["client_closed"] >= 5
        assert statuses["failure"] >= 20
        await survivor.check_unharmed()


async def test_killed_twice(database: str, tmp_path: Path, up: UpstreamServer) -> None:
    """A worker that is killed again while it posts what its last life left loses and doubles
    nothing."""
    with contextlib.ExitStack() as stack:
        subject = stack.enter_context(starting_worker(tmp_path, database, up.port))
        key = await subject.new_key()
        async with Load(subject, key) as load:
            await up.until(lambda: len(up.requests) > 200 and up.in_flight >= 10, timeout_s=20)
            subject.member.process.kill()
            subject.member.process.wait()
            await load.stop()
        for pause_s in (0.25, 0.05):
            life = subject.start_again()
            with contextlib.suppress(AssertionError):
                await until(partial(_said, life.log, "store_connected"), 5)
            await asyncio.sleep(pause_s)
            life.process.kill()
            life.process.wait()
        survivor = stack.enter_context(subject.next_life())
        await check_ledger(survivor, up, load, key)


async def test_told_to_stop_under_load(database: str, tmp_path: Path, up: UpstreamServer) -> None:
    """A worker that is told to stop says so at once, takes calls for the time that balancers
    need, finishes every stream, posts every row and ends with 0."""
    with starting_worker(
        tmp_path, database, up.port, MERIDIAN_DRAIN_DELAY_S="0.5", MERIDIAN_DRAIN_TIMEOUT_S="10"
    ) as subject:
        key = await subject.new_key()
        text = "[[chunks:100]] [[chunk-delay-ms:15]]"
        async with contextlib.AsyncExitStack() as clients:
            streams: list[RawClient] = []
            for number in range(40):
                client = await clients.enter_async_context(subject.client())
                body = chat_bytes(f"up/stream{number}", text, stream=True)
                await client.send(request("POST", CHAT, headers_of(key), body))
                streams.append(client)
            await up.until(lambda: up.in_flight == 40)
            probe = await clients.enter_async_context(subject.client())

            subject.member.terminate()
            told_s = time.monotonic()
            await until(lambda: _not_ready(probe), timeout_s=1)
            assert time.monotonic() - told_s < 0.1
            late = await subject.ask(chat("up/late", "[[delay-ms:300]]"), key)
            assert (late.status, late.headers["connection"]) == (200, "close")
            for client in streams:
                answer = await client.answer(timeout_s=15)
                assert answer.status == 200
                assert events(answer.body)[-1] == "[DONE]"
                assert b'"error"' not in answer.body
        assert await asyncio.to_thread(subject.member.wait) == 0
        rows = await subject.sql("select status from spend_row where key = $1", hash_key(key))
        assert Counter(row["status"] for row in rows) == {"success": 41}
        assert len(up.requests) == 41


async def test_deadline_of_the_drain(database: str, tmp_path: Path, up: UpstreamServer) -> None:
    """Calls that outlast the drain's deadline are ended with an error that says so, to a stream as
    its last event, and are in the ledger as failures of ours, not as clients that left."""
    with starting_worker(tmp_path, database, up.port, MERIDIAN_DRAIN_TIMEOUT_S="0.5") as subject:
        key = await subject.new_key()
        async with subject.client() as streamed, subject.client() as whole:
            body = chat_bytes("up/long", "[[chunks:900]] [[chunk-delay-ms:20]]", stream=True)
            await streamed.send(request("POST", CHAT, headers_of(key), body))
            body = chat_bytes("up/silent", "[[hang]]")
            await whole.send(request("POST", CHAT, headers_of(key), body))
            await up.until(lambda: up.in_flight == 2)
            subject.member.terminate()
            answer = await streamed.answer()
            *_, error, done = events(answer.body)
            assert (error["error"]["type"], done) == ("service_unavailable", "[DONE]")
            answer = await whole.answer()
            assert (answer.status, answer.error["type"]) == (503, "service_unavailable")
        assert await asyncio.to_thread(subject.member.wait, 3) == 0
        rows = await subject.sql("select * from spend_row where key = $1", hash_key(key))
        assert {row["model"]: row["status"] for row in rows} == {
            "long": "failure",
            "silent": "failure",
        }
        assert {row["error_type"] for row in rows} == {"Overloaded"}


async def test_second_signal(database: str, tmp_path: Path, up: UpstreamServer) -> None:
    """A second signal ends a draining worker at once; its calls are rows of the next life."""
    with contextlib.ExitStack() as stack:
        subject = stack.enter_context(starting_worker(tmp_path, database, up.port))
        key = await subject.new_key()
        async with subject.client() as client:
            body = chat_bytes("up/long", "[[hang]]")
            await client.send(request("POST", CHAT, headers_of(key), body))
            await up.until(lambda: up.in_flight == 1)
            subject.member.terminate()
            await until(lambda: _said(subject.member.log, "draining"))
            subject.member.terminate()
            assert await asyncio.to_thread(subject.member.wait, 3) == 1
        survivor = stack.enter_context(subject.next_life())
        (row,) = await survivor.rows(1, key=key)
        assert row["status"] == "interrupted"


async def _not_ready(client: RawClient) -> bool:
    await client.send(request("GET", "/health/readiness"))
    answer = await client.answer()
    return answer.status == 503 and answer.json["status"] == "shutting_down"


async def _said(log: Path, event: str) -> bool:
    return f'"event":"{event}"' in tail(log, 200)
