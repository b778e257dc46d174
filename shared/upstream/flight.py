"""One request on its way through the pool: its phase, its time-outs, and its sink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from shared.domain.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from shared.domain.requests import UpstreamRequest
from shared.upstream.base import Sink
from shared.upstream.framing import ResponseReader
from shared.upstream.timers import Timer, TimerWheel

_CONNECT = "connect"
_SEND = "send"
_FIRST_BYTE = "first_byte"
_IDLE = "idle"
_TOTAL = "total"

_WAITED_FOR = {
    _CONNECT: "a connection",
    _SEND: "the upstream to take the request",
    _FIRST_BYTE: "the upstream's answer to begin",
    _IDLE: "more of the upstream's answer",
    _TOTAL: "the upstream's answer to end",
}


class Carrier(Protocol):
    """The connection that carries a flight."""

    def pause(self) -> None:
        """Stop reading."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def unsent(self) -> int:
        """Request bytes that the kernel has not taken."""
        ...

    def release(self, reusable: bool) -> None:
        """The flight is over: keep the connection for another, or close it."""
        ...

    def discard(self) -> None:
        """Close at once."""
        ...


class WaitingRoom(Protocol):
    """Where a flight waits for a connection."""

    def withdraw(self, flight: HttpFlight) -> None:
        """The flight no longer waits."""
        ...


