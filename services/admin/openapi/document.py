"""The OpenAPI 3.1 document of an instance: what it serves, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.admin.api.calls import AdminRoute, OpenRoute
from services.admin.openapi import data_plane, management
from services.admin.openapi.errors import error_responses, error_schemas
from services.admin.openapi.operations import Json, plain_path
from shared.gateway.route_specs import RouteSpec

_DESCRIPTION = (
    "LLM calls, keys, users, teams, budgets, models and spend. Bodies are JSON. What a body has "
    "besides the members that are named here is ignored, unless an operation says otherwise; of "
    "LLM calls it is forwarded. `x-meridian-access` says whose keys may call an operation: those "
    "of users with one of the roles, and of whoever is one of the relations to the object."
)
_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A virtual key, or the master's"},
    "header": {"type": "apiKey", "in": "header", "name": "x-litellm-api-key"},
}


def build_document(
    routes: Iterable[AdminRoute | OpenRoute],
    specs: Sequence[RouteSpec],
    *,
    version: str,
    root_path: str = "",
) -> Json:
    """The document of management routes and of routes of the data plane."""
    bodies = management.Bodies()
    paths: dict[str, Json] = {}
    for route in routes:
        operation = management.operation(route, bodies)
        paths.setdefault(plain_path(route.path), {})[route.method.lower()] = operation
    for spec in specs:
        operation = data_plane.operation(spec)
        paths.setdefault(plain_path(spec.path), {})[spec.method.lower()] = operation
    schemas = {**error_schemas(), **data_plane.request_schemas(specs), **bodies.schemas}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Meridian", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": root_path or "/"}],
        "security": [{name: []} for name in _SCHEMES],
        "tags": [{"name": name} for name in sorted(_tags(paths))],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": error_responses(),
            "securitySchemes": _SCHEMES,
        },
    }


def _tags(paths: dict[str, Json]) -> set[str]:
    return {name for item in paths.values() for each in item.values() for name in each["tags"]}
