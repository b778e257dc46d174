"""What this process knows of the others, for its share of limits while the database is away."""

from __future__ import annotations

_HOUR_S = 3600.0
_HOURS = 24


class Fleet:
    """How many processes serve LLM traffic, and which of them this one is.

    Filled by the heartbeat, read on every renewal. Times are on the monotonic clock.
    """

    __slots__ = ("_peaks", "beat_s", "live", "rank")

    def __init__(self, now: float) -> None:
        self.live = 1
        self.rank = 0
        # Until a heartbeat says otherwise, we count from our start.
        self.beat_s = now
        self._peaks: dict[int, int] = {}

    def observe(self, live: int, rank: int, sent_s: float) -> None:
        """Record a heartbeat that the database took; `sent_s` is when it was sent."""
        self.live = max(1, live)
        self.rank = rank
        self.beat_s = max(self.beat_s, sent_s)
        hour = int(sent_s // _HOUR_S)
        self._peaks[hour] = max(self.live, self._peaks.get(hour, 0))
        for old in [each for each in self._peaks if each <= hour - _HOURS]:
            del self._peaks[old]

    def share(self, limit: int) -> int:
        """This process's part of a limit that all must keep to without talking.

        It divides by the most processes of the last day; the lowest ranks share what is left over.
        Nothing for a process that has never heard of the others.
        """
        if not self._peaks:
            return 0
        most = max(self._peaks.values())
        return limit // most + (1 if self.rank < limit % most else 0)
