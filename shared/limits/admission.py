"""All limits of one caller together: take from each of them, or from none."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol, runtime_checkable

from shared.db.leases import LeaseGrant, LeaseItem
from shared.domain.errors import GatewayError
from shared.domain.ledger import BudgetCharge
from shared.domain.limits import ScopeRef
from shared.limits.blocks import Take
from shared.limits.estimates import Load
from shared.limits.purses import Purse


class Block(Protocol):
    """What this process has of one scope and dimension."""

    ref: ScopeRef

    def fits(self, load: Load, now: float) -> bool: ...
    def closed(self, load: Load, now: float) -> bool: ...
    def take(self, load: Load, now: float) -> Take: ...
    def alone(self, load: Load, now: float) -> GatewayError | None: ...
    def take_alone(self, load: Load, now: float) -> Take: ...
    def refusal(self, load: Load, now: float) -> GatewayError: ...
    def want(self, load: Load) -> None: ...
    def items(self, now: float) -> list[LeaseItem]: ...
    def apply(self, item: LeaseItem, grant: LeaseGrant, sent: float, received: float) -> None: ...
    def lost(self, item: LeaseItem) -> None: ...
    def sweep(self, now: float) -> None: ...
    def restrict(self, ref: ScopeRef) -> None: ...
    def restate(self) -> None: ...
    def unused(self, now: float) -> bool: ...


@runtime_checkable
class Shown(Protocol):
    """A block whose figures clients see; budgets have none."""

    def remaining(self, now: float) -> int: ...


class ScopeSet:
    """The blocks of one caller, in the order of its scopes, and when they were last used."""

    __slots__ = ("blocks", "owner", "scopes", "shown", "used_at")

    def __init__(
        self, scopes: tuple[ScopeRef, ...], blocks: tuple[Block, ...], used_at: float
    ) -> None:
        self.scopes = scopes
        self.blocks = blocks
        # Header lines up to the remaining figure; budgets are not shown, and of several owners of
        # one level (tags) the first.
        shown: dict[str, tuple[str, Shown]] = {}
        for block in blocks:
            if isinstance(block, Shown):
                shown.setdefault(_stem(block.ref), (_lines(block.ref), block))
        self.shown = tuple(shown.values())
        self.owner = scopes[0].scope if scopes else ""
        self.used_at = used_at

    def admit(self, load: Load, now: float) -> Reservation | None:
        """A reservation, `None` when a block has to be renewed first; raises when one is known to
        be exhausted, the first in level order."""
        missing = False
        for block in self.blocks:
            if not block.fits(load, now):
                if block.closed(load, now):
                    raise block.refusal(load, now)
                missing = True
        if missing:
            return None
        return Reservation(self, load, [block.take(load, now) for block in self.blocks], now)

    def admit_alone(self, load: Load, now: float) -> Reservation:
        """Decide without the database."""
        for block in self.blocks:
            refusal = block.alone(load, now)
            if refusal is not None:
                raise refusal
        return Reservation(self, load, [block.take_alone(load, now) for block in self.blocks], now)

    def refusal(self, load: Load, now: float) -> GatewayError | None:
        """Why the load does not go through, `None` when it would."""
        for block in self.blocks:
            if not block.fits(load, now):
                return block.refusal(load, now)
        return None


def _stem(ref: ScopeRef) -> str:
    return f"{ref.level.value}-{ref.dimension.value}"


def _lines(ref: ScopeRef) -> str:
    stem, name = f"x-ratelimit-{ref.level.value}", ref.dimension.value
    return f"{stem}-limit-{name}: {int(ref.limit)}\r\n{stem}-remaining-{name}: "


class Reservation:
    """What one call holds until it is settled or released, exactly once."""

    __slots__ = ("_at", "_set", "load", "takes")

    def __init__(self, scopes: ScopeSet, load: Load, takes: list[Take], at: float) -> None:
        self.load = load
        # None once it is settled or released.
        self.takes: list[Take] | None = takes
        self._set = scopes
        self._at = at

    @property
    def estimate(self) -> Decimal:
        """USD that the call will probably cost; also where no budget limits it."""
        return self.load.cost

    @property
    def charges(self) -> tuple[BudgetCharge, ...]:
        """The budget windows that the call belongs to. To be read before it is settled."""
        return tuple(purse.charge for _, purse, _ in self.takes or () if isinstance(purse, Purse))

    def head(self) -> str:
        """Limit and remaining per level and dimension (management contract §8.1), as header lines
        each ended by CRLF."""
        at = self._at
        head = ""
        for lines, block in self._set.shown:
            head += f"{lines}{block.remaining(at)}\r\n"
        return head
