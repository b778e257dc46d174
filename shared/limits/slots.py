"""Slots for parallel requests: how many this process may run, and how many it runs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from shared.db.leases import SLOTS, LeaseGrant, LeaseItem
from shared.domain.clock import Clock
from shared.domain.errors import GatewayError
from shared.domain.limits import ScopeRef
from shared.limits.blocks import Take
from shared.limits.estimates import Load
from shared.limits.outage import Fleet
from shared.limits.refusals import share_refusal, slots_refusal
from shared.limits.settings import LimitSettings, OutageLimits


class SlotBlock:
    """One scope's slots. Slots that calls free are used again here; idle ones soon go back.

    Every ask states how many calls run, so nothing depends on an earlier answer. Slots count only
    while the database can know that this process lives.
    """

    __slots__ = (
        "_asked_at",
        "_asked_need",
        "_clock",
        "_fleet",
        "_over",
        "_retry_at",
        "_settings",
        "_spare",
        "_unsure",
        "_used",
        "_wake",
        "held",
        "limit",
        "ref",
        "running",
    )

    def __init__(
        self,
        ref: ScopeRef,
        settings: LimitSettings,
        clock: Clock,
        fleet: Fleet,
        wake: Callable[[Any], None],
    ) -> None:
        self.ref = ref
        self.limit = int(ref.limit)
        self.running = 0
        self.held = 0
        self._settings = settings
        self._clock = clock
        self._fleet = fleet
        self._wake = wake
        self._asked_at = clock.mono()
        self._asked_need = 0
        self._retry_at = 0.0
        # The fewest slots that were unused at any time since the last sweep.
        self._spare = 0
        self._unsure = False
        # More run than the limit allows, or may: freed slots are not ours to use again.
        self._over = False
        self._used = 0

    def fits(self, _load: Load, now: float) -> bool:
        """Whether a slot is free here."""
        return self.running < self.held and not self._over and self._valid(now)

    def closed(self, _load: Load, now: float) -> bool:
        """Whether a request is refused without an ask."""
        return self.limit < 1 or now < self._retry_at

    def take(self, _load: Load, _now: float) -> Take:
        """Use a slot."""
        self.running += 1
        spare = self.held - self.running
        if spare < self._spare:
            self._spare = max(0, spare)
        return (self, 0, 1)

    def settle(self, _take: Take, _tokens: int, _cost: Decimal) -> None:
        """The call has ended."""
        self.running -= 1

    def release(self, _take: Take) -> None:
        """The call was not made."""
        self.running -= 1

    def refusal(self, _load: Load, now: float) -> GatewayError:
        """Why there is no slot."""
        return slots_refusal(self.ref, self.limit - self.remaining(now), self._clock)

    def remaining(self, _now: float) -> int:
        """Slots that are free as far as this process knows."""
        return max(0, min(self.limit, self.limit - self._used + self.held - self.running))

    def alone(self, _load: Load, now: float) -> GatewayError | None:
        """Decide by the slots in hand and this process's share; a refusal or nothing."""
        if self._settings.outage_limits is OutageLimits.SERVE:
            return None
        share = self._fleet.share(self.limit)
        if self.running < max(share, self.held if self._valid(now) else 0):
            return None
        return share_refusal(self.ref, 0, share, 0, self._clock)

    def take_alone(self, load: Load, now: float) -> Take:
        """Use what `alone` allows."""
        if not self._unsure:
            self._unsure = True
            self._wake(self)
        return self.take(load, now)

    def want(self, _load: Load) -> None:
        """Count a waiting request into the next item."""
        self._asked_need += 1

    def items(self, now: float) -> list[LeaseItem]:
        """Slots for those who wait, beyond what is free here; or the return of idle ones."""
        need, self._asked_need = self._asked_need, 0
        if need and need <= self.held - self.running and not self._over and self._valid(now):
            return []
        if need:
            if self._retry_at:
                self._retry_at = now + self._settings.reask_s
            self.held = self.running
        elif self._spare or self._unsure:
            self.held = max(self.running, self.held - self._spare)
        else:
            return []
        self._spare = 0
        self._unsure = False
        return [
            LeaseItem(
                kind=SLOTS,
                scope=self.ref.scope,
                dimension=self.ref.dimension.value,
                limit=Decimal(self.limit),
                need=Decimal(need),
                stated=Decimal(self.held),
            )
        ]

    def apply(self, item: LeaseItem, grant: LeaseGrant, sent: float, _received: float) -> None:
        """Take in an answer."""
        self.held = int(item.stated + grant.granted)
        self._used = int(grant.used)
        self._over = self._used > self.limit
        self._asked_at = sent
        if grant.granted < item.need:
            self._retry_at = sent + self._settings.reask_s
        elif item.need:
            self._retry_at = 0.0

    def lost(self, _item: LeaseItem) -> None:
        """No answer: the database may believe that we hold more than we do."""
        self._unsure = True

    def sweep(self, _now: float) -> None:
        """Let slots go that were unused all the time since the last sweep."""
        if self._spare or self._unsure:
            self._wake(self)
        else:
            self._spare = max(0, self.held - self.running)

    def restrict(self, ref: ScopeRef) -> None:
        """A new limit: free slots go back at once."""
        self.ref = ref
        self.limit = int(ref.limit)
        self._retry_at = 0.0
        self._over = self.held > self.limit
        if self.held > self.running:
            self._spare = self.held - self.running
            self._wake(self)

    def restate(self) -> None:
        """Others may have been given our slots: none is used again before we have asked."""
        if self.held:
            self._over = self._unsure = True
            self._wake(self)

    def unused(self, _now: float) -> bool:
        """Whether nothing would be lost with the block."""
        return self.running == 0 and self.held == 0 and not self._unsure

    def _valid(self, now: float) -> bool:
        return now < max(self._asked_at, self._fleet.beat_s) + self._settings.slot_ttl_s
