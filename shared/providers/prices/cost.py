"""The cost of one call, in plain integers (LLM contract §7.2).

::

    input  = (prompt − cached − cache write − audio) × input + cached × cache read
             + 5-minute writes × cache write + 1-hour writes × their rate + audio × audio rate
    output = (completion − reasoning − audio) × output + reasoning × reasoning rate
             + audio × audio rate

A prompt over a tier's threshold prices the whole call by that tier. The sum is exact; it is
rounded once, half to even, to 1e-10 USD. What is charged for each call is put on at the end.
"""

from __future__ import annotations

from decimal import Decimal

from shared.domain.usage import Usage
from shared.providers.prices.entry import COST_DIGITS, Level, PriceEntry, Scale


def cost(entry: PriceEntry, usage: Usage) -> Decimal:
    """USD with ten digits after the point; never negative, whatever the counts say."""
    return Decimal(cost_units(entry, usage)).scaleb(-COST_DIGITS)


def cost_units(entry: PriceEntry, usage: Usage) -> int:
    """The same in whole units of 1e-10 USD."""
    scale = entry.scale
    level = scale.base if not scale.steps else _level(scale, usage.prompt_tokens)
    total = _total(level, usage)
    if total <= 0:
        return 0
    divisor = scale.divisor
    units, rest = divmod(total, divisor)
    double = rest + rest
    if double > divisor or (double == divisor and units & 1):
        units += 1
    return units + scale.fixed


def _total(level: Level, usage: Usage) -> int:
    rate_in, rate_out, rate_read, rate_write, rate_hour, rate_reasoning, rate_hear, rate_say = level
    cached = usage.cached_tokens
    written = usage.cache_write_tokens
    hour = usage.cache_write_1h_tokens
    heard = usage.audio_prompt_tokens
    reasoning = usage.reasoning_tokens
    said = usage.audio_completion_tokens
    plain_in = usage.prompt_tokens - cached - written - heard
    plain_out = usage.completion_tokens - reasoning - said
    total = cached * rate_read + reasoning * rate_reasoning
    if plain_in > 0:
        total += plain_in * rate_in
    if plain_out > 0:
        total += plain_out * rate_out
    if written:
        total += (written - hour) * rate_write + hour * rate_hour
    if heard or said:
        total += heard * rate_hear + said * rate_say
    return total


def _level(scale: Scale, prompt_tokens: int) -> Level:
    for above, level in scale.steps:
        if prompt_tokens > above:
            return level
    return scale.base
