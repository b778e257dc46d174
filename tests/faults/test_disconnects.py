"""Clients that go away, or stop reading, at every stage of a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support.fleet import until
from tests.support.one_worker import (
    CHAT,
    Scripted,
    Subject,
    chat,
    chat_bytes,
    headers_of,
    one_worker,
)
from tests.support.postgres import Postgres, free_port
from tests.support.raw_http import RawClient, events, request
from tests.support.upstream_kit import Peer
from tests.support.upstream_server import UpstreamServer

pytestmark = pytest.mark.xdist_group("faults")

# What the product promises; the rest of the machine may be busy as well.
CLOSED_WITHIN_S = 0.25
CLOSES = {"close": RawClient.close, "reset": RawClient.reset, "half-close": RawClient.half_close}


@pytest.fixture(scope="module")
def port() -> int:
    """Where the upstream will be."""
    return free_port()


@pytest.fixture(scope="module")
def worker(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory, port: int
) -> Iterator[Subject]:
    """A worker that must be as good as before, however its clients leave."""
    database = postgres.create()
    with one_worker(tmp_path_factory.mktemp("disconnects"), database, port) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


@pytest.fixture
async def up(port: int) -> AsyncIterator[UpstreamServer]:
    """The scriptable upstream."""
    async with UpstreamServer(port=port) as server:
        yield server


@pytest.fixture
async def key(worker: Subject) -> str:
    """A key that allows one call at a time."""
    return await worker.new_key(max_parallel_requests=1)


async def closed_upstream(up: UpstreamServer, count: int, since_s: float) -> None:
    """The upstream has seen so many disconnects, the last one soon enough."""
    await up.until(lambda: len(up.disconnects) >= count)
    took_s = up.disconnects[count - 1].at_s - since_s
    assert took_s <= CLOSED_WITHIN_S, f"{took_s:.3f} s"


async def row_of(worker: Subject, key: str) -> Any:
    """The one row of a call whose client left, and a proof that the slot is free."""
    (row,) = await worker.rows(1, key=key)
    assert (row["status"], row["http_status"]) == ("client_closed", 499)
    assert row["error_type"] is None
    assert (await worker.ask(chat("echo"), key)).status == 200
    return row


@pytest.mark.parametrize("how", CLOSES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "[[hang]]"}]}),
        ("/v1/completions", {"prompt": "[[hang]]"}),
        ("/v1/embeddings", {"input": "[[hang]]"}),
    ],
    ids=["chat", "completion", "embedding"],
)
async def test_before_the_first_byte(
    worker: Subject,
    up: UpstreamServer,
    key: str,
    how: str,
    stream: bool,
    path: str,
    content: dict[str, Any],
) -> None:
    """A client that leaves while the upstream still thinks: the upstream is let go at once, and
    what was not delivered is not billed."""
    body = {"model": "up/left", **content} | ({"stream": True} if stream else {})
    async with worker.client() as client:
        await client.send(request("POST", path, headers_of(key), json.dumps(body).encode()))
        await up.until(lambda: up.in_flight == 1)
        left_s = time.monotonic()
        CLOSES[how](client)
        await closed_upstream(up, 1, left_s)
    row = await row_of(worker, key)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (0, 0, 0)


@pytest.mark.parametrize("how", CLOSES)
@pytest.mark.parametrize("after", [1, 2, 7, 23])
async def test_in_the_middle_of_a_stream(
    worker: Subject, up: UpstreamServer, key: str, how: str, after: int
) -> None:
    """A client that leaves after some chunks: the upstream is let go at once, and the delivered
    text is billed, neither less nor much more than what the client has read."""
    text = "[[chunks:2000]] [[chunk-delay-ms:3]] [[size:100]]"
    async with worker.client() as client:
        body = chat_bytes("up/left", text, stream=True)
        await client.send(request("POST", CHAT, headers_of(key), body))
        for _ in range(after):
            await client.until(b"\n\n")
        left_s = time.monotonic()
        CLOSES[how](client)
        await closed_upstream(up, 1, left_s)
    row = await row_of(worker, key)
    sent = up.disconnects[0].chunks
    assert row["estimated"]
    assert row["prompt_tokens"] == -(-len(body) // 4)
    # The first chunk is the role; of the rest, 100 bytes are 25 tokens each.
    assert 25 * (after - 1) <= row["completion_tokens"] <= 25 * sent
    assert row["cost"] > 0


async def test_usage_of_the_provider_wins(worker: Subject, port: int, key: str) -> None:
    """If the provider has told its usage before the client left, that is billed and nothing is
    estimated, also when it is zero."""
    for tokens in (77, 0):
        told = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}
        choice = {"index": 0, "delta": {"content": "x" * 400}, "finish_reason": "stop"}
        data = b"data: %b\n\ndata: %b\n\n" % (
            json.dumps({"choices": [choice]}).encode(),
            json.dumps({"choices": [], "usage": told}).encode(),
        )

        async def script(peer: Peer, data: bytes = data) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + data)
            await peer.gone()

        asked = await worker.new_key(max_parallel_requests=1)
        async with Scripted(script, port), worker.client() as client:
            body = chat_bytes("up/left", stream=True, stream_options={"include_usage": True})
            await client.send(request("POST", CHAT, headers_of(asked), body))
            await client.until(b"total_tokens")
            client.close()
            row = await row_of(worker, asked)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (tokens, tokens)
        assert not row["estimated"]


async def test_two_hundred_in_a_row(worker: Subject, up: UpstreamServer, key: str) -> None:
    """Two hundred clients of a key with one slot leave one after the other, at random moments:
    each finds the slot free, each is one row, and nothing stays open."""
    chance = random.Random(7)
    for number in range(1, 201):
        stream = chance.random() < 0.7
        async with worker.client() as client:
            text = "[[chunks:1000]] [[chunk-delay-ms:2]]" if stream else "[[hang]]"
            body = chat_bytes("up/row", text, stream=stream)
            await client.send(request("POST", CHAT, headers_of(key), body))
            if stream:
                for _ in range(chance.randrange(4)):
                    await client.until(b"\n\n")
            await up.until(lambda number=number: len(up.requests) == number)
            left_s = time.monotonic()
            chance.choice((RawClient.close, RawClient.reset))(client)
            await closed_upstream(up, number, left_s)
    rows = await worker.rows(200, key=key)
    assert {row["status"] for row in rows} == {"client_closed"}
    await worker.until_idle()
    metrics = await worker.scrape()
    assert metrics.total("meridian_upstream_connections", state="open") <= 1
    assert up.connections <= 1
    assert (await worker.ask(chat("echo"), key)).status == 200


async def test_many_at_once(worker: Subject, up: UpstreamServer) -> None:
    """A hundred streams whose clients leave in the same moment are let go in time, all of them."""
    key = await worker.new_key()
    clients = [worker.client() for _ in range(100)]
    body = chat_bytes("up/crowd", "[[chunks:1000]] [[chunk-delay-ms:20]]", stream=True)
    for client in clients:
        await client.__aenter__()
        await client.send(request("POST", CHAT, headers_of(key), body))
    for client in clients:
        await client.until(b"\n\n")
    left_s = time.monotonic()
    for client in clients:
        client.close()
    await closed_upstream(up, 100, left_s)
    await worker.rows(100, key=key)


async def test_while_the_body_is_still_arriving(worker: Subject, up: UpstreamServer) -> None:
    """A client that leaves before its request is complete was never a call."""
    key = await worker.new_key(max_parallel_requests=1)
    for how in CLOSES.values():
        async with worker.client() as client:
            head = request("POST", CHAT, {**headers_of(key), "Content-Length": "1000"})
            await client.send(head + b'{"model"')
            await until(lambda: _in_flight(worker, 1))
            how(client)
            await until(lambda: _in_flight(worker, 0))
    assert up.requests == []
    assert (await worker.ask(chat("echo"), key)).status == 200
    await worker.rows(1, key=key)


async def test_between_two_attempts(worker: Subject, up: UpstreamServer, key: str) -> None:
    """A client that leaves while a retry is waited for: there is no further attempt."""
    async with worker.client() as client:
        body = chat_bytes("up/left", "[[status:503]]", num_retries=3)
        await client.send(request("POST", CHAT, headers_of(key), body))
        await up.until(lambda: up.completed == 1)
        client.close()
        await until(lambda: _in_flight(worker, 0), timeout_s=0.4)
    row = await row_of(worker, key)
    assert row["attempts"] == 1
    # The retry would have come by now.
    await asyncio.sleep(1.3)
    assert len(up.requests) == 1


async def test_with_requests_waiting_behind(worker: Subject, up: UpstreamServer) -> None:
    """A client that leaves with requests in the pipeline: those behind the one that was being
    served never reach the upstream."""
    key = await worker.new_key()
    async with worker.client() as client:
        data = request("POST", CHAT, headers_of(key), chat_bytes("up/left", "[[hang]]"))
        await client.send(data * 3)
        await up.until(lambda: up.in_flight == 1)
        left_s = time.monotonic()
        client.close()
        await closed_upstream(up, 1, left_s)
    await worker.rows(1, key=key)
    assert len(up.requests) == 1


class Flood:
    """An upstream that streams as fast as it is read: `sent` counts chunks, `cut` says when a
    client was gone."""

    chunks, size = 1500, 32_768

    def __init__(self) -> None:
        self.sent = 0
        self.started = 0
        self.cut_s = 0.0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.started += 1
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        choice = {"index": 0, "delta": {"content": "x" * self.size}, "finish_reason": None}
        event = b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()
        try:
            await peer.send(head)
            for _ in range(self.chunks):
                await peer.send(event)
                self.sent += 1
            await peer.send(event.replace(b"null", b'"stop"') + b"data: [DONE]\n\n")
        except ConnectionError:
            self.cut_s = time.monotonic()

    async def stalled(self) -> int:
        """The chunks sent, once no more are."""
        last = -1
        while self.sent != last:
            last = self.sent
            await asyncio.sleep(0.3)
        return last


async def test_slow_reader(worker: Subject, port: int, key: str) -> None:
    """A client that does not read holds up its upstream, not the worker's memory, and gets every
    byte when it reads again."""
    flood = Flood()
    async with Scripted(flood, port), worker.client(receive_buffer=16_384) as client:
        await worker.until_idle()
        before = worker.rss_kib()
        body = chat_bytes("up/slow", stream=True)
        await client.send(request("POST", CHAT, headers_of(key), body))
        _, headers = await client.head()
        stalled = await flood.stalled()
        grown = worker.rss_kib() - before
        assert stalled < flood.chunks / 2
        assert grown < 4 * 1024, f"{grown} KiB"
        chunks = events(await client.body(headers, timeout_s=30))
        assert chunks[-1] == "[DONE]"
        assert len(chunks) == flood.chunks + 2
    (row,) = await worker.rows(1, key=key)
    assert row["status"] == "success"
    assert row["completion_tokens"] == (flood.chunks + 1) * flood.size // 4


async def test_slow_reader_that_leaves(worker: Subject, port: int, key: str) -> None:
    """A client that leaves with its buffer full is noticed as soon as any other."""
    flood = Flood()
    async with Scripted(flood, port), worker.client(receive_buffer=16_384) as client:
        body = chat_bytes("up/slow", stream=True)
        await client.send(request("POST", CHAT, headers_of(key), body))
        await client.head()
        assert await flood.stalled() < flood.chunks / 2
        left_s = time.monotonic()
        client.close()
        await until(_true_of(lambda: flood.cut_s), timeout_s=5)
        assert flood.cut_s - left_s <= CLOSED_WITHIN_S
    assert (await row_of(worker, key))["estimated"]


async def test_many_slow_readers(worker: Subject, port: int) -> None:
    """Forty clients that do not read cost a bounded amount each and hold up nobody else."""
    key = await worker.new_key()
    flood = Flood()
    body = chat_bytes("up/slow", stream=True)
    async with Scripted(flood, port):
        await worker.until_idle()
        before = worker.rss_kib()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(40):
                client = await stack.enter_async_context(worker.client(receive_buffer=16_384))
                await client.send(request("POST", CHAT, headers_of(key), body))
            await until(_true_of(lambda: flood.started == 40))
            await flood.stalled()
            grown = (worker.rss_kib() - before) / 40
            assert grown < 512, f"{grown:.0f} KiB a stream"
            started_s = time.monotonic()
            assert (await worker.ask(chat("echo"), key)).status == 200
            assert time.monotonic() - started_s < 1
        await worker.until_idle()
    await worker.rows(41, key=key)


def _true_of(check: Callable[[], Any]) -> Callable[[], Awaitable[bool]]:
    async def checked() -> bool:
        return bool(check())

    return checked


async def _in_flight(worker: Subject, count: int) -> bool:
    return bool((await worker.details())["in_flight_requests"] == count)
