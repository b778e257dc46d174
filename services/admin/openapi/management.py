"""The operations of the management API, out of its route tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from services.admin.api.access import Role
from services.admin.api.body import Field, fields_schema
from services.admin.api.calls import AdminRoute, OpenRoute
from services.admin.api.parameters import Parameter
from services.admin.api.returns import Returns
from services.admin.openapi.errors import refusals
from services.admin.openapi.operations import (
    Json,
    content,
    operation_id,
    path_parameters,
    reference,
    tag,
    words,
)

# What bounds a value that is sent says nothing about one that is answered.
_BOUNDS = frozenset({"minimum", "maximum", "minLength", "maxLength", "maxItems", "minItems"})


class Bodies:
    """The schemas of bodies, as components: one for each table of fields that a route names."""

    def __init__(self) -> None:
        self.schemas: Json = {}
        self._named: list[tuple[tuple[Field, ...], str]] = []

    def named(self, route: AdminRoute | OpenRoute, fields: tuple[Field, ...]) -> Json:
        """A reference to the schema of a table, named after the first route that has it."""
        for known, name in self._named:
            if known == fields:
                return reference(name)
        name = operation_id(route.method, route.path).title().replace("_", "")
        self._named.append((fields, name))
        self.schemas[name] = fields_schema(fields)
        return reference(name)


def operation(route: AdminRoute | OpenRoute, bodies: Bodies) -> Json:
    """A route as an operation."""
    admitted = isinstance(route, AdminRoute)
    query = route.parameters if isinstance(route, AdminRoute) else route.query
    found: Json = {
        "tags": [tag(route.path)],
        **words(route.path, route.handler),
        "operationId": operation_id(route.method, route.path),
        "parameters": [*path_parameters(route.path), *map(_parameter, query)],
        "responses": {**_answer(route.returns), **refusals(route.errors)},
    }
    if route.body is not None:
        body = content(bodies.named(route, route.body))
        found["requestBody"] = {"required": True, "content": body}
    if isinstance(route, AdminRoute):
        found["x-meridian-access"] = _access(route)
    if not admitted:
        found["security"] = []
    return found


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "schema": dict(parameter.schema),
    }


def _answer(returns: Returns) -> Json:
    found: Json = {"description": HTTPStatus(returns.status).phrase}
    if returns.media == ("application/json",):
        one = _row(returns.fields)
        whole = {"type": "array", "items": one} if returns.many else one
        found["content"] = content(
            {"anyOf": [whole, {"type": "null"}]} if returns.nullable else whole
        )
    elif returns.media:
        found["content"] = content({"type": "string"}, *returns.media)
    return {str(returns.status): found}


def _row(fields: Iterable[Field]) -> Json:
    members = {
        field.name: {"anyOf": [_unbounded(field.read.schema), {"type": "null"}]} for field in fields
    }
    return {"type": "object", "properties": members} if members else {"type": "object"}


def _unbounded(schema: Mapping[str, Any]) -> Json:
    return {
        name: _unbounded(value) if isinstance(value, Mapping) else value
        for name, value in schema.items()
        if name not in _BOUNDS
    }


def _access(route: AdminRoute) -> Json:
    """Who may call a route: with the master key alone, or whoever has one of the roles, or is one
    of the relations to the object."""
    allowed = route.access
    if allowed.master_only:
        return {"master_key_only": True, "roles": [], "relations": []}
    roles = {Role.PROXY_ADMIN, *allowed.roles}
    if route.method == "GET":
        roles.add(Role.PROXY_ADMIN_VIEWER)
    found: Json = {
        "master_key_only": False,
        "roles": sorted(roles),
        "relations": sorted(allowed.relations),
    }
    if allowed.named:
        found["if_key_names_route"] = sorted(allowed.named)
    return found
