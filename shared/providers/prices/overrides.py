"""Prices of the operator's own, under the reference's key names (LLM contract §7.2).

A key replaces one class of the table's price. `input_cost_per_token` replaces all that is paid
for input, `output_cost_per_token` all that is paid for output, and either of them the tiers: a
cache or tier rate of the list price would make no sense beside another base rate.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml
from attrs import evolve, field, frozen

from shared.domain.errors import ConfigError
from shared.domain.usage import Rates, Tier
from shared.providers.prices.entry import PriceEntry

_CLASSES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
}
_INPUT_SIDE = ("cache_read", "cache_write", "cache_write_1h", "audio_input")
_OUTPUT_SIDE = ("reasoning", "audio_output")
_TIER = re.compile(r"^(?P<key>.+)_above_(?P<thousands>\d{1,6})k_tokens$")
_LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens")
# Descriptions that stand beside prices in the reference's own files.
_NOT_PRICES = re.compile(
    r"^(litellm_provider|mode|source|metadata|comment|deprecation_date|base_model|rpm|tpm"
    r"|tool_use_system_prompt_tokens|output_vector_size|uses_embed_content"
    r"|(supports|supported|max)_\w+)$"
)
# Words that make a key a price per something else than tokens, or of another service tier.
_OTHER_UNITS = re.compile(
    r"(^|_)(seconds?|minute|hour|pixels?|images?|characters?|quer(y|ies)|pages?|session|requests?"
    r"|calls?|video|gb|search|batch(es)?|flex|priority|tiered|dbu|citation|hit|size|quality)(_|$)"
)
_DEAREST = Decimal(1000)


@frozen
class PriceKeys:
    """One model's price keys, read. `classes` are names of `Rates`; tiers by threshold."""

    classes: dict[str, Decimal] = field(factory=dict)
    tiers: dict[int, dict[str, Decimal]] = field(factory=dict)
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    unused: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no price was given."""
        return not (self.classes or self.tiers)

    @classmethod
    def read(cls, keys: Mapping[str, Any], where: str) -> PriceKeys:
        """All keys of a mapping; raises `ConfigError` for a mistyped one, with a suggestion.

        `unused` lists keys that say something about price that this release does not charge.
        """
        unused = tuple(f"{where}.{name}" for name in keys if not _understood(name, where))
        limits = {name: _count(keys.get(name), f"{where}.{name}") for name in _LIMITS}
        return evolve(
            cls.pick(keys, where),
            max_input_tokens=limits["max_input_tokens"],
            max_output_tokens=limits["max_output_tokens"] or limits["max_tokens"],
            unused=unused,
        )

    @classmethod
    def pick(cls, keys: Mapping[str, Any], where: str) -> PriceKeys:
        """Only the keys that are charged, whatever else the mapping holds."""
        classes: dict[str, Decimal] = {}
        tiers: dict[int, dict[str, Decimal]] = {}
        for name, value in keys.items():
            if value is None or not is_price_key(name):
                continue
            price = _price(value, f"{where}.{name}")
            if name in _CLASSES:
                classes[_CLASSES[name]] = price
            elif tier := _TIER.match(name):
                above = int(tier["thousands"]) * 1000
                tiers.setdefault(above, {})[_CLASSES[tier["key"]]] = price
        return cls(classes, tiers)

    def over(self, known: PriceEntry | None, source: str) -> PriceEntry | None:
        """The table's price with these in front; `None` if neither has a price."""
        if self.empty:
            return known
        base = Rates(Decimal(0), Decimal(0)) if known is None else known.rates
        rates = _changed(self._with_classes(base), self.classes)
        if self.tiers:
            rates = evolve(rates, tiers=self._steps(rates))
        return PriceEntry(
            rates,
            source,
            context_window=self.max_input_tokens or (known.context_window if known else None),
            max_output_tokens=self.max_output_tokens,
        )

    def _with_classes(self, base: Rates) -> Rates:
        """The table's rates without what a given base rate takes away."""
        gone: dict[str, Any] = {}
        if "input" in self.classes:
            gone |= dict.fromkeys(_INPUT_SIDE) | {"tiers": ()}
        if "output" in self.classes:
            gone |= dict.fromkeys(_OUTPUT_SIDE) | {"tiers": ()}
        return evolve(base, **gone)

    def _steps(self, rates: Rates) -> tuple[Tier, ...]:
        level = evolve(rates, tiers=())
        steps = []
        for above in sorted(self.tiers):
            level = _changed(level, self.tiers[above])
            steps.append(Tier(above, level))
        return tuple(steps)


