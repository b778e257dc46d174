"""The upstream pool: HTTP/1.1 keep-alive connections per origin, without a task per request.

::

    HttpPool.start ── idle connection? ── yes ── HttpConnection.send: one write, done
                           │ no
                      Lane._wait ── Dialer (the only task) ── Lane.take_back ── send

Nothing is retried here. A connection that the peer has closed leaves the idle list at once, so a
stale one is passed over before a byte is written; a request that was written and got no byte of
an answer ends in `UpstreamUnavailable(sent=True)`, and whoever knows its meaning may repeat it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic

from attrs import frozen

from shared.domain.errors import UpstreamUnavailable
from shared.domain.requests import Origin, UpstreamRequest
from shared.upstream.base import Flight, Sink
from shared.upstream.connection import HttpConnection
from shared.upstream.dialing import Dialer
from shared.upstream.flight import HttpFlight
from shared.upstream.lanes import Lane, PoolLimits
from shared.upstream.timers import Timer, TimerWheel

__all__ = ["HttpPool", "PoolLimits", "PoolStats", "verifying_context"]


@frozen
class PoolStats:
    """Counts over all origins. `open` includes connections that are being opened."""

    open: int
    idle: int
    waiting: int


def verifying_context(ca_file: str | None = None) -> ssl.SSLContext:
    """TLS that checks certificate and name, against `ca_file` or the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


class HttpPool:
    """An `Upstream` for `http` and `https`. Belongs to one event loop.

    `ssl_context` is called once, for the first `https` origin.
    """

    __slots__ = (
        "_closed",
        "_context",
        "_lanes",
        "_limits",
        "_loop",
        "_quiet",
        "_ssl_context",
        "_sweeper",
        "_timers",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel,
        limits: PoolLimits,
        ssl_context: Callable[[], ssl.SSLContext] = verifying_context,
    ) -> None:
        self._loop = loop
        self._timers = timers
        self._limits = limits
        self._ssl_context = ssl_context
        self._context: ssl.SSLContext | None = None
        self._lanes: dict[Origin, Lane] = {}
        self._sweeper: Timer | None = None
        self._quiet: asyncio.Future[None] | None = None
        self._closed = False

    def start(self, request: UpstreamRequest, sink: Sink) -> Flight:
        """Send a request; everything that comes of it goes to the sink, never before we return."""
        flight = HttpFlight(self._loop, self._timers, request, sink)
        if self._closed:
            error = UpstreamUnavailable("the pool is closed", phase="connect", sent=False)
            self._loop.call_soon(flight.fail, error)
            return flight
        lane = self._lanes.get(request.origin)
        if lane is None:
            lane = self._open_lane(request.origin)
        lane.start(flight)
        return flight

    @property
    def stats(self) -> PoolStats:
        """What is open, at rest, and waiting for a connection now."""
        lanes = self._lanes.values()
        return PoolStats(
            open=sum(lane.size for lane in lanes),
            idle=sum(lane.idle for lane in lanes),
            waiting=sum(lane.waiting for lane in lanes),
        )

    async def close(self) -> None:
        """Cancel what flies, close everything, and wait until the sockets are closed."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for lane in tuple(self._lanes.values()):
            lane.close()
        while self._lanes:
            self._quiet = self._loop.create_future()
            await self._quiet

    def _open_lane(self, origin: Origin) -> Lane:
        if origin.scheme == "https" and self._context is None:
            self._context = self._ssl_context()
        limits = self._limits
        dialer = Dialer(
            self._loop,
            origin,
            self._context if origin.scheme == "https" else None,
            partial(HttpConnection, limits.max_head_bytes, limits.max_decoded_bytes),
        )
        lane = Lane(
            self._loop, origin, limits, dialer.dial, self._rest, partial(self._drop_lane, origin)
        )
        self._lanes[origin] = lane
        return lane

    def _drop_lane(self, origin: Origin) -> None:
        self._lanes.pop(origin, None)
        if not self._lanes and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _rest(self) -> None:
        if self._sweeper is None and not self._closed:
            self._sweeper = self._timers.start(self._limits.idle_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        before_s = monotonic() - self._limits.idle_s
        ages = [lane.expire(before_s) for lane in tuple(self._lanes.values())]
        since = min((age for age in ages if age is not None), default=None)
        if since is not None:
            self._sweeper = self._timers.start(since - before_s, self._sweep)
