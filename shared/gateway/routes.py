"""The data plane's routes, registered on either binary by what it may serve.

Registration is the switch: a route of a class that the instance does not serve is not there, and
the fallback says why. Paths match exactly as sent; `refusal` alone looks at normalised ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from shared.domain.capabilities import RouteClass
from shared.domain.errors import InvalidRequest
from shared.gateway.front_aiohttp import Handler, llm_handler
from shared.gateway.handlers import health, models
from shared.gateway.handlers.respond import answered
from shared.gateway.route import CHAT, COMPLETIONS, EMBEDDINGS, Route
from shared.gateway.route_classes import refusal
from shared.gateway.route_specs import RouteSpec

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# Path templates of aiohttp; `{model}` takes slashes (LLM contract §1.0, §1.1).
_LLM_PATHS: tuple[tuple[Route, tuple[str, ...]], ...] = (
    (
        CHAT,
        (
            "/v1/chat/completions",
            "/chat/completions",
            "/queue/chat/completions",
            "/engines/{model:.+}/chat/completions",
            "/openai/deployments/{model:.+}/chat/completions",
        ),
    ),
    (
        COMPLETIONS,
        (
            "/v1/completions",
            "/completions",
            "/engines/{model:.+}/completions",
            "/openai/deployments/{model:.+}/completions",
        ),
    ),
    (
        EMBEDDINGS,
        (
            "/v1/embeddings",
            "/embeddings",
            "/engines/{model:.+}/embeddings",
            "/openai/deployments/{model:.+}/embeddings",
        ),
    ),
)


def data_plane(rt: Runtime) -> tuple[tuple[RouteSpec, Handler], ...]:
    """Every route of the data plane with its handler, whatever the instance serves."""
    routes: list[tuple[RouteSpec, Handler]] = []
    for route, paths in _LLM_PATHS:
        handler = llm_handler(route, rt)
        routes += [
            (RouteSpec("POST", path, RouteClass.LLM, route.kind.value), handler) for path in paths
        ]
    for method, path, route_class, handler in (
        *((m, p, RouteClass.PUBLIC, h) for m, p, h in models.ROUTES),
        *((m, p, RouteClass.HEALTH, h) for m, p, h in health.ROUTES),
    ):
        spec = RouteSpec(method, path, route_class, handler.__name__)
        routes.append((spec, answered(partial(handler, rt=rt))))
    return tuple(routes)


def hot_routes(rt: Runtime) -> Mapping[str, Route]:
    """The LLM routes without a parameter in their path, by path, if the instance serves them."""
    if not rt.capabilities.serves(RouteClass.LLM):
        return {}
    return {path: route for route, paths in _LLM_PATHS for path in paths if "{" not in path}


def register(app: web.Application, rt: Runtime) -> None:
    """Add the routes that this instance serves."""
    for spec, handler in data_plane(rt):
        if rt.capabilities.serves(spec.route_class):
            app.router.add_route(spec.method, spec.path, handler)


def register_fallback(app: web.Application, rt: Runtime) -> None:
    """Answer every path without a handler; to be called last."""

    async def fallback(request: web.Request) -> web.StreamResponse:
        if not request.path.isprintable():
            return _refused(InvalidRequest("The path holds control characters."))
        status, body = refusal(request.rel_url.raw_path, rt.capabilities, rt.root_path)
        # A class that is off is off for every method, also where another class has a handler.
        allowed = [] if status == 403 else await _methods(request)
        if allowed:
            return _wrong_method(request, allowed)
        return web.json_response(body, status=status)

    # `.` matches no line feed, which a path may hold percent-encoded.
    app.router.add_route("*", r"/{tail:[\s\S]*}", fallback)


async def _methods(request: web.Request) -> list[str]:
    """The methods that some route takes at the request's path."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        found |= methods
    return sorted(found - {"*"})


def _wrong_method(request: web.Request, allowed: list[str]) -> web.Response:
    error = InvalidRequest(
        f"{request.method} is not a method of this path.", status=405, code="method_not_allowed"
    )
    return _refused(error, {"allow": ", ".join(allowed)})


def _refused(error: InvalidRequest, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(error.body(), status=error.status, headers=headers)
