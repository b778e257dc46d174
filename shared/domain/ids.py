"""Call ids: UUIDv7-shaped, ordered in time, without a system call per id.

Layout (RFC 9562, version 7): 48 bits of milliseconds, 4 of version, 12 of a counter, 2 of
variant, 62 random. The random part is drawn once per process and stepped per id, so that an id
costs no entropy read; uniqueness across processes rests on the 62 bits, within one on the step.
"""

from __future__ import annotations

import secrets
from uuid import UUID

from shared.domain.clock import Clock

_RANDOM_BITS = 62
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
# Odd, so that stepping walks through every value before one comes back.
_STEP = 0x9E3779B97F4A7C15 & _RANDOM_MASK | 1


class CallIds:
    """Makes call ids. Not shared between threads."""

    __slots__ = ("_clock", "_count", "_random")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._random = secrets.randbits(_RANDOM_BITS)
        self._count = 0

    def next(self) -> UUID:
        """A fresh id whose time is the database-corrected now."""
        milliseconds = int(self._clock.now() * 1000)
        self._random = (self._random + _STEP) & _RANDOM_MASK
        self._count = (self._count + 1) & 0xFFF
        return UUID(
            int=milliseconds << 80 | 0x7 << 76 | self._count << 64 | 0b10 << 62 | self._random
        )


def id_floor(epoch_s: float) -> UUID:
    """The lowest id of an instant: the bound of a day partition and of queries by time."""
    return UUID(int=int(epoch_s * 1000) << 80)
