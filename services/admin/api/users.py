"""The routes that change internal users (management contract §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import structlog
from aiohttp import web

from services.admin.api.access import Relation, Role, access
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.key_policy import new_key
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.user_bulk import BULK_FIELDS, bulk_update
from services.admin.api.user_fields import (
    DELETE_FIELDS,
    NEW_FIELDS,
    OWN_FIELDS,
    UPDATE_FIELDS,
    VIEWER_FIELDS,
)
from services.admin.api.user_grants import check_grant
from services.admin.api.user_policy import UserChange, new_user, user_change
from services.admin.api.user_reads import USER_READ_ROUTES
from services.admin.api.user_store import (
    NO_KEY,
    TABLE,
    change_user,
    insert_key,
    insert_user,
    remove_users,
    shown_users,
)
from shared.db import users
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.user_members import vouched_users
from shared.domain.errors import PermissionDenied, RequestError

_NO_MAIL = "send_invite_email: no mail was sent; make a link with POST /invitation/new"

_log = structlog.get_logger(__name__)


async def new(call: AdminCall) -> web.Response:
    """POST /user/new: makes an internal user and, unless told otherwise, a key."""
    body = await call.body()
    user = new_user(body, call.services.user_rules, call.caller.actor)
    check_grant(body, user, call.caller)
    key_body = user.key_body
    if key_body is not None and not call.caller.is_admin:
        # What it spends counts for an organization of whoever made it.
        key_body = {**key_body, "organization_id": user.organizations[0]}
    rules = call.services.rules
    key = None if key_body is None else new_key(key_body, rules, call.now, call.caller.actor)
    if user.wants_mail:
        _log.warning("invite_mail_not_sent", user_id=user.user_id)

    async def work(connection: Connection) -> dict[str, Any]:
        shown = await insert_user(call, connection, user)
        made: Mapping[str, Any] = NO_KEY
        write = None
        if key is not None:
            made, write = await insert_key(call, connection, key, body)
        await call.note(connection, Action.CREATED, TABLE, user.user_id, after=shown)
        if write is not None:
            await write.note(call, connection)
        return {**made, **shown} | ({"note": _NO_MAIL} if user.wants_mail else {})

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /user/update: changes an internal user."""
    body = await call.body()
    change = user_change(body)
    if change.user_id is None and change.user_email is None:
        message = "Either user_id or user_email is needed"
        raise Unprocessable([Issue("missing", ("body", "user_id"), message)])
    _check_own_fields(call, change)

    async def work(connection: Connection) -> dict[str, Any]:
        row = await _named(call, connection, change)
        if row is None:
            return await _create(call, connection, body)
        user_id = row["user_id"]
        before = (await shown_users(call, connection, [user_id]))[user_id]
        await change_user(call, connection, row, change)
        after = (await shown_users(call, connection, [user_id]))[user_id]
        await call.note(connection, Action.UPDATED, TABLE, user_id, before=before, after=after)
        return {"user_id": user_id, "data": after}

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """POST /user/delete: deletes internal users and their keys."""
    asked = (await call.fields())["user_ids"]
    ids = list(dict.fromkeys(asked))
    if not ids:
        message = "List should have at least 1 item"
        raise Unprocessable([Issue("too_short", ("body", "user_ids"), message)])

    async def work(connection: Connection) -> int:
        rows = await users.find_users(connection, ids, lock=True)
        vouched = await vouched_users(connection, ids, call.caller.admin_organizations)
        for user_id in ids:
            _check_deletion(call, user_id, rows.get(user_id), vouched)
        before = await shown_users(call, connection, ids)
        keys = await remove_users(call, connection, rows)
        gone = [(user_id, before[user_id], None) for user_id in ids]
        await call.note_all(connection, Action.DELETED, TABLE, gone)
        for key in keys:
            await key.note(call, connection)
        return len(ids)

    return await call.write(work)


def _check_own_fields(call: AdminCall, change: UserChange) -> None:
    caller = call.caller
    if caller.is_admin:
        return
    allowed = VIEWER_FIELDS if caller.role is Role.PROXY_ADMIN_VIEWER else OWN_FIELDS
    for name in sorted(change.fields - allowed):
        raise PermissionDenied(f"Only a proxy admin may change {name}", param=name)


async def _named(call: AdminCall, connection: Connection, change: UserChange) -> Row | None:
    """The locked row that an update names. Only a proxy admin learns that there is none."""
    user_id = change.user_id
    if user_id is None and change.user_email is not None:
        email = change.user_email
        user_id = (await users.ids_by_email(connection, [email])).get(email)
    caller = call.caller
    if not caller.is_admin and (user_id is None or user_id != caller.user_id):
        raise PermissionDenied("A user may be changed by itself or by a proxy admin")
    row = None if user_id is None else await users.find_user(connection, user_id, lock=True)
    if row is None and not caller.is_admin:
        raise RequestError("There is no such user", status=404)
    return row


async def _create(
    call: AdminCall, connection: Connection, body: Mapping[str, Any]
) -> dict[str, Any]:
    asked = {**body, "auto_create_key": False}
    user = new_user(asked, call.services.user_rules, call.caller.actor)
    shown = await insert_user(call, connection, user)
    await call.note(connection, Action.CREATED, TABLE, user.user_id, after=shown)
    return {"user_id": user.user_id, "data": shown}


def _check_deletion(
    call: AdminCall, user_id: str, row: Row | None, vouched: AbstractSet[str]
) -> None:
    """An organization's admin deletes users of its own, not those whom it has only taken in."""
    caller = call.caller
    memberships = [] if row is None else row["organization_memberships"] or []
    own = {member["organization_id"] for member in memberships}
    in_scope = user_id in vouched and own <= caller.admin_organizations
    if not caller.is_admin and not (in_scope and _is_internal(row)):
        raise PermissionDenied("Only users of the caller's own organizations may be deleted")
    if row is None:
        raise RequestError(f"There is no user {user_id!r}", status=404)


def _is_internal(row: Row | None) -> bool:
    return row is not None and row["user_role"] not in (Role.PROXY_ADMIN, Role.PROXY_ADMIN_VIEWER)


_GROUPS = frozenset({"management_routes"})
_BY_ORG_ADMIN = access(Relation.ORG_ADMIN)

USER_ROUTES = (
    AdminRoute("POST", "/user/new", new, _BY_ORG_ADMIN, _GROUPS, body=NEW_FIELDS),
    AdminRoute(
        "POST",
        "/user/update",
        update,
        access(Role.PROXY_ADMIN_VIEWER, named=(Relation.OWNER,)),
        _GROUPS,
        body=UPDATE_FIELDS,
    ),
    AdminRoute(
        "POST",
        "/user/bulk_update",
        bulk_update,
        groups=_GROUPS,
        errors=Shape.DETAIL,
        body=BULK_FIELDS,
    ),
    AdminRoute(
        "POST", "/user/delete", delete, _BY_ORG_ADMIN, _GROUPS, Shape.DETAIL, body=DELETE_FIELDS
    ),
    *USER_READ_ROUTES,
)
