"""How often allowance was asked from the database and refused, by dimension, for metrics."""

from __future__ import annotations

from collections import Counter

from shared.db.leases import LeaseGrant, LeaseItem


class Tally:
    """Counts since the process began. Items that only give back are no asks."""

    __slots__ = ("asked", "refused")

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def add(self, item: LeaseItem, grant: LeaseGrant) -> None:
        """One item of an ask, and its answer."""
        if item.need > 0 or item.ample > 0:
            self.asked[item.dimension] += 1
            if grant.granted < item.need:
                self.refused[item.dimension] += 1
