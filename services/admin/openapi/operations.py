"""The parts that every operation of the document has: its path, id, tag, parameters, words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

_PATH_PARAMETER = re.compile(r"{(?P<name>\w+)(:[^}]*)?}")
_NOT_A_WORD = re.compile(r"[^a-z0-9]+", re.IGNORECASE)
_METHODS = ("GET ", "POST ", "PUT ", "PATCH ", "DELETE ")
# Segments before the one that says what a path is about.
_PREFIXES = frozenset({"v1", "v2", "management"})
_SINGULAR: Mapping[str, str] = {
    "budgets": "budget",
    "end_user": "customer",
    "models": "model",
    "model_group": "model",
    "spend_logs": "spend",
    "teams": "team",
    "unified_access_group": "access_group",
    "metrics": "health",
}


def plain_path(path: str) -> str:
    """The path in the notation of OpenAPI: parameters without their patterns."""
    return _PATH_PARAMETER.sub(lambda match: f"{{{match['name']}}}", path)


def operation_id(method: str, path: str) -> str:
    """A name that no other operation has."""
    return "_".join(filter(None, (method.lower(), *_NOT_A_WORD.split(plain_path(path)))))


def tag(path: str) -> str:
    """What the path is about."""
    words = [word for word in path.split("/") if word and word not in _PREFIXES]
    return _SINGULAR.get(words[0], words[0])


def path_parameters(path: str) -> list[Json]:
    """The parameters of a path."""
    return [
        {
            "name": match["name"],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for match in _PATH_PARAMETER.finditer(path)
    ]


def words(path: str, handler: Callable[..., Any]) -> Json:
    """The summary of an operation and, if there is more to say, its description: what the
    handler's docstring says after the names of its routes."""
    first, _, rest = (handler.__doc__ or "").strip().partition("\n\n")
    said = first.partition(": ")[2] if first.startswith(_METHODS) else first
    # Without words of its own it is called what the path says.
    parts = [part for part in path.split("/") if part and "{" not in part]
    summary = " ".join(said.split()) or " ".join(parts[-2:]).replace("_", " ")
    found: Json = {"summary": summary[0].upper() + summary[1:].rstrip(".")}
    if rest.strip():
        found["description"] = " ".join(rest.split())
    return found


def content(schema: Json, *media: str) -> Json:
    """A body of one of these media types, JSON if none is named."""
    return {each: {"schema": schema} for each in media or ("application/json",)}


def reference(name: str, kind: str = "schemas") -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}
