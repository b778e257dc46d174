"""For tests of upstreams: both event loops, a recording sink, raw scripted servers, a clean end."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self, cast

import pytest
import uvloop

from shared.domain.deployments import Timeouts
from shared.domain.errors import UpstreamError
from shared.domain.requests import Headers, Origin, UpstreamRequest
from shared.upstream.base import Flight
from shared.upstream.pool import HttpPool, PoolLimits, PoolStats, verifying_context
from shared.upstream.timers import TimerWheel

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TEST_TIMEOUT_S = 20.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\n"


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test once on asyncio's loop and once on uvloop's."""

    @wraps(test)
    def run(loop_name: str, **arguments: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                await test(**arguments)

        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(bounded())

    signature = inspect.signature(test)
    loop_name = inspect.Parameter("loop_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[loop_name, *signature.parameters.values()]
    )
    del run.__wrapped__  # type: ignore[attr-defined]
    mark = pytest.mark.parametrize("loop_name", sorted(LOOPS))
    return cast(Callable[..., None], mark(run))


class Recorder:
    """A `Sink` that keeps what it is told, and complains of calls out of order."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.chunks: list[bytes] = []
        self.calls: list[str] = []
        self.error: UpstreamError | None = None
        self.on_event: Callable[[str], None] = lambda _: None
        self._over = asyncio.Event()
        self._moved = asyncio.Event()

    @property
    def body(self) -> bytes:
        """All body bytes so far."""
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """A header's first value."""
        return next((value for key, value in self.headers if key == name), None)

    def on_head(self, status: int, headers: Headers) -> None:
        assert not self.calls
        self.status, self.headers = status, headers
        self._note("head")

    def on_data(self, data: bytes) -> None:
        assert self.calls[:1] == ["head"]
        assert data
        self.chunks.append(data)
        self._note("data")

    def on_end(self) -> None:
        assert self.calls[:1] == ["head"]
        self._note("end")

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self._note("error")

    def _note(self, what: str) -> None:
        assert not self._over.is_set()
        self.calls.append(what)
        self._moved.set()
        if what in {"end", "error"}:
            self._over.set()
        self.on_event(what)

    async def until(self, what: str) -> None:
        """Wait for a call."""
        while what not in self.calls:
            assert not self._over.is_set(), self.error
            self._moved.clear()
            await self._moved.wait()

    async def over(self) -> Self:
        """Wait for the end, of whichever kind."""
        await self._over.wait()
        return self

    async def failure(self) -> UpstreamError:
        """Wait for the error that must come."""
        await self._over.wait()
        assert self.error is not None
        return self.error


@dataclass
class Kit:
    """A pool under test, its wheel, and what the loop's exception handler was told."""

    pool: HttpPool
    timers: TimerWheel
    reported: list[dict[str, Any]] = field(default_factory=list)

    def send(
        self,
        target: Any,
        body: bytes = b"{}",
        timeouts: Timeouts | None = None,
        sink: Recorder | None = None,
    ) -> tuple[Recorder, Flight]:
        """Start a request to a server (anything with `host`, `port` and maybe `scheme`)."""
        sink = sink or Recorder()
        origin = Origin(getattr(target, "scheme", "http"), target.host, target.port)
        request = UpstreamRequest(origin, HEAD, body, timeouts or Timeouts())
        return sink, self.pool.start(request, sink)

    async def until(self, predicate: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for a state that a few turns of the loop bring about."""
        async with asyncio.timeout(timeout_s):
            while not predicate():  # noqa: ASYNC110 - what is watched has no event
                await asyncio.sleep(0.001)


@asynccontextmanager
async def pooled(
    limits: PoolLimits | None = None, ca_file: str | None = None
) -> AsyncIterator[Kit]:
    """A pool; afterwards nothing of it may be left: no connection, timer, task or complaint."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    timers = TimerWheel(loop, tick_s=0.01)
    kit = Kit(
        HttpPool(loop, timers, limits or PoolLimits(), lambda: verifying_context(ca_file)), timers
    )
    loop.set_exception_handler(lambda _, context: kit.reported.append(context))
    yield kit
    await kit.pool.close()
    assert kit.pool.stats == PoolStats(open=0, idle=0, waiting=0)
    assert timers.pending == 0
    timers.close()
    await kit.until(lambda: not {task for task in asyncio.all_tasks() - before if _ours(task)})
    assert kit.reported == []


def _ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "shared/upstream" in code.co_filename


class Peer:
    """The server's side of one connection, for a script to drive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.number = 0

    async def request(self) -> bytes:
        """The next request, head and body; `b""` when the client closed instead."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self._reader.readexactly(length)

    async def read(self, size: int) -> int:
        """Take up to `size` bytes out of the connection; how many there were."""
        return len(await self._reader.read(size))

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel, as a write of their own, and let the client read them."""
        self._writer.write(data)
        await self._writer.drain()
        for _ in range(4):
            await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until the client has closed or reset the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            return

    def close(self) -> None:
        """End the connection in order."""
        self._writer.close()

    def reset(self) -> None:
        """End it with a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class RawServer:
    """Runs `script` for every connection, which it closes afterwards. Counts connections."""

    host = "127.0.0.1"
    scheme = "http"

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        outcome = await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
        failed = [error for error in outcome if isinstance(error, Exception)]
        assert failed == []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        peer = Peer(reader, writer)
        self.connections += 1
        peer.number = self.connections
        try:
            await self._script(peer)
        finally:
            writer.close()


def answering(*pieces: bytes, then: str = "keep") -> Callable[[Peer], Awaitable[None]]:
    """A script: answer every request with these pieces, then keep, close or reset."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            for piece in pieces:
                await peer.send(piece)
            if then == "reset":
                peer.reset()
            if then != "keep":
                return

    return script


def reply(body: bytes = b"hello", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with a content-length."""
    head = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, head, len(body), body)


def chunked(*parts: bytes) -> bytes:
    """A whole response in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % body
