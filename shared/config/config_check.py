"""Checking located values against the tables of names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from attrs import define

from shared.config.config_pending import Pending
from shared.config.config_references import References
from shared.config.config_schema import CostKind, Key, SecretKind, TimeOfDayKind, names
from shared.config.config_source import Located
from shared.config.reports import Report, did_you_mean
from shared.config.secret import Secret

_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")
_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


@define(slots=True)
class Checker:
    """Turns members into checked values; what is wrong goes to the report."""

    report: Report
    references: References

    def section(
        self,
        members: Mapping[str, Located],
        keys: tuple[Key, ...],
        pending: tuple[Pending, ...],
        where: str,
    ) -> dict[str, Any]:
        """The checked values of a section whose names are all known."""
        values, strangers = self.known(members, keys, pending)
        known = [*names(keys), *(row.name for row in pending)]
        for name, located in strangers.items():
            self.report.problem(
                located.source, located.path, f"no such name in {where}{did_you_mean(name, known)}"
            )
        return values

    def known(
        self, members: Mapping[str, Located], keys: tuple[Key, ...], pending: tuple[Pending, ...]
    ) -> tuple[dict[str, Any], dict[str, Located]]:
        """The checked values of the names in force, and the members of unknown names.

        `null` counts as absent. Members that are known but not in force become notices; their
        references are left alone.
        """
        by_name = {key.name: key for key in keys}
        later = {row.name: row for row in pending}
        values: dict[str, Any] = {}
        strangers: dict[str, Located] = {}
        for name, located in members.items():
            if located.value is None:
                continue
            if key := by_name.get(name):
                value = self.value(located, key)
                if value is not None:
                    values[name] = value
            elif row := later.get(name):
                self.pending(located, row)
            else:
                strangers[name] = located
        return values, strangers

    def pending(self, located: Located, row: Pending) -> None:
        """Notice a name that is known and not in force."""
        if row.asks_for_something(located.value):
            self.report.notice(
                located.source,
                located.path,
                f"not in force in this release; it would {row.effect}",
                weakens=row.weakens,
            )

    def value(self, located: Located, key: Key) -> Any:
        """One checked value, `None` when it is wrong or absent."""
        found = len(self.report.problems)
        located = self.references.resolve(located, optional=key.optional_reference)
        if located.value is None or len(self.report.problems) > found:
            return None
        wire = key.type.wire
        try:
            if wire is CostKind:
                return _cost(located.value)
            if wire is SecretKind:
                return _secret(located.value)
            if wire is TimeOfDayKind:
                return _time_of_day(located.value)
            return _finite(msgspec.convert(located.value, wire, strict=not located.lax))
        except (ValueError, TypeError) as error:
            self.report.problem(located.source, located.path, _complaint(key, located.value, error))
            return None


def _complaint(key: Key, value: Any, error: Exception) -> str:
    text = f"expected {key.type.expected}"
    inner = re.search(r" - at `\$(.+)`$", str(error))
    if inner:
        return f"{text} (wrong at `{inner[1].lstrip('.')}`)"
    got = _WORDS.get(type(value), "something else")
    # Numbers and flags are no secrets; texts might be.
    shown = f" {value!r}" if isinstance(value, (bool, int, float)) else ""
    return f"{text}, not {got if not shown else ''}{shown}".replace("not  ", "not ")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _cost(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("not a number")
    try:
        cost = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not cost.is_finite() or not 0 <= cost <= 1000:
        raise ValueError("out of range")
    return cost


def _secret(value: Any) -> Secret:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    if not value.isprintable() or value != value.strip():
        raise ValueError("white space or control characters")
    return Secret(value)


def _time_of_day(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        # YAML 1.1 reads 12:30 as 750 and 12:30:15 as 45015; nothing in between is a time.
        if 1440 <= value < 3600:
            raise ValueError("not a time")
        hours, minutes, seconds = (
            (value // 60, value % 60, 0)
            if value < 1440
            else (value // 3600, value // 60 % 60, value % 60)
        )
    else:
        match = _TIME.match(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("not a time")
        hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds < 60):
        raise ValueError("not a time")
    return f"{hours:02}:{minutes:02}:{seconds:02}"
