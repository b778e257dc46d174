"""Finds the price of a model: the operator's file first, then the packaged table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date

from shared.domain.usage import Rates
from shared.providers.prices.entry import PriceEntry
from shared.providers.prices.model_names import LONGEST_NAME, spellings
from shared.providers.prices.overrides import PriceKeys, PriceOverrides
from shared.providers.prices.records import (
    ModelRecord,
    PriceFile,
    ProviderRecord,
    Rule,
    Source,
    rates_on,
    read_packaged,
)

_CACHED = 4096


class PriceTable:
    """Prices by provider and upstream model, remembered up to a bound. Not for several threads.

    The order of search: the override file by `provider/model` and by `model`; the provider's own
    list by id, then by match rules; the providers whose models it sells as well. Each is tried
    with the spellings of `model_names`.
    """

    __slots__ = ("_cache", "_day", "_overrides", "_sellers", "source")

    def __init__(self, file: PriceFile, overrides: PriceOverrides, day: date) -> None:
        sellers = [_Seller(record) for record in file.providers]
        self._sellers = {name: seller for seller in sellers for name in seller.names}
        self._overrides = overrides
        self._day = day.isoformat()
        self._cache: dict[tuple[str, str], PriceEntry | None] = {}
        self.source: Source = file.source

    @classmethod
    def load(cls, day: date, overrides: PriceOverrides | None = None) -> PriceTable:
        """The packaged table as it stands on a day."""
        return cls(read_packaged(), overrides or PriceOverrides(), day)

    def turn(self, day: date) -> None:
        """Go over to another day, on which announced prices may come into force."""
        if day.isoformat() != self._day:
            self._day = day.isoformat()
            self._cache.clear()

    def rates(self, provider: str, model: str) -> PriceEntry | None:
        """The price of an upstream model, `None` if nobody knows it."""
        key = (provider, model)
        try:
            return self._cache[key]
        except KeyError:
            pass
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        entry = self._cache[key] = self._search(provider, model)
        return entry

    def deployment_rates(
        self, provider: str, model: str, keys: Mapping[str, object], where: str
    ) -> PriceEntry | None:
        """The price with a deployment's own price keys in front; others of its keys are skipped.

        `where` is the dotted path of the mapping; raises `ConfigError` for a value that is no
        price.
        """
        known = self.rates(provider, model)
        own = PriceKeys.pick(keys, where)
        return known if own.empty else own.over(known, source="deployment")

    def _search(self, provider: str, model: str) -> PriceEntry | None:
        if not model or len(model) > LONGEST_NAME:
            return None
        listed = self._listed(provider, model)
        own = self._overrides.of(provider, model)
        return listed if own is None else own.over(listed, source="file")

    def _listed(self, provider: str, model: str) -> PriceEntry | None:
        for seller, name in self._offers(provider, model):
            record = seller.find(name)
            if record is not None:
                return PriceEntry(self._on_day(record), "table", context_window=record.context)
        return None

    def _offers(self, provider: str, model: str) -> Iterator[tuple[_Seller, str]]:
        """Who to ask for which name: a host behind a router is its first path segment."""
        host, _, rest = model.partition("/")
        routed = self._sellers.get(f"{provider}/{host.lower()}")
        if routed is not None:
            yield from ((routed, name) for name in spellings(provider, rest))
        seller = self._sellers.get(provider)
        if seller is None:
            return
        names = tuple(spellings(provider, model))
        yield from ((seller, name) for name in names)
        for other in seller.fallback:
            yield from ((self._sellers[other], name) for name in names)

    def _on_day(self, record: ModelRecord) -> Rates:
        return rates_on(record, self._day)


class _Seller:
    """A provider's list, decoded and indexed when first asked."""

    __slots__ = ("_ids", "_models", "_names", "_patterns", "_record", "fallback", "names")

    def __init__(self, record: ProviderRecord) -> None:
        self.names = tuple(record.names)
        self.fallback = tuple(record.fallback)
        self._record = record
        self._models: list[ModelRecord] = []
        self._ids: dict[str, ModelRecord] = {}
        # Rules by the place of their model: the first model of which a rule holds is the one.
        self._names: dict[str, int] = {}
        self._patterns: list[tuple[int, Rule]] = []

    def find(self, name: str) -> ModelRecord | None:
        """The model of that id, else the first one of whose rules one holds."""
        if not self._models:
            self._index()
        exact = self._ids.get(name)
        if exact is not None:
            return exact
        place = self._names.get(name, len(self._models))
        for earlier, rule in self._patterns:
            if earlier >= place:
                break
            if _matches(rule, name):
                place = earlier
        return self._models[place] if place < len(self._models) else None

    def _index(self) -> None:
        self._models = self._record.decoded()
        for place, model in enumerate(self._models):
            self._ids.setdefault(model.id.lower(), model)
            for rule in model.match:
                if isinstance(rule, str) and rule.startswith("="):
                    self._names.setdefault(rule[1:], place)
                else:
                    self._patterns.append((place, rule))


def _matches(rule: Rule, name: str) -> bool:
    if isinstance(rule, str):
        return _holds(rule, name)
    return all(_holds(each, name) for each in rule)


def _holds(rule: str, name: str) -> bool:
    text = rule[1:]
    match rule[0]:
        case "=":
            return name == text
        case "^":
            return name.startswith(text)
        case "$":
            return name.endswith(text)
        case "~":
            return text in name
        case _:
            return re.search(text, name) is not None
