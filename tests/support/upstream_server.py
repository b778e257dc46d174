"""A scriptable OpenAI-compatible upstream: in this process or as one of its own.

In process::

    async with UpstreamServer() as up:
        ...                                # up.url is http://127.0.0.1:PORT, without /v1
        await up.until(lambda: up.in_flight == 0)

As a process (by module or by file path), which prints `listening on http://127.0.0.1:PORT`::

    python -m tests.support.upstream_server --port 0
    GET /_stats   GET /_requests   POST /_reset   POST /_script ["status:503", ""]

What a request gets is chosen by knobs, later ones winning: the server's own (`knobs=`), the model
name (`status:503+retryafter:2` is a model), `[[name:value]]` anywhere in the body, and the head of
`script`, a queue of knob strings of which each request takes one (`""` is a plain answer).

========================  ========================================================================
delay-ms:D                wait before the first byte
chunk-delay-ms:D          wait between the chunks of a stream
chunks:N                  content chunks of a stream (5); words of a whole reply
size:B                    pad the text of a whole reply, or of each content chunk, to B bytes
bigevent:B                one content event of B bytes
usage:P,C                 prompt and completion tokens to report (10 and the number of chunks)
nousage / nodone          report no usage anywhere / end a stream without [DONE]
toolcall                  call the first offered tool (`lookup` if none), streamed in pieces
status:S retryafter:S     an OpenAI-shaped error, with that retry-after
html:S                    an HTML page with that status (200)
hang / stall:K            never answer / go silent after K chunks
cut:K / reset:K           close / reset the connection after K chunks (0: before any byte)
truncated                 a content-length larger than the body, then close
garbage                   bytes that are not HTTP, then close
badjson / badsse          a body that is not JSON / a stream with malformed lines
midjson                   a stream that ends, cleanly for HTTP, inside a JSON event
========================  ========================================================================

As OpenAI does, the usage chunk comes only with `stream_options.include_usage`, and `max_tokens` or
`max_completion_tokens` below the number of chunks ends the text with `finish_reason: length`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import httptools

try:
    from tests.support.upstream_answers import (
        Answer,
        answer_to,
        error_answer,
        knobs_in,
        read_knobs,
        whole,
    )
except ImportError:  # run by its path: this folder is what Python searches
    from upstream_answers import (  # type: ignore[import-not-found, no-redef]
        Answer,
        answer_to,
        error_answer,
        knobs_in,
        read_knobs,
        whole,
    )


class Seen(NamedTuple):
    """A request as it arrived; `body` is the decoded JSON, `None` if it is not JSON."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes
    at_s: float


class Disconnect(NamedTuple):
    """A client that went away before its answer was out; `at_s` on the monotonic clock."""

    at_s: float
    path: str
    chunks: int


