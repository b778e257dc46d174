"""The request that a command makes of what was given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from attrs import frozen

from services.cli.command import Command, Given, Option, Place
from services.cli.kinds import FIELDS
from services.cli.options import FIELD, FROM
from services.cli.shapes import put
from services.cli.status import Misused


@frozen
class Request:
    """A call of the management API. `path` is already escaped."""

    method: str
    path: str
    query: Mapping[str, str] = MappingProxyType({})
    body: Mapping[str, Any] | None = None


def build(command: Command, given: Given) -> Request:
    """Raises `Misused` for fields that contradict each other."""
    parts = {
        option.field: quote(str(given[option.slot]), safe="")
        for option in command.options
        if option.place is Place.PATH
    }
    query = {
        option.field: _worded(given[option.slot])
        for option in command.options
        if option.place is Place.QUERY and option.slot in given
    }
    path = command.path.format(**parts)
    if command.method == "GET":
        return Request("GET", path, {**command.fixed, **query})
    return Request(command.method, path, query, body_of(command, given))


def body_of(command: Command, given: Given) -> dict[str, Any]:
    """The body: what a file holds, over it the flags, over it `--field`."""
    body: dict[str, Any] = dict(command.fixed)
    held = given.get(FROM.slot, {})
    if not isinstance(held, dict):
        raise Misused(f"{FROM.name} holds no JSON object")
    body |= held
    try:
        for option in command.options:
            if option.place is Place.BODY and option.slot in given:
                _put(body, option, given[option.slot])
        for name, value in given.get(FIELD.slot, {}).items():
            put(body, name, value)
    except ValueError as error:
        raise Misused(str(error)) from None
    return body


def _put(body: dict[str, Any], option: Option, value: Any) -> None:
    if option.kind is not FIELDS:
        put(body, option.field, value)
        return
    inner = body.setdefault(option.field, {})
    if not isinstance(inner, dict):
        raise ValueError(f"{option.field} is no object")  # noqa: TRY004 - a value of the user's
    inner |= value


def _worded(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
