"""The packaged price file as it lies on disk: providers decoded at once, their models on demand."""

from __future__ import annotations

from decimal import Decimal
from importlib import resources

import msgspec

from shared.domain.usage import Rates, Tier

Rule = str | list[str]
"""`<sign><text>` in lower case: `=` is, `^` starts with, `$` ends with, `~` contains, `/` matches
the regular expression. A list holds rules that must all hold."""


class Classes(msgspec.Struct, frozen=True):
    """USD per token of each class, as decimal strings."""

    input: str = "0"
    output: str = "0"
    cache_read: str | None = None
    cache_write: str | None = None
    cache_write_1h: str | None = None
    reasoning: str | None = None
    audio_input: str | None = None
    audio_output: str | None = None


class Step(Classes, frozen=True, kw_only=True):
    """A tier: rates of a request whose prompt has more than `above` tokens."""

    above: int


class Dated(Classes, frozen=True, kw_only=True):
    """Rates that come into force on an ISO date."""

    since: str = msgspec.field(name="from")
    tiers: list[Step] = []


class ModelRecord(Classes, frozen=True, kw_only=True):
    """A model: its rates on the file's day and those announced for later."""

    id: str
    match: list[Rule] = []
    tiers: list[Step] = []
    context: int | None = None
    later: list[Dated] = []


class ProviderRecord(msgspec.Struct, frozen=True):
    """A provider under all its names; `models` is JSON, decoded when first asked for.

    `fallback` names providers whose models this one sells as well.
    """

    names: list[str]
    fallback: list[str]
    models: msgspec.Raw

    def decoded(self) -> list[ModelRecord]:
        """The models, in the order in which their rules are to be tried."""
        return msgspec.json.decode(self.models, type=list[ModelRecord])


class Source(msgspec.Struct, frozen=True):
    """Where the figures are from."""

    package: str
    version: str
    licence: str
    url: str
    notice: str


class PriceFile(msgspec.Struct, frozen=True):
    """The whole file. `day` is the ISO date whose prices stand in the models."""

    schema: int
    day: str
    source: Source
    providers: list[ProviderRecord]


def read_packaged() -> PriceFile:
    """The file of this package."""
    data = resources.files("shared.providers.prices").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(data, type=PriceFile)


def rates_on(model: ModelRecord, day: str) -> Rates:
    """A model's rates on an ISO date, from the file's day on."""
    chosen: ModelRecord | Dated = model
    for dated in model.later:
        if dated.since <= day:
            chosen = dated
    return _rates(chosen, tuple(Tier(step.above, _rates(step)) for step in chosen.tiers))


def _rates(classes: Classes, tiers: tuple[Tier, ...] = ()) -> Rates:
    return Rates(
        input=Decimal(classes.input),
        output=Decimal(classes.output),
        cache_read=_decimal(classes.cache_read),
        cache_write=_decimal(classes.cache_write),
        reasoning=_decimal(classes.reasoning),
        cache_write_1h=_decimal(classes.cache_write_1h),
        audio_input=_decimal(classes.audio_input),
        audio_output=_decimal(classes.audio_output),
        tiers=tiers,
    )


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
