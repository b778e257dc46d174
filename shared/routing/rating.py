"""What the gateway charges for the models of an entry."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from shared.config.gateway_config import ModelEntry
from shared.domain.usage import Rates
from shared.providers.prices.entry import PriceEntry
from shared.providers.prices.overrides import PriceKeys
from shared.providers.registry import Target, find_target
from shared.routing.adjustments import NO_ADJUSTMENTS, Adjustments

PriceOf = Callable[[str, str], Rates | None]
"""The price table: provider and upstream model to rates."""

ANY = "*"


@frozen
class Rating:
    """The price table, and what the operator makes of its prices."""

    price_of: PriceOf
    adjustments: Adjustments = NO_ADJUSTMENTS

    def of(self, entry: ModelEntry, target: Target) -> Rates | None:
        """The entry's own rates over those of the table, for `base_model` where that is set,
        adjusted."""
        return self.adjustments.applied(target.provider, self._listed(entry, target))

    def _listed(self, entry: ModelEntry, target: Target) -> Rates | None:
        provider, model = target.provider, target.model
        if entry.info.base_model is not None:
            base = find_target(entry.info.base_model)
            model = base.model if base else entry.info.base_model
            provider = base.provider if base and "/" in entry.info.base_model else provider
        known = None if ANY in model else self.price_of(provider, model)
        prices = {**entry.info.prices, **entry.params.prices}
        if not prices:
            return known
        own = PriceKeys.pick(prices, entry.path)
        priced = own.over(PriceEntry(known, "table") if known else None, "deployment")
        return priced.rates if priced else None
