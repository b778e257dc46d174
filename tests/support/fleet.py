"""An admin and two workers as real processes over one database, with a scriptable upstream.

`Fleet` starts and stops processes and is synchronous; `Calls` talks to them from a test's loop.
Every process has a state directory and a log of its own under the given folder; the ends of the
logs are shown with a test that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import yaml

from shared.domain.capabilities import Binary
from tests.support.postgres import Postgres, free_port

ROOT = Path(__file__).parent.parent.parent
WINDOW_S = 2
UPSTREAM_KEY = "sk-upstream-credential"
# USD per token of every priced model.
INPUT_PRICE = "0.000001"
OUTPUT_PRICE = "0.000002"

_READY_S = 30.0
_STOP_S = 20.0
_TAIL_LINES = 12
_TAIL_WIDTH = 400


class Member:
    """A running instance."""

    def __init__(self, name: str, binary: Binary, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self.state_dir = folder / name
        command = [str(Path(sys.executable).with_name(f"meridian-{binary}"))]
        self.process = _start(
            [*command, "--port", str(self.port)],
            self.log,
            {**env, "MERIDIAN_STATE_DIR": str(self.state_dir)},
        )

    @property
    def url(self) -> str:
        """The base, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        """Until readiness says so; raises `AssertionError` with the end of the log."""
        until = time.monotonic() + _READY_S
        while not _ready(self.port):
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code}:\n{tail(self.log)}"
            assert time.monotonic() < until, f"{self.name} is not ready:\n{tail(self.log)}"
            time.sleep(0.02)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Its exit code; one that does not end is killed, and the wait raises."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Fleet:
    """What runs together. Environment variables given to `member` win over the common ones."""

    def __init__(self, folder: Path, database: str, upstream_url: str, upstream_log: Path) -> None:
        self.folder = folder
        self.database = database
        self.upstream_url = upstream_url
        self.master_key = f"sk-{secrets.token_hex(24)}"
        self.logs: dict[str, Path] = {"upstream": upstream_log}
        self.members: dict[str, Member] = {}
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(_config(upstream_url)))

    @property
    def admin(self) -> Member:
        """The fleet's admin."""
        return self.members["admin"]

    @property
    def workers(self) -> tuple[Member, Member]:
        """The fleet's two workers."""
        return self.members["worker-1"], self.members["worker-2"]

    def start(self, name: str, binary: Binary, **env: str) -> Member:
        """Start an instance, without waiting for it."""
        member = Member(name, binary, self.folder, {**self._env(), **env})
        self.logs[name] = member.log
        return member

    @contextmanager
    def member(self, name: str, binary: Binary, **env: str) -> Iterator[Member]:
        """A further instance, ready; ended with the block if it has not ended before."""
        with _ending(self.start(name, binary, **env)) as member:
            member.wait_ready()
            yield member

    def tails(self) -> list[tuple[str, str]]:
        """The ends of all logs."""
        return [(f"log of {name}", tail(log)) for name, log in self.logs.items() if log.exists()]

    def _env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "CONFIG_FILE_PATH": str(self._config),
            "DATABASE_URL": self.database,
            "HOST": "127.0.0.1",
            "LITELLM_MASTER_KEY": self.master_key,
            "LITELLM_RATE_LIMIT_WINDOW_SIZE": str(WINDOW_S),
            "MERIDIAN_DRAIN_DELAY_S": "0",
            "MERIDIAN_ENV": "test",
            "MERIDIAN_LOG_FORMAT": "json",
            "MERIDIAN_REGION": "north",
            "PROXY_BATCH_WRITE_AT": "0.1",
        }


@contextmanager
def running_fleet(postgres: Postgres, folder: Path) -> Iterator[Fleet]:
    """The fleet; at the end all members must stop cleanly when they are told to."""
    database = postgres.create()
    with ExitStack() as stack:
        stack.callback(postgres.drop, database)
        log = folder / "upstream.log"
        fleet = Fleet(folder, database, stack.enter_context(_upstream(log)), log)
        for name in ("admin", "worker-1", "worker-2"):
            binary = Binary(name.partition("-")[0])
            fleet.members[name] = stack.enter_context(_ending(fleet.start(name, binary)))
        for member in fleet.members.values():
            member.wait_ready()
        yield fleet
        for member in fleet.members.values():
            member.terminate()
        codes = {name: member.wait() for name, member in fleet.members.items()}
        assert set(codes.values()) == {0}, (codes, fleet.tails())


class Answer(NamedTuple):
    """An answer, read to its end. `body` is decoded JSON, or text where it is none."""

    status: int
    headers: dict[str, str]
    body: Any


