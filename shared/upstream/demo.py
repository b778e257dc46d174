"""The built-in upstream: answers scheme `demo` in this process, with no account and no network.

The upstream model names choose what a caller sees: `echo` and `embed` answer at once, `slow` waits
before the first byte and between chunks, `tool` calls the first tool that is offered, `fail` and
`fail-429` refuse, `fail-midstream` cuts its answer. Knobs in the last user message change any of
them: `[[status:503]] [[retry-after:2]] [[delay-ms:100]] [[chunk-delay-ms:50]] [[chunks:20]]
[[cut:3]]`. Time-outs, pauses and cancelling work as with the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic

from shared.domain.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from shared.domain.requests import UpstreamRequest
from shared.upstream.base import Flight, Sink
from shared.upstream.demo_replies import DemoReply, reply_to
from shared.upstream.timers import Timer, TimerWheel


class DemoUpstream:
    """An `Upstream` for scheme `demo`. Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: TimerWheel) -> None:
        self._loop = loop
        self._timers = timers
        self._flights: set[DemoFlight] = set()
        self._number = 0
        self._closed = False

    def start(self, request: UpstreamRequest, sink: Sink) -> Flight:
        """Answer a request; the sink is never called before this returns."""
        self._number += 1
        flight = DemoFlight(self._loop, self._timers, request, sink, self._flights.discard)
        self._flights.add(flight)
        if self._closed:
            error = UpstreamUnavailable("the demo is closed", phase="connect", sent=False)
            self._loop.call_soon(flight.fail, error)
        else:
            self._loop.call_soon(flight.begin, self._number)
        return flight

    @property
    def flying(self) -> int:
        """Replies under way."""
        return len(self._flights)

    async def close(self) -> None:
        """Cancel what still flies."""
        self._closed = True
        for flight in tuple(self._flights):
            flight.cancel()


class DemoFlight:
    """Plays one reply to its sink, piece by piece."""

    __slots__ = (
        "_cut",
        "_held",
        "_left",
        "_loop",
        "_next",
        "_paused",
        "_piece_delay_s",
        "_pieces",
        "_request",
        "_sink",
        "_started_s",
        "_timer",
        "_timers",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel,
        request: UpstreamRequest,
        sink: Sink,
        left: Callable[[DemoFlight], None],
    ) -> None:
        self._loop = loop
        self._timers = timers
        self._request = request
        self._sink: Sink | None = sink
        self._left = left
        self._started_s = monotonic()
        self._timer: Timer | asyncio.Handle | None = None
        self._paused = self._held = False
        self._pieces: Iterator[bytes] = iter(())
        self._piece_delay_s = 0.0
        self._cut: int | None = None

    def pause(self) -> None:
        """Hold the next piece back."""
        self._paused = True

    def resume(self) -> None:
        """Go on with it."""
        self._paused = False
        if self._held:
            self._held = False
            self._timer = self._loop.call_soon(self._step)

    def cancel(self) -> None:
        """Stop; the sink hears nothing more."""
        if self._sink is not None:
            self._sink = None
            if self._timer is not None:
                self._timer.cancel()
            self._left(self)

    def fail(self, error: UpstreamError) -> None:
        """End with an error, unless cancelled."""
        sink = self._sink
        self.cancel()
        if sink is not None:
            self._guarded(lambda: sink.on_error(error))

    def begin(self, number: int) -> None:
        """Work out the reply and wait for its first byte, unless cancelled."""
        if self._sink is None:
            return
        target = self._request.head.split(b" ", 2)[1].decode("latin-1")
        reply = reply_to(target, self._request.body, number)
        self._pieces = iter(reply.pieces)
        self._piece_delay_s = reply.piece_delay_s
        self._cut = reply.cut
        first_byte_s = self._request.timeouts.first_byte_s
        self._wait(reply.delay_s, first_byte_s, "first_byte", lambda: self._head(reply, number))

    def _head(self, reply: DemoReply, number: int) -> None:
        sink = self._sink
        if sink is not None:
            headers = (*reply.headers, ("x-request-id", f"req_demo_{number}"))
            self._guarded(lambda: sink.on_head(reply.status, headers))
            self._wait(0.0, self._request.timeouts.idle_s, "idle", self._step)

    def _step(self) -> None:
        if self._paused:
            self._held = True
            return
        if self._cut is not None:
            if self._cut == 0:
                why = "the demo cut its answer, as asked"
                self.fail(UpstreamProtocolError(why, phase="body"))
                return
            self._cut -= 1
        sink = self._sink
        piece = next(self._pieces, None)
        if sink is None:
            return
        if piece is None:
            self.cancel()
            self._guarded(sink.on_end)
            return
        self._guarded(lambda: sink.on_data(piece))
        self._wait(self._piece_delay_s, self._request.timeouts.idle_s, "idle", self._step)

    def _wait(self, delay_s: float, limit_s: float, phase: str, then: Callable[[], None]) -> None:
        if self._sink is None:
            return
        total_s = self._request.timeouts.total_s
        left_s = self._started_s + total_s - monotonic()
        if left_s < limit_s:
            limit_s, phase = max(left_s, 0.0), "total"
        if delay_s > limit_s or left_s <= 0:
            self._timer = self._timers.start(limit_s, lambda: self._late(phase))
        elif delay_s > 0:
            self._timer = self._timers.start(delay_s, then)
        else:
            self._timer = self._loop.call_soon(then)

    def _late(self, phase: str) -> None:
        self.fail(UpstreamTimeout(f"the demo took too long ({phase})", phase=phase))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a broken sink must not reach the loop's timers
            self.cancel()
            self._loop.call_exception_handler(
                {"message": "the sink of a demo reply failed", "exception": error}
            )
