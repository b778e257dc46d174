"""The connections to one origin, and the flights that wait for one of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from attrs import frozen

from shared.domain.errors import UpstreamUnavailable
from shared.domain.requests import Origin
from shared.upstream.connection import HttpConnection
from shared.upstream.flight import HttpFlight

Dial = Callable[[], Coroutine[Any, Any, HttpConnection]]


@frozen
class PoolLimits:
    """Bounds of an `HttpPool`; the first four are per origin.

    An idle connection is closed after `idle_s`, which should be below the keep-alive time of the
    upstreams. `max_head_bytes` bounds a response's head, and its trailers; `max_decoded_bytes`
    what a compressed response may grow to.
    """

    max_connections: int = 1024
    max_idle: int = 256
    max_waiting: int = 1024
    idle_s: float = 30.0
    max_head_bytes: int = 64 * 1024
    max_decoded_bytes: int = 64 * 1024 * 1024


class Lane:
    """Last-in-first-out idle connections, and a bounded first-in-first-out queue of flights.

    A connection is dialled for a waiting flight, yet serves whichever waits first when it is
    ready; if by then none waits, it rests. `size` counts dialling connections too.
    """

    __slots__ = (
        "_closed",
        "_connections",
        "_dial",
        "_dialling",
        "_idle",
        "_limits",
        "_loop",
        "_on_idle",
        "_on_quiet",
        "_origin",
        "_waiting",
        "size",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        limits: PoolLimits,
        dial: Dial,
        on_idle: Callable[[], None],
        on_quiet: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._origin = origin
        self._limits = limits
        self._dial = dial
        self._on_idle = on_idle
        self._on_quiet = on_quiet
        self._idle: list[HttpConnection] = []
        self._waiting: OrderedDict[HttpFlight, None] = OrderedDict()
        self._dialling: dict[asyncio.Task[HttpConnection], None] = {}
        self._connections: set[HttpConnection] = set()
        self._closed = False
        self.size = 0

    @property
    def idle(self) -> int:
        """Connections at rest."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Flights without a connection."""
        return len(self._waiting)

    @property
    def quiet(self) -> bool:
        """Whether nothing is open, dialling, closing or waiting."""
        return not (self.size or self._waiting or self._connections)

    def start(self, flight: HttpFlight) -> None:
        """Send the flight on the connection used last, or let it wait for one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.send(flight)
                return
            connection.discard()
        self._wait(flight)

    def expire(self, before_s: float) -> float | None:
        """Close what has been idle since `before_s` or longer; since when the next one is."""
        idle = self._idle
        while idle and idle[0].idle_since_s <= before_s:
            idle[0].discard()
        return idle[0].idle_since_s if idle else None

    def close(self) -> None:
        """Cancel every flight, close every connection. `quiet` once the sockets are closed."""
        self._closed = True
        for flight in tuple(self._waiting):
            flight.cancel()
        for task in tuple(self._dialling):
            task.cancel()
        for connection in tuple(self._connections):
            connection.cancel()

    # Home of connections

    def take_back(self, connection: HttpConnection) -> None:
        """A connection is free: it serves the longest wait, or rests."""
        if self._waiting:
            connection.send(self._waiting.popitem(last=False)[0])
        elif len(self._idle) < self._limits.max_idle:
            connection.idle_since_s = monotonic()
            self._idle.append(connection)
            self._on_idle()
        else:
            connection.discard()

    def gone(self, connection: HttpConnection) -> None:
        """A connection closes: its place may be taken."""
        self.size -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._fill()

    def closed(self, connection: HttpConnection) -> None:
        """Its socket is closed."""
        self._connections.discard(connection)
        self._settle()

    # Room of waiting flights

    def withdraw(self, flight: HttpFlight) -> None:
        """The flight gave up. So does the oldest dialling connection, if one is too many now."""
        self._waiting.pop(flight, None)
        if len(self._dialling) > len(self._waiting):
            task = next(iter(self._dialling))
            del self._dialling[task]
            task.cancel()

    # Inside

    def _wait(self, flight: HttpFlight) -> None:
        limits = self._limits
        queued = len(self._waiting) - len(self._dialling)
        if self.size >= limits.max_connections and queued >= limits.max_waiting:
            error = UpstreamUnavailable(
                f"too many calls wait for a connection to {self._origin.host}",
                phase="queue",
                sent=False,
                status=503,
            )
            self._loop.call_soon(flight.fail, error)
            return
        self._waiting[flight] = None
        flight.wait_in(self)
        self._fill()

    def _fill(self) -> None:
        while len(self._dialling) < len(self._waiting) and self.size < self._limits.max_connections:
            self.size += 1
            task = self._loop.create_task(self._dial())
            self._dialling[task] = None
            task.add_done_callback(self._dialled)

    def _dialled(self, task: asyncio.Task[HttpConnection]) -> None:
        self._dialling.pop(task, None)
        if task.cancelled():
            self.size -= 1
            self._fill()
            self._settle()
            return
        error = task.exception()
        if error is not None:
            self.size -= 1
            self._refuse(error)
            return
        connection = task.result()
        if connection.usable and not self._closed:
            self._connections.add(connection)
            connection.adopt(self)
            self.take_back(connection)
        else:
            self.size -= 1
            connection.discard()
            self._refuse(ConnectionResetError("closed as soon as it was open"))

    def _refuse(self, error: BaseException) -> None:
        if not isinstance(error, OSError | UnicodeError):
            self._loop.call_exception_handler(
                {"message": "connecting to an upstream failed oddly", "exception": error}
            )
        if len(self._waiting) > len(self._dialling):
            flight = self._waiting.popitem(last=False)[0]
            where = f"{self._origin.host}:{self._origin.port}"
            reason = str(error) or type(error).__name__
            flight.fail(
                UpstreamUnavailable(
                    f"cannot connect to {where}: {reason}", phase="connect", sent=False
                )
            )
        self._fill()
        self._settle()

    def _settle(self) -> None:
        if self.quiet:
            self._on_quiet()
