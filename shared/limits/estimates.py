"""What a request will probably use, learnt from what requests like it have used."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from shared.domain.usage import Rates
from shared.limits.settings import LimitSettings

LEAST_COST = Decimal("1e-10")
"""The least amount of money that the ledger stores."""

_ZERO = Decimal(0)
_KEPT = 20_000
_FORGET = 0.1


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What is known of a request before it is sent.

    `input_tokens` may be an estimate; `input_bound` is the most they can be (strict mode; `None`:
    as many). `max_output_tokens` is what the client set, `output_cap` what the model can at most.
    `model` names calls that are alike. `rates` of `None`, or of nothing but zeros, cost nothing.
    """

    input_tokens: int
    max_output_tokens: int | None
    model: str
    rates: Rates | None
    output_cap: int | None = None
    input_bound: int | None = None


class Load:
    """A request as limits see it: `tokens` and `cost` (USD) to be reserved for it."""

    __slots__ = ("cost", "input_tokens", "kind", "tokens")

    def __init__(
        self, tokens: int, cost: Decimal, input_tokens: int, kind: tuple[str, str]
    ) -> None:
        self.tokens = tokens
        self.cost = cost
        self.input_tokens = input_tokens
        self.kind = kind


class Estimates:
    """Replies' tokens per owner and model: a maximum that fades, so on the high side.

    Owner of a bounded map, for one event loop.
    """

    __slots__ = ("_output", "_settings")

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._output: dict[tuple[str, str], float] = {}

    def load(self, owner: str, demand: Demand) -> Load:
        """What to reserve for a request of an owner."""
        kind = (owner, demand.model)
        cap = demand.max_output_tokens
        rates = demand.rates
        if self._settings.strict:
            tokens_in = demand.input_bound or demand.input_tokens
            tokens_out = cap or demand.output_cap or self._settings.output_cap
            cost = _ZERO if rates is None else _highest(rates, tokens_in, tokens_out)
        else:
            tokens_in = demand.input_tokens
            learnt = self._output.get(kind)
            if learnt is None:
                tokens_out = self._settings.first_output if cap is None else cap
            else:
                tokens_out = int(learnt) if cap is None or learnt < cap else cap
            cost = _ZERO
            if rates is not None:
                cost = rates.input * tokens_in + rates.output * tokens_out
        if not cost and rates is not None and not rates.free:
            cost = LEAST_COST
        if cost and rates is not None:
            cost += rates.per_request
        return Load(tokens_in + tokens_out or 1, cost, demand.input_tokens, kind)

    def observe(self, load: Load, tokens: int) -> None:
        """Learn from a call's real total."""
        output = float(max(0, tokens - load.input_tokens))
        known = self._output.get(load.kind)
        if known is None:
            if len(self._output) >= _KEPT:
                del self._output[next(iter(self._output))]
            self._output[load.kind] = output
        elif output > known:
            self._output[load.kind] = output
        else:
            self._output[load.kind] = known - (known - output) * _FORGET


def _highest(rates: Rates, tokens_in: int, tokens_out: int) -> Decimal:
    """The most that so many tokens can cost, whatever classes they turn out to be of."""
    dearest_in = max(rates.input, rates.cache_read or _ZERO, rates.cache_write or _ZERO)
    return dearest_in * tokens_in + max(rates.output, rates.reasoning or _ZERO) * tokens_out
