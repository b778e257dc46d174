"""Prices of the operator's own: the file, a deployment's keys, and what is wrong with them."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from shared.domain.errors import ConfigError
from shared.domain.usage import Tier
from shared.providers.prices.overrides import PriceKeys, PriceOverrides, is_price_key
from shared.providers.prices.table import PriceTable

DAY = date(2026, 11, 23)


def loaded(path: Path) -> PriceTable:
    return PriceTable.load(DAY, PriceOverrides.read(path))


def test_yaml_file_wins_over_the_table(tmp_path: Path) -> None:
    """A model of the file has the file's price; others keep the table's."""
    path = tmp_path / "prices.yaml"
    path.write_text("gpt-4o:\n  input_cost_per_token: 1e-6\n  output_cost_per_token: 0.000002\n")
    table = loaded(path)
    entry = table.rates("openai", "gpt-4o")
    assert entry is not None
    assert (entry.rates.input, entry.rates.output) == (Decimal("1e-6"), Decimal("0.000002"))
    assert entry.source == "file"
    mini = table.rates("openai", "gpt-4o-mini")
    assert mini is not None
    assert mini.source == "table"


def test_full_name_beats_the_short_one(tmp_path: Path) -> None:
    """`provider/model` is looked for before `model`, which counts for every provider."""
    path = tmp_path / "prices.json"
    path.write_text(
        json.dumps(
            {
                "m": {"input_cost_per_token": 0.1, "output_cost_per_token": 0},
                "acme/m": {"input_cost_per_token": 0.2, "output_cost_per_token": 0},
            }
        )
    )
    table = loaded(path)
    rates = [table.rates(provider, "m") for provider in ("acme", "hosted_vllm")]
    assert [entry.rates.input for entry in rates if entry] == [Decimal("0.2"), Decimal("0.1")]


def test_numbers_are_taken_exactly(tmp_path: Path) -> None:
    """A price is the decimal that stands in the file, not its binary neighbour."""
    path = tmp_path / "prices.json"
    path.write_text('{"m": {"input_cost_per_token": 1.1e-07, "output_cost_per_token": 3e-07}}')
    entry = loaded(path).rates("x", "m")
    assert entry is not None
    assert entry.rates.input == Decimal("0.00000011")


def test_a_base_rate_takes_its_side_with_it() -> None:
    """A given input rate drops the table's cache rates and tiers, not what is paid for output."""
    table = PriceTable.load(DAY)
    keys = {"input_cost_per_token": 0.00001}
    entry = table.deployment_rates("anthropic", "claude-sonnet-4-5", keys, "model_list[0]")
    assert entry is not None
    assert entry.source == "deployment"
    assert entry.rates.input == Decimal("0.00001")
    assert entry.rates.output == Decimal("0.000015")
    assert (entry.rates.cache_read, entry.rates.cache_write, entry.rates.tiers) == (None, None, ())


def test_a_refining_rate_leaves_the_others() -> None:
    """A given cache rate replaces that one class."""
    table = PriceTable.load(DAY)
    keys = {"cache_read_input_token_cost": "1e-6"}
    entry = table.deployment_rates("openai", "gpt-4o", keys, "model_list[0]")
    assert entry is not None
    assert entry.rates.cache_read == Decimal("0.000001")
    assert entry.rates.input == Decimal("0.0000025")


def test_tiers_of_the_operator() -> None:
    """`…_above_Nk_tokens` keys make tiers of thousands; what a tier leaves out goes on."""
    keys = {
        "input_cost_per_token": 1,
        "output_cost_per_token": 2,
        "input_cost_per_token_above_128k_tokens": 3,
        "output_cost_per_token_above_256k_tokens": 4,
    }
    entry = PriceKeys.read(keys, "m").over(None, "file")
    assert entry is not None
    assert [tier.above for tier in entry.rates.tiers] == [128_000, 256_000]
    first, second = entry.rates.tiers
    assert isinstance(first, Tier)
    assert (first.rates.input, first.rates.output) == (3, 2)
    assert (second.rates.input, second.rates.output) == (3, 4)


def test_unknown_model_needs_only_one_side() -> None:
    """A model that the table does not know costs what is given, and nothing for the rest."""
    entry = PriceTable.load(DAY).deployment_rates(
        "hosted_vllm", "mine", {"output_cost_per_token": 0.5, "model": "x", "max_tokens": 5}, "m"
    )
    assert entry is not None
    assert (entry.rates.input, entry.rates.output) == (0, Decimal("0.5"))
    assert entry.max_output_tokens is None


