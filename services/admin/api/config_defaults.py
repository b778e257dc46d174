"""The routes of what new users and new teams get (management contract §3.11)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.admin.api.body import Field
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.config import NO_GROUP, stored_section
from services.admin.api.config_fields import value_of
from services.admin.api.config_store import Changed, change_settings, setting
from services.admin.api.respond import answer
from services.admin.api.team_fields import TEAM_FIELDS
from services.admin.api.user_fields import NEW_FIELDS
from services.admin.api.values import document

_LITELLM = "litellm_settings"
_USERS = "default_internal_user_params"
_TEAMS = "default_team_params"


async def user_defaults(call: AdminCall) -> web.Response:
    """GET /get/internal_user_settings: what new internal users get."""
    return await _show(call, _USERS, "What new internal users get", NEW_FIELDS)


async def set_user_defaults(call: AdminCall) -> web.Response:
    """PATCH /update/internal_user_settings: sets what new internal users get."""
    return await _set(call, _USERS)


async def team_defaults(call: AdminCall) -> web.Response:
    """GET /get/default_team_settings: what new teams get."""
    return await _show(call, _TEAMS, "What new teams get", TEAM_FIELDS)


async def set_team_defaults(call: AdminCall) -> web.Response:
    """PATCH /update/default_team_settings: sets what new teams get."""
    return await _set(call, _TEAMS)


CONFIG_DEFAULT_ROUTES = (
    AdminRoute(
        "GET", "/get/internal_user_settings", user_defaults, groups=NO_GROUP, errors=Shape.DETAIL
    ),
    AdminRoute(
        "PATCH",
        "/update/internal_user_settings",
        set_user_defaults,
        groups=NO_GROUP,
        errors=Shape.DETAIL,
        body=NEW_FIELDS,
    ),
    AdminRoute(
        "GET", "/get/default_team_settings", team_defaults, groups=NO_GROUP, errors=Shape.DETAIL
    ),
    AdminRoute(
        "PATCH",
        "/update/default_team_settings",
        set_team_defaults,
        groups=NO_GROUP,
        errors=Shape.DETAIL,
        body=TEAM_FIELDS,
    ),
)


async def _show(
    call: AdminCall, name: str, description: str, fields: tuple[Field, ...]
) -> web.Response:
    stored = await stored_section(call, _LITELLM)
    value = value_of(call.services.models.wholes.file, _LITELLM, name, stored)
    properties = {field.name: dict(field.read.schema) for field in fields}
    return answer(
        {
            "values": value.value or {},
            "field_schema": {"description": description, "properties": properties},
        }
    )


async def _set(call: AdminCall, name: str) -> web.Response:
    """Puts the body in the place of what there is; null is as good as absent."""
    body = document(await call.body(), ("body",))
    values = {member: value for member, value in body.items() if value is not None}

    def reply(changed: Changed) -> dict[str, Any]:
        return {
            "message": "The settings were changed",
            "status": "success",
            "settings": changed.sections[_LITELLM].get(name, {}),
            **changed.remarks(),
        }

    return await change_settings(call, {_LITELLM: setting({name: values or None})}, reply)
