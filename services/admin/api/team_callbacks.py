"""The routes of a team's callbacks (management contract §3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY
from services.admin.api.body import Field
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.respond import answer
from services.admin.api.row_size import check_size
from services.admin.api.team_access import (
    MANAGED,
    NO_GROUP,
    SELF_MANAGED,
    TEAM_TABLE,
    managed_team,
    no_team,
)
from services.admin.api.team_fields import needed
from services.admin.api.team_logging import in_effect, sealed
from services.admin.api.team_rows import audited, team_body
from services.admin.api.values import Loc, choice, document, reader
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.teams import TEAMS, find_team
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError

_MOST = 50
_VARIABLE = "os.environ"


@reader(**document.schema)
def _variables(value: Any, loc: Loc) -> dict[str, str]:
    """Variables of a callback; what is no text is written as one."""
    members = document(value, loc)
    return {name: str(item) for name, item in members.items() if item is not None}


_FIELDS = (
    Field("callback_name", needed, required=True),
    Field("callback_type", choice("success", "failure", "success_and_failure")),
    Field("callback_vars", _variables, required=True),
)


async def add(call: AdminCall) -> web.Response:
    """POST /team/{team_id}/callback: adds a logging callback of a team."""
    values = await call.fields()
    if not call.caller.is_admin and any(_VARIABLE in it for it in values["callback_vars"].values()):
        # Where the callback reports to is a team admin's to choose.
        raise PermissionDenied(
            "callback_vars must not refer to variables of the gateway", param="callback_vars"
        )
    values["callback_type"] = values.get("callback_type") or "success_and_failure"

    def change(metadata: Mapping[str, Any]) -> dict[str, Any]:
        entries = _entries(metadata)
        if any(_event(entry) == _event(values) for entry in entries):
            raise InvalidRequest(
                "The team has this callback for this event already",
                param="callback_name",
                type="bad_request_error",
            )
        if len(entries) >= _MOST:
            raise InvalidRequest(f"A team has at most {_MOST} callbacks", param="callback_name")
        return {**metadata, "logging": [*entries, values]}

    async def work(connection: Connection) -> dict[str, Any]:
        after = await _changed(call, connection, change)
        body = {"status": "success", "data": await team_body(call, connection, after[1])}
        await _note(call, connection, *after)
        return body

    return await call.write(work)


async def show(call: AdminCall) -> web.Response:
    """GET /team/{team_id}/callback: the logging callbacks of a team."""
    team_id = call.named("team_id")
    async with call.services.store.connection() as connection:
        row = await find_team(connection, team_id)
    if row is None:
        raise no_team()
    call.require(team_id=team_id, organization_id=row["organization_id"])
    return answer({"status": "success", "data": {"team_id": team_id, **in_effect(row["metadata"])}})


async def delete(call: AdminCall) -> web.Response:
    """DELETE /team/{team_id}/callback/{callback_name}: takes a logging callback away."""
    name = call.named("callback_name")

    def change(metadata: Mapping[str, Any]) -> dict[str, Any]:
        entries = _entries(metadata)
        kept = [entry for entry in entries if entry.get("callback_name") != name]
        if len(kept) == len(entries):
            raise RequestError(
                "The team has no such callback",
                status=404,
                type="not_found_error",
                param="callback_name",
            )
        return {**metadata, "logging": kept}

    return await _report(call, change, f"The callback {name} is gone")


async def disable(call: AdminCall) -> web.Response:
    """POST /team/{team_id}/disable_logging: turns a team's logging off."""

    def change(metadata: Mapping[str, Any]) -> dict[str, Any]:
        old = metadata.get("callback_settings")
        none: dict[str, Any] = {"success_callback": [], "failure_callback": []}
        settings = {**old, **none} if isinstance(old, dict) else none
        return {**metadata, "logging": [], "callback_settings": settings}

    return await _report(call, change, "The team has no callbacks any more")


_CALLBACK = "/team/{team_id:.+}/callback"
CALLBACK_ROUTES = (
    AdminRoute("POST", _CALLBACK, add, MANAGED, SELF_MANAGED, body=_FIELDS),
    AdminRoute("GET", _CALLBACK, show, MANAGED, SELF_MANAGED),
    AdminRoute("DELETE", _CALLBACK + "/{callback_name}", delete, MANAGED, SELF_MANAGED),
    AdminRoute("POST", "/team/{team_id}/disable_logging", disable, ADMIN_ONLY, NO_GROUP),
)

_Change = Callable[[Mapping[str, Any]], dict[str, Any]]


async def _report(call: AdminCall, change: _Change, message: str) -> web.Response:
    async def work(connection: Connection) -> dict[str, Any]:
        before, after = await _changed(call, connection, change)
        left = in_effect(after["metadata"])
        await _note(call, connection, before, after)
        return {
            "status": "success",
            "message": message,
            "data": {
                "team_id": after["team_id"],
                "success_callbacks": left["success_callbacks"],
                "failure_callbacks": left["failure_callbacks"],
            },
        }

    return await call.write(work)


async def _changed(call: AdminCall, connection: Connection, change: _Change) -> tuple[Row, Row]:
    row = await managed_team(call, connection, call.named("team_id"))
    sealer = call.services.models.sealer
    columns = {"metadata": sealed(change(row["metadata"]), row["team_id"], sealer)}
    check_size(call.caller, columns, {"metadata": row["metadata"]})
    await TEAMS.update(connection, (row["team_id"],), columns, call.caller.actor)
    return row, {**row, **columns}


async def _note(call: AdminCall, connection: Connection, before: Row, after: Row) -> None:
    await call.note(
        connection,
        Action.UPDATED,
        TEAM_TABLE,
        after["team_id"],
        before=audited(before),
        after=audited(after),
    )


def _entries(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = metadata.get("logging")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _event(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("callback_name"), entry.get("callback_type")
