"""Discounts and margins on providers' prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from shared.config.gateway_config import GatewayConfig, LitellmSettings, Margin
from shared.config.reports import Report
from shared.domain.usage import Rates, Tier, Usage
from shared.limits.estimates import Demand, Estimates
from shared.limits.settings import LimitSettings
from shared.providers.prices.cost import cost
from shared.providers.prices.entry import PriceEntry
from shared.routing.adjustments import Adjustments

RATES = Rates(
    Decimal("0.000003"),
    Decimal("0.000007"),
    cache_read=Decimal("0.000001"),
    tiers=(Tier(100, Rates(Decimal("0.000005"), Decimal("0.00001"))),),
)
SMALL = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
LARGE = Usage(prompt_tokens=200, completion_tokens=5)


def adjustments(
    discounts: dict[str, Any] | None = None, margins: dict[str, Any] | None = None
) -> Adjustments:
    return Adjustments(
        {name: Decimal(str(value)) for name, value in (discounts or {}).items()}, margins or {}
    )


def charged(given: Adjustments, provider: str, usage: Usage) -> Decimal:
    rates = given.applied(provider, RATES)
    assert rates is not None
    return cost(PriceEntry(rates, "table"), usage)


def test_nothing_to_adjust() -> None:
    """Rates of a provider that nothing is said of stay the same object; none stay none."""
    given = adjustments({"groq": 0.5}, {"groq": Margin(Decimal(1))})
    assert given.applied("openai", RATES) is RATES
    assert given.applied("groq", None) is None


@pytest.mark.parametrize(("usage", "plain"), [(SMALL, "0.000057"), (LARGE, "0.00105")])
def test_discount_then_margin(usage: Usage, plain: str) -> None:
    """Every class and tier: the discount comes off, then the margin goes on, then the fixed
    amount."""
    amount = Decimal(plain)
    assert charged(adjustments(), "openai", usage) == amount
    off = adjustments({"openai": "0.25"})
    assert charged(off, "openai", usage) == amount * Decimal("0.75")
    both = adjustments({"openai": "0.25"}, {"openai": Margin(Decimal("0.1"), Decimal("0.002"))})
    wanted = amount * Decimal("0.825") + Decimal("0.002")
    assert charged(both, "openai", usage) == wanted.quantize(Decimal("1e-10"))


def test_the_global_margin_is_for_the_others() -> None:
    """A provider's own margin stands in the place of the global one."""
    given = adjustments(margins={"global": Margin(Decimal(1)), "groq": Margin()})
    assert charged(given, "openai", SMALL) == 2 * charged(adjustments(), "openai", SMALL)
    assert charged(given, "groq", SMALL) == charged(adjustments(), "groq", SMALL)


def test_what_costs_nothing_stays_free() -> None:
    """A fixed amount is for calls that cost something; a whole discount makes them free."""
    given = adjustments({"openai": 1}, {"openai": Margin(fixed_amount=Decimal(1))})
    rates = given.applied("openai", RATES)
    assert rates is not None
    assert rates.free
    assert charged(given, "openai", SMALL) == 0
    fixed = adjustments(margins={"openai": Margin(fixed_amount=Decimal(1))})
    assert charged(fixed, "openai", Usage()) == 0


@pytest.mark.parametrize("strict", [True, False])
def test_estimates_include_the_fixed_amount(strict: bool) -> None:
    """What is reserved for a call has the fixed amount in it."""
    given = adjustments(margins={"openai": Margin(fixed_amount=Decimal(1))})
    loads = [
        Estimates(LimitSettings(strict=strict)).load(
            "k", Demand(input_tokens=1, input_bound=4, max_output_tokens=2, model="m", rates=rates)
        )
        for rates in (RATES, given.applied("openai", RATES))
    ]
    assert loads[1].cost - loads[0].cost == 1


def test_names_of_providers() -> None:
    """Aliases mean their provider; one that there is not is a problem with a suggestion."""
    config = GatewayConfig(
        litellm=LitellmSettings(
            cost_discount_config={"openai": Decimal(0), "opnai": Decimal(0), "global": Decimal(0)},
            cost_margin_config={"global": Margin(), "anthropic": Margin()},
        )
    )
    report = Report()
    found = Adjustments.of(config, report)
    assert set(found.margins) == {"global", "anthropic"}
    assert len(report.problems) == 2
    assert "litellm_settings.cost_discount_config.opnai" in report.problems[0]
    assert "did you mean `openai`?" in report.problems[0]
