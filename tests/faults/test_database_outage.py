"""The database crashes for ten seconds under load: what callers, operators and the ledger see."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from shared.domain.capabilities import Binary
from shared.domain.keys import hash_key
from tests.support.fleet import Fleet, tail, until
from tests.support.one_worker import CHAT, Subject, chat, headers_of, starting_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import RawClient, request
from tests.support.upstream_server import UpstreamServer

pytestmark = pytest.mark.xdist_group("faults")

OUTAGE_S = 10.0
RATE_LIMIT = 1200
# A caller's calls a second. Money is leased for ten seconds of what was spent before.
PACE = {"free": 12.0, "limited": 8.0, "parallel": 5.0, "budget": 4.0, "streams": 3.0}
OUTAGE_PACE = {"budget": 0.5}
# Nobody listens there.
NOWHERE = "postgresql://nobody:hidden-password@127.0.0.1:9/nothing"


@pytest.fixture
async def up() -> AsyncIterator[UpstreamServer]:
    """The upstream, which sees everything that was really sent."""
    async with UpstreamServer(knobs="delay-ms:3") as server:
        yield server


@pytest.fixture
def durable(own_postgres: Postgres) -> str:
    """A database on a server that can crash; what it has confirmed survives, as it does where
    nobody has told it otherwise."""
    dsn = own_postgres.create()
    name = dsn.rpartition("/")[2]
    own_postgres.execute(f"alter database {name} set synchronous_commit = on")
    return dsn


@pytest.fixture(scope="module", autouse=True)
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Any]]:
    """A worker whose database is not there when it starts; begun first, for it is patient."""
    folder = tmp_path_factory.mktemp("hopeless")
    fleet = Fleet(folder, NOWHERE, "http://127.0.0.1:9", folder / "upstream.log")
    member = fleet.start("hopeless", Binary.WORKER)
    yield fleet, member
    member.process.kill()
    member.process.wait()


class Callers:
    """Callers of known keys, each at its own pace, and one who always comes with another key."""

    def __init__(self, subject: Subject, keys: dict[str, str]) -> None:
        self._subject = subject
        self._keys = keys
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self.pace = dict(PACE)
        self.answers: dict[str, Counter[int]] = {name: Counter() for name in (*keys, "unknown")}
        self.odd: list[tuple[str, int, str]] = []
        self.slowest_s = 0.0
        self.unknown_without_hint = 0

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=10)
        self._session = aiohttp.ClientSession(timeout=timeout)
        callers = [self._known(name, key) for name, key in self._keys.items()]
        self._tasks = [asyncio.create_task(each) for each in (*callers, self._unknown())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        # A call that is on its way is not given up, or its row would be one of a client gone.
        await asyncio.gather(*self._calls)
        await self._session.close()
        failed = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        assert failed == []

    def mark(self) -> None:
        """Count from here on."""
        for counter in self.answers.values():
            counter.clear()
        self.slowest_s = 0.0

    async def _known(self, name: str, key: str) -> None:
        body = chat(f"up/{name}", "[[size:40]]", stream=name == "streams")
        while True:
            started_s = time.monotonic()
            call = asyncio.create_task(self._call(name, key, body))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.shield(call)
            took_s = time.monotonic() - started_s
            self.slowest_s = max(self.slowest_s, took_s)
            await asyncio.sleep(max(0.0, 1 / self.pace[name] - took_s))

    async def _unknown(self) -> None:
        while True:
            await self._call("unknown", f"sk-{secrets.token_hex(16)}", chat("up/unknown"))
            await asyncio.sleep(0.2)

    async def _call(self, name: str, key: str, body: dict[str, Any]) -> None:
        url = self._subject.member.url + CHAT
        async with self._session.post(url, json=body, headers=headers_of(key)) as answer:
            data = await answer.read()
            self.answers[name][answer.status] += 1
            if name == "unknown":
                if answer.status == 503 and "retry-after" not in answer.headers:
                    self.unknown_without_hint += 1
            elif answer.status != 200 or (body["stream"] and not data.endswith(b"[DONE]\n\n")):
                self.odd.append((name, answer.status, data[-300:].decode()))


async def readiness(client: RawClient) -> tuple[int, dict[str, Any]]:
    """What a balancer sees."""
    await client.send(request("GET", "/health/readiness"))
    answer = await client.answer()
    return answer.status, dict(answer.json)


async def test_outage_under_load(
    own_postgres: Postgres, durable: str, tmp_path: Path, up: UpstreamServer
) -> None:
    """Known keys see nothing of the outage, unlimited, rate-limited within the worker's share and
    on a budget with a lease in hand; unknown keys are told to come back, never that they are
    wrong; readiness stays, degraded. After it: changes are obeyed within 5 s, and within 30 s
    every call is one row and the counters are their sum."""
    env = {"LITELLM_RATE_LIMIT_WINDOW_SIZE": "60", "MERIDIAN_OUTAGE_LIMITS": "share"}
    with starting_worker(tmp_path, durable, up.port, **env) as subject:
        keys = {
            "free": await subject.new_key(),
            "limited": await subject.new_key(rpm_limit=RATE_LIMIT, tpm_limit=10_000_000),
            "parallel": await subject.new_key(max_parallel_requests=20),
            "budget": await subject.new_key(max_budget=1),
            "streams": await subject.new_key(),
        }
        doomed = await subject.new_key()
        async with Callers(subject, keys) as callers, subject.client() as balancer:
            assert (await subject.ask(chat("echo"), doomed)).status == 200
            # Long enough for the leases to know the demand, and for a heartbeat.
            await asyncio.sleep(3)
            assert callers.odd == []
            assert set(callers.answers["unknown"]) == {401}

            callers.pace |= OUTAGE_PACE
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_postgres.stop, "immediate")
            callers.mark()
            down_s = time.monotonic()
            await until(lambda: _degraded(balancer, expected=True), 2, "readiness to say degraded")
            while time.monotonic() - down_s < OUTAGE_S:
                status, body = await readiness(balancer)
                assert (status, body["degraded"], body["db"]) == (200, True, "disconnected")
                await asyncio.sleep(0.25)
            assert callers.odd == []
            # One may have been asked for in the moment of the end.
            assert callers.answers["unknown"][401] <= 1
            assert callers.answers["unknown"][503] >= 20
            assert set(callers.answers["unknown"]) <= {401, 503}
            assert callers.unknown_without_hint == 0
            asked = {name: callers.answers[name][200] for name in keys}
            assert asked["free"] >= 50
            assert asked["limited"] >= 40
            assert asked["budget"] >= 4
            assert callers.slowest_s < 1.5

            await asyncio.to_thread(own_postgres.start)
            back_s = time.monotonic()
            await until(lambda: _degraded(balancer, expected=False), 5, "an end of degraded")
            await subject.sql(
                "update virtual_key set blocked = true where token = $1", hash_key(doomed)
            )
            await until(lambda: _refused(subject, doomed), 5, "a change to be obeyed")
            assert time.monotonic() - back_s < 5
            callers.mark()
            await asyncio.sleep(1)
            assert set(callers.answers["unknown"]) == {401}
        assert callers.odd == []
        await up.until(lambda: up.in_flight == 0)
        await subject.until_posted(30 - (time.monotonic() - back_s))
        await _check_books(subject, up, keys)
        _check_log(subject.member.log)
        await subject.check_unharmed()


async def _check_books(subject: Subject, up: UpstreamServer, keys: dict[str, str]) -> None:
    """As many rows as the upstream has seen, all successes, and counters that are their sum."""
    for name, key in keys.items():
        token = hash_key(key)
        (rows,) = await subject.sql(
            "select count(*) as calls, sum(cost) as spend, sum(completion_tokens) as tokens, "
            "count(*) filter (where status = 'success') as good from spend_row where key = $1",
            token,
        )
        (counted,) = await subject.sql(
            "select sum(calls) as calls, sum(spend) as spend, sum(completion_tokens) as tokens "
            "from spend_counter where kind = 'key' and id = $1 and window_start_s = 0",
            token,
        )
        assert rows["good"] == rows["calls"] == up.by_model[name], name
        for figure in ("calls", "spend", "tokens"):
            assert counted[figure] == rows[figure], (name, figure)


def _check_log(log: Path) -> None:
    """LISTEN works again, and the outage was told, not screamed."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line for line in lines if line["event"] != "request"]
    connected = [line for line in events if line["event"] == "store_connected"]
    assert [line["mode"] for line in connected if line["link"] == "listen"] == ["listen"] * 2
    assert len(events) < 120, Counter(line["event"] for line in events)


