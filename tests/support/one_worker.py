"""One worker as a real process, for callers and upstreams that behave badly, and a look at it
afterwards: nothing in flight, no slot held, healthy, no traceback and no secret in its log."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import asyncpg
import yaml

from shared.domain.capabilities import Binary
from shared.domain.keys import hash_key
from tests.support.fleet import INPUT_PRICE, OUTPUT_PRICE, UPSTREAM_KEY, Fleet, Member, until
from tests.support.prometheus_text import Exposition
from tests.support.raw_http import RawAnswer, RawClient, request
from tests.support.upstream_kit import Peer, RawServer

CHAT = "/v1/chat/completions"
# Stands in every prompt: what callers say must not get into a log.
CANARY = "canary-of-a-prompt"

_BROKEN = ("Traceback", "never awaited", "never retrieved")


class Subject:
    """The worker under test. Belongs to no loop; every method may be used from any test's."""

    def __init__(self, fleet: Fleet, member: Member, env: dict[str, str]) -> None:
        self.fleet = fleet
        self.member = member
        self._env = env
        self._secrets = [fleet.master_key, UPSTREAM_KEY, CANARY]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.member.port

    @property
    def master(self) -> dict[str, str]:
        """The headers of a caller that may do everything."""
        return headers_of(self.fleet.master_key)

    def client(self, **options: Any) -> RawClient:
        """A connection to it."""
        return RawClient(self.port, **options)

    async def ask(
        self, body: bytes | dict[str, Any], key: str | None = None, path: str = CHAT
    ) -> RawAnswer:
        """One request on a connection of its own, by a well-behaved client."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client() as client:
            await client.send(request("POST", path, headers_of(key or self.fleet.master_key), data))
            return await client.answer()

    async def ask_with(self, headers: dict[str, str], body: bytes) -> RawAnswer:
        """The same as the master, with further headers."""
        async with self.client() as client:
            await client.send_anyway(request("POST", CHAT, {**self.master, **headers}, body))
            return await client.answer()

    async def new_key(self, **columns: Any) -> str:
        """A virtual key with these columns, without an admin."""
        key = f"sk-{secrets.token_hex(16)}"
        columns["token"] = hash_key(key)
        names = ", ".join(columns)
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        await self.sql(f"insert into virtual_key ({names}) values ({places})", *columns.values())
        self._secrets.append(key)
        return key

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Rows of a statement, by a connection of the caller's own."""
        connection = await asyncpg.connect(self.fleet.database)
        try:
            return list(await connection.fetch(query, *args))
        finally:
            await connection.close()

    async def rows(
        self, count: int, *, model: str = "%", key: str | None = None, timeout_s: float = 10.0
    ) -> list[asyncpg.Record]:
        """The ledger rows of a model (an SQL pattern) or key, checked to be `count`: no fewer
        within the time and no more once everything is posted."""
        query = "select * from spend_row where model like $1 and $2 in (key, '') order by id"
        token = "" if key is None else hash_key(key)

        async def posted() -> bool:
            return len(await self.sql(query, model, token)) >= count

        await until(posted, timeout_s, f"{count} rows of {model}")
        await self.until_posted()
        rows = await self.sql(query, model, token)
        assert len(rows) == count, rows
        return rows

    async def until_posted(self, timeout_s: float = 10.0) -> None:
        """Until everything in the journal is in the ledger."""

        async def posted() -> bool:
            ledger = (await self.details())["ledger"]
            return not ledger["bytes_pending"] and not ledger["open_calls"]

        await until(posted, timeout_s, "an empty journal")

    async def details(self) -> dict[str, Any]:
        """What readiness tells an operator."""
        status, body = await self.get("/health/readiness/details")
        assert status == 200, body
        return dict(json.loads(body))

    async def get(self, path: str) -> tuple[int, bytes]:
        """A GET as the master."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.member.url + path, headers=self.master) as answer,
        ):
            return answer.status, await answer.read()

    async def scrape(self) -> Exposition:
        """Its metrics."""
        status, body = await self.get("/metrics")
        assert status == 200, body
        return Exposition(body)

    async def until_idle(self, timeout_s: float = 5.0) -> None:
        """Until no request is being served and no upstream connection is in use."""

        async def idle() -> bool:
            metrics = await self.scrape()
            connections = "meridian_upstream_connections"
            return (
                metrics.total("litellm_in_flight_requests") == 0
                and metrics.total(connections, state="open")
                == metrics.total(connections, state="idle")
                and metrics.total(connections, state="waiting") == 0
            )

        await until(idle, timeout_s, "an idle worker")

    async def check_unharmed(self) -> None:
        """What must hold after any test."""
        await self.until_idle()
        assert (await self.get("/health/readiness"))[0] == 200
        ledger = (await self.details())["ledger"]
        assert (ledger["open_calls"], ledger["rows_rejected"]) == (0, 0), ledger
        log = self.member.log.read_text("utf-8", "replace")
        broken = [line for line in log.splitlines() if any(mark in line for mark in _BROKEN)]
        assert broken == [], broken[0]
        leaked = [secret for secret in self._secrets if secret in log]
        assert leaked == []

    def start_again(self) -> Member:
        """Its next life on the same state directory, not waited for; the caller ends it."""
        return self.fleet.start(self.member.name, Binary.WORKER, **self._env)

    @contextmanager
    def next_life(self) -> Iterator[Subject]:
        """Its next life, ready."""
        with self.fleet.member(self.member.name, Binary.WORKER, **self._env) as member:
            yield Subject(self.fleet, member, self._env)

    @contextmanager
    def neighbour(self) -> Iterator[Subject]:
        """A second worker on the same state directory, ready."""
        (self.fleet.folder / "neighbour").symlink_to(self.member.state_dir)
        with self.fleet.member("neighbour", Binary.WORKER, **self._env) as member:
            yield Subject(self.fleet, member, self._env)

    def cpu_s(self) -> float:
        """Processor time used, in steps of 10 ms."""
        stat = Path(f"/proc/{self.member.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.member.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


class Scripted(RawServer):
    """A raw upstream at a port that is given."""

    def __init__(self, script: Callable[[Peer], Awaitable[None]], port: int) -> None:
        super().__init__(script)
        self.port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        return self


def headers_of(key: str) -> dict[str, str]:
    """The headers of a JSON call."""
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def chat(model: str = "echo", text: str = CANARY, **fields: Any) -> dict[str, Any]:
    """A chat body; knobs of a scriptable upstream may stand in the text."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def chat_bytes(model: str = "echo", text: str = CANARY, **fields: Any) -> bytes:
    """The same, encoded."""
    return json.dumps(chat(model, text, **fields)).encode()


