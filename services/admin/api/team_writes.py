"""Writing teams: their rows, the budget of their members, and what goes with a deleted one.

To be called in a transaction that has the team locked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from services.admin.api.calls import AdminCall
from services.admin.api.linked_budgets import BUDGET_TABLE
from services.admin.api.team_access import KEY_TABLE, MODEL_TABLE, TEAM_TABLE, no_team
from services.admin.api.team_members import empty_limits
from services.admin.api.team_policy import MEMBER_BUDGET
from services.admin.api.team_rows import audited, team_body
from shared.db.audit import Action
from shared.db.budgets import BUDGETS
from shared.db.key_admin import delete_keys, insert_object_permission
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_budgets import drop_budgets, insert_budgets
from shared.db.team_members import link_members, memberships
from shared.db.teams import (
    TEAMS,
    archive_teams,
    delete_team_models,
    find_team,
    team_keys,
)


async def store_columns(
    call: AdminCall,
    connection: Connection,
    row: Row,
    columns: Mapping[str, Any],
    action: Action = Action.UPDATED,
) -> dict[str, Any]:
    """Sets columns of a locked team, and answers it."""
    team_id = row["team_id"]
    await TEAMS.update(connection, (team_id,), columns, call.caller.actor)
    after = await written_team(connection, team_id)
    body = await team_body(call, connection, after)
    await call.note(
        connection, action, TEAM_TABLE, team_id, before=audited(row), after=audited(after)
    )
    return body


async def delete_teams(call: AdminCall, connection: Connection, rows: list[Row]) -> None:
    """Moves teams and their keys to the archive, and takes away the rest that is theirs."""
    caller, team_ids = call.caller, [row["team_id"] for row in rows]
    author = (caller.actor, caller.token, caller.changed_by)
    budgets = {m["budget_id"] for m in await memberships(connection, team_ids) if m["budget_id"]}
    budgets |= {row["metadata"].get(MEMBER_BUDGET) for row in rows}
    tokens = await delete_keys(connection, await team_keys(connection, team_ids), *author)
    models = await delete_team_models(connection, team_ids)
    await archive_teams(connection, team_ids, *author)
    await drop_budgets(connection, {each for each in budgets if isinstance(each, str)})
    for table, changes in (
        (KEY_TABLE, [(token, {"token": token}, None) for token in tokens]),
        (MODEL_TABLE, [(model_id, {"model_id": model_id}, None) for model_id in models]),
        (TEAM_TABLE, [(row["team_id"], audited(row), None) for row in rows]),
    ):
        await call.note_all(connection, Action.DELETED, table, changes)


async def set_member_budget(
    call: AdminCall, connection: Connection, team: dict[str, Any], limits: Mapping[str, Any]
) -> list[tuple[str, Row | None, Row]]:
    """Sets what limits members without a budget of their own; the team's metadata names the row,
    which is made with the first limit. Answers the row's change for the audit log."""
    actor, team_id = call.caller.actor, team["team_id"]
    empty = empty_limits()
    columns = {name: empty[name] if value is None else value for name, value in limits.items()}
    budget_id = team["metadata"].get(MEMBER_BUDGET)
    before = None
    if columns and isinstance(budget_id, str):
        before = await BUDGETS.find(connection, budget_id, lock=True)
    if before is not None:
        after = await BUDGETS.update(connection, (budget_id,), columns, actor)
        assert after is not None, "its row is locked"
        return [(budget_id, before, after)]
    if all(value is None for value in limits.values()):
        return []
    [budget_id] = await insert_budgets(connection, 1, {**empty, **columns}, actor)
    await link_members(connection, team_id, budget_id)
    team["metadata"] = {**team["metadata"], MEMBER_BUDGET: budget_id}
    await TEAMS.update(connection, (team_id,), {"metadata": team["metadata"]}, actor)
    return [(budget_id, None, {**empty, **columns})]


async def note_member_budget(
    call: AdminCall, connection: Connection, changes: list[tuple[str, Row | None, Row]]
) -> None:
    """Adds what `set_member_budget` has done to the audit log, at the transaction's end."""
    for budget_id, before, after in changes:
        action = Action.CREATED if before is None else Action.UPDATED
        await call.note(connection, action, BUDGET_TABLE, budget_id, before=before, after=after)


async def store_permission(
    connection: Connection, permission: Mapping[str, Any] | None
) -> str | None:
    """The id of a new row of what the team may reach besides models, if anything was said."""
    if permission is None:
        return None
    permission_id = str(uuid.uuid4())
    await insert_object_permission(
        connection, {**permission, "object_permission_id": permission_id}
    )
    return permission_id


async def written_team(connection: Connection, team_id: str) -> Row:
    """A team as it is now."""
    row = await find_team(connection, team_id)
    if row is None:
        # Deleted by a statement that asked nobody.
        raise no_team()
    return row
