"""The development command's conversion rules, on values shaped like the source's."""

from __future__ import annotations

import importlib.util
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from shared.providers.prices.records import PriceFile

SCRIPT = Path(__file__).parents[2] / "deploy" / "local" / "convert_prices.py"
DAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def convert() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_prices", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dated(day: date | None, hours: bool = False, **prices: Any) -> SimpleNamespace:
    constraint = None
    if hours:
        constraint = SimpleNamespace(start_time="01:00", end_time="02:00")
    elif day is not None:
        constraint = SimpleNamespace(start_date=day)
    return SimpleNamespace(constraint=constraint, prices=SimpleNamespace(**prices))


def tiered(base: str, *steps: tuple[int, str]) -> SimpleNamespace:
    tiers = [SimpleNamespace(start=start, price=Decimal(price)) for start, price in steps]
    return SimpleNamespace(base=Decimal(base), tiers=tiers)


def test_rates_are_per_token_without_exponent(convert: ModuleType) -> None:
    """Dollars per million become plain decimals per token, binary noise rounded away."""
    prices = SimpleNamespace(
        input_mtok=Decimal("0.02"),
        output_mtok=Decimal("1.0399999999999998"),
        audio_hours=Decimal(1),
    )
    assert convert.convert_rates(prices) == {"input": "0.00000002", "output": "0.00000104"}


def test_tiers_are_merged_over_classes(convert: ModuleType) -> None:
    """Every step lists every class, those without a tier of their own at their base rate."""
    prices = SimpleNamespace(
        input_mtok=tiered("1", (100, "2"), (200, "3")), output_mtok=tiered("4", (200, "5"))
    )
    assert convert.convert_rates(prices)["tiers"] == [
        {"above": 100, "input": "0.000002", "output": "0.000004"},
        {"above": 200, "input": "0.000003", "output": "0.000005"},
    ]


def test_no_token_price_no_line(convert: ModuleType) -> None:
    """A model that is paid by the hour is left out."""
    model = SimpleNamespace(prices=SimpleNamespace(audio_hours=Decimal("0.1")))
    assert convert.convert_model(model, DAY) is None


def test_price_of_the_day_and_later_ones(convert: ModuleType) -> None:
    """The last price begun by the day is taken; those to come keep their date."""
    prices = [
        dated(None, input_mtok=Decimal(1)),
        dated(date(2026, 11, 23), input_mtok=Decimal(2)),
        dated(date(2027, 1, 1), input_mtok=Decimal(3)),
    ]
    now, later = convert.convert_prices(prices, DAY)
    assert now == {"input": "0.000002"}
    assert later == [{"from": "2027-01-01", "input": "0.000003"}]


def test_of_the_hours_the_dearest(convert: ModuleType) -> None:
    """Where the price depends on the time of day, a call is never under-counted."""
    prices = [
        dated(None, input_mtok=Decimal(2)),
        dated(None, hours=True, input_mtok=Decimal(4)),
        dated(None, hours=True, input_mtok=Decimal(1)),
    ]
    assert convert.convert_prices(prices, DAY)[0] == {"input": "0.000004"}


def test_rules(convert: ModuleType) -> None:
    """Alternatives are flattened, conjunctions kept, texts are lower case."""
    clause = SimpleNamespace(
        or_=[
            SimpleNamespace(equals="GPT-X"),
            SimpleNamespace(
                and_=[SimpleNamespace(starts_with="g"), SimpleNamespace(regex=r"\dK$")]
            ),
            SimpleNamespace(or_=[SimpleNamespace(contains="y"), SimpleNamespace(ends_with="z")]),
        ]
    )
    assert convert.rules(clause) == ["=gpt-x", ["^g", r"/\dK$"], "~y", "$z"]


def test_provider_names(convert: ModuleType) -> None:
    """Providers get the prefixes that configurations use; routed hosts get the router's."""
    assert convert.names("google") == ["gemini", "vertex_ai"]
    assert convert.names("huggingface_together") == ["huggingface/together"]
    assert convert.names("groq") == ["groq"]


def test_rendered_file_is_readable(convert: ModuleType) -> None:
    """What is written is JSON with one model a line, and the product reads it."""
    source = {"package": "p", "version": "1", "licence": "MIT", "url": "", "notice": ""}
    head = {"schema": 1, "day": "2026-11-23", "source": source}
    line = {"id": "m", "match": ["=m"], "input": "1"}
    providers = [{"names": ["a"], "fallback": [], "models": [line, line | {"id": "n"}]}] * 2
    text = convert.render(head, providers)
    assert json.loads(text)["providers"] == providers
    assert sum(dumped.startswith('{"id"') for dumped in text.splitlines()) == 4
    assert [len(p.decoded()) for p in msgspec.json.decode(text, type=PriceFile).providers] == [2, 2]
