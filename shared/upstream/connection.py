"""One HTTP/1.1 connection: writes a request in one call, reads its response as it arrives."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from shared.upstream.flight import HttpFlight
from shared.upstream.framing import ResponseReader

# Up to here a copy into one buffer is cheaper than a second system call.
_JOINED_BYTES = 65536


class Home(Protocol):
    """Where a connection rests between two requests."""

    def take_back(self, connection: HttpConnection) -> None:
        """It can carry another request."""
        ...

    def gone(self, connection: HttpConnection) -> None:
        """It is being closed; called once."""
        ...

    def closed(self, connection: HttpConnection) -> None:
        """Its socket is closed; called once, after `gone`."""
        ...


class HttpConnection(asyncio.Protocol):
    """At most one flight at a time; without one, any byte or end from the peer closes it.

    Until `adopt` it belongs to whoever dials, and tells nobody when it goes.
    """

    __slots__ = ("_flight", "_gone", "_home", "_reader", "_sending", "_transport", "idle_since_s")

    def __init__(self, max_head: int, max_decoded: int) -> None:
        self._reader = ResponseReader(max_head, max_decoded)
        self._flight: HttpFlight | None = None
        self._home: Home | None = None
        self._sending = False
        self._gone = False
        self.idle_since_s = 0.0

    def adopt(self, home: Home) -> None:
        """From now on `home` hears of it."""
        self._home = home

    @property
    def usable(self) -> bool:
        """Whether a request may be written: no end or reset of the peer has been seen."""
        return not (self._gone or self._transport.is_closing())

    def send(self, flight: HttpFlight) -> None:
        """Write the flight's request. Only when usable and idle."""
        self._flight = flight
        self._reader.begin()
        flight.board(self)
        request = flight.request
        body = request.body
        size = len(body)
        if size <= _JOINED_BYTES:
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (request.head, size, body))
        else:
            self._transport.write(b"%bcontent-length: %d\r\n\r\n" % (request.head, size))
            self._transport.write(body)
        if flight.paused:
            self.pause()

    # Carrier

    def pause(self) -> None:
        """Stop reading."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def unsent(self) -> int:
        """Request bytes that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def release(self, reusable: bool) -> None:
        """The response has ended. One that ended before its request was out is not reused."""
        self._flight = None
        if reusable and not self._sending and self._home is not None and self.usable:
            self._home.take_back(self)
        else:
            self.discard()

    def cancel(self) -> None:
        """End the flight, whose sink hears nothing, and close."""
        if self._flight is not None:
            self._flight.cancel()
        self.discard()

    def discard(self) -> None:
        """Close at once, whatever is under way; nobody hears of its flight."""
        self._flight = None
        if not self._gone:
            self._gone = True
            self._transport.abort()
            if self._home is not None:
                self._home.gone(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Watch the write buffer closely: `send` is a phase of its own only if it is not empty."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        """Bytes of the response; unasked ones end the connection."""
        flight = self._flight
        if flight is None:
            self.discard()
            return
        reader = self._reader
        flight.deliver(reader, reader.feed(data))

    def pause_writing(self) -> None:
        """The peer does not take the request as fast as we write."""
        self._sending = True
        if self._flight is not None:
            self._flight.stuck()

    def resume_writing(self) -> None:
        """All of the request is with the kernel."""
        self._sending = False
        if self._flight is not None:
            self._flight.sent()

    def eof_received(self) -> bool:
        """The peer will send no more: the end of a response, or of the connection's use."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by either side."""
        self._end(exc)
        if self._home is not None:
            self._home.closed(self)

    def _end(self, error: Exception | None) -> None:
        flight = self._flight
        self.discard()
        if flight is not None:
            flight.cut(self._reader, error)
