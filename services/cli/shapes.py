"""Finding one's way in answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.cli.command import Given, Shape
from services.cli.status import Refused


def at(value: Any, path: str) -> Any:
    """What a path with dots leads to; `None` where there is nothing."""
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def put(target: dict[str, Any], path: str, value: Any) -> None:
    """Sets what a path with dots leads to. Raises `ValueError` where a member on the way is no
    object."""
    *above, last = path.split(".")
    for name in above:
        inner = target.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name} is no object")  # noqa: TRY004 - a value of the user's
        target = inner
    target[last] = value


def member(path: str) -> Shape:
    """A shape that is a member of the answer, or the answer where there is no such member."""

    def shape(body: Any, _given: Given) -> Any:
        found = at(body, path)
        return body if found is None else found

    return shape


def only(path: str, what: str) -> Shape:
    """A shape that is the one row of a list."""

    def shape(body: Any, _given: Given) -> Any:
        rows = at(body, path)
        if not isinstance(rows, list) or not rows:
            raise Refused(f"there is no such {what}")
        return rows[0]

    return shape
