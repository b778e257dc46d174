"""Attempts at secrets: who has failed too often waits (429 with Retry-After).

Counted by this process alone, per name within a window that begins with the first attempt. A name
is what the guesser cannot change at will: an address, or the account that is guessed at.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from attrs import define

from shared.domain.errors import RateLimited

_MOST_NAMES = 10_000


@define
class _Window:
    """How many attempts since when, in seconds of the clock."""

    since_s: float
    count: int = 0


class Attempts:
    """Counts failures by name. For one event loop; it forgets the longest known of 10 000 names
    when more come. `now` is a clock in seconds."""

    def __init__(self, most: int, window_s: float, now: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._window_s = window_s
        self._now = now
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def begin(self, name: str) -> None:
        """Counts an attempt as failed before it is made, so that many at once are not more than
        many in turn. Raises `RateLimited` if there were too many within the window."""
        now_s = self._now()
        window = self._windows.get(name)
        if window is None or now_s >= window.since_s + self._window_s:
            self._windows.pop(name, None)
            if len(self._windows) >= _MOST_NAMES:
                self._windows.popitem(last=False)
            window = self._windows[name] = _Window(now_s)
        if window.count >= self._most:
            wait_s = str(math.ceil(window.since_s + self._window_s - now_s))
            raise RateLimited(
                f"Too many failed attempts; try again in {wait_s} seconds",
                headers=(("retry-after", wait_s),),
            )
        window.count += 1

    def succeeded(self, name: str) -> None:
        """Takes back the count of an attempt that was none at guessing."""
        window = self._windows.get(name)
        if window is not None and window.count > 0:
            window.count -= 1
