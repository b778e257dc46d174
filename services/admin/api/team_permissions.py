"""What members of teams may do to the teams' keys (management contract §3.3, §5)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.admin.api.body import Field
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.common_fields import texts
from services.admin.api.parameters import text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.row_size import check_size
from services.admin.api.team_access import (
    BOTH,
    MANAGED,
    MANAGEMENT,
    TEAM_TABLE,
    managed_team,
    no_team,
)
from services.admin.api.team_fields import TEAM_NAME
from services.admin.api.team_rows import audited, team_body
from services.admin.api.values import choice, flag, listing
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.teams import TEAMS, allow_members, find_team
from shared.domain.errors import InvalidRequest

BASELINE = ("/key/info", "/key/health")
"""What every member may do."""

_ALL = (
    *BASELINE,
    "/key/generate",
    "/key/service-account/generate",
    "/key/update",
    "/key/delete",
    "/key/regenerate",
    "/key/{key_id}/regenerate",
    "/key/{key_id}/reset_spend",
    "/key/block",
    "/key/unblock",
    "/key/bulk_update",
    "/team/key/bulk_update",
    "/key/list",
    "/key/aliases",
    "/key/access_group_assignment",
    "/spend/logs",
    "/spend/logs/v2",
    "/team/daily/activity",
    "/auto_router/manage",
)
_UPDATE_FIELDS = (*TEAM_NAME, Field("team_member_permissions", texts, required=True))
_BULK_FIELDS = (
    Field("permissions", listing(choice(*_ALL)), required=True),
    Field("team_ids", texts),
    Field("apply_to_all_teams", flag),
)


async def show(call: AdminCall) -> web.Response:
    """GET /team/permissions_list: what a team's members may do with its keys."""
    team_id = call.query.text("team_id")
    if team_id is None:
        raise Unprocessable([Issue("missing", ("query", "team_id"), "Field required")])
    async with call.services.store.connection() as connection:
        row = await find_team(connection, team_id)
    if row is None:
        raise no_team()
    call.require(team_id=team_id, organization_id=row["organization_id"])
    permissions = dict.fromkeys([*BASELINE, *row["team_member_permissions"]])
    return answer(
        {
            "team_id": team_id,
            "team_member_permissions": list(permissions),
            "all_available_permissions": list(_ALL),
        }
    )


async def update(call: AdminCall) -> web.Response:
    """POST /team/permissions_update: changes what a team's members may do."""
    values = await call.fields()
    team_id, permissions = values["team_id"], values["team_member_permissions"]

    async def work(connection: Connection) -> dict[str, Any]:
        row = await managed_team(call, connection, team_id)
        columns = {"team_member_permissions": list(dict.fromkeys(permissions))}
        check_size(call.caller, columns)
        await TEAMS.update(connection, (team_id,), columns, call.caller.actor)
        after = {**row, **columns}
        body = await team_body(call, connection, after)
        await call.note(
            connection,
            Action.UPDATED,
            TEAM_TABLE,
            team_id,
            before=audited(row),
            after=audited(after),
        )
        return body

    return await call.write(work)


async def bulk_update(call: AdminCall) -> web.Response:
    """POST /team/permissions_bulk_update: lets the members of many teams do more."""
    values = await call.fields()
    permissions, team_ids = values["permissions"], values.get("team_ids")
    if bool(team_ids) == bool(values.get("apply_to_all_teams")):
        raise InvalidRequest("Either team_ids or apply_to_all_teams", param="team_ids")

    async def work(connection: Connection) -> dict[str, Any]:
        changed = await allow_members(connection, permissions, team_ids, call.caller.actor)
        name = "team_member_permissions"
        changes = [(team_id, {name: before}, {name: after}) for team_id, before, after in changed]
        await call.note_all(connection, Action.UPDATED, TEAM_TABLE, changes)
        return {
            "message": f"{len(changed)} teams have changed",
            "teams_updated": len(changed),
            "permissions_appended": permissions,
        }

    return await call.write(work)


PERMISSION_ROUTES = (
    AdminRoute(
        "GET",
        "/team/permissions_list",
        show,
        MANAGED,
        BOTH,
        Shape.DETAIL,
        query=text_parameters("team_id", required=True),
    ),
    AdminRoute(
        "POST", "/team/permissions_update", update, MANAGED, BOTH, Shape.DETAIL, body=_UPDATE_FIELDS
    ),
    AdminRoute(
        "POST",
        "/team/permissions_bulk_update",
        bulk_update,
        groups=MANAGEMENT,
        errors=Shape.DETAIL,
        body=_BULK_FIELDS,
    ),
)