def test_without_price_keys_the_table_speaks() -> None:
    """A deployment without prices of its own has the table's entry, or none."""
    table = PriceTable.load(DAY)
    assert table.deployment_rates("openai", "gpt-4o", {"rpm": 5}, "m") is table.rates(
        "openai", "gpt-4o"
    )
    assert table.deployment_rates("hosted_vllm", "mine", {}, "m") is None


def test_zero_is_a_price() -> None:
    """A model priced at nothing is free, not unknown."""
    keys = {"input_cost_per_token": 0, "output_cost_per_token": 0.0}
    entry = PriceTable.load(DAY).deployment_rates("openai", "gpt-4o", keys, "m")
    assert entry is not None
    assert entry.rates.free


def test_limits_of_the_file(tmp_path: Path) -> None:
    """Token limits beside a price are kept, the reference's sample texts are not."""
    path = tmp_path / "prices.json"
    keys = {"input_cost_per_token": 1, "max_input_tokens": 1000, "max_output_tokens": 50}
    sample = {"max_tokens": "LEGACY parameter", "input_cost_per_token": 0}
    path.write_text(json.dumps({"m": keys, "sample_spec": {"nonsense": []}, "n": sample}))
    table = loaded(path)
    entry = table.rates("x", "m")
    assert entry is not None
    assert (entry.context_window, entry.max_output_tokens) == (1000, 50)
    other = table.rates("x", "n")
    assert other is not None
    assert other.max_output_tokens is None


@pytest.mark.parametrize("value", [-1, "abc", True, float("nan"), float("inf"), [], 1001, ""])
def test_a_value_that_is_no_price(value: object, tmp_path: Path) -> None:
    """A negative, non-finite, absurd or non-numeric price is refused by its dotted path."""
    path = tmp_path / "prices.yaml"
    with pytest.raises(ConfigError, match=r"m\.input_cost_per_token: must be USD per token"):
        PriceKeys.read({"input_cost_per_token": value}, f"{path}: m")


def test_a_mistyped_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    """A key that is almost a price key is an error that names file, path and the right key."""
    path = tmp_path / "prices.yaml"
    path.write_text("gpt-4o:\n  input_cost_per_tokens: 1\n")
    with pytest.raises(ConfigError) as caught:
        PriceOverrides.read(path)
    assert str(caught.value) == (
        f"{path}: gpt-4o.input_cost_per_tokens: is not a price key;"
        " did you mean input_cost_per_token?"
    )


def test_prices_not_charged_are_reported(tmp_path: Path) -> None:
    """Prices per anything but tokens are listed by path; descriptions are passed over."""
    path = tmp_path / "prices.json"
    keys = {
        "litellm_provider": "openai",
        "mode": "chat",
        "supports_vision": True,
        "supported_regions": ["eu"],
        "input_cost_per_token": 1,
        "input_cost_per_token_flex": 1,
        "output_cost_per_second": 1,
        "search_context_cost_per_query": {"search_context_size_low": 0.1},
    }
    path.write_text(json.dumps({"m": keys}))
    assert PriceOverrides.read(path).unused == (
        f"{path}: m.input_cost_per_token_flex",
        f"{path}: m.output_cost_per_second",
        f"{path}: m.search_context_cost_per_query",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "- 1\n", "must be a mapping of model names"),
        ("a.yaml", "m: 1\n", "m: must be a mapping of price keys"),
        ("a.yaml", "a: [\n", "is not valid JSON or YAML"),
        ("a.json", "{", "is not valid JSON or YAML"),
        ("a.yaml", "m:\n  max_tokens: -5\n", "max_tokens: must be a whole number"),
        ("a.yaml", "m:\n  max_tokens: .nan\n", "max_tokens: must be a whole number"),
    ],
)
def test_a_file_that_is_no_price_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    """What cannot be used is refused with the file's name and what it should be."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        PriceOverrides.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is an error of the settings, with its path."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        PriceOverrides.read(tmp_path / "none.yaml")


def test_which_keys_are_prices() -> None:
    """Price keys are told from a deployment's other parameters, whatever their type."""
    names = ["input_cost_per_token", "output_cost_per_token_above_200k_tokens", "model", "rpm", 5]
    assert [is_price_key(name) for name in names] == [True, True, False, False, False]
