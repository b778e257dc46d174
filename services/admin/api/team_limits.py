"""What limits one member of a team: a budget of its own, or the one that all share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from services.admin.api.calls import AdminCall
from services.admin.api.team_members import default_limits, empty_limits
from shared.db.budgets import BUDGETS, find_budgets, is_shared
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_budgets import MEMBER_COLUMNS, drop_budgets, insert_budgets
from shared.db.team_members import change_member


@frozen
class Limited:
    """A member's budget after a change, and what limited it before and limits it now."""

    budget_id: str | None
    before: Mapping[str, Any]
    limits: Mapping[str, Any]


async def change_limits(
    call: AdminCall,
    connection: Connection,
    team: Row,
    member: Row,
    changed: Mapping[str, Any],
    role: str | None = None,
) -> Limited:
    """Changes limits (columns of a budget) of a member, and its role; the team is locked.

    A budget that others share, like the team's, is copied for the member. One that limits nothing
    any more goes, and the member has the team's again.
    """
    default_id, defaults = await default_limits(connection, team)
    own_id = member["budget_id"] if member["budget_id"] != default_id else None
    before = await _limits(connection, own_id) if own_id else defaults
    after = {**before, **changed}
    budget_id = member["budget_id"]
    if after != before:
        if after == empty_limits():
            budget_id, after = default_id, defaults
        elif own_id is None or await is_shared(connection, own_id):
            [budget_id] = await insert_budgets(connection, 1, after, call.caller.actor)
        else:
            await BUDGETS.update(connection, (own_id,), changed, call.caller.actor)
    await change_member(connection, team["team_id"], member["user_id"], role, budget_id)
    if own_id is not None and budget_id != own_id:
        await drop_budgets(connection, [own_id])
    return Limited(budget_id, before, after)


async def share_limits(connection: Connection, team: Row, member: Row) -> Limited:
    """Gives a member the limits that all members share, or none."""
    default_id, defaults = await default_limits(connection, team)
    own_id = member["budget_id"]
    before = empty_limits() if own_id is None else await _limits(connection, own_id)
    await change_member(connection, team["team_id"], member["user_id"], None, default_id)
    if own_id not in {None, default_id}:
        await drop_budgets(connection, [own_id])
    return Limited(default_id, before, defaults)


async def _limits(connection: Connection, budget_id: str) -> dict[str, Any]:
    budget = (await find_budgets(connection, [budget_id])).get(budget_id, empty_limits())
    return {name: budget[name] for name in MEMBER_COLUMNS}
