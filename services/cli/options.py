"""Options that several commands have."""

from __future__ import annotations

from services.cli.command import Option, Place
from services.cli.kinds import (
    AMOUNT,
    COUNTS,
    DURATION,
    FIELDS,
    JSON_FILE,
    KEY,
    TEXT,
    WHOLE,
    WORDS,
    Kind,
)

ORDER = ("asc", "desc")


def wanted(
    flag: str, field: str, help_text: str, kind: Kind = TEXT, choices: tuple[str, ...] = ()
) -> Option:
    """A filter of a list."""
    return Option(flag, field, help_text, kind, Place.QUERY, choices=choices)


def word(name: str, field: str, help_text: str, place: Place = Place.BODY) -> Option:
    """A positional word."""
    return Option(name, field, help_text, place=place, required=True)


def words(name: str, field: str, help_text: str) -> Option:
    """A positional word that may be repeated."""
    return Option(name, field, help_text, required=True, several=True)


def key_word(place: Place, field: str = "key", *, several: bool = False) -> Option:
    """A virtual key, as a positional word."""
    return Option(
        "KEY",
        field,
        "alias or hash of the key; '-' reads its value from standard input",
        KEY,
        place,
        required=True,
        several=several,
    )


SORTED = (
    wanted("--sort-by", "sort_by", "column to sort by"),
    wanted("--sort-order", "sort_order", "direction", choices=ORDER),
)
MODELS = Option("--models", "models", "models that may be used", WORDS)
METADATA = Option("--metadata", "metadata", "members of the metadata", FIELDS)
TAGS = Option("--tags", "tags", "tags of every call", WORDS)
BUDGET = (
    Option("--max-budget", "max_budget", "hard budget, in USD", AMOUNT),
    Option("--soft-budget", "soft_budget", "budget that only alerts, in USD", AMOUNT),
    Option("--budget-duration", "budget_duration", "period of the budget, such as 30d", DURATION),
)
RATES = (
    Option("--rpm-limit", "rpm_limit", "requests per minute", WHOLE),
    Option("--tpm-limit", "tpm_limit", "tokens per minute", WHOLE),
)
PARALLEL = Option("--max-parallel-requests", "max_parallel_requests", "calls at once", WHOLE)
MODEL_RATES = (
    Option("--model-rpm-limit", "model_rpm_limit", "requests per minute of a model", COUNTS),
    Option("--model-tpm-limit", "model_tpm_limit", "tokens per minute of a model", COUNTS),
)
LIMITS = (*BUDGET, *RATES, PARALLEL)

FROM = Option("--from", "*", "JSON object with fields; '-' is standard input", JSON_FILE)
FIELD = Option("--field", "**", "any other field; JSON or a text, @FILE reads it", FIELDS)