class Connection(asyncio.Protocol):
    """One client connection: plays one answer at a time, in order of arrival."""

    def __init__(self, server: UpstreamServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Seen] = deque()
        self._current: Seen | None = None
        self._answer = Answer()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._paused = False
        self._chunks = 0
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        current, self._current = self._current, None
        self._server.closed(self, current if self._counted else None, self._chunks)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._current is not None and self._timer is None:
            self._step()

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        raw = bytes(self._body)
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        path = self._url.decode("latin-1")
        self._waiting.append(Seen(path, self._headers, body, raw, time.monotonic()))
        if self._current is None:
            self._next()

    def _next(self) -> None:
        if not self._waiting or self._transport.is_closing():
            return
        self._current = seen = self._waiting.popleft()
        self._chunks = 0
        control = self._server.control(seen)
        self._counted = control is None
        self._answer = control or self._server.receive(seen)
        self._timer = self._loop.call_later(self._answer.delay_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._answer.head:
            self._transport.write(self._answer.head)
        self._step()

    def _step(self) -> None:
        self._timer = None
        if self._paused:
            return
        piece = next(self._answer.pieces, None)
        if piece is None:
            self._finish()
            return
        self._chunks += 1
        self._transport.write(piece)
        self._timer = self._loop.call_later(self._answer.piece_delay_s, self._step)

    def _finish(self) -> None:
        end = self._answer.end
        if end == "hang":
            return
        self._current = None
        if self._counted:
            self._server.finished()
        if end == "reset":
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            self._transport.abort()
        elif end == "close":
            self._transport.close()
        else:
            self._next()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


class UpstreamServer:
    """The server and what it saw. Everything is read and written on its own loop."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, knobs: str = "", ssl: Any = None
    ) -> None:
        self.host, self.port, self.knobs = host, port, read_knobs(knobs)
        self.script: deque[str] = deque()
        self._ssl = ssl
        self._connections: set[Connection] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._server: asyncio.Server | None = None
        self.connections_total = self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was seen; answers under way go on and stay in `in_flight`."""
        self.requests: list[Seen] = []
        self.disconnects: list[Disconnect] = []
        self.completed = 0
        self.max_in_flight = self.in_flight
        self.by_key: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.script.clear()

    @property
    def url(self) -> str:
        """The base, without `/v1`."""
        return f"{'https' if self._ssl else 'http'}://{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, ssl=self._ssl, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self.until(lambda: not self._connections)

    async def until(self, predicate: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for a state of this server; raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while not predicate():
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    def stats(self) -> dict[str, Any]:
        """The counters, as `/_stats` gives them."""
        return {
            "requests": len(self.requests),
            "completed": self.completed,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "disconnects": [gone._asdict() for gone in self.disconnects],
            "connections": self.connections,
            "connections_total": self.connections_total,
            "by_key": dict(self.by_key),
            "by_model": dict(self.by_model),
        }

    def control(self, seen: Seen) -> Answer | None:
        """The answer to a control request, `None` for any other."""
        if not seen.path.startswith("/_"):
            return None
        if seen.path == "/_stats":
            return whole(200, self.stats())
        if seen.path == "/_requests":
            return whole(
                200, [{**s._asdict(), "raw": s.raw.decode("latin-1")} for s in self.requests]
            )
        if seen.path == "/_reset":
            self.reset()
        elif seen.path == "/_script" and isinstance(seen.body, list):
            self.script.extend(str(line) for line in seen.body)
        else:
            return error_answer(404, {})
        return whole(200, {"ok": True})

    def receive(self, seen: Seen) -> Answer:
        """Count a request and choose its answer."""
        self.requests.append(seen)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        bearer = seen.headers.get("authorization", "").removeprefix("Bearer ")
        self.by_key[bearer or seen.headers.get("api-key", "")] += 1
        model = seen.body.get("model") if isinstance(seen.body, dict) else None
        self.by_model[str(model)] += 1
        knobs = self.knobs | read_knobs(str(model)) | knobs_in(seen.raw)
        if self.script:
            knobs |= read_knobs(self.script.popleft())
        self._notify()
        return answer_to(seen.path, seen.body, knobs)

    def finished(self) -> None:
        """An answer went out as scripted, faults included."""
        self.in_flight -= 1
        self.completed += 1
        self._notify()

    def opened(self, connection: Connection) -> None:
        """A client connected."""
        self._connections.add(connection)
        self.connections_total += 1
        self._notify()

    def closed(self, connection: Connection, unfinished: Seen | None, chunks: int) -> None:
        """A connection is gone; `unfinished` is the request whose answer was not out."""
        self._connections.discard(connection)
        if unfinished is not None:
            self.in_flight -= 1
            self.disconnects.append(Disconnect(time.monotonic(), unfinished.path, chunks))
        self._notify()

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


async def serve(args: argparse.Namespace) -> None:
    """Serve until a signal ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with UpstreamServer(host=args.host, port=args.port, knobs=args.knobs) as server:
        sys.stdout.write(f"listening on {server.url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A scriptable OpenAI-compatible upstream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--knobs", default="", help="knobs of every answer, e.g. delay-ms:50")
    asyncio.run(serve(parser.parse_args()))
