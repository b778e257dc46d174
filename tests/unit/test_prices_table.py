"""Finding a model's price: spellings, rules, providers that sell others' models, dates."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shared.providers.prices
from shared.providers.prices.model_names import spellings
from shared.providers.prices.overrides import PriceOverrides
from shared.providers.prices.records import PriceFile, rates_on, read_packaged
from shared.providers.prices.table import PriceTable

DAY = date(2026, 11, 23)
FILE = Path(shared.providers.prices.__file__).parent / "prices.json"


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return PriceTable.load(DAY)


def small_table(models: str, day: date = DAY, **providers: str) -> PriceTable:
    """A table with provider `acme` and further ones given as JSON lists of models."""
    lists = {"acme": models, **providers}
    fallback = dict.fromkeys(lists, "[]") | ({"acme": '["other"]'} if providers else {})
    listed = ",".join(
        f'{{"names":["{name}"],"fallback":{fallback[name]},"models":{text}}}'
        for name, text in lists.items()
    )
    source = '{"package":"p","version":"1","licence":"MIT","url":"","notice":""}'
    text = f'{{"schema":1,"day":"2026-11-23","source":{source},"providers":[{listed}]}}'
    return PriceTable(msgspec.json.decode(text, type=PriceFile), PriceOverrides(), day)


def input_rate(table: PriceTable, provider: str, model: str) -> Decimal | None:
    entry = table.rates(provider, model)
    return None if entry is None else entry.rates.input


@pytest.mark.parametrize(
    ("provider", "model", "per_million"),
    [
        ("openai", "gpt-4o", "2.5"),
        ("openai", "openai/gpt-4o", "2.5"),
        ("openai", "GPT-4o", "2.5"),
        ("openai", "gpt-4o-20240806", "2.5"),
        ("openai", "gpt-4o-2031-01-31", "2.5"),
        ("text-completion-openai", "gpt-3.5-turbo-instruct", "1.5"),
        ("azure", "eu/gpt-4o-2024-08-06", "2.5"),
        ("azure", "gpt-4o-mini", "0.15"),
        ("anthropic", "claude-3-5-sonnet-20241022", "3"),
        ("anthropic", "claude-3-5-sonnet-latest", "3"),
        ("vertex_ai", "claude-3-5-sonnet@20240620", "3"),
        ("vertex_ai", "gemini-2.5-pro", "1.25"),
        ("gemini", "gemini/gemini-2.5-pro", "1.25"),
        ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
        ("bedrock", "us.anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
        ("bedrock", "bedrock/us-east-1/anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
        ("bedrock", "converse/anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
        ("openrouter", "google/gemini-2.5-pro", "1.25"),
        ("huggingface", "together/meta-llama/Llama-3.3-70B-Instruct", "1.04"),
        ("together_ai", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "0.88"),
        ("xai", "grok-4", "3"),
        ("moonshot", "kimi-k2-0711-preview", "0.6"),
    ],
)
def test_known_spellings(table: PriceTable, provider: str, model: str, per_million: str) -> None:
    """The names under which configurations and answers speak of a model all find its price."""
    assert input_rate(table, provider, model) == Decimal(per_million).scaleb(-6)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("openai", ""),
        ("openai", "x" * 5000),
        ("hosted_vllm", "gpt-4o"),
        ("openai", "whisper-1"),
        ("", ""),
        ("openai", "/"),
    ],
)
def test_unknown_is_none(table: PriceTable, provider: str, model: str) -> None:
    """A model or provider that nobody knows, or that has no price per token, has no price."""
    assert table.rates(provider, model) is None


@given(
    provider=st.sampled_from(["openai", "bedrock", "openrouter", "huggingface"]), model=st.text()
)
def test_any_name_is_answered(provider: str, model: str) -> None:
    """Whatever an upstream calls its model, looking it up ends in a price or in none."""
    entry = _SHARED.rates(provider, model)
    assert entry is None or entry.source == "table"


_SHARED = PriceTable.load(DAY)


def test_exact_id_beats_an_earlier_rule() -> None:
    """An id is the model even where a rule of an earlier model would match it."""
    models = """[{"id":"m","match":["^m"],"input":"1","output":"0"},
                 {"id":"m-large","match":["=m-large"],"input":"2","output":"0"}]"""
    table = small_table(models)
    assert input_rate(table, "acme", "m-large") == 2
    assert input_rate(table, "acme", "m-small") == 1


def test_first_rule_wins() -> None:
    """Of several models whose rules hold, the first in the file is the one."""
    models = """[{"id":"a","match":["~x"],"input":"1","output":"0"},
                 {"id":"b","match":["=xx","$x"],"input":"2","output":"0"},
                 {"id":"c","match":[["^y","/^(?!.*-tts)"]],"input":"3","output":"0"},
                 {"id":"d","match":["^y"],"input":"4","output":"0"}]"""
    table = small_table(models)
    assert [input_rate(table, "acme", name) for name in ("xx", "y-1", "y-tts")] == [1, 3, 4]


def test_falls_back_to_the_seller_of_the_model() -> None:
    """A provider that sells another one's models has its prices where it has none of its own."""
    table = small_table(
        '[{"id":"own","input":"1","output":"0"}]',
        other='[{"id":"own","input":"9","output":"0"},{"id":"theirs","input":"2","output":"0"}]',
    )
    assert input_rate(table, "acme", "own") == 1
    assert input_rate(table, "acme", "theirs") == 2


