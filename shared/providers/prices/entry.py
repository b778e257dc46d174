"""A price ready for use: its rates, and the same as integers for the hot path."""

from __future__ import annotations

from decimal import Decimal

from attrs import Factory, field, frozen

from shared.domain.usage import Rates

COST_DIGITS = 10
"""Costs are whole multiples of 1e-10 USD, which is what the ledger stores."""

Level = tuple[int, int, int, int, int, int, int, int]
"""Rates in the order input, output, cache read, cache write, cache write for an hour, reasoning,
audio in, audio out; every class filled in."""


@frozen
class Scale:
    """Rates as integers of one power of ten, so that a cost is exact until it is rounded once.

    `divisor` takes a sum of products to units of 1e-10 USD. `steps` are the tiers, highest
    threshold first. `fixed` units are put on every cost above zero.
    """

    divisor: int
    base: Level
    steps: tuple[tuple[int, Level], ...]
    fixed: int = 0

    @classmethod
    def of(cls, rates: Rates) -> Scale:
        """The scale on which every rate, tiers included, is a whole number."""
        levels = [_filled(rates)] + [_filled(tier.rates) for tier in rates.tiers]
        digits = max([COST_DIGITS, *(_places(rate) for level in levels for rate in level)])
        base, *steps = (_whole(level, digits) for level in levels)
        above = [tier.above for tier in rates.tiers]
        ordered = sorted(zip(above, steps, strict=True), reverse=True)
        return cls(
            divisor=10 ** (digits - COST_DIGITS),
            base=base,
            steps=tuple(ordered),
            fixed=int(rates.per_request.scaleb(COST_DIGITS)),
        )


@frozen
class PriceEntry:
    """What a model costs and where that is from: `table`, `file` or `deployment`.

    Token limits are of the source and may be missing; `context_window` counts input.
    """

    rates: Rates
    source: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    scale: Scale = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: Scale.of(self.rates), takes_self=True),
    )


def _filled(rates: Rates) -> tuple[Decimal, ...]:
    """Every class with a rate, by the fallbacks of LLM contract §7.2."""
    cache_write = rates.input if rates.cache_write is None else rates.cache_write
    return (
        rates.input,
        rates.output,
        rates.input if rates.cache_read is None else rates.cache_read,
        cache_write,
        cache_write if rates.cache_write_1h is None else rates.cache_write_1h,
        rates.output if rates.reasoning is None else rates.reasoning,
        rates.input if rates.audio_input is None else rates.audio_input,
        rates.output if rates.audio_output is None else rates.audio_output,
    )


def _places(rate: Decimal) -> int:
    """Digits after the point."""
    exponent = rate.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _whole(level: tuple[Decimal, ...], digits: int) -> Level:
    a, b, c, d, e, f, g, h = (int(rate.scaleb(digits)) for rate in level)
    return a, b, c, d, e, f, g, h
