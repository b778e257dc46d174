"""What the operator takes off providers' prices, and then puts on."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeVar

from attrs import evolve, field, fields, frozen

from shared.config.gateway_config import GatewayConfig, Margin
from shared.config.reports import Report
from shared.domain.usage import Rates, Tier
from shared.providers.registry import PROVIDERS, is_known, suggest

_T = TypeVar("_T")

GLOBAL = "global"
_NOTHING = Decimal(0)
_ALL = Decimal(1)
_PLAIN = Margin()
_CLASSES = tuple(each.name for each in fields(Rates) if each.name not in {"tiers", "per_request"})


@frozen
class Adjustments:
    """By provider: the part of a price that is taken off, and the margin. The margin `global` is
    for providers without one of their own."""

    discounts: Mapping[str, Decimal] = field(factory=dict)
    margins: Mapping[str, Margin] = field(factory=dict)

    @classmethod
    def of(cls, config: GatewayConfig, report: Report) -> Adjustments:
        """Those of a configuration; a provider that there is not goes to the report."""
        litellm = config.litellm
        return cls(
            _known(config, "cost_discount_config", litellm.cost_discount_config, report),
            _known(config, "cost_margin_config", litellm.cost_margin_config, report),
        )

    def applied(self, provider: str, rates: Rates | None) -> Rates | None:
        """What the gateway charges where the provider charges these rates."""
        discount = self.discounts.get(provider, _NOTHING)
        margin = self.margins.get(provider) or self.margins.get(GLOBAL) or _PLAIN
        factor = (_ALL - discount) * (_ALL + margin.percentage)
        if rates is None or (factor == _ALL and not margin.fixed_amount):
            return rates
        tiers = tuple(Tier(tier.above, _times(tier.rates, factor)) for tier in rates.tiers)
        return evolve(_times(rates, factor), tiers=tiers, per_request=margin.fixed_amount)


NO_ADJUSTMENTS = Adjustments()


def _known(
    config: GatewayConfig, name: str, given: Mapping[str, _T], report: Report
) -> dict[str, _T]:
    found: dict[str, _T] = {}
    for provider, value in given.items():
        if provider in PROVIDERS:
            found[PROVIDERS[provider].name] = value
        elif is_known(provider) or (provider == GLOBAL and name == "cost_margin_config"):
            found[provider] = value
        else:
            located = config.member("litellm_settings", name)
            hint = suggest(provider)
            text = f"no such provider{f'; did you mean `{hint}`?' if hint else ''}"
            path = f"litellm_settings.{name}.{provider}"
            report.problem(located.source_of(path) if located else config.source, path, text)
    return found


def _times(rates: Rates, factor: Decimal) -> Rates:
    changed = {}
    for name in _CLASSES:
        rate = getattr(rates, name)
        if rate is not None:
            changed[name] = rate * factor
    return evolve(rates, **changed)
