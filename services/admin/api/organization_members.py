"""The routes about members of organizations (management contract §3.4)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from aiohttp import web

from services.admin.api.access import Relation, Role, access
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.linked_budgets import LinkedBudget, changed_link, new_link
from services.admin.api.organization_fields import (
    MEMBER_ADD_FIELDS,
    MEMBER_DELETE_FIELDS,
    MEMBER_UPDATE_FIELDS,
)
from services.admin.api.organization_rows import (
    ORGANIZATION_MEMBER_TABLE,
    member_bodies,
    member_id,
)
from services.admin.api.user_grants import check_new_id
from services.admin.api.user_rows import names_only, user_bodies, windows_of
from shared.db.audit import Action
from shared.db.organization_members import ORGANIZATION_MEMBERS
from shared.db.organizations import ORGANIZATIONS
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_caps import organization_caps
from shared.db.team_members import add_users
from shared.db.users import find_users, ids_by_email
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError

_MOST_AT_ONCE = 500


async def member_add(call: AdminCall) -> web.Response:
    """POST /organization/member_add: takes users into an organization."""
    values = await call.fields()
    organization_id, budget = values["organization_id"], values.get("max_budget_in_organization")
    call.require(organization_id=organization_id)
    if not 0 < len(values["member"]) <= _MOST_AT_ONCE:
        message = f"member must be one, or a list of 1 to {_MOST_AT_ONCE}"
        raise InvalidRequest(message, param="member")

    async def work(connection: Connection) -> dict[str, Any]:
        await _lock(connection, organization_id, budget)
        ids, made = await _users_of(call, connection, values["member"])
        users = await find_users(connection, ids, lock=True)
        if len(users) != len(ids):
            raise InvalidRequest("member names a user who has just gone", param="member")
        added: list[tuple[Row, LinkedBudget]] = []
        for user_id, member in zip(ids, values["member"], strict=True):
            _check_touchable(call, users[user_id])
            link = await new_link(call, connection, {"max_budget": budget})
            columns = {
                "organization_id": organization_id,
                "user_id": user_id,
                "user_role": member["role"],
                "budget_id": link.budget_id,
                "claimed": not call.caller.is_admin and user_id not in made,
            }
            added.append((await ORGANIZATION_MEMBERS.insert(connection, columns), link))
        users = await find_users(connection, ids)
        shown = await user_bodies(connection, users, windows_of(call))
        if not call.caller.is_admin:
            shown = {user_id: names_only(body) for user_id, body in shown.items()}
        memberships = await member_bodies(call, connection, [row for row, _ in added])
        for user_id in made:
            await call.note(
                connection, Action.CREATED, "LiteLLM_UserTable", user_id, after=users[user_id]
            )
        for row, link in added:
            await link.note(call, connection)
            await call.note(
                connection, Action.CREATED, ORGANIZATION_MEMBER_TABLE, member_id(row), after=row
            )
        return {
            "organization_id": organization_id,
            "updated_users": [shown[user_id] for user_id in ids],
            "updated_organization_memberships": memberships,
        }

    return await call.write(work)


async def member_update(call: AdminCall) -> web.Response:
    """PATCH /organization/member_update: changes a member of an organization."""
    values = await call.fields()
    organization_id, budget = values["organization_id"], values.get("max_budget_in_organization")
    call.require(organization_id=organization_id)

    async def work(connection: Connection) -> dict[str, Any]:
        await _lock(connection, organization_id, budget)
        before = await _member(call, connection, values)
        if budget is not None and not call.caller.is_admin:
            _not_oneself(call, before)
        said = {} if budget is None else {"max_budget": budget}
        link = await changed_link(call, connection, before["budget_id"], said)
        columns = {"budget_id": link.budget_id}
        if values.get("role") is not None:
            columns["user_role"] = values["role"]
        after = await ORGANIZATION_MEMBERS.update(
            connection, (organization_id, before["user_id"]), columns, call.caller.actor
        )
        assert after is not None, "its organization is locked"
        (body,) = await member_bodies(call, connection, [after])
        await link.note(call, connection)
        await call.note(
            connection,
            Action.UPDATED,
            ORGANIZATION_MEMBER_TABLE,
            member_id(after),
            before=before,
            after=after,
        )
        return body

    return await call.write(work)


async def member_delete(call: AdminCall) -> web.Response:
    """DELETE /organization/member_delete: takes a member out of an organization."""
    values = await call.fields()
    organization_id = values["organization_id"]
    call.require(organization_id=organization_id)

    async def work(connection: Connection) -> dict[str, Any]:
        await _lock(connection, organization_id, None)
        member = await _member(call, connection, values)
        (body,) = await member_bodies(call, connection, [member])
        await ORGANIZATION_MEMBERS.delete(connection, organization_id, member["user_id"])
        await call.note(
            connection, Action.DELETED, ORGANIZATION_MEMBER_TABLE, member_id(member), before=member
        )
        return body

    return await call.write(work)


_GROUPS = frozenset({"org_admin_only_routes", "org_admin_allowed_routes"})
_ORG_ADMIN = access(Relation.ORG_ADMIN)

ORGANIZATION_MEMBER_ROUTES = (
    AdminRoute(
        "POST", "/organization/member_add", member_add, _ORG_ADMIN, _GROUPS, body=MEMBER_ADD_FIELDS
    ),
    AdminRoute(
        "PATCH",
        "/organization/member_update",
        member_update,
        _ORG_ADMIN,
        _GROUPS,
        Shape.DETAIL,
        body=MEMBER_UPDATE_FIELDS,
    ),
    AdminRoute(
        "DELETE",
        "/organization/member_delete",
        member_delete,
        _ORG_ADMIN,
        _GROUPS,
        Shape.DETAIL,
        body=MEMBER_DELETE_FIELDS,
    ),
)


async def _lock(connection: Connection, organization_id: str, budget: Decimal | None) -> None:
    """Keeps others from changing the organization's members, and checks a member's budget (USD)
    against its own."""
    if await ORGANIZATIONS.find(connection, organization_id, lock=True) is None:
        raise RequestError("There is no such organization", status=404, param="organization_id")
    caps = await organization_caps(connection, organization_id)
    cap = None if caps is None else caps.max_budget
    if budget is not None and cap is not None and budget > cap:
        raise InvalidRequest(
            f"max_budget_in_organization is above the organization's {cap}",
            param="max_budget_in_organization",
        )


async def _users_of(
    call: AdminCall, connection: Connection, members: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """The ids of users that are meant, in order, and of those that had to be made."""
    known = await _resolve(connection, members)
    unknown = [
        {
            "user_id": member["user_id"] or str(uuid.uuid4()),
            "user_email": member["user_email"],
        }
        for member, user_id in zip(members, known, strict=True)
        if user_id is None
    ]
    made: set[str] = set()
    if unknown:
        for user in unknown:
            await check_new_id(call, connection, str(user["user_id"]))
        made = {*await add_users(connection, unknown, call.caller.actor)}
        known = await _resolve(connection, members)
    ids = [user_id for user_id in known if user_id is not None]
    if len(ids) != len(members) or len(set(ids)) != len(ids):
        raise InvalidRequest("member names somebody twice, or two at once", param="member")
    return ids, [user_id for user_id in ids if user_id in made]


async def _resolve(
    connection: Connection, members: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    emails = await ids_by_email(
        connection, [each["user_email"] for each in members if each["user_email"]]
    )
    users = await find_users(connection, [each["user_id"] for each in members if each["user_id"]])
    found: list[str | None] = []
    for each in members:
        by_email = emails.get(each["user_email"] or "")
        user_id = each["user_id"] or by_email
        if by_email is not None and by_email != user_id:
            raise InvalidRequest("user_id and user_email are of two users", param="member")
        found.append(user_id if user_id in users or user_id == by_email else None)
    return found


async def _member(call: AdminCall, connection: Connection, values: Mapping[str, Any]) -> Row:
    """The membership that a body names by the user's id or address."""
    user_id, email = values.get("user_id"), values.get("user_email")
    if user_id is None:
        if email is None:
            raise InvalidRequest("Either user_id or user_email is needed", param="user_id")
        user_id = next(iter((await ids_by_email(connection, [email])).values()), "")
    row = await ORGANIZATION_MEMBERS.find(connection, values["organization_id"], user_id, lock=True)
    if row is None:
        message = "The organization has no such member"
        raise RequestError(message, status=404, param="user_id")
    users = await find_users(connection, [user_id])
    if user_id in users:
        _check_touchable(call, users[user_id])
    return row


def _not_oneself(call: AdminCall, member: Row) -> None:
    """Keeps an organization's admin from changing what limits itself."""
    if member["user_id"] == call.caller.user_id:
        raise PermissionDenied(
            "An admin of an organization may not change its own budget in it",
            param="max_budget_in_organization",
        )


def _check_touchable(call: AdminCall, user: Row) -> None:
    if user["user_role"] == Role.PROXY_ADMIN and not call.caller.is_admin:
        raise PermissionDenied("Only a proxy admin may change what a proxy admin is")
