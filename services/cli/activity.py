"""Daily activity as tables: sums by owner, model, key or provider, in all or of each day.

Proxies may spread a day over pages, and may name only those in a breakdown that spent most; what
the rest spent is then the row `(others)`, so that the sums are those of all calls.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import define, field, frozen

from services.cli.command import Given
from services.cli.shapes import at

_ALL = "(all)"
_OTHERS = "(others)"
_ALIASES = ("team_alias", "user_email", "user_alias", "organization_alias", "key_alias", "alias")
_METRICS: Mapping[str, str] = {
    "spend": "spend",
    "requests": "api_requests",
    "failed": "failed_requests",
    "tokens": "total_tokens",
    "prompt": "prompt_tokens",
    "completion": "completion_tokens",
}


@frozen
class Breakdown:
    """What activity is split by: the route that tells it, and the part of its breakdown. `whole`
    is whether each call is in the part once."""

    route: str
    part: str | None = None
    whole: bool = True

    def __str__(self) -> str:
        return self.route


BREAKDOWNS: Mapping[str, Breakdown] = MappingProxyType(
    {
        "nothing": Breakdown("user"),
        "user": Breakdown("user", "entities"),
        "team": Breakdown("team", "entities"),
        "organization": Breakdown("organization", "entities"),
        "customer": Breakdown("customer", "entities"),
        "tag": Breakdown("tag", "entities", whole=False),
        "model": Breakdown("user", "model_groups"),
        "deployment": Breakdown("user", "models"),
        "provider": Breakdown("user", "providers"),
        "key": Breakdown("user", "api_keys"),
        "endpoint": Breakdown("user", "endpoints"),
    }
)


def breakdown(name: str) -> Breakdown:
    """One of `BREAKDOWNS`."""
    if name not in BREAKDOWNS:
        raise ArgumentTypeError(f"choose one of {', '.join(BREAKDOWNS)}")
    return BREAKDOWNS[name]


def by_day(body: Any, given: Given) -> list[dict[str, Any]]:
    """A row for each day and name, the newest day first, then whoever spent most."""
    return [
        {"date": date, **row}
        for date, sums in sorted(_days(body, given).items(), reverse=True)
        for row in _rows(sums)
    ]


def in_all(body: Any, given: Given) -> list[dict[str, Any]]:
    """A row for each name, whoever spent most first."""
    total: dict[str, _Sums] = {}
    for sums in _days(body, given).values():
        for name, each in sums.items():
            total.setdefault(name, _Sums()).add(each)
    return _rows(total)


@define
class _Sums:
    """Amounts of one name; spend is kept apart so that its sum is exact to the last digit."""

    alias: str | None = None
    amounts: dict[str, list[float]] = field(factory=dict)

    def take(self, metrics: Any) -> None:
        for name, theirs in _METRICS.items():
            self.amounts.setdefault(name, []).append(at(metrics, theirs) or 0)

    def add(self, other: _Sums) -> None:
        self.alias = self.alias or other.alias
        for name, values in other.amounts.items():
            self.amounts.setdefault(name, []).extend(values)

    def total(self, name: str) -> float:
        values = self.amounts.get(name, [])
        return math.fsum(values) if name == "spend" else sum(values)


def _days(body: Any, given: Given) -> dict[str, dict[str, _Sums]]:
    asked: Breakdown = given["path:by"]
    days: dict[str, dict[str, _Sums]] = {}
    for result in at(body, "results") or ():
        sums = days.setdefault(str(at(result, "date")), {})
        if asked.part is None:
            sums.setdefault(_ALL, _Sums()).take(at(result, "metrics"))
            continue
        for name, each in _parts(result, asked.part):
            entry = sums.setdefault(name, _Sums())
            entry.take(at(each, "metrics"))
            entry.alias = entry.alias or _alias(at(each, "metadata"))
        if asked.whole:
            _add_others(sums, result, asked.part)
    return days


def _parts(result: Any, part: str) -> Iterator[tuple[str, Any]]:
    found = at(result, f"breakdown.{part}")
    yield from (found or {}).items()


def _add_others(sums: dict[str, _Sums], result: Any, part: str) -> None:
    named = _Sums()
    for _, each in _parts(result, part):
        named.take(at(each, "metrics"))
    rest = {
        theirs: (at(result, f"metrics.{theirs}") or 0) - named.total(name)
        for name, theirs in _METRICS.items()
    }
    if rest["api_requests"] > 0:
        sums.setdefault(_OTHERS, _Sums()).take(rest)


def _rows(sums: Mapping[str, _Sums]) -> list[dict[str, Any]]:
    rows = [
        {
            "name": each.alias or name,
            **{metric: each.total(metric) for metric in _METRICS},
            "id": name,
        }
        for name, each in sums.items()
    ]
    return sorted(rows, key=lambda row: (row["id"] == _OTHERS, -row["spend"], row["id"]))


def _alias(metadata: Any) -> str | None:
    found = (at(metadata, name) for name in _ALIASES)
    return next((str(alias) for alias in found if alias), None)
