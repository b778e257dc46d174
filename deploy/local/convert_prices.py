"""Turn the figures of an installed `genai-prices` into our price file.

Run by `update_prices.py` in an environment that has the source package. What is taken: prices
per token, match rules, context windows and the providers a provider falls back to. What is left
out: prose, usage extractors, prices per anything but tokens, and prices that depend on the
request (batch, service tier, search type).

Two rules of ours, both so that a budget is never under-counted: of prices that change with the
time of day the dearest is taken, and a model without a price per token is not in the file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

PACKAGE = "genai-prices"
SCHEMA = 1
MILLION = Decimal(1_000_000)

# The source's price keys -> ours. All are USD per million tokens there.
CLASSES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
}

# The source's provider ids -> the prefixes under which configurations name the provider.
NAMES = {
    "aws": ["bedrock", "bedrock_converse"],
    "azure": ["azure", "azure_ai", "azure_text"],
    "cohere": ["cohere", "cohere_chat"],
    "fireworks": ["fireworks_ai"],
    "github-copilot": ["github_copilot"],
    "google": ["gemini", "vertex_ai"],
    "mistral": ["mistral", "codestral"],
    "moonshotai": ["moonshot"],
    "openai": ["openai", "text-completion-openai"],
    "together": ["together_ai"],
    "voyageai": ["voyage"],
    "x-ai": ["xai"],
}

# Sellers that the gateway has no provider for.
LEFT_OUT = {"openai-decisions", "typesafe"}

SIGNS = {
    "equals": "=",
    "starts_with": "^",
    "ends_with": "$",
    "contains": "~",
    "regex": "/",
}


def main() -> None:
    """Write the file and print its size in models and bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--day", type=datetime.date.fromisoformat, required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    source = importlib.import_module("genai_prices.data").providers
    providers = [convert_provider(each, options.day) for each in source if each.id not in LEFT_OUT]
    providers = [each for each in providers if each["models"]]
    text = render(header(options.day), providers)
    options.to.write_text(text, encoding="utf-8")
    models = sum(len(each["models"]) for each in providers)
    print(f"{options.to}: {len(providers)} providers, {models} models, {len(text)} bytes")


def header(day: datetime.date) -> dict[str, Any]:
    """Where the figures come from, with the source's notice as its licence asks."""
    meta = importlib.metadata.metadata(PACKAGE)
    licence = next(
        str(file.read_text())
        for file in importlib.metadata.files(PACKAGE) or ()
        if file.name == "LICENSE"
    )
    return {
        "schema": SCHEMA,
        "day": day.isoformat(),
        "unit": "USD per token",
        "source": {
            "package": PACKAGE,
            "version": meta["Version"],
            "licence": "MIT",
            "url": "https://github.com/pydantic/genai-prices",
            "notice": " ".join(licence.split()),
        },
    }


def convert_provider(provider: Any, day: datetime.date) -> dict[str, Any]:
    """A provider with its models in the source's order, which is the order of matching."""
    fallback = [NAMES.get(each, [each])[0] for each in provider.fallback_model_providers or ()]
    models = (convert_model(model, day) for model in provider.models)
    return {
        "names": names(provider.id),
        "fallback": fallback,
        "models": [model for model in models if model is not None],
    }


def names(source_id: str) -> list[str]:
    """The prefixes of a provider; a host behind Hugging Face's router is `huggingface/<host>`."""
    host = source_id.removeprefix("huggingface_")
    return NAMES.get(source_id, [source_id if host == source_id else f"huggingface/{host}"])


def convert_model(model: Any, day: datetime.date) -> dict[str, Any] | None:
    """A model's line, `None` where the source has no price per token."""
    rates, later = convert_prices(model.prices, day)
    if rates is None:
        return None
    line: dict[str, Any] = {"id": model.id, "match": rules(model.match), **rates}
    if model.context_window:
        line["context"] = model.context_window
    if later:
        line["later"] = later
    return line


