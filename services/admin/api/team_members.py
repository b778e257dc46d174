"""Adding members to a team: users are made as needed, and each has a budget or the team's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from services.admin.api.calls import AdminCall
from services.admin.api.team_access import MEMBER_TABLE
from services.admin.api.team_caps import outside
from services.admin.api.team_fields import MEMBER_LIMITS
from services.admin.api.team_policy import MEMBER_BUDGET
from services.admin.api.team_rows import counter_id
from shared.db import team_members
from shared.db.audit import Action
from shared.db.budgets import BUDGETS
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_budgets import MEMBER_COLUMNS, insert_budgets
from shared.db.users import find_users, ids_by_email
from shared.domain.errors import InvalidRequest
from shared.domain.keys import MASTER_USER_ID

Member = Mapping[str, Any]


@frozen
class Added:
    """What became of one that was to be added: `error` is empty for a new member."""

    asked: Member
    user_id: str | None
    error: str = ""
    forbidden: bool = False


async def add_members(
    call: AdminCall,
    connection: Connection,
    team: Row,
    asked: Sequence[Member],
    limits: Mapping[str, Any],
) -> list[Added]:
    """Adds members (`role`, `user_id`, `user_email`) to a locked team, with budgets of their own if
    there are limits (columns of a budget). Whoever cannot be added is left out."""
    known = await _resolved(call, connection, asked)
    inside = {each["user_id"] for each in team["members"]}
    outcome: list[Added] = []
    for member, user_id in zip(asked, known, strict=True):
        if user_id is None:
            error = "Only a proxy admin may add somebody who is no user yet"
            outcome.append(Added(member, None, error, forbidden=True))
        elif user_id in inside:
            outcome.append(Added(member, user_id, "Already in the team"))
        else:
            inside.add(user_id)
            outcome.append(Added(member, user_id))
    new = [{**each.asked, "user_id": each.user_id} for each in outcome if not each.error]
    budgets = await _budgets(call, connection, team, len(new), limits)
    joined = [{**member, "budget_id": budget} for member, budget in zip(new, budgets, strict=True)]
    claimed = not call.caller.is_admin
    await team_members.add_members(connection, team["team_id"], joined, claimed=claimed)
    return outcome


async def note_added(
    call: AdminCall, connection: Connection, team_id: str, outcome: Sequence[Added]
) -> None:
    """Adds new members to the audit log, at the transaction's end."""
    ids = {each.user_id for each in outcome if not each.error}
    rows = await team_members.memberships(connection, [team_id])
    added = [(counter_id(row), None, row) for row in rows if row["user_id"] in ids]
    await call.note_all(connection, Action.CREATED, MEMBER_TABLE, added)


def empty_limits() -> dict[str, Any]:
    """The columns of a budget that limits nothing."""
    return {**dict.fromkeys(MEMBER_COLUMNS), "model_max_budget": {}, "allowed_models": []}


async def default_limits(connection: Connection, team: Row) -> tuple[str | None, dict[str, Any]]:
    """The budget of members who have none of their own, if there is one, and what it limits."""
    budget_id = team["metadata"].get(MEMBER_BUDGET)
    budget = None
    if isinstance(budget_id, str):
        budget = await BUDGETS.find(connection, budget_id)
    if budget is None:
        return None, empty_limits()
    return budget_id, {name: budget[name] for name in MEMBER_COLUMNS}


def member_limits(values: Mapping[str, Any], team: Row) -> dict[str, Any]:
    """The sent limits as columns of a budget; null is what clears each."""
    empty = empty_limits()
    columns = {
        column: empty[column] if values[name] is None else values[name]
        for name, column in MEMBER_LIMITS.items()
        if name in values
    }
    beyond = outside(columns.get("allowed_models") or (), team["models"])
    if beyond:
        message = f"allowed_models: the team does not have {beyond[0]!r}"
        raise InvalidRequest(message, param="allowed_models")
    return columns


async def _budgets(
    call: AdminCall, connection: Connection, team: Row, number: int, limits: Mapping[str, Any]
) -> Sequence[str | None]:
    default_id, defaults = await default_limits(connection, team)
    empty = empty_limits()
    if not number or all(value == empty[name] for name, value in limits.items()):
        return [default_id] * number
    return await insert_budgets(connection, number, {**defaults, **limits}, call.caller.actor)


async def _resolved(
    call: AdminCall, connection: Connection, asked: Sequence[Member]
) -> list[str | None]:
    """The user of each; those that there are not yet are made if the caller may."""
    by_email = await _by_email(connection, asked)
    ids = [_user_id(member, by_email) for member in asked]
    there = set(await find_users(connection, {user_id for user_id in ids if user_id}))
    there.add(MASTER_USER_ID)
    missing = [
        {"user_id": user_id or str(uuid.uuid4()), "user_email": member["user_email"]}
        for member, user_id in zip(asked, ids, strict=True)
        if user_id not in there
    ]
    may_make = {each["user_id"] for each in missing if _may_make(call, each["user_id"])}
    made = [each for each in _unique(missing) if each["user_id"] in may_make]
    if not made:
        return [user_id if user_id in there else None for user_id in ids]
    await team_members.add_users(connection, made, call.caller.actor)
    by_email = await _by_email(connection, asked)
    ids = [_user_id(member, by_email) for member in asked]
    there |= set(await find_users(connection, {each["user_id"] for each in made}))
    there |= set(by_email.values())
    if any(user_id not in there for user_id in ids if user_id in may_make):
        raise InvalidRequest("user_email is in use by another user", param="user_email")
    return [user_id if user_id in there else None for user_id in ids]


async def _by_email(connection: Connection, asked: Sequence[Member]) -> dict[str, str]:
    emails = {member["user_email"] for member in asked if not member["user_id"]}
    return await ids_by_email(connection, emails) if emails else {}


def _user_id(member: Member, by_email: Mapping[str, str]) -> str | None:
    user_id: str | None = member["user_id"]
    return user_id or by_email.get(member["user_email"] or "")


def _may_make(call: AdminCall, user_id: str) -> bool:
    return call.caller.is_admin or user_id == call.caller.user_id


def _unique(users: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Users that are not named twice, by id or by email."""
    seen: set[str] = set()
    found = []
    for user in users:
        email = user["user_email"]
        names = {user["user_id"], *([f"@{email.lower()}"] if email else [])}
        if not names & seen:
            found.append(user)
        seen |= names
    return found
