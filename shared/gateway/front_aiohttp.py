"""Front end one: the aiohttp application, for every route.

The handler runs the pipeline in its own stack and waits for its end. Answers are written to the
transport as bytes of our own making: one write for a whole reply, one chunk for each relayed
read of a stream, so that no task wakes per chunk. aiohttp parses requests, keeps connections
alive and cancels the handler when the client goes (`handler_cancellation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import PayloadAccessError

from shared.domain.errors import InvalidRequest, RequestTooLarge
from shared.gateway.drive import Drive
from shared.gateway.exchange import RequestHead
from shared.gateway.inflate import PIECE_BYTES, Inflater
from shared.gateway.pipeline import serve
from shared.gateway.route import Route

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from shared.gateway.runtime import Runtime

Answers = tuple["WrittenResponse", "WrittenResponse"]
"""What a handler returns when the connection may, or may not, be used again."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Bytes that may wait in a client's transport before its upstream is paused, and the level at
# which it goes on. The transport is looked at in between because aiohttp owns its callbacks.
HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
_LOOK_AGAIN_S = 0.01
_COMPRESSED = frozenset({"gzip", "deflate"})
_CODINGS = _COMPRESSED | {"", "identity"}

_REASONS = {status.value: status.phrase for status in HTTPStatus}


def llm_handler(route: Route, rt: Runtime) -> Handler:
    """The aiohttp handler of an LLM route."""
    loop = rt.loop
    answers = (WrittenResponse(keep_alive=True), WrittenResponse(keep_alive=False))

    async def handle(request: web.Request) -> web.StreamResponse:
        x = AiohttpExchange(request, loop, answers)
        x.take_body()
        if rt.drain.draining:
            x.keep_no_connection()
        drive = Drive(serve(x, route, rt, request.match_info.get("model")), x.finish, loop)
        rt.drain.enter(drive)
        x.on_gone = drive.gone
        drive.start()
        try:
            await x.finished()
        finally:
            rt.drain.leave(drive)
        return x.response

    return handle


class WrittenResponse(web.StreamResponse):
    """Tells aiohttp of an answer that is already on the wire: nothing is left to write, so that
    one object serves any number of requests."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._reusable = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may serve another request."""
        return self._reusable

    @property
    def prepared(self) -> bool:
        """Always: the head went out with the body."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: the head went out with the body."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end is written."""


