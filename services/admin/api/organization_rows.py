"""Organizations and memberships as answers show them (management contract §3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.admin.api.calls import AdminCall
from services.admin.api.linked_rows import LinkedRows
from services.admin.api.team_rows import team_bodies
from shared.db.organization_members import organization_members
from shared.db.organizations import organization_teams
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.users import find_users

ORGANIZATION_TABLE = "LiteLLM_OrganizationTable"
ORGANIZATION_MEMBER_TABLE = "LiteLLM_OrganizationMembership"

_ORGANIZATIONS = LinkedRows("organization", ("organization_id",))
_MEMBERS = LinkedRows("organization_member", ("user_id", "organization_id"))


async def organization_bodies(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Organizations with their members and teams. A caller who is a plain member of one sees of
    these only itself and its own teams."""
    caller = call.caller
    ids = [row["organization_id"] for row in rows]
    shown = frozenset(ids) if caller.sees_all else caller.admin_organizations
    members = [
        row
        for row in await organization_members(connection, ids)
        if row["organization_id"] in shown or row["user_id"] == caller.user_id
    ]
    teams = [
        row
        for row in await organization_teams(connection, ids)
        if row["organization_id"] in shown or row["team_id"] in caller.teams
    ]
    bodies = await _ORGANIZATIONS.shown(call, connection, rows)
    members_of = _by_organization(await member_bodies(call, connection, members))
    teams_of = _by_organization(await team_bodies(call, connection, teams))
    return [
        {
            **body,
            "model_spend": {},
            "members": members_of.get(body["organization_id"], []),
            "teams": teams_of.get(body["organization_id"], []),
        }
        for body in bodies
    ]


async def organization_body(call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
    """One organization."""
    (body,) = await organization_bodies(call, connection, [row])
    return body


async def member_bodies(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Memberships with what each member has spent, its budget in the organization, and who it
    is."""
    users = await find_users(connection, sorted({row["user_id"] for row in rows}))
    bodies = []
    for body in await _MEMBERS.shown(call, connection, rows):
        user = users.get(body["user_id"])
        del body["object_permission"], body["claimed"]
        body["user_email"] = user and user["user_email"]
        body["user"] = user and {
            name: user[name] for name in ("user_id", "user_email", "user_alias", "user_role")
        }
        bodies.append(body)
    return bodies


def member_id(row: Row) -> str:
    """What a membership is called in the audit log."""
    return _MEMBERS.owner(row)


def _by_organization(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["organization_id"], []).append(row)
    return groups
