"""What the router is set to, and what it could be set to (management contract §3.11)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web
from attrs import asdict

from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.config import NO_GROUP
from services.admin.api.config_fields import type_name
from services.admin.api.respond import answer
from shared.config.config_schema import ROUTER_SETTINGS
from shared.config.gateway_config import GatewayConfig

_STRATEGIES: Mapping[str, str] = MappingProxyType(
    {"simple-shuffle": "Draws one of a group's deployments at random, by weight, rpm or tpm."}
)


async def settings(call: AdminCall) -> web.Response:
    """GET /router/settings: what the router is set to."""
    values = _values(call.services.models.config)
    fields = [{**each, "field_value": values[each["field_name"]]} for each in _fields()]
    return answer(
        {
            "fields": fields,
            "routing_strategy_descriptions": dict(_STRATEGIES),
            "current_values": values,
        }
    )


async def fields(call: AdminCall) -> web.Response:
    """GET /router/fields: what the router could be set to."""
    del call
    return answer({"fields": _fields(), "routing_strategy_descriptions": dict(_STRATEGIES)})


CONFIG_ROUTER_ROUTES = (
    AdminRoute("GET", "/router/settings", settings, groups=NO_GROUP),
    AdminRoute("GET", "/router/fields", fields, groups=NO_GROUP),
)


def _fields() -> list[dict[str, Any]]:
    return [
        {
            "field_name": key.name,
            "field_type": type_name(key.type),
            "field_description": key.help,
            "field_default": key.default or None,
            "options": list(_STRATEGIES) if key.name == "routing_strategy" else None,
            "ui_field_name": key.name.replace("_", " ").capitalize(),
            "link": None,
        }
        for key in ROUTER_SETTINGS
    ]


def _values(config: GatewayConfig) -> dict[str, Any]:
    return {**asdict(config.router), "num_retries": config.num_retries}
