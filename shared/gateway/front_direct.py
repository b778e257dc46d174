"""Front end two: plain requests of the hot routes, from the socket to the pipeline by plain calls.

::

    bytes ── a plain POST of a hot route? ── yes ── DirectExchange ── pipeline ── transport
                    │ no
             the aiohttp application has this connection from here on

Only what is certain is read here: one complete head that fits a strict pattern, a body of stated
length, one request at a time. Everything else, from `Expect` to a header sent twice, is aiohttp's,
so that no second opinion on HTTP exists where opinions could differ.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from shared.domain.errors import InvalidRequest, RequestTooLarge
from shared.gateway.drive import Drive
from shared.gateway.exchange import RequestHead
from shared.gateway.pipeline import serve
from shared.gateway.route import Route

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# Bytes that may wait in a client's transport before its upstream is paused, and the level at
# which it goes on.
HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
# What a client may send before anybody wants it.
_MOST_AHEAD = 64 * 1024
# A refused body is still read to this size, so that the answer is not lost in a reset and the
# connection can be kept; beyond it, for as long as this.
_MOST_SKIPPED = 1024 * 1024
_LINGER_S = 2.0
_LONGEST_HEAD = 8 * 1024
_MOST_DIGITS = 12

_HEAD = re.compile(
    r"POST (/[!-~]*+) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[ -~\t]*+\r\n){1,100}+)\r\n"
)
_FIELD = re.compile(r"([^:]++):[ \t]*+([^\r]*+)\r\n")
# Fields that mean more than their value says, or that aiohttp judges.
_ODD = frozenset(
    {"content-encoding", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_STATUS_LINES: Mapping[int, str] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class Front:
    """The connections of one listener. `fall_back` makes an aiohttp protocol."""

    __slots__ = ("_connections", "_fall_back", "_idle_s", "_routes", "rt")

    def __init__(
        self,
        rt: Runtime,
        routes: Mapping[str, Route],
        fall_back: Callable[[], asyncio.Protocol],
        *,
        idle_s: float,
    ) -> None:
        self.rt = rt
        self._routes = routes
        self._fall_back = fall_back
        self._idle_s = idle_s
        self._connections: set[DirectConnection] = set()

    def __call__(self) -> DirectConnection:
        """A protocol for a new connection."""
        return DirectConnection(self, self._routes, self._idle_s)

    def add(self, connection: DirectConnection) -> None:
        """A connection is open."""
        self._connections.add(connection)

    def discard(self, connection: DirectConnection) -> None:
        """It is closed, or another's."""
        self._connections.discard(connection)

    def hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """The connection is aiohttp's, with what has been read of it."""
        protocol = self._fall_back()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def close_idle(self) -> None:
        """Close the connections that carry no request."""
        for connection in tuple(self._connections):
            connection.close_if_idle()

    def close(self) -> None:
        """Cut every connection."""
        for connection in tuple(self._connections):
            connection.abort()


