"""Readings of the store in batches: one under way at a time, each name asked for once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

from shared.domain.errors import Overloaded

N = TypeVar("N", bound=Hashable)

_BATCH = 256


class Flights(Generic[N]):
    """For one event loop. `read` gets the names of a batch and answers why it failed, or `None`;
    whoever waits for one of them gets that. At most `max_waiting` names may wait."""

    def __init__(
        self, read: Callable[[list[N]], Awaitable[str | None]], max_waiting: int, closed: str
    ) -> None:
        self._read = read
        self._max_waiting = max_waiting
        self._closed = closed
        self._flights: dict[N, asyncio.Future[str | None]] = {}
        self._queue: deque[N] = deque()
        self._loader: asyncio.Task[None] | None = None

    @property
    def half_full(self) -> bool:
        """Whether the places left are for those who wait."""
        return len(self._flights) >= self._max_waiting // 2

    def get(self, name: N) -> asyncio.Future[str | None] | None:
        """The reading that will tell of a name, if it is queued or under way."""
        return self._flights.get(name)

    def start(self, name: N, *, first: bool = False) -> asyncio.Future[str | None]:
        """The same, queued if need be. Raises `Overloaded`."""
        flight = self._flights.get(name)
        if flight is None:
            if len(self._flights) >= self._max_waiting:
                raise Overloaded("Too many unknown names are being looked up.")
            loop = asyncio.get_running_loop()
            flight = self._flights[name] = loop.create_future()
            if first:
                self._queue.appendleft(name)
            else:
                self._queue.append(name)
            if self._loader is None:
                self._loader = loop.create_task(self._load_all())
        return flight

    def land(self, names: Iterable[N], error: str | None) -> None:
        """Tells those who wait that reading is over, or why it was in vain."""
        for name in names:
            flight = self._flights.pop(name, None)
            if flight is not None and not flight.done():
                flight.set_result(error)

    async def close(self) -> None:
        """Ends reading; whoever waits is told so."""
        if self._loader is not None:
            self._loader.cancel()
            await asyncio.wait((self._loader,))
            self._loader = None
        self._queue.clear()
        self.land(list(self._flights), self._closed)

    async def _load_all(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                error: str | None = "The lookup was cut off."
                try:
                    error = await self._read(batch)
                finally:
                    self.land(batch, error)
        finally:
            self._loader = None
            self._queue.clear()
            self.land(list(self._flights), self._closed)
