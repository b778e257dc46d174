"""How much of something is wanted per second."""

from __future__ import annotations

from decimal import Decimal
from typing import Generic, TypeVar

Amount = TypeVar("Amount", int, Decimal)


class Meter(Generic[Amount]):
    """Counts between sweeps and keeps a fading mean. The hot path only adds to `count`."""

    __slots__ = ("_rate", "_rolled_at", "_used_at", "_zero", "count")

    def __init__(self, zero: Amount, now: float) -> None:
        self._zero: Amount = zero
        self.count: Amount = zero
        self._rate = 0.0
        self._rolled_at = self._used_at = now

    def per_s(self, now: float, least_s: float) -> float:
        """The mean, or what was counted since the last sweep if that is more. It is taken over
        `least_s` at least, so that a first request is no burst."""
        return max(self._rate, float(self.count) / max(now - self._rolled_at, least_s))

    def roll(self, now: float, least: float) -> None:
        """End a period. A mean below `least` is nothing."""
        elapsed = now - self._rolled_at
        if elapsed <= 0:
            return
        self._rate = (self._rate + float(self.count) / elapsed) / 2
        if self.count:
            self._used_at = now
        elif self._rate < least:
            self._rate = 0.0
        self.count = self._zero
        self._rolled_at = now

    def idle_s(self, now: float) -> float:
        """How long nothing has been counted, to the length of a period."""
        return now - self._used_at
