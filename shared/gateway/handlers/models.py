"""What the caller itself may use: model lists and facts, without credentials.

GET `/v1/models`, `/v1/models/{id}`, `/model/info`, `/v1/model/info`, `/model_group/info` and their
aliases (management contract §3.8, LLM contract §1.6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shared.domain.deployments import Deployment
from shared.domain.errors import InvalidRequest
from shared.domain.keys import Principal
from shared.gateway.handlers.respond import caller, reply
from shared.routing.access import allowed, visible
from shared.routing.catalog import ModelGroup

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# The reference's constant, which clients may have stored.
_CREATED = 1677610602


async def list_models(request: web.Request, rt: Runtime) -> web.Response:
    """OpenAI's list of models; Anthropic's when the client speaks that dialect."""
    principal = await caller(request, rt)
    scope = request.query.get("scope")
    if scope is not None and scope != "expand":
        raise InvalidRequest("`scope` must be `expand`.", param="scope")
    names = _names(principal, rt)
    if "anthropic-version" in request.headers:
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": "2023-02-28T18:56:42Z",
            }
            for name in names
        ]
        return reply(
            {
                "data": data,
                "has_more": False,
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
        )
    return reply({"data": [_model(name) for name in names], "object": "list"})


async def get_model(request: web.Request, rt: Runtime) -> web.Response:
    """One model of the list."""
    principal = await caller(request, rt)
    name = request.match_info["model"]
    group = rt.catalog.resolve(name)
    if group is None or not (principal.master or allowed(principal, name, group)):
        return reply({"detail": f"Model `{name[:200]}` is not known or not allowed."}, 404)
    return reply(_model(name))


async def model_info(request: web.Request, rt: Runtime) -> web.Response:
    """Every deployment that the caller may use, without credentials."""
    principal = await caller(request, rt)
    wanted = request.query.get("litellm_model_id")
    data = [
        _deployment_info(deployment)
        for group in _groups(principal, rt)
        for deployment in group.deployments
        if wanted is None or deployment.id == wanted
    ]
    if wanted is not None and not data:
        return reply({"detail": {"error": f"Model id `{wanted[:200]}` is not known."}}, 400)
    return reply({"data": data})


async def model_group_info(request: web.Request, rt: Runtime) -> web.Response:
    """Model groups with what their deployments have in common."""
    principal = await caller(request, rt)
    wanted = request.query.get("model_group")
    data = [
        _group_info(group)
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


def _names(principal: Principal, rt: Runtime) -> list[str]:
    if principal.master:
        return list(rt.catalog.names())
    return list(visible(principal, rt.catalog))


def _groups(principal: Principal, rt: Runtime) -> Iterator[ModelGroup]:
    for name in _names(principal, rt):
        group = rt.catalog.resolve(name)
        if group is not None:
            yield group


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "openai"}


def _price(rate: Decimal | None) -> float | None:
    return None if rate is None else float(rate)


def _deployment_info(deployment: Deployment) -> dict[str, Any]:
    rates = deployment.rates
    return {
        "model_name": deployment.model_group,
        "litellm_params": {
            "model": f"{deployment.provider}/{deployment.upstream_model}",
            "api_base": deployment.api_base,
        },
        "model_info": {
            "id": deployment.id,
            "db_model": False,
            "mode": deployment.mode,
            "access_groups": list(deployment.access_groups),
            "max_input_tokens": deployment.max_input_tokens,
            "max_output_tokens": deployment.max_output_tokens,
            "input_cost_per_token": _price(rates.input) if rates else None,
            "output_cost_per_token": _price(rates.output) if rates else None,
        },
    }


def _group_info(group: ModelGroup) -> dict[str, Any]:
    deployments = group.deployments
    priced = [deployment.rates for deployment in deployments if deployment.rates is not None]
    inputs = [d.max_input_tokens for d in deployments if d.max_input_tokens is not None]
    outputs = [d.max_output_tokens for d in deployments if d.max_output_tokens is not None]
    return {
        "model_group": group.name,
        "providers": sorted({deployment.provider for deployment in deployments}),
        "mode": deployments[0].mode if deployments else None,
        "max_input_tokens": max(inputs, default=None),
        "max_output_tokens": max(outputs, default=None),
        "input_cost_per_token": _price(max((r.input for r in priced), default=None)),
        "output_cost_per_token": _price(max((r.output for r in priced), default=None)),
    }
