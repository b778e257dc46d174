"""Reading JSON values of request bodies: types with the leniency that clients count on.

A reader takes a value and where it stands, and gives the clean value. `Wrong` is a value of the
wrong type (422), `InvalidRequest` one that is out of range (400, contract §3.1.1). Numbers in
strings are numbers and whole floats are integers, as the reference reads them. The JSON schema
that a reader carries says what to send; what is taken besides, for old clients, it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeAlias, TypeVar

from attrs import frozen

from services.admin.api.refusals import Issue
from shared.domain.errors import InvalidRequest

_T_co = TypeVar("_T_co", covariant=True)
Loc: TypeAlias = tuple[str | int, ...]
Schema: TypeAlias = Mapping[str, Any]

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


@frozen
class ValueReader(Generic[_T_co]):
    """A reader with the schema of what it takes, for the document of the API. There is no other
    kind, so no field can be without one."""

    read: Callable[[Any, Loc], _T_co]
    schema: Schema

    def __call__(self, value: Any, loc: Loc) -> _T_co:
        return self.read(value, loc)


Reader: TypeAlias = ValueReader[Any]


def reader(**schema: Any) -> Callable[[Callable[[Any, Loc], _T_co]], ValueReader[_T_co]]:
    """Makes a function a reader of values that a JSON schema describes."""

    def made(read: Callable[[Any, Loc], _T_co]) -> ValueReader[_T_co]:
        return ValueReader(read, schema)

    return made


def one_of(*readers: Reader) -> dict[str, Any]:
    """The schema of what one of the readers takes."""
    return {"anyOf": [each.schema for each in readers]}


def members_of(*required: str, **readers: Reader) -> dict[str, Any]:
    """The schema of an object with members that these readers take."""
    properties = {name: each.schema for name, each in readers.items()}
    return {"type": "object", "properties": properties, "required": list(required)}


@reader(type="string", maxLength=_LONGEST_TEXT)
def text(value: Any, loc: Loc) -> str:
    """A string that can be stored and indexed."""
    if not isinstance(value, str):
        raise Wrong("string_type", loc, "Input should be a valid string")
    if "\x00" in value:
        raise _out_of_range(loc, "must not hold the character U+0000")
    if len(value) > _LONGEST_TEXT:
        raise _out_of_range(loc, f"must not be longer than {_LONGEST_TEXT} characters")
    return value


@reader(type="boolean")
def flag(value: Any, loc: Loc) -> bool:
    """A boolean."""
    if isinstance(value, str):
        value = _WORDS.get(value.lower())
    if not isinstance(value, bool):
        raise Wrong("bool_type", loc, "Input should be a valid boolean")
    return value


def count(limit: int = MAX_COUNT) -> Reader:
    """A reader of whole numbers from 0."""

    @reader(type="integer", minimum=0, maximum=limit)
    def read(value: Any, loc: Loc) -> int:
        number = _number(value, loc, "int_type", "Input should be a valid integer")
        if not math.isfinite(number) or number != int(number):
            raise Wrong("int_from_float", loc, "Input should be a valid integer")
        if not 0 <= number <= limit:
            raise _out_of_range(loc, f"must be between 0 and {limit}")
        return int(number)

    return read


@reader(type="number", minimum=0, maximum=int(MAX_MONEY))
def money(value: Any, loc: Loc) -> Decimal:
    """An amount in USD from 0, to ten decimal places."""
    number = _number(value, loc, "float_type", "Input should be a valid number")
    if not math.isfinite(number) or not 0 <= number <= MAX_MONEY:
        raise _out_of_range(loc, f"must be a finite amount between 0 and {MAX_MONEY}")
    return Decimal(str(number)).quantize(_MONEY_PLACES)


def choice(*allowed: str) -> Reader:
    """A reader of one of some words."""
    listed = ", ".join(f"'{word}'" for word in allowed)

    @reader(type="string", enum=list(map(str, allowed)))
    def read(value: Any, loc: Loc) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Wrong("literal_error", loc, f"Input should be one of {listed}")
        return value

    return read


def listing(item: Reader) -> Reader:
    """A reader of lists."""

    @reader(type="array", items=item.schema)
    def read(value: Any, loc: Loc) -> list[Any]:
        if not isinstance(value, list):
            raise Wrong("list_type", loc, "Input should be a valid list")
        return [item(each, (*loc, place)) for place, each in enumerate(value)]

    return read


def mapping(item: Reader) -> Reader:
    """A reader of objects with values of one kind."""

    @reader(type="object", additionalProperties=item.schema)
    def read(value: Any, loc: Loc) -> dict[str, Any]:
        members = _object(value, loc)
        return {text(name, loc): item(each, (*loc, name)) for name, each in members.items()}

    return read


@reader(type="object")
def document(value: Any, loc: Loc) -> dict[str, Any]:
    """An object of any content that can be stored as it is."""
    members = _object(value, loc)
    _check_storable(members, loc, 0)
    return members


@reader(type="string", format="date-time")
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
    if isinstance(value, int) and abs(value) > _BIGGEST:
        raise _out_of_range(loc, "must be a finite number that is not too big")
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
