"""The operations that the admin shares with workers: LLM calls, model lists, health."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from services.admin.api.calls import Shape
from services.admin.openapi.errors import mixed_refusals, refusals
from services.admin.openapi.operations import (
    Json,
    content,
    operation_id,
    path_parameters,
    reference,
    tag,
    words,
)
from shared.domain.capabilities import RouteClass
from shared.domain.requests import EndpointKind
from shared.gateway.envelope import ChatRequest, CompletionRequest, EmbeddingRequest
from shared.gateway.handlers import health, models
from shared.gateway.route_specs import RouteSpec

_REQUESTS: Mapping[EndpointKind, type[msgspec.Struct]] = {
    EndpointKind.CHAT: ChatRequest,
    EndpointKind.COMPLETION: CompletionRequest,
    EndpointKind.EMBEDDING: EmbeddingRequest,
}
_SUMMARIES: Mapping[EndpointKind, str] = {
    EndpointKind.CHAT: "Answers a conversation",
    EndpointKind.COMPLETION: "Goes on with a text",
    EndpointKind.EMBEDDING: "Turns texts into vectors",
}
_STREAMED = (EndpointKind.CHAT, EndpointKind.COMPLETION)
_USAGE: Json = {"type": ["object", "null"]}
_REPLIES: Mapping[EndpointKind, Json] = {
    EndpointKind.CHAT: {"choices": {"type": "array", "items": {"type": "object"}}},
    EndpointKind.COMPLETION: {"choices": {"type": "array", "items": {"type": "object"}}},
    EndpointKind.EMBEDDING: {"data": {"type": "array", "items": {"type": "object"}}},
}
# Probes and metrics are read by machines that have no key; the rest of these routes asks for one.
_NO_KEY = frozenset({"liveness", "readiness"})
_FLAG: Json = {"type": "boolean"}
_TEXT: Json = {"type": "string"}
_QUERIES: Mapping[str, Mapping[str, Json]] = {
    "list_models": {
        "team_id": _TEXT,
        "scope": {"type": "string", "enum": ["expand"]},
        "return_wildcard_routes": _FLAG,
        "include_model_access_groups": _FLAG,
        "only_model_access_groups": _FLAG,
        "include_metadata": _FLAG,
        "fallback_type": {
            "type": "string",
            "enum": ["general", "context_window", "content_policy"],
        },
    },
    "model_info": {"litellm_model_id": _TEXT, "teamId": _TEXT},
    "model_group_info": {"model_group": _TEXT},
    "health": {"model": _TEXT, "model_id": _TEXT},
}


def request_schemas(specs: Iterable[RouteSpec]) -> Json:
    """The bodies of the LLM calls among the routes, as components. They have members besides,
    which go to the provider as they are."""
    kinds = {EndpointKind(s.handler) for s in specs if s.route_class is RouteClass.LLM}
    _, found = msgspec.json.schema_components(
        [_REQUESTS[kind] for kind in sorted(kinds)], ref_template="#/components/schemas/{name}"
    )
    return found


def operation(spec: RouteSpec) -> Json:
    """A route of the data plane as an operation."""
    common: Json = {"operationId": operation_id(spec.method, spec.path)}
    parameters = path_parameters(spec.path)
    if spec.route_class is RouteClass.LLM:
        return {**_llm(EndpointKind(spec.handler), spec.path), "parameters": parameters, **common}
    query = [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in _QUERIES.get(spec.handler, {}).items()
    ]
    return {**_read(spec), "parameters": [*parameters, *query], **common}


def _llm(kind: EndpointKind, path: str) -> Json:
    request = reference(_REQUESTS[kind].__name__)
    reply: Json = {
        "type": "object",
        "properties": {"model": _TEXT, "usage": _USAGE, **_REPLIES[kind]},
    }
    answers = content(reply)
    if kind in _STREAMED:
        answers |= content(_TEXT, "text/event-stream")
    description = "Members that are not listed are forwarded as they are."
    if "{model" in path:
        description += " The model is that of the path."
    return {
        "tags": ["llm"],
        "summary": _SUMMARIES[kind],
        "description": description,
        "requestBody": {"required": True, "content": content(request)},
        "responses": {
            "200": {"description": "OK", "content": answers},
            **refusals(Shape.PROXY),
            # A budget that is used up, and not issues with the body.
            "422": reference("Failed", "responses"),
            # Also what the provider says.
            "default": reference("Failed", "responses"),
        },
    }


def _read(spec: RouteSpec) -> Json:
    found: Json = {
        "tags": [tag(spec.path)],
        **words(spec.path, _HANDLERS[spec.handler]),
        "responses": {**mixed_refusals(), **_answers(spec)},
    }
    if spec.handler in _NO_KEY:
        found |= {"security": [], "responses": _answers(spec)}
    return found


def _answers(spec: RouteSpec) -> Json:
    any_object = {"type": "object"}
    not_now = {"description": "Service Unavailable", "content": content(any_object)}
    match spec.handler:
        case "liveness":
            return {**_ok(content(_TEXT)), "503": not_now}
        case "metrics":
            return _ok(content(_TEXT, "text/plain"))
        case "readiness" | "health":
            return {**_ok(content(any_object)), "503": not_now}
        case _:
            return _ok(content(any_object))


def _ok(bodies: Json) -> Json:
    return {"200": {"description": "OK", "content": bodies}}


_HANDLERS: Mapping[str, Callable[..., Any]] = {
    handler.__name__: handler for _, _, handler in (*models.ROUTES, *health.ROUTES)
}
