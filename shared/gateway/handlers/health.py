"""Liveness, readiness, probes and metrics (LLM contract §6.6, management contract §3.11).

Readiness beyond the contract's two members says what the instance is and whether it is degraded:
without the database it stays ready as long as known keys can be served (DESIGN §5a).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from shared.domain.deployments import Deployment
from shared.domain.errors import PermissionDenied
from shared.domain.keys import Principal
from shared.gateway.handlers.respond import caller, reply
from shared.gateway.probe import probe
from shared.routing.access import visible

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

_SHUTTING_DOWN = {"status": "shutting_down"}
# How many upstreams a probe of everything calls at once.
_PROBES_AT_ONCE = 8


async def liveness(request: web.Request, rt: Runtime) -> web.Response:
    """The loop turns."""
    del request, rt
    return reply("I'm alive!")


async def readiness(request: web.Request, rt: Runtime) -> web.Response:
    """Whether a load balancer should send calls here."""
    del request
    if rt.drain.draining:
        return reply(_SHUTTING_DOWN, 503)
    store = rt.store
    serving = store.up or store.stale_s < rt.limits.stale_limit_s
    body = {
        "status": "healthy",
        "db": "connected" if store.up else "disconnected",
        "degraded": not store.up,
        "binary": rt.binary.value,
        "region": rt.region,
        "version": rt.version,
        "capabilities": list(rt.capabilities.held()),
    }
    return reply(body, 200 if serving else 503)


async def readiness_details(request: web.Request, rt: Runtime) -> web.Response:
    """Readiness with what an operator wants to know; for the master key."""
    if not rt.config.general.allow_public_health_readiness_details:
        _master_only(await caller(request, rt))
    return reply(
        {
            "status": "healthy",
            "db": "connected" if rt.store.up else "disconnected",
            "cache": None,
            "litellm_version": rt.version,
            "success_callbacks": [],
            "log_level": rt.log_level,
            "off": dict(rt.capabilities.reasons),
            **rt.details(),
        }
    )


async def health(request: web.Request, rt: Runtime) -> web.Response:
    """Probe the caller's deployments; without the capability, say only that we are here."""
    principal = await caller(request, rt)
    if not rt.capabilities.probes:
        return reply({"status": "healthy", "probes": rt.capabilities.reasons["probes"]})
    targets = _targets(request, principal, rt)
    if "model_id" in request.query and not targets:
        return reply({"detail": {"error": "No such model id."}}, 404)
    gate = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def check(deployment: Deployment) -> tuple[bool, dict[str, Any]]:
        async with gate:
            status, data = await probe(deployment, rt)
        return status == 200, _endpoint(deployment, status, data, principal)

    checks = await asyncio.gather(*(check(deployment) for deployment in targets))
    healthy = [entry for ok, entry in checks if ok]
    unhealthy = [entry for ok, entry in checks if not ok]
    targeted = "model" in request.query or "model_id" in request.query
    return reply(
        {
            "healthy_endpoints": healthy,
            "unhealthy_endpoints": unhealthy,
            "healthy_count": len(healthy),
            "unhealthy_count": len(unhealthy),
        },
        503 if targeted and not healthy else 200,
    )


async def metrics(request: web.Request, rt: Runtime) -> web.Response:
    """Prometheus exposition, summed over the processes of this state directory."""
    if rt.config.litellm.require_auth_for_metrics_endpoint:
        await caller(request, rt)
    body, content_type = await rt.scrape()
    return web.Response(body=body, headers={"content-type": content_type})


Handler = Callable[..., Awaitable[web.StreamResponse]]
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/health", health),
    ("GET", "/health/liveliness", liveness),
    ("OPTIONS", "/health/liveliness", liveness),
    ("GET", "/health/liveness", liveness),
    ("OPTIONS", "/health/liveness", liveness),
    ("GET", "/health/readiness", readiness),
    ("OPTIONS", "/health/readiness", readiness),
    ("GET", "/health/readiness/details", readiness_details),
    ("GET", "/metrics", metrics),
)


def _master_only(principal: Principal) -> None:
    if not principal.master:
        raise PermissionDenied("Only the master key may see this.")


def _targets(request: web.Request, principal: Principal, rt: Runtime) -> list[Deployment]:
    names = rt.catalog.names() if principal.master else visible(principal, rt.catalog)
    model, model_id = request.query.get("model"), request.query.get("model_id")
    found: dict[str, Deployment] = {}
    for name in names:
        group = rt.catalog.resolve(name)
        for deployment in group.deployments if group is not None else ():
            called = (name, deployment.upstream_model, f"{deployment.provider}/{name}")
            if model is not None and model not in called:
                continue
            if model_id is None or deployment.id == model_id:
                found[deployment.id] = deployment
    return list(found.values())


def _endpoint(
    deployment: Deployment, status: int, data: bytes, principal: Principal
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "model": f"{deployment.provider}/{deployment.upstream_model}",
        "model_id": deployment.id,
        "mode": deployment.mode,
        "custom_llm_provider": deployment.provider,
    }
    if principal.master:
        entry["api_base"] = deployment.api_base
    if status != 200:
        entry["error"] = _message(data) or f"no answer ({status})"
    return entry


def _message(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