def convert_prices(prices: Any, day: datetime.date) -> tuple[Any, list[dict[str, Any]]]:
    """The rates in force on the day, and those already announced for later days."""
    if not isinstance(prices, list):
        return convert_rates(prices), []
    starts = (getattr(each.constraint, "start_date", None) for each in prices)
    later = []
    for start in sorted({start for start in starts if start is not None and start > day}):
        rates = convert_rates(in_force(prices, start))
        if rates is not None:
            later.append({"from": start.isoformat(), **rates})
    return convert_rates(in_force(prices, day)), later


def in_force(prices: list[Any], day: datetime.date) -> Any:
    """The last price that applies on the day; of its hours the dearest one."""
    hourly = []
    for each in reversed(prices):
        if hasattr(each.constraint, "start_time"):
            hourly.append(each.prices)
        elif each.constraint is None or each.constraint.start_date <= day:
            return max([each.prices, *hourly], key=dearness)
    return prices[0].prices


def dearness(price: Any) -> tuple[Decimal, Decimal]:
    """How prices of different hours are compared."""
    first, second = (getattr(price, key, None) for key in ("input_mtok", "output_mtok"))
    return base(first or Decimal(0)), base(second or Decimal(0))


def convert_rates(price: Any) -> dict[str, Any] | None:
    """Our classes as strings in USD per token, with tiers merged over all classes."""
    given = {ours: getattr(price, key, None) for key, ours in CLASSES.items()}
    given = {ours: value for ours, value in given.items() if value is not None}
    if not given.keys() & {"input", "output"}:
        return None
    rates: dict[str, Any] = {ours: per_token(base(value)) for ours, value in given.items()}
    steps = sorted({tier.start for value in given.values() for tier in tiers(value)})
    if steps:
        rates["tiers"] = [
            {"above": step, **{ours: per_token(at(value, step)) for ours, value in given.items()}}
            for step in steps
        ]
    return rates


def base(value: Any) -> Decimal:
    """The rate below every tier."""
    return value.base if hasattr(value, "tiers") else value


def tiers(value: Any) -> list[Any]:
    """The tiers of a rate, none for a plain number."""
    return getattr(value, "tiers", [])


def at(value: Any, step: int) -> Decimal:
    """The rate that applies above a threshold."""
    passed = [tier for tier in tiers(value) if tier.start <= step]
    return max(passed, key=lambda tier: tier.start).price if passed else base(value)


def per_token(per_million: Decimal) -> str:
    """A plain decimal string, without the noise of figures that were once binary fractions."""
    return format((per_million / MILLION).normalize(Context(prec=10)), "f")


def rules(clause: Any) -> list[Any]:
    """A match as alternatives: a rule `<sign><text>`, or a list of rules that must all hold."""
    if hasattr(clause, "or_"):
        return [rule for each in clause.or_ for rule in rules(each)]
    if hasattr(clause, "and_"):
        parts = [rules(each) for each in clause.and_]
        if any(len(part) != 1 or isinstance(part[0], list) for part in parts):
            raise ValueError(f"a conjunction of alternatives is not supported: {clause}")
        return [[part[0] for part in parts]]
    kind = next(kind for kind in SIGNS if hasattr(clause, kind))
    text = getattr(clause, kind)
    return [SIGNS[kind] + (text if kind == "regex" else text.lower())]


def render(head: dict[str, Any], providers: list[dict[str, Any]]) -> str:
    """JSON with one model a line, so that a refresh can be reviewed as a diff."""
    lines = ["{"]
    lines += [f"{dump(key)}:{dump(value)}," for key, value in head.items()]
    lines.append('"providers":[')
    for number, provider in enumerate(providers):
        lines.append(
            f'{{"names":{dump(provider["names"])},"fallback":{dump(provider["fallback"])},"models":['
        )
        lines.append(",\n".join(dump(model) for model in provider["models"]))
        lines.append("]}" + ("," if number < len(providers) - 1 else ""))
    lines += ["]", "}"]
    return "\n".join(lines) + "\n"


def dump(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
