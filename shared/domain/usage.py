"""Tokens of a call in disjoint classes, and their price.

`prompt_tokens` includes cached, cache-write and audio tokens, `completion_tokens` includes
reasoning and audio (LLM contract §3.0, "prompt_tokens meaning"), whatever the provider reports.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from attrs import fields, frozen

_OTHERS = frozenset({"tiers", "per_request"})


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one call. `estimated` marks counts of ours where the provider gave none.

    `cache_write_1h_tokens` is the part of `cache_write_tokens` that is kept for an hour.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_1h_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@frozen
class Tier:
    """Rates of a whole request whose prompt is larger than `above` tokens.

    `rates` is complete and has no tiers of its own.
    """

    above: int
    rates: Rates


@frozen
class Rates:
    """USD per token of each class; `None` falls back to the plain class it refines.

    `tiers` are in ascending order of their threshold; the highest one passed prices the whole
    request, not only what lies above it (LLM contract §7.2). `per_request` is USD for each call
    that costs something.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    per_request: Decimal = Decimal(0)

    @property
    def free(self) -> bool:
        """Whether no class costs anything; budgets are not checked for such models."""
        classes = (
            getattr(self, field.name) for field in fields(Rates) if field.name not in _OTHERS
        )
        return not any(classes) and all(tier.rates.free for tier in self.tiers)