def test_announced_prices_come_into_force_on_their_day() -> None:
    """A price with a date counts from that day on, also in a table that was asked before."""
    models = """[{"id":"m","input":"1","output":"0","later":[
        {"from":"2026-12-01","input":"2","output":"0","tiers":[
            {"above":10,"input":"3","output":"0"}]},
        {"from":"2027-01-01","input":"4","output":"0"}]}]"""
    table = small_table(models, date(2026, 11, 30))
    seen = [input_rate(table, "acme", "m")]
    for day in (date(2026, 12, 1), date(2027, 3, 1)):
        table.turn(day)
        seen.append(input_rate(table, "acme", "m"))
    assert seen == [1, 2, 4]


def test_same_answer_is_remembered(table: PriceTable) -> None:
    """A second look-up gives the same object, so that its integers are made once."""
    assert table.rates("openai", "gpt-4o") is table.rates("openai", "gpt-4o")


def test_memory_of_names_is_bounded() -> None:
    """Names from outside cannot fill the memory: the table forgets and goes on answering."""
    table = small_table('[{"id":"m","input":"1","output":"0"}]')
    for number in range(10_000):
        assert table.rates("acme", f"unknown-{number}x") is None
    assert input_rate(table, "acme", "m") == 1
    assert len(table._cache) <= 4096


def test_spellings_go_from_exact_to_loose() -> None:
    """The name as given comes first, then without region, then without its release date."""
    found = list(spellings("bedrock", "bedrock/us.acme.Model-20250102"))
    assert found == [
        "us.acme.model-20250102",
        "us.acme.model-2025-01-02",
        "us.acme.model",
        "acme.model-20250102",
        "acme.model-2025-01-02",
        "acme.model",
    ]


def test_packaged_file_is_whole() -> None:
    """Every line of the packaged file is readable, priced at nothing less than 0, and small."""
    file = read_packaged()
    names = [name for provider in file.providers for name in provider.names]
    assert len(names) == len(set(names))
    models = 0
    for provider in file.providers:
        assert set(provider.fallback) <= set(names)
        for model in provider.decoded():
            models += 1
            assert model.match, model.id
            for day in (file.day, *(dated.since for dated in model.later)):
                rates = rates_on(model, day)
                levels = [rates, *(tier.rates for tier in rates.tiers)]
                given = [rate for level in levels for rate in _classes(level)]
                assert all(0 <= rate < Decimal("0.01") for rate in given), model.id
                above = [tier.above for tier in rates.tiers]
                assert above == sorted(set(above)), model.id
    assert models > 2000
    assert FILE.stat().st_size < 1_000_000


def test_packaged_file_names_its_source() -> None:
    """The file says where its figures are from and carries the licence's notice."""
    file = read_packaged()
    assert (file.schema, file.source.package, file.source.licence) == (1, "genai-prices", "MIT")
    assert date.fromisoformat(file.day) <= DAY
    assert "Permission is hereby granted" in file.source.notice
    assert "Copyright (c) Pydantic Services Inc." in file.source.notice


def test_packaged_file_has_one_model_a_line() -> None:
    """A refresh can be reviewed: no line holds two models."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert all(line.count('"match":') <= 1 for line in lines)
    assert max(map(len, lines)) < 4000


def _classes(rates: object) -> list[Decimal]:
    names = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
    values = [getattr(rates, name) for name in (*names, "audio_input", "audio_output")]
    return [value for value in values if value is not None]
