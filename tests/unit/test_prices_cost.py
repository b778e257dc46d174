"""The cost of a call: hand-computed figures of well-known models, and the rules between them."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Rates, Tier, Usage
from shared.providers.prices.cost import cost
from shared.providers.prices.entry import PriceEntry
from shared.providers.prices.table import PriceTable

QUANTUM = Decimal("1e-10")


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return PriceTable.load(date(2026, 11, 23))


@pytest.mark.parametrize(
    ("provider", "model", "usage", "usd"),
    [
        # 800 × 2.50 + 200 × 1.25 + 500 × 10, in USD per million
        ("openai", "gpt-4o", Usage(1000, 500, cached_tokens=200), "0.00725"),
        ("openai", "gpt-4o-2024-08-06", Usage(1, 0), "0.0000025"),
        # 1000 × 0.15 + 1000 × 0.60
        ("openai", "gpt-4o-mini", Usage(1000, 1000), "0.00075"),
        # 1000 × 15 + 2000 × 60: reasoning is priced as output
        ("openai", "o1", Usage(1000, 2000, reasoning_tokens=1500), "0.135"),
        # 200 × 0.50 + 100 × 1.50
        ("openai", "gpt-3.5-turbo-0125", Usage(200, 100), "0.00025"),
        # 1000 × 0.02
        ("openai", "text-embedding-3-small", Usage(1000, 0), "0.00002"),
        # 100 × 2.50 + 50 × 32 + 10 × 10 + 40 × 64
        (
            "openai",
            "gpt-audio",
            Usage(150, 50, audio_prompt_tokens=50, audio_completion_tokens=40),
            "0.00451",
        ),
        # 2000 × 3 + 6000 × 0.30 + 2000 × 3.75 + 1000 × 15
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            Usage(10_000, 1000, cached_tokens=6000, cache_write_tokens=2000),
            "0.0303",
        ),
        # the same with 500 of the writes kept for an hour: 1500 × 3.75 + 500 × 6
        (
            "anthropic",
            "claude-sonnet-4-5",
            Usage(
                10_000,
                1000,
                cached_tokens=6000,
                cache_write_tokens=2000,
                cache_write_1h_tokens=500,
            ),
            "0.031425",
        ),
        # at the threshold the lower rates: 200000 × 3 + 1000 × 15
        ("anthropic", "claude-sonnet-4-5", Usage(200_000, 1000), "0.615"),
        # one token over it the whole call by the higher ones: 200001 × 6 + 1000 × 22.50
        ("anthropic", "claude-sonnet-4-5", Usage(200_001, 1000), "1.222506"),
        # 100 × 0.25 + 900 × 0.30 (write) + 10 × 1.25
        ("anthropic", "claude-3-haiku-20240307", Usage(1000, 10, 0, 900), "0.0003075"),
        # 200001 × 2.50 + 100 × 15
        ("gemini", "gemini-2.5-pro", Usage(200_001, 100), "0.5015025"),
        # 900 × 0.30 + 100 × 1 (audio) + 10 × 2.50
        ("vertex_ai", "gemini-2.5-flash", Usage(1000, 10, audio_prompt_tokens=100), "0.000395"),
        # 1000 × 2 + 1000 × 6
        ("mistral", "mistral-large-latest", Usage(1000, 1000), "0.008"),
        # the dearer hours of the day: 900 × 0.27 + 100 × 0.07 + 100 × 1.10
        ("deepseek", "deepseek-chat", Usage(1000, 100, cached_tokens=100), "0.00036"),
        # 1000 × 0.59 + 1000 × 0.79
        ("groq", "llama-3.3-70b-versatile", Usage(1000, 1000), "0.00138"),
        # 1000 × 2.50 + 100 × 10
        ("cohere", "command-r-plus", Usage(1000, 100), "0.0035"),
        # 100 × 2 + 100 × 8 + 900 × 3 (reasoning)
        ("perplexity", "sonar-deep-research", Usage(100, 1000, reasoning_tokens=900), "0.0037"),
    ],
)
def test_golden(table: PriceTable, provider: str, model: str, usage: Usage, usd: str) -> None:
    """Costs of known models are the hand-computed ones, to the last digit."""
    entry = table.rates(provider, model)
    assert entry is not None
    assert cost(entry, usage) == Decimal(usd)


def test_classes_fall_back_to_the_plain_rates() -> None:
    """Without rates of their own, cached and written tokens cost as input, the rest as output."""
    entry = PriceEntry(Rates(Decimal("0.001"), Decimal("0.002")), "file")
    usage = Usage(10, 10, 3, 3, 4, audio_prompt_tokens=2, audio_completion_tokens=2)
    assert cost(entry, usage) == Decimal("0.03")


def test_one_hour_writes_fall_back_to_the_write_rate() -> None:
    """A price with only one write rate charges it for both lifetimes."""
    rates = Rates(Decimal(1), Decimal(1), cache_write=Decimal(2))
    usage = Usage(10, 0, cache_write_tokens=10, cache_write_1h_tokens=4)
    assert cost(PriceEntry(rates, "file"), usage) == 20


def test_highest_tier_passed_counts() -> None:
    """With several thresholds the highest one that the prompt exceeds prices the call."""
    plain = [Rates(Decimal(price), Decimal(0)) for price in (1, 2, 3)]
    rates = Rates(Decimal(1), Decimal(0), tiers=(Tier(100, plain[1]), Tier(200, plain[2])))
    entry = PriceEntry(rates, "file")
    costs = [cost(entry, Usage(prompt)) for prompt in (100, 101, 200, 201)]
    assert costs == [100, 202, 400, 603]


@pytest.mark.parametrize(
    ("rate", "usd"),
    [
        ("0.00000000005", "0"),
        ("0.00000000015", "2e-10"),
        ("0.000000000050000001", "1e-10"),
        ("0.00000000025", "2e-10"),
    ],
)
def test_rounding_is_half_to_even(rate: str, usd: str) -> None:
    """A half of the last digit goes to the even neighbour, more than a half up."""
    entry = PriceEntry(Rates(Decimal(rate), Decimal(0)), "file")
    assert cost(entry, Usage(1)) == Decimal(usd)


def test_result_has_ten_digits() -> None:
    """Costs always carry ten digits, as the ledger stores them, whatever the decimal context."""
    entry = PriceEntry(Rates(Decimal("2.5e-6"), Decimal("1e-5")), "table")
    with localcontext(prec=28):
        assert str(cost(entry, Usage(1000, 500))) == "0.0075000000"


RATE = st.decimals(min_value=0, max_value=1, allow_nan=False, places=14)
COUNT = st.integers(0, 10**8)


@given(
    rates=st.builds(
        Rates,
        RATE,
        RATE,
        st.none() | RATE,
        st.none() | RATE,
        st.none() | RATE,
        st.none() | RATE,
        st.none() | RATE,
        st.none() | RATE,
    ),
    counts=st.tuples(*[COUNT] * 8),
)
def test_agrees_with_plain_decimals(rates: Rates, counts: tuple[int, ...]) -> None:
    """For any rates and consistent counts the integer sum is the formula's in Decimal."""
    plain, cached, written, hour, heard, said, reasoning, answer = counts
    usage = Usage(
        prompt_tokens=plain + cached + written + hour + heard,
        completion_tokens=answer + reasoning + said,
        cached_tokens=cached,
        cache_write_tokens=written + hour,
        reasoning_tokens=reasoning,
        cache_write_1h_tokens=hour,
        audio_prompt_tokens=heard,
        audio_completion_tokens=said,
    )
    write = rates.input if rates.cache_write is None else rates.cache_write
    with localcontext(prec=60):
        expected = (
            plain * rates.input
            + cached * (rates.input if rates.cache_read is None else rates.cache_read)
            + written * write
            + hour * (write if rates.cache_write_1h is None else rates.cache_write_1h)
            + heard * (rates.input if rates.audio_input is None else rates.audio_input)
            + answer * rates.output
            + reasoning * (rates.output if rates.reasoning is None else rates.reasoning)
            + said * (rates.output if rates.audio_output is None else rates.audio_output)
        ).quantize(QUANTUM, ROUND_HALF_EVEN)
    assert cost(PriceEntry(rates, "file"), usage) == expected


@given(st.tuples(*[st.integers(0, 1000)] * 8))
def test_never_negative(counts: tuple[int, ...]) -> None:
    """Parts larger than their whole never make a cost negative."""
    prompt, completion, cached, written, reasoning, hour, heard, said = counts
    usage = Usage(
        prompt,
        completion,
        cached,
        written,
        reasoning,
        cache_write_1h_tokens=min(hour, written),
        audio_prompt_tokens=heard,
        audio_completion_tokens=said,
    )
    assert cost(PriceEntry(Rates(Decimal(1), Decimal(2)), "file"), usage) >= 0


def test_free_looks_at_every_class() -> None:
    """A model is free only if no class and no tier costs anything."""
    zero = Decimal(0)
    free = Rates(zero, zero, cache_read=zero)
    assert free.free
    assert not Rates(zero, zero, audio_output=Decimal(1)).free
    assert not Rates(zero, zero, tiers=(Tier(10, Rates(Decimal(1), zero)),)).free
    assert Rates(zero, zero, tiers=(Tier(10, free),)).free
