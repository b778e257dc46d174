"""Reading JSON values of request bodies: types with the leniency that clients count on.

A reader takes a value and where it stands, and gives the clean value. `Wrong` is a value of the
wrong type (422), `InvalidRequest` one that is out of range (400, contract §3.1.1). Numbers in
strings are numbers and whole floats are integers, as the reference reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from services.admin.api.refusals import Issue
from shared.domain.errors import InvalidRequest

Loc: TypeAlias = tuple[str | int, ...]
Reader: TypeAlias = Callable[[Any, Loc], Any]

MAX_MONEY = Decimal(9_999_999_999)
MAX_COUNT = 2**63 - 1
MAX_PARALLEL = 2**31 - 1

# Ids and names are indexed; the store refuses index entries of more than about 2700 bytes.
_LONGEST_TEXT = 512
_DEEPEST = 64
# The largest double has 309 digits; as a JSON number it comes back as an integer.
_MOST_DIGITS = 309
_BIGGEST = 10**_MOST_DIGITS
_MONEY_PLACES = Decimal("1e-10")
_WORDS = {"true": True, "false": False}


class Wrong(ValueError):
    """A value of the wrong type."""

    def __init__(self, kind: str, loc: Loc, msg: str) -> None:
        super().__init__(msg)
        self.issue = Issue(kind, loc, msg)


def text(value: Any, loc: Loc) -> str:
    """A string that can be stored and indexed."""
    if not isinstance(value, str):
        raise Wrong("string_type", loc, "Input should be a valid string")
    if "\x00" in value:
        raise _out_of_range(loc, "must not hold the character U+0000")
    if len(value) > _LONGEST_TEXT:
        raise _out_of_range(loc, f"must not be longer than {_LONGEST_TEXT} characters")
    return value


def flag(value: Any, loc: Loc) -> bool:
    """A boolean."""
    if isinstance(value, str):
        value = _WORDS.get(value.lower())
    if not isinstance(value, bool):
        raise Wrong("bool_type", loc, "Input should be a valid boolean")
    return value


def count(limit: int = MAX_COUNT) -> Reader:
    """A reader of whole numbers from 0."""

    def read(value: Any, loc: Loc) -> int:
        number = _number(value, loc, "int_type", "Input should be a valid integer")
        if not math.isfinite(number) or number != int(number):
            raise Wrong("int_from_float", loc, "Input should be a valid integer")
        if not 0 <= number <= limit:
            raise _out_of_range(loc, f"must be between 0 and {limit}")
        return int(number)

    return read


def money(value: Any, loc: Loc) -> Decimal:
    """An amount in USD from 0, to ten decimal places."""
    number = _number(value, loc, "float_type", "Input should be a valid number")
    if not math.isfinite(number) or not 0 <= number <= MAX_MONEY:
        raise _out_of_range(loc, f"must be a finite amount between 0 and {MAX_MONEY}")
    return Decimal(str(number)).quantize(_MONEY_PLACES)


def choice(*allowed: str) -> Reader:
    """A reader of one of some words."""
    listed = ", ".join(f"'{word}'" for word in allowed)

    def read(value: Any, loc: Loc) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Wrong("literal_error", loc, f"Input should be one of {listed}")
        return value

    return read


def listing(reader: Reader) -> Reader:
    """A reader of lists."""

    def read(value: Any, loc: Loc) -> list[Any]:
        if not isinstance(value, list):
            raise Wrong("list_type", loc, "Input should be a valid list")
        return [reader(item, (*loc, place)) for place, item in enumerate(value)]

    return read


def mapping(reader: Reader) -> Reader:
    """A reader of objects with values of one kind."""

    def read(value: Any, loc: Loc) -> dict[str, Any]:
        members = _object(value, loc)
        return {text(name, loc): reader(item, (*loc, name)) for name, item in members.items()}

    return read


def document(value: Any, loc: Loc) -> dict[str, Any]:
    """An object of any content that can be stored as it is."""
    members = _object(value, loc)
    _check_storable(members, loc, 0)
    return members


def instant(value: Any, loc: Loc) -> datetime:
    """A time in ISO 8601; without an offset it is UTC."""
    wrong = Wrong("datetime_parsing", loc, "Input should be a valid datetime")
    if not isinstance(value, str):
        raise wrong
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong from None


def _number(value: Any, loc: Loc, kind: str, msg: str) -> int | float | Decimal:
    if isinstance(value, str):
        try:
            value = Decimal(value.strip())
        except InvalidOperation:
            raise Wrong(kind, loc, msg) from None
        # Turning 1e999999999 into digits would take for ever, and a signalling NaN raises.
        if not value.is_finite() or value.adjusted() > _MOST_DIGITS:
            raise _out_of_range(loc, "must be a finite number that is not too big")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Wrong(kind, loc, msg)
    return value


def _object(value: Any, loc: Loc) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Wrong("dict_type", loc, "Input should be a valid dictionary")
    return value


def _check_storable(value: Any, loc: Loc, depth: int) -> None:
    if depth > _DEEPEST:
        raise _out_of_range(loc, f"is nested deeper than {_DEEPEST} levels")
    if isinstance(value, str) and "\x00" in value:
        raise _out_of_range(loc, "must not hold the character U+0000")
    if isinstance(value, int) and abs(value) > _BIGGEST:
        raise _out_of_range(loc, "holds a number that is too big")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_storable(name, loc, depth)
            _check_storable(item, (*loc, name), depth + 1)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check_storable(item, (*loc, place), depth + 1)


def _out_of_range(loc: Loc, what: str) -> InvalidRequest:
    name = ".".join(str(part) for part in loc[1:]) or str(loc[0])
    return InvalidRequest(f"{name} {what}", param=name)