class Calls:
    """Calls from one test. Every method can be used by many tasks at once."""

    def __init__(self, fleet: Fleet, session: aiohttp.ClientSession) -> None:
        self.fleet = fleet
        self.session = session

    async def request(
        self, method: str, url: str, key: str | None = None, body: Any = None, **more: Any
    ) -> Answer:
        """Any request; `body` goes as JSON unless it is bytes."""
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        headers |= more.pop("headers", {})
        if body is not None:
            headers.setdefault("content-type", "application/json")
            more["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(method, url, headers=headers, **more) as answer:
            raw = await answer.read()
            try:
                decoded = json.loads(raw)
            except ValueError:
                decoded = raw.decode("utf-8", "replace")
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, decoded)

    async def admin(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """A management call as the master; its body, after a check that it went through."""
        answer = await self.request(
            method, self.fleet.admin.url + path, self.fleet.master_key, body
        )
        assert answer.status == 200, answer
        return answer.body

    async def new_key(self, **fields: Any) -> str:
        """A key made on the admin."""
        return str((await self.admin("/key/generate", fields))["key"])

    async def chat(
        self, member: Member, key: str | None, model: str, text: str = "hi", **fields: Any
    ) -> Answer:
        """A chat completion."""
        url = f"{member.url}/v1/chat/completions"
        return await self.request("POST", url, key, chat_body(model, text, **fields))

    async def upstream(self, path: str, body: Any = None) -> Any:
        """A control call to the upstream."""
        method = "GET" if body is None else "POST"
        return (await self.request(method, self.fleet.upstream_url + path, None, body)).body

    async def stats(self) -> dict[str, Any]:
        """What the upstream has counted since the test began."""
        return dict(await self.upstream("/_stats"))

    async def received(self, model: str | None = None) -> list[dict[str, Any]]:
        """The requests that the upstream got, `raw` as Latin-1 text."""
        rows = await self.upstream("/_requests")
        return [row for row in rows if model is None or (row["body"] or {}).get("model") == model]

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Rows of a statement, by a connection of the test's own."""
        connection = await asyncpg.connect(self.fleet.database)
        try:
            return list(await connection.fetch(query, *args))
        finally:
            await connection.close()

    async def ledger(self, count: int, model: str) -> list[asyncpg.Record]:
        """The rows of the models LIKE `model`, once there are `count` and no more follow."""
        query = "select * from spend_row where model like $1 order by id"
        rows: list[asyncpg.Record] = []

        async def posted() -> bool:
            rows[:] = await self.sql(query, model)
            return len(rows) >= count

        await until(posted, what=f"{count} rows of {model}")
        # Two flush intervals: a row too many would come now.
        await asyncio.sleep(0.25)
        return await self.sql(query, model)


@asynccontextmanager
async def calls_to(fleet: Fleet) -> AsyncIterator[Calls]:
    """Calls by a client without limits of its own; the upstream forgets what it saw before."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        calls = Calls(fleet, session)
        await calls.upstream("/_reset", {})
        yield calls


def chat_body(model: str, text: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat body; knobs of the upstream may stand in the text."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def until(
    check: Callable[[], Awaitable[bool]], timeout_s: float = 10.0, what: str = "the state"
) -> float:
    """Poll until true; the seconds that it took. Raises `AssertionError`."""
    started = time.monotonic()
    while not await check():
        assert time.monotonic() - started < timeout_s, f"waited in vain for {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, long ones cut."""
    found = log.read_text("utf-8", "replace").splitlines()[-lines:]
    return "\n".join(line[:_TAIL_WIDTH] for line in found)


def _config(upstream_url: str) -> dict[str, Any]:
    """One model of each kind, one without a price, and two patterns that pass the name on."""
    priced = {"input_cost_per_token": INPUT_PRICE, "output_cost_per_token": OUTPUT_PRICE}
    base = {"api_base": f"{upstream_url}/v1", "api_key": UPSTREAM_KEY}

    def entry(name: str, model: str, mode: str = "chat", **params: Any) -> dict[str, Any]:
        return {
            "model_name": name,
            "litellm_params": {"model": model, **base, **params},
            "model_info": {"mode": mode},
        }

    passed_on = entry("up/*", "openai/*", **priced, region_name="upstream-north")
    passed_on["model_info"]["id"] = "deployment-any"
    return {
        "model_list": [
            entry("chat-one", "openai/upstream-chat", **priced),
            entry("chat-other", "openai/upstream-other", **priced),
            entry("text-one", "openai/upstream-text", "completion", **priced),
            entry("embed-one", "openai/upstream-embed", "embedding", **priced),
            passed_on,
            entry("free/*", "openai/free-*"),
            entry("two", "openai/upstream-two", input_cost_per_token=INPUT_PRICE, num_retries=1),
        ],
        "router_settings": {"num_retries": 0},
    }


@contextmanager
def _upstream(log: Path) -> Iterator[str]:
    """The upstream's URL."""
    command = [sys.executable, "-m", "tests.support.upstream_server", "--port", "0"]
    process = _start(command, log, {"PATH": os.environ["PATH"]})
    try:
        until_s = time.monotonic() + _READY_S
        while not (text := log.read_text()).endswith("\n"):
            assert process.poll() is None, text
            assert time.monotonic() < until_s, "the upstream does not start"
            time.sleep(0.02)
        yield text.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _start(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def _ending(member: Member) -> Iterator[Member]:
    try:
        yield member
    finally:
        if member.process.poll() is None:
            member.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.wait()


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/readiness")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