async def _degraded(client: RawClient, *, expected: bool) -> bool:
    status, body = await readiness(client)
    assert status == 200
    return bool(body["degraded"] is expected)


async def _refused(subject: Subject, key: str) -> bool:
    return (await subject.ask(chat("echo"), key)).status in (401, 403)


async def test_start_in_an_outage(
    own_postgres: Postgres, durable: str, tmp_path: Path, up: UpstreamServer
) -> None:
    """A worker that starts while the database is away waits for it, saying so, and then serves."""
    await asyncio.to_thread(own_postgres.stop)
    fleet = Fleet(tmp_path, durable, up.url, tmp_path / "upstream.log")
    member = fleet.start("early", Binary.WORKER)
    try:
        await until(lambda: _said(member.log, "waiting_for_database"))
        assert member.process.poll() is None
        with pytest.raises(OSError, match="onnect"):
            await RawClient(member.port).__aenter__()
        await asyncio.to_thread(own_postgres.start)
        await asyncio.to_thread(member.wait_ready)
    finally:
        member.terminate()
        assert await asyncio.to_thread(member.wait) == 0


async def test_start_without_a_database(hopeless: tuple[Fleet, Any]) -> None:
    """A worker whose database never comes gives up, with a message that names the reason and no
    password, and the exit code of a wrong setting."""
    _, member = hopeless
    assert await asyncio.to_thread(member.wait, 45) == 2
    log = member.log.read_text()
    assert "hidden-password" not in log
    assert "Traceback" not in log
    last = json.loads(log.splitlines()[-1])
    assert last["event"] == "cannot_start"
    assert re.search(r"database does not answer", last["reason"])


async def _said(log: Path, event: str) -> bool:
    return f'"event":"{event}"' in tail(log, 200)
