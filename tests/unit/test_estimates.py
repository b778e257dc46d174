"""What is reserved for a request, and what is learnt from calls."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Rates
from shared.limits.estimates import LEAST_COST, Demand, Estimates
from shared.limits.settings import LimitSettings

RATES = Rates(
    input=Decimal("0.001"),
    output=Decimal("0.002"),
    cache_read=Decimal("0.0001"),
    cache_write=Decimal("0.00125"),
    reasoning=Decimal("0.003"),
)
DEFAULT = LimitSettings()
STRICT = LimitSettings(strict=True)


def test_a_first_call_is_its_input_and_a_guess() -> None:
    """Nothing learnt: the input and the client's cap, or 1,024."""
    estimates = Estimates(DEFAULT)
    assert estimates.load("key:k", Demand(100, None, "m", None)).tokens == 1124
    assert estimates.load("key:k", Demand(100, 50, "m", None)).tokens == 150
    assert estimates.load("key:k", Demand(0, 0, "m", None)).tokens == 1


def test_replies_are_learnt_per_owner_and_model() -> None:
    """What calls used replaces the guess, for that owner and model alone, never above the cap."""
    estimates = Estimates(DEFAULT)
    estimates.observe(estimates.load("key:k", Demand(100, None, "m", None)), 160)
    assert estimates.load("key:k", Demand(200, None, "m", None)).tokens == 260
    assert estimates.load("key:k", Demand(200, 20, "m", None)).tokens == 220
    assert estimates.load("key:k", Demand(200, None, "other", None)).tokens == 1224
    assert estimates.load("key:else", Demand(200, None, "m", None)).tokens == 1224


def test_the_estimate_is_a_fading_maximum() -> None:
    """One large reply raises it at once, small ones lower it slowly."""
    estimates = Estimates(DEFAULT)
    demand = Demand(0, None, "m", None)
    for tokens, expected in ((10, 10), (1000, 1000), (0, 900), (900, 900)):
        estimates.observe(estimates.load("k", demand), tokens)
        assert estimates.load("k", demand).tokens == expected
    for _ in range(100):
        estimates.observe(estimates.load("k", demand), 10)
    assert estimates.load("k", demand).tokens < 20


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_the_estimate_stays_within_what_was_seen(totals: list[int]) -> None:
    """It never exceeds the largest reply nor falls below the last one."""
    estimates = Estimates(DEFAULT)
    demand = Demand(0, None, "m", None)
    for total in totals:
        estimates.observe(estimates.load("k", demand), total)
        tokens = estimates.load("k", demand).tokens
        assert tokens <= max(1, *totals)
        assert tokens >= min(total, max(totals))


def test_cost_follows_the_estimate() -> None:
    """Money is reserved at the plain rates for the estimated tokens."""
    estimates = Estimates(DEFAULT)
    assert estimates.load("k", Demand(100, 50, "m", RATES)).cost == Decimal("0.2")


def test_free_models_cost_nothing_and_priced_ones_something() -> None:
    """No price or zeros reserve nothing; a priced call at least the smallest amount stored."""
    estimates = Estimates(DEFAULT)
    assert estimates.load("k", Demand(9, 9, "m", None)).cost == 0
    assert estimates.load("k", Demand(9, 9, "m", Rates(Decimal(0), Decimal(0)))).cost == 0
    assert estimates.load("k", Demand(0, 0, "m", RATES)).cost == LEAST_COST


def test_strict_reserves_the_most_a_call_can_use() -> None:
    """The bound of the input, the cap of the client or the model, at the dearest rates."""
    estimates = Estimates(STRICT)
    demand = Demand(100, 50, "m", RATES, output_cap=500, input_bound=400)
    load = estimates.load("k", demand)
    assert load.tokens == 450
    assert load.cost == 400 * Decimal("0.00125") + 50 * Decimal("0.003")
    estimates.observe(load, 110)
    assert estimates.load("k", demand).tokens == 450
    assert estimates.load("k", Demand(100, None, "m", None, output_cap=500)).tokens == 600
    assert estimates.load("k", Demand(100, None, "m", None)).tokens == 100 + STRICT.output_cap
