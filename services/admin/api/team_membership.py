"""The routes of a team's members (management contract §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.refusals import Detail, Issue, Unprocessable
from services.admin.api.team_access import (
    BOTH,
    KEY_TABLE,
    MANAGED,
    MANAGEMENT,
    MEMBER_TABLE,
    ORGANIZED,
    above_team,
    managed_team,
    no_team,
)
from services.admin.api.team_fields import (
    BULK_ADD_FIELDS,
    MEMBER_ADD_FIELDS,
    MEMBER_NAME,
    MEMBER_UPDATE_FIELDS,
)
from services.admin.api.team_limits import Limited, change_limits
from services.admin.api.team_members import Added, add_members, member_limits, note_added
from services.admin.api.team_policy import MEMBER_BUDGET
from services.admin.api.team_rows import counter_id, membership_bodies, team_body
from services.admin.api.user_rows import names_only
from services.admin.api.wire_rows import wire, wire_row
from shared.db.audit import Action
from shared.db.key_admin import delete_keys
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_budgets import drop_budgets
from shared.db.team_members import all_user_ids, members_by_email, memberships, remove_members
from shared.db.teams import find_team, member_keys
from shared.db.users import find_users
from shared.domain.errors import InvalidRequest, PermissionDenied

_MOST_AT_ONCE = 1000
_MOST_IN_BULK = 500


class _AlreadyInTeam(Detail):
    """The one error of its route that has the common shape."""

    def __init__(self) -> None:
        super().__init__(400, "Already in the team")
        self.error = InvalidRequest(
            self.message, param="member", type="team_member_already_in_team"
        )

    def body(self) -> dict[str, Any]:
        return self.error.body()


async def add(call: AdminCall) -> web.Response:
    """POST /team/member_add: takes members into a team."""
    values = await call.fields()
    asked = values["member"]
    if not 0 < len(asked) <= _MOST_AT_ONCE:
        message = f"member must be one, or a list of 1 to {_MOST_AT_ONCE}"
        raise InvalidRequest(message, param="member")

    async def work(connection: Connection) -> dict[str, Any]:
        team = await _joined_team(call, connection, values)
        limits = member_limits(values, team)
        outcome = await add_members(call, connection, team, asked, limits)
        for each in outcome:
            if each.forbidden:
                raise PermissionDenied(each.error, param="member")
        added = [each.user_id for each in outcome if each.user_id and not each.error]
        if not added:
            raise _AlreadyInTeam()
        body = await _added_body(call, connection, team, added)
        await note_added(call, connection, team["team_id"], outcome)
        return body

    return await call.write(work)


async def bulk_add(call: AdminCall) -> web.Response:
    """POST /team/bulk_member_add: takes many members into a team."""
    values = await call.fields()
    everybody, listed = bool(values.get("all_users")), values.get("members") or []
    if everybody and not call.caller.is_admin:
        raise PermissionDenied("Only a proxy admin may add everybody", param="all_users")
    if not everybody and not 0 < len(listed) <= _MOST_IN_BULK:
        message = f"Either all_users, or members with 1 to {_MOST_IN_BULK} of them"
        raise InvalidRequest(message, param="members")

    async def work(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, values["team_id"])
        asked = listed
        if everybody:
            asked = [
                {"user_id": user_id, "user_email": None, "role": "user"}
                for user_id in await all_user_ids(connection)
            ]
        limits = member_limits(values, team)
        outcome = await add_members(call, connection, team, asked, limits)
        body = await _bulk_body(call, connection, team, outcome)
        await note_added(call, connection, team["team_id"], outcome)
        return body

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /team/member_update: changes a member of a team."""
    values = await call.fields()
    _check_name(values)
    if (values.get("temp_budget_increase") is None) != (values.get("temp_budget_expiry") is None):
        message = "temp_budget_increase and temp_budget_expiry go only together"
        raise Unprocessable([Issue("value_error", ("body",), message)])

    async def work(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, values["team_id"])
        member = await named_member(connection, team, values)
        limits = member_limits(values, team)
        if limits:
            not_oneself(call, team, member)
        limited = await change_limits(call, connection, team, member, limits, values.get("role"))
        await note_changed(call, connection, team, [(member, limited)])
        return {
            "team_id": team["team_id"],
            "user_id": member["user_id"],
            "user_email": values.get("user_email") or member["user_email"],
            "max_budget_in_team": wire(limited.limits["max_budget"]),
            "tpm_limit": limited.limits["tpm_limit"],
            "rpm_limit": limited.limits["rpm_limit"],
        }

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """POST /team/member_delete: takes a member out of a team."""
    values = await call.fields()
    _check_name(values)

    async def work(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, values["team_id"])
        member = await named_member(connection, team, values)
        keys = await take_out(call, connection, team, [member])
        after = await find_team(connection, team["team_id"])
        assert after is not None, "its row is locked"
        body = await team_body(call, connection, after)
        await note_gone(call, connection, [member], keys)
        return body

    return await call.write(work)


MEMBER_ROUTES = (
    AdminRoute(
        "POST", "/team/member_add", add, MANAGED, BOTH, Shape.DETAIL, body=MEMBER_ADD_FIELDS
    ),
    AdminRoute(
        "POST",
        "/team/bulk_member_add",
        bulk_add,
        ORGANIZED,
        MANAGEMENT,
        Shape.DETAIL,
        body=BULK_ADD_FIELDS,
    ),
    AdminRoute(
        "POST",
        "/team/member_update",
        update,
        MANAGED,
        BOTH,
        Shape.DETAIL,
        body=MEMBER_UPDATE_FIELDS,
    ),
    AdminRoute(
        "POST", "/team/member_delete", delete, MANAGED, BOTH, Shape.DETAIL, body=MEMBER_NAME
    ),
)