@frozen
class PriceOverrides:
    """The operator's price file: `provider/model` or `model` → keys.

    `unused` are dotted paths of prices that are understood but not charged, for one warning.
    """

    models: dict[str, PriceKeys] = field(factory=dict)

    @property
    def unused(self) -> tuple[str, ...]:
        """Dotted paths of prices that this release does not charge."""
        return tuple(path for keys in self.models.values() for path in keys.unused)

    def of(self, provider: str, model: str) -> PriceKeys | None:
        """The keys of a model, by its full name first."""
        return self.models.get(f"{provider}/{model}") or self.models.get(model)

    @classmethod
    def read(cls, path: Path) -> PriceOverrides:
        """A JSON or YAML file (`MERIDIAN_PRICES_FILE`); `ConfigError` names file and key."""
        content = _load(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: must be a mapping of model names to prices")
        models = {}
        for model, keys in content.items():
            if not isinstance(model, str) or not isinstance(keys, dict):
                raise ConfigError(f"{path}: {model}: must be a mapping of price keys to numbers")
            # The sample entry that explains the format in the reference's file.
            if model != "sample_spec":
                models[model] = PriceKeys.read(keys, f"{path}: {model}")
        return cls(models)


def is_price_key(name: object) -> bool:
    """Whether a key of a deployment or price file is a price that is charged here."""
    if not isinstance(name, str):
        return False
    tier = _TIER.match(name)
    return (tier["key"] if tier else name) in _CLASSES


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        # YAML would take seconds over a file of the reference's size.
        if path.suffix == ".json":
            return json.loads(text, parse_float=Decimal)
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not valid JSON or YAML: {error}") from error


def _understood(name: object, where: str) -> bool:
    """Whether a key is charged or says nothing of prices; raises for a likely typing error."""
    if not isinstance(name, str):
        raise ConfigError(f"{where}.{name}: must be a price key")
    if is_price_key(name) or _NOT_PRICES.match(name):
        return True
    close = difflib.get_close_matches(name, [*_CLASSES, *_LIMITS], n=1, cutoff=0.85)
    if close and not _OTHER_UNITS.search(name):
        raise ConfigError(f"{where}.{name}: is not a price key; did you mean {close[0]}?")
    return False


def _changed(rates: Rates, classes: dict[str, Decimal]) -> Rates:
    changes: dict[str, Any] = dict(classes)
    return evolve(rates, **changes)


def _price(value: object, where: str) -> Decimal:
    """USD per token. YAML reads `1e-6` as a string, hence numbers in strings are taken."""
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        price = Decimal("NaN")
    if isinstance(value, bool) or not price.is_finite() or not 0 <= price <= _DEAREST:
        raise ConfigError(f"{where}: must be USD per token, a number from 0 to {_DEAREST}")
    return price


def _count(value: object, where: str) -> int | None:
    # The reference's sample texts stand where numbers should.
    if value is None or (isinstance(value, str) and not value.isdigit()):
        return None
    try:
        count = int(Decimal(str(value)))
    except (InvalidOperation, ValueError, OverflowError):
        count = -1
    if isinstance(value, bool) or count < 0:
        raise ConfigError(f"{where}: must be a whole number of tokens")
    return count
