"""Taking organizations away with what is theirs: teams, keys, memberships.

Teams and keys move to their archives. Rows are locked from the top down: organizations, their
teams, their members, keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.admin.api.calls import AdminCall
from services.admin.api.organization_rows import (
    ORGANIZATION_MEMBER_TABLE,
    ORGANIZATION_TABLE,
    member_id,
    organization_bodies,
)
from services.admin.api.team_access import KEY_TABLE
from services.admin.api.team_writes import delete_teams
from shared.db.audit import Action
from shared.db.key_admin import delete_keys
from shared.db.organization_members import organization_members
from shared.db.organizations import (
    delete_organizations,
    lock_organizations,
    organization_keys,
    organization_team_ids,
    organization_teams,
)
from shared.db.rows import Connection
from shared.db.teams import lock_to_delete
from shared.domain.errors import RequestError


async def remove_organizations(
    call: AdminCall, connection: Connection, ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Answers the organizations as they were; 404 if one of them is missing, and none goes."""
    rows = await lock_organizations(connection, ids)
    for organization_id in ids:
        if organization_id not in rows:
            message = f"There is no organization {organization_id[:80]!r}"
            raise RequestError(message, status=404, param="organization_ids")
    team_ids = await organization_team_ids(connection, ids)
    await lock_to_delete(connection, team_ids)
    bodies = await organization_bodies(call, connection, list(rows.values()))
    teams = await organization_teams(connection, ids)
    members = await organization_members(connection, ids)
    caller = call.caller
    # Keys go all at once, so that their rows are locked in one order, and before the audit log's
    # first entry, which is that of the teams.
    await delete_organizations(connection, ids)
    tokens = await organization_keys(connection, ids, team_ids)
    keys = await delete_keys(connection, tokens, caller.actor, caller.token, caller.changed_by)
    await delete_teams(call, connection, teams)
    for table, gone in (
        (KEY_TABLE, [(token, {"token": token}, None) for token in sorted(keys)]),
        (ORGANIZATION_MEMBER_TABLE, [(member_id(member), member, None) for member in members]),
        (ORGANIZATION_TABLE, [(row["organization_id"], row, None) for row in rows.values()]),
    ):
        await call.note_all(connection, Action.DELETED, table, gone)
    return bodies
