"""Reading query strings; what is wrong with one is a 422 that names the parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from attrs import frozen

from services.admin.api.refusals import Issue, Unprocessable

_T = TypeVar("_T")

_LONGEST = 2048
_FLAGS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}


@frozen
class Query:
    """The parameters of a request; of repeated ones the last counts."""

    values: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """A text; an empty one counts as not given."""
        value = self.values.get(name) or None
        if value is not None and ("\x00" in value or len(value) > _LONGEST):
            raise _wrong(name, "string_type", "Input should be a shorter string without U+0000")
        # An escape that is not UTF-8 arrives as a lone surrogate, which cannot be looked up.
        return value and value.encode("utf-8", "replace").decode()

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self.text(name)
        if value is None:
            return default
        if value.lower() not in _FLAGS:
            raise _wrong(name, "bool_parsing", "Input should be a valid boolean")
        return _FLAGS[value.lower()]

    def whole(self, name: str, *, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        number = self._number(name, int, "int_parsing", default)
        if not low <= number <= high:
            raise _wrong(name, "value_error", f"Input should be from {low} to {high}")
        return number

    def seconds(self, name: str, *, default: float, high: float) -> float:
        """A duration from 0."""
        number = self._number(name, float, "float_parsing", default)
        if not math.isfinite(number) or not 0 <= number <= high:
            raise _wrong(name, "value_error", f"Input should be from 0 to {high}")
        return number

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of some words."""
        value = self.text(name)
        if value is not None and value not in allowed:
            listed = ", ".join(f"'{word}'" for word in allowed)
            raise _wrong(name, "literal_error", f"Input should be one of {listed}")
        return value

    def _number(self, name: str, read: Callable[[str], _T], kind: str, default: _T) -> _T:
        value = self.text(name)
        if value is None:
            return default
        try:
            return read(value)
        except ValueError:
            raise _wrong(name, kind, "Input should be a valid number") from None


def _wrong(name: str, kind: str, msg: str) -> Unprocessable:
    return Unprocessable([Issue(kind, ("query", name), msg)])
