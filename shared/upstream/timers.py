"""Coarse, cheap timers for time-outs that are nearly always cancelled.

A timer costs a dict look-up and a set insertion, and no timer of the event loop: the wheel keeps
one of those, and only while something waits. A timer is never early and at most one tick (plus the
loop's own lag) late. Not for use from other threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from attrs import define, field

# How many ticks ahead are looked at one by one before all slots are searched for the earliest.
_LOOK_AHEAD = 16


@define(eq=False)
class Timer:
    """One pending call. Made by `TimerWheel.start`."""

    _slots: dict[int, set[Timer]] = field(repr=False)
    _tick: int
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        """Never call back. Does nothing when it has already done so."""
        self.callback = None
        slot = self._slots.get(self._tick)
        if slot is not None:
            slot.discard(self)
            if not slot:
                del self._slots[self._tick]


class TimerWheel:
    """Timers in slots of `tick_s` seconds; a slot exists only while a timer is in it."""

    __slots__ = ("_armed", "_closed", "_done", "_handle", "_loop", "_per_s", "_slots", "_tick_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float = 0.05) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._per_s = 1.0 / tick_s
        self._slots: dict[int, set[Timer]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0
        self._done = int(monotonic() * self._per_s)
        self._closed = False

    def start(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after `delay_s` seconds. On a closed wheel the timer never fires."""
        tick = int((monotonic() + delay_s) * self._per_s) + 1
        if tick <= self._done:
            tick = self._done + 1
        timer = Timer(self._slots, tick, callback)
        if self._closed:
            return timer
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = {timer}
            if self._handle is None or tick < self._armed:
                self._arm(tick)
        else:
            slot.add(timer)
        return timer

    @property
    def pending(self) -> int:
        """Timers that wait."""
        return sum(map(len, self._slots.values()))

    @property
    def armed(self) -> bool:
        """Whether the event loop will be woken. False soon after the last timer is gone."""
        return self._handle is not None

    def close(self) -> None:
        """Drop all timers, without calling them."""
        self._closed = True
        self._slots.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, tick: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = tick
        self._handle = self._loop.call_later(max(0.0, tick * self._tick_s - monotonic()), self._run)

    def _run(self) -> None:
        self._handle = None
        slots = self._slots
        now = int(monotonic() * self._per_s)
        if now - self._done > len(slots):
            due = sorted(tick for tick in slots if tick <= now)
        else:
            due = [tick for tick in range(self._done + 1, now + 1) if tick in slots]
        # Before the callbacks: one that starts a timer must not put it into a tick already passed.
        self._done = now
        for tick in due:
            self._fire(slots.pop(tick, ()))
        if slots and not self._closed:
            self._arm(self._next(now))

    def _fire(self, slot: set[Timer] | tuple[()]) -> None:
        for timer in slot:
            callback = timer.callback
            if callback is None:
                continue
            timer.callback = None
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - one owner's fault must not stop the others
                self._loop.call_exception_handler(
                    {"message": "a timer's callback failed", "exception": error}
                )

    def _next(self, now: int) -> int:
        for tick in range(now + 1, now + 1 + _LOOK_AHEAD):
            if tick in self._slots:
                return tick
        return min(self._slots)