class DirectConnection(asyncio.Protocol):
    """One client's connection: a request, its answer, the next request."""

    __slots__ = (
        "_ahead",
        "_exchange",
        "_front",
        "_idle_s",
        "_idle_since_s",
        "_routes",
        "_skip",
        "_stalled",
        "_watch",
        "full",
        "peer",
        "transport",
    )

    def __init__(self, front: Front, routes: Mapping[str, Route], idle_s: float) -> None:
        self._front = front
        self._routes = routes
        self._idle_s = idle_s
        self._idle_since_s = 0.0
        self._exchange: DirectExchange | None = None
        self._ahead = b""
        self._skip = 0
        self._stalled = False
        self._watch: asyncio.TimerHandle | None = None
        self.full = False
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._front.add(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: a request, the rest of its body, or what comes too early."""
        if self._exchange is not None or self._ahead or self._skip:
            data = self._take(data)
            if not data:
                return
        opened = self._read(data)
        if opened is None:
            self._leave()
            self._front.hand_over(self.transport, data)
            return
        route, exchange = opened
        self._exchange = exchange
        exchange.run(route, self._front.rt)

    def eof_received(self) -> bool:
        """The client will send no more: the transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        del exc
        self._leave()
        exchange = self._exchange
        if exchange is not None:
            exchange.gone()

    def pause_writing(self) -> None:
        """The client is slow."""
        self.full = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.full = False
        exchange = self._exchange
        if exchange is not None and exchange.on_drain is not None:
            exchange.on_drain()

    def ready(self, *, keep: bool, missing: int) -> None:
        """The exchange is over: on with the next request, or the end. `missing` bytes of its body
        have not come."""
        self._exchange = None
        transport = self.transport
        if transport.is_closing():
            return
        self._idle_since_s = self._front.rt.clock.mono()
        self.go_on()
        self._skip = missing
        if missing and not keep:
            transport.write_eof()
            self._front.rt.loop.call_later(_LINGER_S, transport.abort)
        elif not keep:
            transport.close()
        elif self._ahead:
            # Not from inside the pipeline that has just ended.
            self._front.rt.loop.call_soon(self._next)

    def wait(self) -> None:
        """Read no more for now."""
        if not self._stalled:
            self._stalled = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._stalled:
            self._stalled = False
            self.transport.resume_reading()

    def close_if_idle(self) -> None:
        """Close unless a request is being served."""
        if self._exchange is None:
            self.transport.close()

    def abort(self) -> None:
        """Cut."""
        self.transport.abort()

    def _take(self, data: bytes) -> bytes:
        """Put bytes where they belong; what is left is the next request."""
        exchange = self._exchange
        if exchange is not None and exchange.missing:
            data = exchange.feed(data)
        elif self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if data and (self._exchange is not None or self._ahead):
            self._ahead += data
            if len(self._ahead) > _MOST_AHEAD:
                self.wait()
            return b""
        return data

    def _next(self) -> None:
        data, self._ahead = self._ahead, b""
        if not self.transport.is_closing():
            self.data_received(data)

    def _read(self, data: bytes) -> tuple[Route, DirectExchange] | None:
        """The request at the beginning of `data`, if it is one of ours and plain."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        if end < 4:
            return None
        # What is not ASCII fits no pattern.
        found = _HEAD.fullmatch(data[:end].decode("latin-1"))
        if found is None:
            return None
        path, fields = found.groups()
        route = self._routes.get(path)
        if route is None:
            return None
        headers: dict[str, str] = {}
        for name, value in _FIELD.findall(fields):
            headers[name.lower()] = value.rstrip(" \t")
        length = headers.get("content-length", "")
        if (
            len(headers) != fields.count("\r\n")
            or "host" not in headers
            or not _ODD.isdisjoint(headers)
            or not length.isdigit()
            or len(length) > _MOST_DIGITS
        ):
            return None
        keep = headers.get("connection", "keep-alive").lower()
        if keep not in {"keep-alive", "close"}:
            return None
        head = RequestHead("POST", path, headers, self.peer)
        size = end + int(length)
        exchange = DirectExchange(self, head, size - len(data), keep == "close")
        if size <= len(data):
            exchange.body = data[end:size]
            self._ahead = data[size:]
        else:
            exchange.begin(data[end:])
        return route, exchange

    def _rest(self) -> None:
        loop = self._front.rt.loop
        self._idle_since_s = self._front.rt.clock.mono()
        self._watch = loop.call_later(self._idle_s, self._look)

    def _look(self) -> None:
        """Close when nothing was asked for long; one timer a connection, moved when it fires."""
        idle_s = self._front.rt.clock.mono() - self._idle_since_s
        if self._exchange is None and idle_s >= self._idle_s:
            self._watch = None
            self.transport.close()
            return
        again_s = self._idle_s if self._exchange is not None else self._idle_s - idle_s
        self._watch = self._front.rt.loop.call_later(again_s, self._look)

    def _leave(self) -> None:
        self._front.discard(self)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


class DirectExchange:
    """One request on a `DirectConnection`. See `Exchange` for the contract.

    `missing` bytes of the body are still to come, in `parts` until then.
    """

    __slots__ = (
        "_chunked",
        "_closing",
        "_connection",
        "_drive",
        "_ended",
        "_held",
        "_rt",
        "_started",
        "_waiter",
        "body",
        "head",
        "missing",
        "on_drain",
        "on_gone",
        "parts",
    )

    def __init__(
        self, connection: DirectConnection, head: RequestHead, missing: int, closing: bool
    ) -> None:
        self._connection = connection
        self.head = head
        self.missing = max(missing, 0)
        self.parts: list[bytes] = []
        self._held = 0
        self.body: bytes | None = None
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self._closing = closing
        self._chunked = False
        self._started: str | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def run(self, route: Route, rt: Runtime) -> None:
        """Serve the request."""
        self._rt = rt
        if rt.drain.draining:
            self._closing = True
        self._drive = drive = Drive(serve(self, route, rt), self._finish, rt.loop)
        rt.drain.enter(drive)
        self.on_gone = drive.gone
        drive.start()

    def begin(self, part: bytes) -> None:
        """What has come of the body with the head."""
        self.parts.append(part)
        self._held = len(part)

    def feed(self, data: bytes) -> bytes:
        """More of the body; what is beyond it."""
        part = data[: self.missing]
        self.missing -= len(part)
        self.parts.append(part)
        self._held += len(part)
        if self._waiter is None:
            if self._held > _MOST_AHEAD:
                self._connection.wait()
        elif not self._waiter.done():
            self._waiter.set_result(None)
        return data[len(part) :]

    def gone(self) -> None:
        """The client has closed the connection."""
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    async def read(self, limit: int, idle_s: float) -> bytes:
        """The whole body, `limit` bytes at most."""
        if self.missing + self._held > limit:
            raise RequestTooLarge(f"The body is larger than {limit} bytes.")
        while self.missing:
            self._waiter = waiter = self._rt.loop.create_future()
            self._connection.go_on()
            try:
                async with asyncio.timeout(idle_s):
                    await waiter
            except TimeoutError:
                self._closing = True
                raise InvalidRequest(
                    f"No more of the body came for {idle_s:g} s.", status=408
                ) from None
            finally:
                self._waiter = None
        parts, self.parts = self.parts, []
        return b"".join(parts)

    def start(self, status: int, head: str, length: int | None) -> None:
        """Keep the head until the first body bytes, so that both go out in one write."""
        if self.missing > _MOST_SKIPPED:
            self._closing = True
        if length is None:
            framing = "transfer-encoding: chunked\r\n"
            self._chunked = True
        else:
            framing = f"content-length: {length}\r\n"
        if self._closing:
            framing += "connection: close\r\n"
        line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"
        self._started = f"{line}{head}{framing}\r\n"
        if length is None:
            self._send(b"")

    def write(self, data: bytes) -> bool:
        """Body bytes; `False` when the client is slow."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._send(data)
        return not self._connection.full

    def end(self, data: bytes = b"") -> None:
        """The last bytes."""
        self._ended = True
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._send(data)

    def abort(self) -> None:
        """Cut the connection."""
        self._ended = True
        self._closing = True
        self._connection.abort()

    def _send(self, data: bytes) -> None:
        transport = self._connection.transport
        started = self._started
        if started is not None:
            self._started = None
            data = started.encode("latin-1", "replace") + data
        if not transport.is_closing():
            transport.write(data)

    def _finish(self) -> None:
        self._rt.drain.leave(self._drive)
        # The driver refers to us, too: an open circle would wait for the garbage collector.
        self.on_gone = self.on_drain = None
        del self._drive
        if not self._ended:
            self.abort()
        self._connection.ready(keep=not self._closing, missing=self.missing)
