"""Money that this process has leased of budgets.

A purse is one budget window: `granted` is all that was ever leased for it less what went back,
`available` what of it neither running calls have reserved nor ended ones have spent. The ledger
posts what is spent and takes it off our hold in the database, so spending changes neither here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from shared.db.leases import MONEY, LeaseGrant, LeaseItem
from shared.domain.clock import Clock
from shared.domain.errors import GatewayError, InvalidRequest
from shared.domain.ledger import BudgetCharge
from shared.domain.limits import Comparator, ScopeRef
from shared.limits.blocks import Take
from shared.limits.estimates import LEAST_COST, Load
from shared.limits.meter import Meter
from shared.limits.outage import Fleet
from shared.limits.refusals import budget_refusal, budget_unavailable
from shared.limits.settings import LimitSettings, OutageBudgets
from shared.limits.windows import Duration, Window, parse_budget_duration, window

_ZERO = Decimal(0)
_LEAST = Decimal("1e-12")
_AMPLE_S, _SCARCE_S = 10, 1
_LEAST_LEAD_S = 0.05


class Purse:
    """One window of one budget. Reservations keep the purse that they were taken from."""

    __slots__ = ("available", "charge", "granted", "number", "outstanding", "partial")

    def __init__(self, scope: str, start_s: int, number: int) -> None:
        # Tells the database that `granted` starts anew; never used twice for a window.
        self.number = number
        self.charge = BudgetCharge(scope, start_s)
        self.available = _ZERO
        self.granted = _ZERO
        self.outstanding = _ZERO
        # The one reservation that was given less than it asked for.
        self.partial: Take | None = None


class MoneyBlock:
    """One budget of one scope.

    Default mode: while something is left a request may start, with less than its estimate if need
    be, but only one such at a time; so a process overshoots by one request at most. Strict mode:
    only what is covered starts.
    """

    __slots__ = (
        "_asked_least",
        "_asked_need",
        "_clock",
        "_duration",
        "_ends_s",
        "_low",
        "_meter",
        "_more",
        "_purses",
        "_refused",
        "_remaining",
        "_reserved",
        "_retry_at",
        "_returning",
        "_settings",
        "_spent",
        "_unsure",
        "_wake",
        "limit",
        "purse",
        "ref",
    )

    def __init__(
        self,
        ref: ScopeRef,
        settings: LimitSettings,
        clock: Clock,
        _fleet: Fleet,
        wake: Callable[[Any], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._asked_need = _ZERO
        self._asked_least = _ZERO
        self._retry_at = 0.0
        # Until then, requests that cost at least this much are refused.
        self._refused = _ZERO
        self._returning = self._more = self._unsure = False
        self._low: Decimal | None = None
        self._meter = Meter(_ZERO, clock.mono())
        self._spent = self._reserved = _ZERO
        self._purses: dict[int, Purse] = {}
        self._set(ref)
        self._remaining = self.limit
        self._duration = _duration(ref)
        self._open()

    # -- the hot path

    def fits(self, load: Load, _now: float) -> bool:
        """Whether the load can be taken at once."""
        self._roll()
        if not load.cost:
            return True
        available = self.purse.available
        if available >= load.cost:
            return True
        return (
            self._retry_at > 0
            and available > 0
            and self.purse.partial is None
            and not self._settings.strict
        )

    def closed(self, load: Load, now: float) -> bool:
        """Whether the load is refused without an ask."""
        if now < self._retry_at and load.cost >= self._refused:
            self._meter.count += load.cost
            return True
        return self._settings.strict and load.cost > self.ref.limit

    def take(self, load: Load, _now: float) -> Take:
        """Reserve what the load may cost, or what is there."""
        purse = self.purse
        cost = load.cost
        if not cost:
            return (self, purse, _ZERO)
        reserved = cost if purse.available >= cost else max(_ZERO, purse.available)
        take = (self, purse, reserved)
        if reserved < cost:
            purse.partial = take
        purse.available -= reserved
        purse.outstanding += reserved
        self._meter.count += cost
        if self._low is not None and purse.available < self._low:
            self._low = None
            self._more = True
            self._wake(self)
        return take

    def settle(self, take: Take, _tokens: int, cost: Decimal) -> None:
        """The call has cost this much; the difference changes what is at hand, if need be to below
        zero, which the next ask covers."""
        if cost:
            # As the ledger stores it, or hold and purse would drift apart.
            cost = cost.quantize(LEAST_COST, ROUND_HALF_UP)
        self._free(take, take[2] - cost)

    def release(self, take: Take) -> None:
        """The call was not made."""
        self._free(take, take[2])

    # -- refusals and figures

    def refusal(self, load: Load, _now: float) -> GatewayError:
        """Why the load is refused."""
        resets = None
        if self._ends_s != math.inf:
            resets = datetime.fromtimestamp(self._ends_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = self._settings.budget_status()
        return budget_refusal(self.ref, self._spent, self._reserved, load.cost, status, resets)

    # -- without the database

    def alone(self, load: Load, now: float) -> GatewayError | None:
        """Decide by the lease in hand and the policy; a refusal or nothing."""
        policy = self._settings.outage_budgets
        if not load.cost or policy is OutageBudgets.SERVE:
            return None
        if policy is OutageBudgets.REFUSE:
            return budget_unavailable(self.ref)
        if self.fits(load, now):
            return None
        purse = self.purse
        if purse.available > 0 and purse.partial is None and not self._settings.strict:
            return None
        return budget_unavailable(self.ref)

    def take_alone(self, load: Load, now: float) -> Take:
        """Use what `alone` allows; what was not leased becomes a debt when the call has ended."""
        return self.take(load, now)

    # -- renewal

    def want(self, load: Load) -> None:
        """Count a waiting request into the next item."""
        if load.cost:
            self._asked_need += load.cost
            least = load.cost if self._settings.strict else _LEAST
            self._asked_least = min(self._asked_least or least, least)

    def items(self, now: float) -> list[LeaseItem]:
        """What to ask for now: for those who wait, for demand to come, or the return."""
        self._roll()
        need, least = self._asked_need, self._asked_least
        self._asked_need = self._asked_least = _ZERO
        purse = self.purse
        items: list[LeaseItem] = []
        if need and need > purse.available:
            if self._retry_at:
                self._retry_at = now + self._settings.reask_s
            # A debt is covered first.
            debt = max(_ZERO, -purse.available)
            items.append(self._item(now, need=need + debt, least=least + debt, give_back=True))
        elif self._returning or self._unsure:
            items.append(self._item(now, give_back=self._returning, wants=False))
        elif self._more:
            items.append(self._item(now, have=max(_ZERO, purse.available)))
        self._returning = self._more = self._unsure = False
        return items

    def apply(self, item: LeaseItem, grant: LeaseGrant, sent: float, received: float) -> None:
        """Take in an answer."""
        purse = self._purses.get(item.window_id)
        if purse is None:
            return
        purse.available += grant.granted
        purse.granted += grant.granted
        if purse is not self.purse:
            return
        self._spent = grant.used
        self._reserved = grant.reserved
        self._remaining = grant.remaining
        if grant.granted < item.need:
            self._retry_at = sent + self._settings.reask_s
            self._refused = _ZERO if grant.granted else item.least
        elif item.need:
            self._retry_at = 0.0
        self._low = None
        if grant.granted:
            lead_s = Decimal(max(3 * (received - sent), _LEAST_LEAD_S))
            lead = max(self._demand(received) * lead_s, purse.available / 8)
            self._low = min(purse.available / 2, lead)

    def lost(self, _item: LeaseItem) -> None:
        """No answer: the next ask states what we know to have, and that settles it."""
        self._unsure = True

    def sweep(self, now: float) -> None:
        """Measure demand; mark for return what nobody has used for a while."""
        self._roll()
        self._meter.roll(now, float(LEAST_COST))
        patience_s = _AMPLE_S if 2 * self._remaining > self.limit else _SCARCE_S
        idle = self._meter.idle_s(now) >= patience_s * self._settings.idle_s
        self._returning = idle and self.purse.available > 0
        if self._returning or self._unsure:
            self._wake(self)

    def restrict(self, ref: ScopeRef) -> None:
        """A new limit: what is at hand goes back at once."""
        self._set(ref)
        self._retry_at = 0.0
        self._remaining = min(self._remaining, self.limit)
        if self.purse.available > 0:
            self.purse.granted -= self.purse.available
            self.purse.available = _ZERO
            self._unsure = True
            self._wake(self)

    def restate(self) -> None:
        """We may be another owner now, of whose money the database knows nothing."""
        if self.purse.granted:
            self._unsure = True
            self._wake(self)

    def unused(self, _now: float) -> bool:
        """Whether nothing would be lost with the block."""
        purse = self.purse
        return purse.available <= 0 and not purse.outstanding and not self._unsure

    def _set(self, ref: ScopeRef) -> None:
        self.ref = ref
        # Spend is stored in steps larger than this, so `> max` is `>= max + least`.
        over = ref.comparator is Comparator.OVER and not self._settings.strict
        self.limit = ref.limit + _LEAST if over else ref.limit

    def _free(self, take: Take, back: Decimal) -> None:
        purse: Purse = take[1]
        purse.available += back
        purse.outstanding -= take[2]
        if purse.partial is take:
            purse.partial = None

    def _roll(self) -> None:
        if self._clock.now() >= self._ends_s:
            self._open()

    def _open(self) -> None:
        """Enter the window of now. What was at hand of the old one is void with it."""
        found = Window(0, 0)
        if self._duration is not None:
            settings = self._settings
            found = window(self._duration, self._clock.now(), settings.zone, settings.reset_time)
        self._ends_s: float = found.end_s or math.inf
        purse = self._purses.get(found.start_s)
        if purse is None:
            purse = Purse(self.ref.scope, found.start_s, int(self._clock.mono() * 1e9))
        self.purse = purse
        # An answer to an ask for the window before may still come.
        self._purses = {start: each for start, each in self._purses.items() if each.outstanding}
        self._purses[found.start_s] = purse
        self._retry_at = 0.0
        self._spent = self._reserved = _ZERO
        self._remaining = self.limit
        self._low = None
        self._more = self._returning = False

    def _demand(self, now: float) -> Decimal:
        return Decimal(self._meter.per_s(now, self._settings.idle_s)).quantize(_LEAST)

    def _item(
        self,
        now: float,
        *,
        need: Decimal = _ZERO,
        least: Decimal = _LEAST,
        have: Decimal = _ZERO,
        give_back: bool = False,
        wants: bool = True,
    ) -> LeaseItem:
        purse = self.purse
        if give_back and purse.available > 0:
            purse.granted -= purse.available
            purse.available = _ZERO
        demand = self._demand(now) if wants else _ZERO
        return LeaseItem(
            kind=MONEY,
            scope=self.ref.scope,
            dimension=self.ref.dimension.value,
            limit=self.limit,
            least=least,
            need=need,
            ample=demand * _AMPLE_S,
            scarce=demand * _SCARCE_S,
            have=have,
            stated=purse.granted,
            outstanding=purse.outstanding + max(_ZERO, purse.available),
            window_id=purse.charge.window_start_s,
            lease=purse.number,
        )


def _duration(ref: ScopeRef) -> Duration | None:
    """The budget's period. One that cannot be read is a day (contract §4.3)."""
    if ref.duration is None:
        return None
    try:
        return parse_budget_duration(ref.duration)
    except InvalidRequest:
        return Duration(1, "d")
