"""Blocks of requests and tokens: what this process has leased of a rate window and not yet used.

A block is spent by plain calls on the hot path and renewed by one item of an ask. All instants
are on the monotonic clock and on the safe side of the database's: a window is used only until
(ask sent + time left in it), the following one only from (answer received + time until it opens).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from attrs import frozen

from shared.db.leases import RATE, LeaseGrant, LeaseItem
from shared.domain.clock import Clock
from shared.domain.errors import GatewayError
from shared.domain.limits import Dimension, ScopeRef
from shared.limits.estimates import Load
from shared.limits.meter import Meter
from shared.limits.outage import Fleet
from shared.limits.refusals import rate_refusal, share_refusal, size_refusal
from shared.limits.settings import LimitSettings, OutageLimits

_NEVER = -sys.maxsize
_LEAST_LEAD_S = 0.05


@frozen
class Following:
    """A block of the window after the current one, usable from `start` to `until`."""

    window: int
    start: float
    until: float
    amount: int


Take = tuple[Any, Any, Any]
"""What a reservation has of a block: the block, the window it is of, the amount."""


class RateBlock:
    """One scope's requests or tokens. `wake` is called with the block when it wants an ask."""

    __slots__ = (
        "_admitted",
        "_ahead_at",
        "_asked_least",
        "_asked_need",
        "_cap",
        "_clock",
        "_fleet",
        "_following",
        "_low",
        "_meter",
        "_more",
        "_owed",
        "_refused",
        "_remaining",
        "_retry_at",
        "_returning",
        "_settings",
        "_tokens",
        "_trip_s",
        "_until",
        "_voided",
        "_wake",
        "available",
        "limit",
        "ref",
        "window",
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
        self.window = 0
        self.available = 0
        self._tokens = ref.dimension is Dimension.TOKENS
        self._settings = settings
        self._clock = clock
        self._fleet = fleet
        self._wake = wake
        # An estimate above the limit is cut to it: that request then waits for a fresh window.
        self._cap = sys.maxsize if settings.strict else max(1, self.limit)
        self._until = -math.inf
        self._following: Following | None = None
        self._remaining = self.limit
        self._trip_s = 0.0
        self._low = _NEVER
        self._more = False
        self._ahead_at = math.inf
        self._retry_at = 0.0
        # Until then, requests of at least this size are refused.
        self._refused = 0
        self._returning = False
        self._voided = 0
        self._owed = 0
        self._admitted = 0
        self._asked_need = 0
        self._asked_least = 0
        self._meter = Meter(0, clock.mono())

    # -- the hot path

    def fits(self, load: Load, now: float) -> bool:
        """Whether the load can be taken at once."""
        if now >= self._until and not self._open_following(now):
            return False
        return self.available >= (min(load.tokens, self._cap) if self._tokens else 1)

    def closed(self, load: Load, now: float) -> bool:
        """Whether the load is refused without an ask. Keeps counting what is wanted."""
        amount = self._amount(load)
        if amount > self.limit:
            return True
        if now >= self._retry_at or amount < self._refused:
            return False
        self._meter.count += amount
        if now >= self._ahead_at:
            self._wake(self)
        return True

    def take(self, load: Load, now: float) -> Take:
        """Use what `fits`."""
        amount = min(load.tokens, self._cap) if self._tokens else 1
        self.available -= amount
        self._meter.count += amount
        self._admitted += amount
        if self.available < self._low:
            self._low = _NEVER
            self._more = True
            self._wake(self)
        elif now >= self._ahead_at:
            self._wake(self)
        return (self, self.window, amount)

    def settle(self, take: Take, tokens: int, _cost: Decimal) -> None:
        """Correct tokens to what was used; in a window that has closed there is nothing to do."""
        if self._tokens and take[1] == self.window:
            self.available += take[2] - tokens
            self._admitted += tokens - take[2]

    def release(self, take: Take) -> None:
        """The call was not made."""
        if take[1] == self.window:
            self.available += take[2]
            self._admitted -= take[2]

    # -- refusals and figures

    def refusal(self, load: Load, now: float) -> GatewayError:
        """Why the load is refused."""
        amount = self._amount(load)
        if amount > self.limit:
            return size_refusal(self.ref, amount)
        used = max(0, self.limit - self.remaining(now))
        left_s = self._until - now
        return rate_refusal(self.ref, self._settings.window_s, used, left_s, self._clock)

    def remaining(self, now: float) -> int:
        """What is left of the window as far as this process knows."""
        if now >= self._until:
            return self.limit
        return max(0, min(self.limit, self._remaining + self.available))

    # -- without the database

    def alone(self, load: Load, now: float) -> GatewayError | None:
        """Decide by this process's share; a refusal or nothing."""
        if now >= self._until and not self._open_following(now):
            # Ids below zero are windows of this process alone.
            self._enter(min(self.window, 0) - 1, now + self._settings.window_s)
            self._owed = 0
        amount = self._amount(load)
        if self.available >= amount or self._settings.outage_limits is OutageLimits.SERVE:
            return None
        share = self._fleet.share(self.limit)
        part = amount if self._settings.strict else min(amount, share)
        if share and self._admitted + part <= share:
            return None
        window_s = self._settings.window_s
        return share_refusal(self.ref, window_s, share, self._until - now, self._clock)

    def take_alone(self, load: Load, now: float) -> Take:
        """Use what `alone` allows; what was not leased is reported once the database is back."""
        amount = self._amount(load)
        missing = max(0, amount - max(0, self.available))
        self._owed += missing
        self.available += missing
        return self.take(load, now)

    # -- renewal

    def want(self, load: Load) -> None:
        """Count a waiting request into the next item."""
        amount = self._amount(load)
        self._asked_need += amount
        self._asked_least = min(self._asked_least or amount, amount)

    def items(self, now: float) -> list[LeaseItem]:
        """What to ask for now: for those who wait, for demand to come, for the next window."""
        if now >= self._until and not self._open_following(now):
            self._lapse()
        need, least = self._asked_need, self._asked_least
        self._asked_need = self._asked_least = 0
        items: list[LeaseItem] = []
        if need and need > self.available:
            items.append(self._needy(now, need, least))
        elif self._returning or self.available < 0 or self._owed or self._voided:
            items.append(self._item(now, give_back=self.available, wants=False))
        elif self._more:
            items.append(self._item(now, have=self.available))
        self._returning = self._more = False
        if now >= self._ahead_at:
            self._ahead_at = math.inf
            items.append(self._item(now, ahead=True))
        return items

    def apply(self, item: LeaseItem, grant: LeaseGrant, sent: float, received: float) -> None:
        """Take in an answer."""
        granted = int(grant.granted)
        if grant.starts_ms > 0:
            start = received + grant.starts_ms / 1000
            until = sent + grant.ends_ms / 1000
            self._following = Following(grant.window_id, start, until, granted)
            self._ahead_at = math.inf
            return
        if not grant.window_id or (grant.window_id < self.window and received < self._until):
            return
        self._enter(grant.window_id, sent + grant.ends_ms / 1000)
        self.available += granted
        self._remaining = int(grant.remaining)
        self._trip_s = received - sent
        if granted < item.need:
            self._retry_at = min(sent + self._settings.reask_s, self._until)
            self._refused = 0 if granted else int(item.least)
        elif item.need:
            self._retry_at = 0.0
        self._watch(received, granted)

    def lost(self, item: LeaseItem) -> None:
        """No answer. Debts are stated again; what was given back is forgone."""
        self._owed += int(item.owed)
        if item.give_back < 0 and item.window_id == self.window:
            self.available += int(item.give_back)

    def sweep(self, now: float) -> None:
        """Measure demand; mark for return what nobody has used since the last sweep."""
        if now >= self._until and not self._open_following(now):
            self._lapse()
        self._meter.roll(now, 1 / self._settings.window_s)
        ample_s, scarce_s = self._horizons()
        patience_s = ample_s if 2 * self._remaining > self.limit else max(scarce_s, self._idle_s())
        self._returning = self.available > 0 and self._meter.idle_s(now) >= patience_s
        if self._returning or self.available < 0 or self._owed:
            self._wake(self)

    def restrict(self, ref: ScopeRef) -> None:
        """A new limit: what is at hand was leased under the old one and goes back."""
        self.ref = ref
        self.limit = int(ref.limit)
        self._cap = sys.maxsize if self._settings.strict else max(1, self.limit)
        self._retry_at = 0.0
        self._remaining = min(self._remaining, self.limit)
        self._following = None
        if self.available > 0:
            self._voided += self.available
            self.available = 0
            self._wake(self)

    def restate(self) -> None:
        """Windows do not depend on who is alive."""

    def unused(self, now: float) -> bool:
        """Whether nothing would be lost with the block."""
        return now >= self._until and not self._owed and self._following is None

    def _amount(self, load: Load) -> int:
        return min(load.tokens, self._cap) if self._tokens else 1

    def _demand(self, now: float) -> float:
        return self._meter.per_s(now, self._idle_s())

    def _idle_s(self) -> float:
        return min(self._settings.idle_s, self._settings.window_s / 8)

    def _horizons(self) -> tuple[float, float]:
        """How many seconds of demand to hold while much, and while little, of the limit is left."""
        return min(10.0, self._settings.window_s / 6), min(1.0, self._settings.window_s / 60)

    def _watch(self, now: float, granted: int) -> None:
        """Set the marks at which the block asks by itself, before anybody must wait."""
        self._low = _NEVER
        if granted:
            lead = int(self._demand(now) * max(3 * self._trip_s, _LEAST_LEAD_S))
            self._low = min(self.available // 2, max(lead, self.available // 8))
        if self._following is None:
            lead_s = min(max(1.0, 3 * self._trip_s), self._settings.window_s / 4)
            self._ahead_at = self._until - lead_s

    def _needy(self, now: float, need: int, least: int) -> LeaseItem:
        """Everything at hand goes back and is taken anew, so that leftovers meet those who need."""
        if self._retry_at:
            # Others are refused at once while this one finds out.
            self._retry_at = now + self._settings.reask_s
        return self._item(now, need=need, least=least, give_back=self.available)

    def _item(
        self,
        now: float,
        *,
        need: int = 0,
        least: int = 1,
        have: int = 0,
        give_back: int = 0,
        wants: bool = True,
        ahead: bool = False,
    ) -> LeaseItem:
        demand = self._demand(now) if wants else 0.0
        ample_s, scarce_s = self._horizons()
        owed = 0
        if not ahead:
            self.available -= give_back
            owed = max(0, self._owed - give_back) if self.window < 0 else self._owed
            give_back += self._voided
            self._owed = self._voided = 0
        return LeaseItem(
            kind=RATE,
            scope=self.ref.scope,
            dimension=self.ref.dimension.value,
            limit=Decimal(self.limit),
            least=Decimal(least),
            need=Decimal(need),
            ample=Decimal(math.ceil(demand * ample_s)),
            scarce=Decimal(math.ceil(demand * scarce_s)),
            have=Decimal(have),
            give_back=Decimal(give_back),
            owed=Decimal(owed),
            window_id=self.window,
            length_ms=int(self._settings.window_s * 1000),
            ahead=ahead,
        )

    def _open_following(self, now: float) -> bool:
        following = self._following
        if following is None or now < following.start:
            return False
        self._following = None
        if now >= following.until:
            return False
        self._enter(following.window, following.until)
        self.available = following.amount
        self._remaining = self.limit - following.amount
        self._watch(now, following.amount)
        return True

    def _lapse(self) -> None:
        """The window has closed: what was left of it is void."""
        self.available = 0
        self._voided = 0
        self._retry_at = 0.0
        self._low = _NEVER
        self._more = False
        self._ahead_at = math.inf

    def _enter(self, window: int, until: float) -> None:
        if window == self.window:
            self._until = max(self._until, until)
            return
        self._lapse()
        self._admitted = 0
        self.window = window
        self._until = until
        following = self._following
        if following is not None and following.window <= window:
            self._following = None
            if following.window == window:
                self.available = following.amount
