"""Fields of request bodies as tables.

`read_fields` gives only the fields that were sent; an explicit null is a sent `None`. Fields that
no table knows are ignored, as the reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from attrs import frozen

from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.values import Reader, Wrong
from shared.domain.errors import InvalidRequest


class Place(Enum):
    """Where a field's value goes."""

    COLUMN = "a column of the row"
    METADATA = "a member of its metadata"
    CONTROL = "steers the call"


@frozen
class Field:
    """A field of a body. `empty` is what null stores in a column that is never null; a `required`
    one must be sent and not be null."""

    name: str
    read: Reader
    place: Place = Place.COLUMN
    empty: Any = None
    required: bool = False


def read_fields(body: Mapping[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    """The sent fields, clean. Raises `Unprocessable` with all of the wrong type, else
    `InvalidRequest` for the first that is out of range."""
    values: dict[str, Any] = {}
    issues: list[Issue] = []
    first: InvalidRequest | None = None
    for field in fields:
        sent = body.get(field.name)
        if sent is None and field.required:
            issues.append(Issue("missing", ("body", field.name), "Field required"))
        if field.name not in body:
            continue
        try:
            values[field.name] = None if sent is None else field.read(sent, ("body", field.name))
        except Wrong as wrong:
            issues.append(wrong.issue)
        except InvalidRequest as error:
            first = first or error
    if issues:
        raise Unprocessable(issues)
    if first is not None:
        raise first
    return values


def fields_schema(fields: Iterable[Field]) -> dict[str, Any]:
    """The schema of an object with these fields, of which all but the required may be null."""
    properties, required = {}, []
    for field in fields:
        nullable = {"anyOf": [field.read.schema, {"type": "null"}]}
        properties[field.name] = field.read.schema if field.required else nullable
        if field.required:
            required.append(field.name)
    return {"type": "object", "properties": properties, "required": required}


def placed(values: Mapping[str, Any], fields: tuple[Field, ...], place: Place) -> dict[str, Any]:
    """Those of the values that go to one place."""
    names = {field.name for field in fields if field.place is place}
    return {name: value for name, value in values.items() if name in names}