async def named_member(connection: Connection, team: Row, values: Mapping[str, Any]) -> Row:
    """The membership that is meant, by id or else by email."""
    user_id, email = values.get("user_id"), values.get("user_email")
    if user_id is None:
        email = str(email)
        user_id = (await members_by_email(connection, team["team_id"], [email])).get(email)
    rows = [] if user_id is None else await memberships(connection, [team["team_id"]], user_id)
    if not rows:
        param = "user_id" if values.get("user_id") else "user_email"
        raise InvalidRequest("This is not a member of the team", param=param)
    return rows[0]


def not_oneself(call: AdminCall, team: Row, member: Row) -> None:
    """Keeps a team's admin from changing what limits itself."""
    if not above_team(call, team) and member["user_id"] == call.caller.user_id:
        raise PermissionDenied("An admin of a team may not change its own limits in it")


async def take_out(
    call: AdminCall, connection: Connection, team: Row, members: Sequence[Row]
) -> list[str]:
    """Takes members out of a locked team, with their budgets and their keys of it, whose tokens
    it answers."""
    user_ids = [member["user_id"] for member in members]
    caller = call.caller
    # Members first: who is making a key as a member is waited for, and the key goes too.
    budgets = await remove_members(connection, team["team_id"], user_ids)
    tokens = await member_keys(connection, team["team_id"], user_ids)
    gone = await delete_keys(connection, tokens, caller.actor, caller.token, caller.changed_by)
    default = team["metadata"].get(MEMBER_BUDGET)
    await drop_budgets(connection, {each for each in budgets.values() if each} - {default})
    return gone


async def note_gone(
    call: AdminCall, connection: Connection, members: Sequence[Row], tokens: Sequence[str]
) -> None:
    """Adds members that went, and their keys, to the audit log, at the transaction's end."""
    gone = [(counter_id(member), member, None) for member in members]
    await call.note_all(connection, Action.DELETED, MEMBER_TABLE, gone)
    keys = [(token, {"token": token}, None) for token in tokens]
    await call.note_all(connection, Action.DELETED, KEY_TABLE, keys)


async def note_changed(
    call: AdminCall, connection: Connection, team: Row, changed: Sequence[tuple[Row, Limited]]
) -> None:
    """Adds members' changes to the audit log, at the transaction's end."""
    rows = {row["user_id"]: row for row in await memberships(connection, [team["team_id"]])}
    changes = [
        (
            counter_id(member),
            {**member, **limited.before},
            {**rows[member["user_id"]], **limited.limits},
        )
        for member, limited in changed
    ]
    await call.note_all(connection, Action.UPDATED, MEMBER_TABLE, changes)


async def _joined_team(call: AdminCall, connection: Connection, values: Mapping[str, Any]) -> Row:
    """The team to add to, locked: one that the caller manages, or one that anybody may join."""
    caller, asked = call.caller, values["member"]
    if values["team_id"] in call.services.team_rules.available and caller.user_id is not None:
        limited = [name for name in values if name not in {"team_id", "member"}]
        oneself = [each["user_id"] for each in asked] == [caller.user_id]
        if oneself and asked[0]["role"] == "user" and not limited:
            team = await find_team(connection, values["team_id"], lock=True)
            if team is None:
                raise no_team()
            return team
    return await managed_team(call, connection, values["team_id"])


async def _added_body(
    call: AdminCall, connection: Connection, team: Row, user_ids: Sequence[str]
) -> dict[str, Any]:
    after = await find_team(connection, team["team_id"])
    assert after is not None, "its row is locked"
    users = {each: wire_row(row) for each, row in (await find_users(connection, user_ids)).items()}
    if not call.caller.is_admin:
        users = {user_id: names_only(body) for user_id, body in users.items()}
    joined = await _joined(call, connection, after, user_ids)
    return {
        **await team_body(call, connection, after),
        "updated_users": [users[each] for each in user_ids if each in users],
        "updated_team_memberships": [joined[each] for each in user_ids],
    }


async def _bulk_body(
    call: AdminCall, connection: Connection, team: Row, outcome: Sequence[Added]
) -> dict[str, Any]:
    after = await find_team(connection, team["team_id"])
    assert after is not None, "its row is locked"
    added = [each.user_id for each in outcome if each.user_id and not each.error]
    joined = await _joined(call, connection, after, added)
    results = [
        {
            "user_id": each.user_id or each.asked["user_id"],
            "user_email": each.asked["user_email"],
            "success": not each.error,
            "error": each.error or None,
            "updated_user": None,
            "updated_team_membership": None if each.error else joined[str(each.user_id)],
        }
        for each in outcome
    ]
    return {
        "team_id": team["team_id"],
        "results": results,
        "total_requested": len(outcome),
        "successful_additions": len(added),
        "failed_additions": len(outcome) - len(added),
        "updated_team": await team_body(call, connection, after),
    }


async def _joined(
    call: AdminCall, connection: Connection, team: Row, user_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    wanted = set(user_ids)
    rows = [
        row for row in await memberships(connection, [team["team_id"]]) if row["user_id"] in wanted
    ]
    bodies = await membership_bodies(call, connection, rows, {team["team_id"]: team})
    return {body["user_id"]: body for body in bodies}


def _check_name(values: Mapping[str, Any]) -> None:
    if values.get("user_id") is None and values.get("user_email") is None:
        message = "Either user_id or user_email is needed"
        raise Unprocessable([Issue("value_error", ("body",), message)])
