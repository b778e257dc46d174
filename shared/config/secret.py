"""A text that no accidental path shows: print, format, log, JSON, pickle, traceback."""

from __future__ import annotations

import hmac
from typing import NoReturn

MASK = "********"


class Secret:
    """Holds a secret text; only `reveal` gives it out.

    It has no JSON form and refuses to be pickled. Copies are the object itself.
    """

    __slots__ = ("_value",)

    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """The text itself: for the one place that needs it."""
        return self._value

    def matches(self, presented: str) -> bool:
        """Whether a presented text is the secret, in time that does not depend on where it
        differs."""
        return hmac.compare_digest(_bytes(self._value), _bytes(presented))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __eq__(self, other: object) -> bool:
        return self.matches(other._value) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


def _bytes(text: str) -> bytes:
    # The environment may hold bytes that are not UTF-8; they arrive as lone surrogates.
    return text.encode("utf-8", "surrogatepass")
