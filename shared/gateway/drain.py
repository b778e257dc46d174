"""Graceful shutdown: readiness fails first, calls go on to a deadline, then the process ends."""

from __future__ import annotations

import asyncio

from shared.domain.errors import Overloaded
from shared.gateway.drive import Drive


class Drain:
    """Knows the calls in flight and whether the process is shutting down."""

    __slots__ = ("_calls", "_empty", "draining")

    def __init__(self) -> None:
        self.draining = False
        self._calls: set[Drive] = set()
        self._empty: asyncio.Event | None = None

    @property
    def in_flight(self) -> int:
        """How many calls are being served."""
        return len(self._calls)

    def enter(self, call: Drive) -> None:
        """A call has begun."""
        self._calls.add(call)

    def leave(self, call: Drive) -> None:
        """A call is over."""
        self._calls.discard(call)
        if self._empty is not None and not self._calls:
            self._empty.set()

    def begin(self) -> None:
        """From now on readiness answers 503 `shutting_down`, and connections are not kept."""
        self.draining = True

    async def empty(self, timeout_s: float) -> int:
        """Wait until no call is in flight, `timeout_s` at most; how many still are."""
        if self._calls:
            self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    while self._calls:
                        self._empty.clear()
                        await self._empty.wait()
            except TimeoutError:
                pass
        return len(self._calls)

    def cut(self) -> None:
        """End the calls that are left: an error answer, or an error as a stream's last event."""
        for call in tuple(self._calls):
            call.stop(Overloaded("The gateway is shutting down; try again."))