@contextmanager
def one_worker(
    folder: Path, database: str, upstream_port: int = 9, **env: str
) -> Iterator[Subject]:
    """A worker, checked to end well when it is told to."""
    with starting_worker(folder, database, upstream_port, **env) as subject:
        yield subject
        subject.member.terminate()
        assert subject.member.wait() == 0, subject.fleet.tails()


@contextmanager
def starting_worker(
    folder: Path, database: str, upstream_port: int = 9, **env: str
) -> Iterator[Subject]:
    """A worker, ready, that may be dead at the end.

    Its models: `echo` (built in), `up/*` at the upstream, and `thrice`, three deployments there
    that take turns when one fails.
    """
    upstream = f"http://127.0.0.1:{upstream_port}"
    config = folder / "one_worker.yaml"
    config.write_text(yaml.safe_dump(_config(f"{upstream}/v1")))
    fleet = Fleet(folder, database, upstream, folder / "upstream.log")
    env = {"CONFIG_FILE_PATH": str(config), "PROXY_BATCH_WRITE_AT": "0.05", **env}
    with fleet.member("worker", Binary.WORKER, **env) as member:
        yield Subject(fleet, member, env)


def _config(api_base: str) -> dict[str, Any]:
    priced = {"input_cost_per_token": INPUT_PRICE, "output_cost_per_token": OUTPUT_PRICE}
    upstream = {"api_base": api_base, "api_key": UPSTREAM_KEY, **priced}
    models = [
        {"model_name": "echo", "litellm_params": {"model": "demo/echo", **priced}},
        {"model_name": "up/*", "litellm_params": {"model": "openai/*", **upstream}},
    ]
    for number in (1, 2, 3):
        params = {"model": f"openai/thrice-{number}", **upstream, "num_retries": 2}
        models.append({"model_name": "thrice", "litellm_params": params})
    return {"model_list": models, "router_settings": {"num_retries": 0}}
