"""What the caller itself may use: model lists and facts, without credentials.

GET `/v1/models`, `/v1/models/{id}`, `/model/info`, `/v1/model/info`, `/model_group/info` and their
aliases (management contract §3.8, LLM contract §1.6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shared.domain.keys import Principal
from shared.gateway.handlers.model_facts import entry_facts, group_facts
from shared.gateway.handlers.respond import caller, reply
from shared.routing.access import allowed, find_group, visible
from shared.routing.catalog import ModelGroup

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# The reference's constants, which clients may have stored.
_CREATED = 1677610602
_CREATED_AT = "2023-02-28T18:56:42Z"
_FALLBACK_TYPES = ("general", "context_window", "content_policy")
_YES = frozenset({"true", "1", "yes", "on", "t", "y"})


async def list_models(request: web.Request, rt: Runtime) -> web.Response:
    """OpenAI's list of models; Anthropic's when the client speaks that dialect."""
    principal = await caller(request, rt)
    query = request.query
    scope, team_id = query.get("scope"), query.get("team_id")
    if scope is not None and scope != "expand":
        return _detail("`scope` must be `expand`.", 400)
    if query.get("fallback_type", _FALLBACK_TYPES[0]) not in _FALLBACK_TYPES:
        return _detail(f"`fallback_type` must be one of {', '.join(_FALLBACK_TYPES)}.", 400)
    if team_id and not principal.master and team_id != principal.key.team_id:
        return _detail("This key is not of that team.", 403)
    names: list[str] = []
    only_access_groups = _asked(request, "only_model_access_groups")
    if not only_access_groups:
        names += _names(principal, rt, team_id, every_team=scope is not None)
        if _asked(request, "return_wildcard_routes"):
            names += [group.name for group in _groups(principal, rt) if "*" in group.name]
    if only_access_groups or _asked(request, "include_model_access_groups"):
        names += _access_groups(principal, rt)
    names = list(dict.fromkeys(names))
    if "anthropic-version" in request.headers:
        return reply(
            {
                "data": [_anthropic(name) for name in names],
                "has_more": False,
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
        )
    metadata: dict[str, Any] = (
        {"metadata": {"fallbacks": []}} if _asked(request, "include_metadata") else {}
    )
    return reply({"data": [_model(name) | metadata for name in names], "object": "list"})


async def get_model(request: web.Request, rt: Runtime) -> web.Response:
    """One model of the list."""
    principal = await caller(request, rt)
    name = request.match_info["model"]
    group = find_group(principal, name, rt.catalog)
    if group is None or not (principal.master or allowed(principal, name, group)):
        return reply({"detail": f"Model `{name[:200]}` is not known or not allowed."}, 404)
    return reply(_anthropic(name) if "anthropic-version" in request.headers else _model(name))


async def model_info(request: web.Request, rt: Runtime) -> web.Response:
    """Every deployment that the caller may use, without credentials."""
    principal = await caller(request, rt)
    wanted, team_id = request.query.get("litellm_model_id"), request.query.get("teamId")
    entries = rt.catalog.entries
    data = [
        entry_facts(entries[deployment.id], deployment)
        for group in _groups(principal, rt)
        for deployment in group.deployments
        if wanted is None or deployment.id == wanted
        if team_id is None or entries[deployment.id].team_id == team_id
    ]
    if wanted is not None and not data:
        return _detail(f"Model id `{wanted[:200]}` is not known.", 400)
    return reply({"data": data})


async def model_group_info(request: web.Request, rt: Runtime) -> web.Response:
    """Model groups with what their deployments have in common."""
    principal = await caller(request, rt)
    wanted = request.query.get("model_group")
    entries = rt.catalog.entries
    data = [
        group_facts(group, [entries[each.id] for each in group.deployments])
        for group in _groups(principal, rt)
        if wanted is None or group.name == wanted
    ]
    return reply({"data": data})


Handler = Callable[..., Awaitable[web.StreamResponse]]
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v1/models", list_models),
    ("GET", "/models", list_models),
    ("GET", "/v1/models/{model:.+}", get_model),
    ("GET", "/models/{model:.+}", get_model),
    ("GET", "/model/info", model_info),
    ("GET", "/v1/model/info", model_info),
    ("GET", "/model_group/info", model_group_info),
)


def _asked(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in _YES


def _names(
    principal: Principal, rt: Runtime, team_id: str | None, *, every_team: bool
) -> list[str]:
    catalog = rt.catalog
    if not principal.master:
        return list(visible(principal, catalog))
    own = (names for team, names in catalog.teams.items() if every_team or team == team_id)
    return [name for names in (*own, catalog.common) for name in names.names()]


def _groups(principal: Principal, rt: Runtime) -> tuple[ModelGroup, ...]:
    """Every group and wildcard that the caller may use, those of its team or, for the master key,
    of every team included."""
    catalog = rt.catalog
    teams = catalog.teams.items()
    own = [names for team, names in teams if principal.master or team == principal.key.team_id]
    found: list[ModelGroup] = []
    for names in (*own, catalog.common):
        groups = names.wildcards.groups()
        if principal.master:
            groups = (*names.groups(), *groups)
        found += [g for g in groups if principal.master or allowed(principal, g.name, g)]
    if not principal.master:
        named = (find_group(principal, name, catalog) for name in visible(principal, catalog))
        found += [group for group in named if group is not None]
    return tuple({id(group): group for group in found}.values())


def _access_groups(principal: Principal, rt: Runtime) -> list[str]:
    usable = {group.name for group in _groups(principal, rt)}
    groups = rt.catalog.access_groups.items()
    return [name for name, members in groups if not usable.isdisjoint(members)]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "openai"}


def _anthropic(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": _CREATED_AT}


def _detail(text: str, status: int) -> web.Response:
    return reply({"detail": {"error": text}}, status)
