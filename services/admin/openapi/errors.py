"""Errors in the document: a schema for each shape, and the answers that have it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from services.admin.api.calls import Shape
from services.admin.openapi.operations import Json, content, reference

_PROBLEM_MEDIA = "application/problem+json"
_TEXT: Json = {"type": "string"}
_SCHEMAS: Mapping[str, Json] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": _TEXT,
                    "type": {"type": ["string", "null"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
    "Detail": {
        "type": "object",
        "properties": {"detail": {"type": "object"}},
        "required": ["detail"],
    },
    "PlainDetail": {"type": "object", "properties": {"detail": _TEXT}, "required": ["detail"]},
    "Issues": {
        "type": "object",
        "properties": {
            "detail": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": _TEXT,
                        "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                        "msg": _TEXT,
                    },
                    "required": ["type", "loc", "msg"],
                },
            }
        },
        "required": ["detail"],
    },
    "Problem": {
        "type": "object",
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "allowed": {"type": "array", "items": _TEXT},
        },
        "required": ["type", "title", "status", "detail"],
    },
}
_OF_SHAPE: Mapping[Shape, str] = {
    Shape.PROXY: "Error",
    Shape.DETAIL: "Detail",
    Shape.PLAIN_DETAIL: "PlainDetail",
    Shape.PROBLEM: "Problem",
}
# An error has the shape of its route, or one of these: before the handler, and where one of the
# reference's routes has a shape of its own for what is not there.
_BESIDES: Mapping[int, tuple[str, ...]] = {
    400: (),
    401: ("Error",),
    403: ("Error", "PlainDetail"),
    404: ("Detail",),
    409: (),
    413: (),
    429: (),
}
_MIXED = (400, 403, 404)


def error_schemas() -> Json:
    """The schemas of all shapes."""
    return dict(_SCHEMAS)


def error_responses() -> Json:
    """Every error answer of every shape, as components."""
    found: Json = {}
    for shape, name in _OF_SHAPE.items():
        for status, besides in _BESIDES.items():
            others = [each for each in besides if each != name]
            found[_name(shape, status)] = _response(status, name, *others)
    for status in _MIXED:
        found[f"Mixed{status}"] = _response(status, "Error", "Detail", "PlainDetail")
    found["Failed"] = {"description": "Any other error", "content": content(reference("Error"))}
    found["Issues"] = _response(422, "Issues")
    found["Unavailable"] = _response(503, "Error")
    return found


def refusals(shape: Shape) -> Json:
    """The error answers of an operation whose errors have this shape."""
    own = {str(status): reference(_name(shape, status), "responses") for status in _BESIDES}
    return {
        **own,
        "422": reference("Issues", "responses"),
        "503": reference("Unavailable", "responses"),
    }


def mixed_refusals() -> Json:
    """The error answers of routes that have no one shape."""
    own = {str(status): reference(f"Mixed{status}", "responses") for status in _MIXED}
    return {
        **own,
        "401": reference(_name(Shape.PROXY, 401), "responses"),
        "503": reference("Unavailable", "responses"),
    }


def _name(shape: Shape, status: int) -> str:
    return f"{_OF_SHAPE[shape]}{status}"


def _response(status: int, *schemas: str) -> Json:
    bodies: Json = {}
    plain = [reference(name) for name in schemas if name != "Problem"]
    if plain:
        bodies |= content(plain[0] if len(plain) == 1 else {"anyOf": plain})
    if "Problem" in schemas:
        bodies |= content(reference("Problem"), _PROBLEM_MEDIA)
    return {"description": HTTPStatus(status).phrase, "content": bodies}