class HttpFlight:
    """A `Flight`. Phases: connect, send, first_byte, idle; over once the sink is dropped."""

    __slots__ = (
        "_carrier",
        "_due_s",
        "_headed",
        "_loop",
        "_mark_s",
        "_phase",
        "_room",
        "_sink",
        "_started_s",
        "_timer",
        "_timers",
        "_unsent",
        "paused",
        "request",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel,
        request: UpstreamRequest,
        sink: Sink,
    ) -> None:
        self._loop = loop
        self._timers = timers
        self.request = request
        self._sink: Sink | None = sink
        self._started_s = self._mark_s = monotonic()
        self._phase = _CONNECT
        self._carrier: Carrier | None = None
        self._room: WaitingRoom | None = None
        self._timer: Timer | None = None
        self._headed = False
        self._due_s = 0.0
        self._unsent = 0
        self.paused = False

    # What the gateway calls

    def pause(self) -> None:
        """Stop reading; what has been read already is still delivered."""
        if self._sink is not None and not self.paused:
            self.paused = True
            if self._carrier is not None:
                self._carrier.pause()

    def resume(self) -> None:
        """Read on; the idle time-out starts anew."""
        if self._sink is not None and self.paused:
            self.paused = False
            self._mark_s = monotonic()
            if self._carrier is not None:
                self._carrier.resume()
            self._arm()

    def cancel(self) -> None:
        """Close the connection; the sink hears nothing more."""
        if self._sink is not None:
            self._leave()

    # What the pool and the connection call

    def wait_in(self, room: WaitingRoom) -> None:
        """No connection is free: wait, at most as long as connecting may take."""
        self._room = room
        self._arm()

    def board(self, carrier: Carrier) -> None:
        """The request is about to be written on this connection."""
        self._room = None
        self._carrier = carrier
        self._phase = _FIRST_BYTE
        self._mark_s = monotonic()
        self._arm()

    def stuck(self) -> None:
        """The upstream does not take all of the request at once."""
        carrier = self._carrier
        if carrier is not None and self._phase is _FIRST_BYTE:
            self._phase = _SEND
            self._unsent = carrier.unsent()
            self._arm()

    def sent(self) -> None:
        """The last of the request has been taken."""
        if self._phase is _SEND:
            self._phase = _FIRST_BYTE
            self._mark_s = monotonic()
            self._arm()

    def deliver(self, reader: ResponseReader, fault: UpstreamProtocolError | None) -> None:
        """Hand over what one read brought: head, body bytes, and the end or the fault."""
        try:
            self._hand_over(reader)
        except Exception as error:  # noqa: BLE001 - a broken sink may cost its own call, no other
            self._report(error)
            self.cancel()
        if self._sink is None:
            return
        if fault is not None:
            self.fail(fault)
        elif reader.complete:
            self._end(reader)
        elif self._headed:
            self._mark_s = monotonic()
            if self._phase is not _IDLE:
                self._phase = _IDLE
                self._arm()

    def cut(self, reader: ResponseReader, error: BaseException | None) -> None:
        """The upstream closed the connection, which is closed on our side too."""
        self._carrier = None
        if error is None and reader.until_eof:
            self._end(reader)
            return
        how = "closed the connection" if error is None else "reset the connection"
        fault: UpstreamError
        if reader.head_done:
            fault = UpstreamProtocolError(f"the upstream {how} inside the body", phase="body")
        elif reader.started:
            fault = UpstreamProtocolError(f"the upstream {how} inside the head", phase="head")
        else:
            fault = UpstreamUnavailable(f"the upstream {how} without an answer", phase=self._phase)
        self.fail(fault)

    def fail(self, error: UpstreamError) -> None:
        """End with an error, unless the flight is over."""
        sink = self._sink
        if sink is not None:
            self._leave()
            self._guarded(sink.on_error, error)

    # Inside

    def _hand_over(self, reader: ResponseReader) -> None:
        sink = self._sink
        if sink is not None and reader.head_done and not self._headed:
            self._headed = True
            sink.on_head(reader.status, reader.headers)
            sink = self._sink
        if sink is not None and reader.parts:
            data = reader.body()
            if data:
                sink.on_data(data)

    def _end(self, reader: ResponseReader) -> None:
        if reader.truncated():
            self.fail(UpstreamProtocolError("the compressed body is cut short", phase="body"))
            return
        sink, self._sink = self._sink, None
        if self._timer is not None:
            self._timer.cancel()
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            if self.paused:
                carrier.resume()
            carrier.release(reader.reusable)
        if sink is not None:
            self._guarded(sink.on_end)

    def _leave(self) -> None:
        self._sink = None
        if self._timer is not None:
            self._timer.cancel()
        carrier, self._carrier = self._carrier, None
        room, self._room = self._room, None
        if carrier is not None:
            carrier.discard()
        elif room is not None:
            room.withdraw(self)

    def _deadline(self) -> tuple[float, str, float]:
        timeouts = self.request.timeouts
        total_s = timeouts.total_s
        total = self._started_s + total_s
        phase = self._phase
        if phase is _FIRST_BYTE:
            limit_s = timeouts.first_byte_s
        elif phase is _IDLE:
            if self.paused:
                return total, _TOTAL, total_s
            limit_s = timeouts.idle_s
        elif phase is _CONNECT:
            limit_s = timeouts.connect_s
        else:
            limit_s = min(timeouts.idle_s, timeouts.first_byte_s)
        due = self._mark_s + limit_s
        return (total, _TOTAL, total_s) if total < due else (due, phase, limit_s)

    def _arm(self) -> None:
        # One timer a flight: it is moved only to be earlier, and finds out when it fires whether
        # there was progress meanwhile.
        due = self._deadline()[0]
        if self._timer is not None:
            if due >= self._due_s:
                return
            self._timer.cancel()
        self._due_s = due
        self._timer = self._timers.start(due - monotonic(), self._expired)

    def _expired(self) -> None:
        self._timer = None
        carrier = self._carrier
        if carrier is not None and self._phase is _SEND:
            unsent, before = carrier.unsent(), self._unsent
            self._unsent = unsent
            if unsent < before:
                self._mark_s = monotonic()
        due, phase, limit_s = self._deadline()
        if monotonic() < due:
            self._arm()
            return
        sink = self._sink
        if sink is not None:
            sent = carrier is not None
            self._leave()
            what = f"waited {limit_s:g} s for {_WAITED_FOR[phase]}"
            self._guarded(sink.on_error, UpstreamTimeout(what, phase=phase, sent=sent))

    def _guarded(self, call: Callable[..., None], *args: UpstreamError) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - a broken sink must not reach the pool
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "the sink of an upstream reply failed", "exception": error}
        )
