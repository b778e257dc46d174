"""The operator's discounts and margins on providers' prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from shared.config.config_source import Located
from shared.config.gateway_config import Margin
from shared.config.reports import Report

_MOST_OFF = Decimal(1)
_MOST_ON = Decimal(10)
_MOST_FIXED = Decimal(1000)
_PLACES = Decimal("1e-10")


def discounts(located: Located, members: Mapping[str, Any], report: Report) -> dict[str, Decimal]:
    """`cost_discount_config`: by provider, the part of a price that is taken off."""
    return _each(located, members, report, lambda value: _part(value, _MOST_OFF))


def margins(located: Located, members: Mapping[str, Any], report: Report) -> dict[str, Margin]:
    """`cost_margin_config`: by provider, or `global`, what is put on."""
    return _each(located, members, report, _margin)


def _each(
    located: Located, members: Mapping[str, Any], report: Report, read: Callable[[Any], Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members.items():
        if value is None:
            continue
        try:
            found[name] = read(value)
        except (ValueError, TypeError) as error:
            member = located.member(name, value)
            report.problem(member.source, member.path, f"expected {error}")
    return found


def _margin(value: Any) -> Margin:
    if not isinstance(value, dict):
        return Margin(_part(value, _MOST_ON))
    if not value or set(value) - {"percentage", "fixed_amount"}:
        raise ValueError("`{percentage, fixed_amount}`, or one of the two")
    fixed = value.get("fixed_amount") or 0
    return Margin(_part(value.get("percentage") or 0, _MOST_ON), _part(fixed, _MOST_FIXED))


def _part(value: Any, most: Decimal) -> Decimal:
    expected = f"a number, 0 to {most}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(expected)
    try:
        part = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError(expected) from None
    if not part.is_finite() or not 0 <= part <= most:
        raise ValueError(expected)
    return part.quantize(_PLACES)
