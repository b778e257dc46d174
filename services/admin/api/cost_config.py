"""The routes of the operator's say in prices: discounts, margins, and calls without a price
(management contract §3.11)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.config import NO_GROUP, stored_section
from services.admin.api.config_fields import value_of
from services.admin.api.config_store import Changed, change_settings, setting
from services.admin.api.respond import answer
from services.admin.api.values import document, flag

_LITELLM = "litellm_settings"
_DISCOUNTS = "cost_discount_config"
_MARGINS = "cost_margin_config"
_BLOCK = "block_requests_for_models_without_pricing"

Handler = Callable[[AdminCall], Awaitable[web.Response]]


async def discounts(call: AdminCall) -> web.Response:
    """GET /config/cost_discount_config: discounts by provider."""
    return answer({"values": await _value(call, _DISCOUNTS) or {}})


async def set_discounts(call: AdminCall) -> web.Response:
    """PATCH /config/cost_discount_config: sets the discounts."""
    return await _set(call, _DISCOUNTS)


async def margins(call: AdminCall) -> web.Response:
    """GET /config/cost_margin_config: margins by provider."""
    return answer({"values": await _value(call, _MARGINS) or {}})


async def set_margins(call: AdminCall) -> web.Response:
    """PATCH /config/cost_margin_config: sets the margins."""
    return await _set(call, _MARGINS)


async def blocking(call: AdminCall) -> web.Response:
    """GET /config/block_requests_for_models_without_pricing: whether calls to models without
    a price are refused."""
    return answer({_BLOCK: bool(await _value(call, _BLOCK))})


async def set_blocking(call: AdminCall) -> web.Response:
    """PATCH /config/block_requests_for_models_without_pricing: refuses calls to models without
    a price, or lets them through."""
    wanted = read_fields(await call.body(), _BLOCKING)[_BLOCK]

    def reply(changed: Changed) -> dict[str, Any]:
        return {**_done(changed), _BLOCK: wanted}

    return await change_settings(call, {_LITELLM: setting({_BLOCK: wanted})}, reply)


_BLOCKING = (Field(_BLOCK, flag, Place.CONTROL, required=True),)


def _routes(
    name: str, show: Handler, change: Handler, body: tuple[Field, ...] = ()
) -> tuple[AdminRoute, AdminRoute]:
    path = f"/config/{name}"
    return (
        AdminRoute("GET", path, show, groups=NO_GROUP, errors=Shape.DETAIL),
        AdminRoute("PATCH", path, change, groups=NO_GROUP, errors=Shape.DETAIL, body=body),
    )


COST_CONFIG_ROUTES = (
    *_routes(_DISCOUNTS, discounts, set_discounts),
    *_routes(_MARGINS, margins, set_margins),
    *_routes(_BLOCK, blocking, set_blocking, _BLOCKING),
)


async def _value(call: AdminCall, name: str) -> Any:
    stored = await stored_section(call, _LITELLM)
    return value_of(call.services.models.wholes.file, _LITELLM, name, stored).value


async def _set(call: AdminCall, name: str) -> web.Response:
    """Puts the body in the place of what there is."""
    values = document(await call.body(), ("body",))

    def reply(changed: Changed) -> dict[str, Any]:
        return {**_done(changed), "values": changed.sections[_LITELLM].get(name, {})}

    return await change_settings(call, {_LITELLM: setting({name: values or None})}, reply)


def _done(changed: Changed) -> dict[str, Any]:
    return {"message": "The setting was changed", "status": "success", **changed.remarks()}
