"""The document as a page shows it: operations by tag, schemas as lines of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from attrs import frozen

from services.admin.api.access import Role
from services.admin.openapi.operations import Json

_DEEPEST = 3
_ANY_KEY = "any valid key"


@frozen
class Member:
    """A parameter or a member of a body. `place` is `path`, `query` or `body`."""

    name: str
    place: str
    kind: str
    required: bool


@frozen
class Answer:
    """An answer by its status."""

    status: str
    text: str
    media: str


@frozen
class Operation:
    """An operation. `access` says who may call it."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    access: str
    members: tuple[Member, ...]
    answers: tuple[Answer, ...]


@frozen
class Group:
    """Operations about one thing."""

    name: str
    operations: tuple[Operation, ...]


def groups(document: Json) -> list[Group]:
    """Every operation of the document, by tag."""
    found = [
        (operation["tags"][0], _operation(document, method, path, operation))
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    found.sort(key=lambda pair: pair[0])
    return [
        Group(name, tuple(operation for _, operation in pairs))
        for name, pairs in groupby(found, key=lambda pair: pair[0])
    ]


def _operation(document: Json, method: str, path: str, operation: Json) -> Operation:
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation.get("description", ""),
        access=_access(operation),
        members=tuple(_members(document, operation)),
        answers=tuple(_answers(document, operation)),
    )


def _access(operation: Json) -> str:
    if operation.get("security") == []:
        return "anybody, without a key"
    access = operation.get("x-meridian-access")
    if access is None:
        return _ANY_KEY
    if access["master_key_only"]:
        return "the master key"
    if set(access["roles"]) == set(Role):
        return _ANY_KEY
    who = [*access["roles"], *access["relations"]]
    more = access.get("if_key_names_route", [])
    return ", ".join([*who, *(f"{each} if the key names the route" for each in more)])


def _members(document: Json, operation: Json) -> Iterator[Member]:
    for each in operation["parameters"]:
        kind = _kind(document, each["schema"])
        yield Member(each["name"], each["in"], kind, each.get("required", False))
    for body in operation.get("requestBody", {}).get("content", {}).values():
        schema = _resolved(document, body["schema"])
        for name, member in schema.get("properties", {}).items():
            required = name in schema.get("required", ())
            yield Member(name, "body", _kind(document, member), required)


def _answers(document: Json, operation: Json) -> Iterator[Answer]:
    for status, response in sorted(operation["responses"].items()):
        found = _resolved(document, response)
        yield Answer(status, found["description"], ", ".join(found.get("content", {})))


def _resolved(document: Json, part: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in part:
        return part
    found: Any = document
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def _kind(document: Json, schema: Mapping[str, Any], depth: int = 0) -> str:
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        kinds = (_kind(document, each, depth) for each in schema["anyOf"])
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    named = schema.get("type", "anything")
    kind = named if isinstance(named, str) else " or ".join(named)
    if kind == "array" and depth < _DEEPEST:
        return f"list of {_kind(document, schema.get('items', {}), depth + 1)}"
    if kind == "object" and depth < _DEEPEST:
        return _object(document, schema, depth)
    return kind + _bounds(schema)


def _object(document: Json, schema: Mapping[str, Any], depth: int) -> str:
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return f"object of {_kind(document, values, depth + 1)}"
    names: Sequence[str] = list(schema.get("properties", {}))
    return f"object with {', '.join(names)}" if names else "object"


def _bounds(schema: Mapping[str, Any]) -> str:
    said = []
    if "format" in schema:
        said.append(schema["format"])
    if "minimum" in schema and "maximum" in schema:
        said.append(f"{schema['minimum']} to {schema['maximum']}")
    if "maxLength" in schema:
        said.append(f"at most {schema['maxLength']} characters")
    if "default" in schema and schema["default"] is not None:
        said.append(f"default {schema['default']}")
    return f" ({', '.join(said)})" if said else ""
