"""Whose a project is, and what it may be given: no more than its team has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.admin.api.calls import AdminCall
from services.admin.api.team_access import no_team
from services.admin.api.team_caps import outside
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.teams import TEAMS
from shared.domain.errors import InvalidRequest, PermissionDenied

_AMOUNTS = ("max_budget", "soft_budget", "tpm_limit", "rpm_limit", "max_parallel_requests")
# What each of them is held against.
_CAPS: Mapping[str, str] = {**{name: name for name in _AMOUNTS}, "soft_budget": "max_budget"}


async def team_of(call: AdminCall, connection: Connection, team_id: str) -> Row:
    """The team that a project is or shall be of, which the caller must be an admin of."""
    call.require(team_id=team_id)
    team = await TEAMS.find(connection, team_id)
    if team is None:
        raise no_team()
    return team


def may_see(call: AdminCall, project: Row) -> bool:
    """Whether the caller is in the project's team, or its key belongs to either."""
    caller, key = call.caller, call.caller.principal.key
    team_id = project["team_id"]
    return (
        caller.sees_all
        or team_id in caller.teams
        or (team_id is not None and team_id == key.team_id)
        or project["project_id"] == key.project_id
    )


def check_caps(team: Row, asked: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for what is above the team's limits or outside of its models."""
    for name, cap_name in _CAPS.items():
        cap, value = team[cap_name], asked.get(name)
        if cap is not None and value is not None and value > cap:
            raise InvalidRequest(f"{name} is above the team's {cap_name} of {cap}", param=name)
    beyond = outside(asked.get("models") or (), team["models"])
    if beyond:
        raise InvalidRequest(f"models: the team does not have {beyond[0][:80]!r}", param="models")


def check_permission(call: AdminCall, values: Mapping[str, Any]) -> None:
    """What a project may reach besides models is for proxy admins to say."""
    if "object_permission" in values and not call.caller.is_admin:
        raise PermissionDenied(
            "Only a proxy admin may set a project's object_permission", param="object_permission"
        )