class AiohttpExchange:
    """One request under aiohttp. See `Exchange` for the contract."""

    __slots__ = (
        "_answers",
        "_chunked",
        "_closing",
        "_ended",
        "_finished",
        "_loop",
        "_request",
        "_started",
        "_waiter",
        "_watch",
        "body",
        "head",
        "on_drain",
        "on_gone",
    )

    def __init__(
        self, request: web.Request, loop: asyncio.AbstractEventLoop, answers: Answers
    ) -> None:
        self._answers = answers
        self._request = request
        self._loop = loop
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        self.head = RequestHead(
            method=request.method,
            path=request.rel_url.raw_path,
            headers=request.headers,
            peer=peer[0] if isinstance(peer, tuple) else "",
        )
        self.body: bytes | None = None
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self._chunked = False
        self._closing = not request.keep_alive
        self._started: bytes | None = None
        self._ended = False
        self._finished = False
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns once the exchange has finished."""
        return self._answers[self._closing]

    def keep_no_connection(self) -> None:
        """Tell the client to take its next request elsewhere. Before `start`."""
        self._closing = True

    def take_body(self) -> None:
        """Take a plain body that has arrived whole; else leave it to `read`."""
        request = self._request
        content = request.content
        if "content-encoding" in request.headers:
            return
        if content.at_eof():
            self.body = b""
        elif content.is_eof():
            self.body = content.read_nowait(-1)

    async def finished(self) -> None:
        """Wait until the pipeline is over; a cancelled handler means the client is gone."""
        if self._finished:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self._gone()
            if not self._finished:
                # The pipeline was in the middle of a step and ends in the next loop turn.
                self._waiter = self._loop.create_future()
                await self._waiter
            raise

    def finish(self) -> None:
        """The pipeline is over."""
        self._finished = True
        # The driver refers to us, too: an open circle would wait for the garbage collector.
        self.on_gone = self.on_drain = None
        if self._watch is not None:
            self._watch.cancel()
        if not self._ended:
            self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, limit: int, idle_s: float) -> bytes:
        """The whole body, decompressed, `limit` bytes at most."""
        request = self._request
        coding = request.headers.get("content-encoding", "").strip().lower()
        if coding not in _CODINGS:
            self._closing = True
            raise InvalidRequest(
                "The body's content-encoding is not understood; send it plain, or as gzip or "
                "deflate.",
                status=415,
            )
        length = request.content_length
        if length is not None and length > limit:
            raise self._too_large(limit)
        parts: list[bytes] = []
        size = 0
        inflater = Inflater(coding) if coding in _COMPRESSED else None
        try:
            async with asyncio.timeout(idle_s) as patience:
                async for part in request.content.iter_any():
                    for piece in (part,) if inflater is None else inflater.pieces(part):
                        size += len(piece)
                        if size > limit:
                            raise self._too_large(limit)
                        parts.append(piece)
                        if len(piece) >= PIECE_BYTES:
                            await asyncio.sleep(0)
                    patience.reschedule(self._loop.time() + idle_s)
            if inflater is not None:
                inflater.finish()
        except (HttpProcessingError, PayloadAccessError, web.RequestPayloadError):
            self._closing = True
            raise InvalidRequest("The body could not be read.") from None
        except TimeoutError:
            self._closing = True
            raise InvalidRequest(
                f"No more of the body came for {idle_s:g} s.", status=408
            ) from None
        return b"".join(parts)

    def start(self, status: int, head: str, length: int | None) -> None:
        """Keep the head until the first body bytes, so that both go out in one write."""
        old = self._request.version < HttpVersion11
        if length is not None:
            framing = f"content-length: {length}\r\n"
        elif old:
            framing = ""
            self._closing = True
        else:
            framing = "transfer-encoding: chunked\r\n"
            self._chunked = True
        if self._closing:
            framing += "connection: close\r\n"
        elif old:
            framing += "connection: keep-alive\r\n"
        text = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{head}{framing}\r\n"
        self._started = text.encode("latin-1", "replace")
        if length is None:
            self._send(b"")

    def write(self, data: bytes) -> bool:
        """Body bytes; `False` when the client is slow."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport = self._send(data)
        if transport is None or transport.get_write_buffer_size() <= HIGH_WATER:
            return True
        if self._watch is None:
            self._watch = self._loop.call_later(_LOOK_AGAIN_S, self._look)
        return False

    def end(self, data: bytes = b"") -> None:
        """The last bytes."""
        self._ended = True
        if self._chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self._send(last)
        else:
            self._send(data)

    def abort(self) -> None:
        """Cut the connection."""
        self._ended = True
        self._closing = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def _send(self, data: bytes) -> asyncio.Transport | None:
        transport = self._request.transport
        head, self._started = self._started, None
        if transport is None or transport.is_closing():
            return None
        transport.write(head + data if head else data)
        return transport

    def _look(self) -> None:
        self._watch = None
        transport = self._request.transport
        if transport is None or self._ended:
            return
        if transport.get_write_buffer_size() > LOW_WATER:
            self._watch = self._loop.call_later(_LOOK_AGAIN_S, self._look)
        elif self.on_drain is not None:
            self.on_drain()

    def _gone(self) -> None:
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def _too_large(self, limit: int) -> RequestTooLarge:
        # What is left of the body is not read, so the connection cannot be used again.
        self._closing = True
        return RequestTooLarge(f"The body is larger than {limit} bytes.")
