"""Rows of the store as JSON answers show them: money as numbers, times in UTC with a Z."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_NONE: frozenset[str] = frozenset()


def wire(value: Any) -> Any:
    """One value of a row."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def wire_row(row: Mapping[str, Any], hidden: frozenset[str] = _NONE) -> dict[str, Any]:
    """A row without its hidden columns."""
    return {name: wire(value) for name, value in row.items() if name not in hidden}
