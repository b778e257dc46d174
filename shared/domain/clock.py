"""Time as a dependency: monotonic for durations, wall time corrected to the database's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from attrs import define


@define(slots=True)
class Clock:
    """The one source of time of a process.

    `offset_s` is database time minus local time, set by the heartbeat; every id, window and
    ledger row of the fleet is stamped with the corrected time.
    """

    offset_s: float = 0.0

    # Seconds on the monotonic clock; only differences mean anything.
    mono = staticmethod(time.monotonic)

    def now(self) -> float:
        """Seconds since the epoch, corrected to the database's clock."""
        return time.time() + self.offset_s

    def utc(self) -> datetime:
        """The same instant as an aware datetime."""
        return datetime.fromtimestamp(self.now(), UTC)
