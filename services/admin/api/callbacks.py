"""The routes of the gateway's callbacks (management contract §3.11).

Which callbacks are configured is kept and shown; this release calls none of them, and the notices
of every change say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.config import CONFIG_READS, NO_GROUP, stored_section
from services.admin.api.config_fields import value_of
from services.admin.api.config_store import Changed, Members, change_settings
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.values import text
from shared.domain.errors import InvalidRequest, RequestError

_LITELLM = "litellm_settings"
# Settings that list callbacks, and the kind of the callbacks in each.
_LISTS = (
    ("success_callback", "success"),
    ("failure_callback", "failure"),
    ("callbacks", "success_and_failure"),
)
_DELETE = (Field("callback_name", text, Place.CONTROL, required=True),)


async def delete(call: AdminCall) -> web.Response:
    """POST /config/callback/delete: takes a callback away."""
    name = read_fields(await call.body(), _DELETE)["callback_name"]

    def edit(stored: Members) -> Members:
        after = dict(stored)
        for member, _ in _LISTS:
            after[member] = [each for each in _names(stored.get(member)) if each != name]
        kept = {member: value for member, value in after.items() if value or member not in _MEMBERS}
        if all(_names(kept.get(member)) == _names(stored.get(member)) for member, _ in _LISTS):
            raise _missing(call, name)
        return kept

    def reply(changed: Changed) -> dict[str, Any]:
        left = changed.sections[_LITELLM]
        remaining = [each for member, _ in _LISTS for each in _names(left.get(member))]
        return {
            "message": f"The callback {name} was removed",
            "removed_callback": name,
            "remaining_callbacks": remaining,
            **changed.remarks(),
        }

    return await change_settings(call, {_LITELLM: edit}, reply)


async def list_all(call: AdminCall) -> web.Response:
    """GET /callbacks/list: the callbacks that are configured, by kind."""
    found = await _configured(call)
    return answer({kind: [name for name, each in found if each == kind] for _, kind in _LISTS})


async def configurations(call: AdminCall) -> web.Response:
    """GET /callbacks/configs: the callbacks that could be configured."""
    del call
    # What could be configured: this release has no integration.
    return answer([])


async def configured(call: AdminCall) -> web.Response:
    """GET /get/config/callbacks: the callbacks that are configured."""
    found = await _configured(call)
    return answer(
        {
            "status": "success",
            "callbacks": [{"name": name, "variables": {}, "type": kind} for name, kind in found],
            "alerts": [],
            "router_settings": {},
            "available_callbacks": {},
        }
    )


CONFIG_CALLBACK_ROUTES = (
    AdminRoute(
        "POST",
        "/config/callback/delete",
        delete,
        groups=NO_GROUP,
        errors=Shape.DETAIL,
        body=_DELETE,
    ),
    AdminRoute("GET", "/callbacks/list", list_all, groups=CONFIG_READS),
    AdminRoute("GET", "/callbacks/configs", configurations, groups=CONFIG_READS, returns=LIST),
    AdminRoute("GET", "/get/config/callbacks", configured, groups=CONFIG_READS),
)

_MEMBERS = frozenset(member for member, _ in _LISTS)


async def _configured(call: AdminCall) -> list[tuple[str, str]]:
    """Names and kinds of the callbacks of file and database."""
    stored = await stored_section(call, _LITELLM)
    return [
        (name, kind) for member, kind in _LISTS for name in _names(_value(call, member, stored))
    ]


def _value(call: AdminCall, member: str, stored: Mapping[str, Any]) -> Any:
    return value_of(call.services.models.wholes.file, _LITELLM, member, stored).value


def _missing(call: AdminCall, name: str) -> RequestError:
    file = call.services.models.wholes.file
    for member, _ in _LISTS:
        located = file.sections.get(_LITELLM, {}).get(member)
        if located is not None and name in _names(located.value):
            return InvalidRequest(
                f"{name} stands in {located.source} ({located.path}) and is removed there",
                param="callback_name",
            )
    return RequestError(
        "There is no such callback", status=404, type="not_found_error", param="callback_name"
    )


def _names(value: Any) -> list[str]:
    given = [value] if isinstance(value, str) else value
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
