"""Invitations to set a password, and their use (management contract §3.11).

An invitation's id is 128 random bits and the secret of its link: who has it sets the user's
password. It is shown to its maker only and stored as a hash; guesses count by address.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY, ANY_KEY, Role
from services.admin.api.body import Field, Place, read_fields
from services.admin.api.calls import AdminCall, AdminRoute, OpenCall, OpenRoute, Shape
from services.admin.api.parameters import text_parameters
from services.admin.api.passwords import new_password
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.user_store import TABLE as USER_TABLE
from services.admin.api.values import flag, text
from services.admin.api.wire_rows import wire_row
from shared.db import invitations, user_members, users
from shared.db.audit import Action
from shared.db.invitations import INVITATIONS, stored_id
from shared.db.passwords import end_sessions, find_password, set_password
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import AuthenticationFailed, InvalidRequest
from shared.keys.passwords import hash_password

_TABLE = "LiteLLM_InvitationLink"
_ID_BYTES = 16
_VALID = timedelta(days=7)
_ADMINS = (Role.PROXY_ADMIN, Role.PROXY_ADMIN_VIEWER)

_USER_ID = Field("user_id", text, Place.CONTROL, required=True)
_INVITATION_ID = Field("invitation_id", text, Place.CONTROL, required=True)
_UPDATE_FIELDS = (_INVITATION_ID, Field("is_accepted", flag, Place.CONTROL, required=True))
_CLAIM_FIELDS = (
    Field("invitation_link", text, Place.CONTROL, required=True),
    _USER_ID,
    Field("password", new_password, Place.CONTROL, required=True),
)


async def new(call: AdminCall) -> web.Response:
    """POST /invitation/new: makes a link by which a user sets a password."""
    user_id = (await call.fields())["user_id"]
    plain = secrets.token_hex(_ID_BYTES)

    async def work(connection: Connection) -> dict[str, Any]:
        user = await users.find_user(connection, user_id, lock=True)
        if not call.caller.is_admin:
            await _check_inviter(call, connection, user)
        if user is None:
            raise InvalidRequest("There is no such user", param="user_id")
        row = await invitations.insert_invitation(
            connection, plain, user_id, call.now + _VALID, call.caller.identity
        )
        await call.note(connection, Action.CREATED, _TABLE, row["id"], after=_audited(row))
        return _shown(row, plain)

    return await call.write(work)


async def info(call: AdminCall) -> web.Response:
    """GET /invitation/info: an invitation."""
    plain = call.query.text("invitation_id")
    if plain is None:
        raise Unprocessable([Issue("missing", ("query", "invitation_id"), "Field required")])
    async with call.services.store.connection() as connection:
        row = await INVITATIONS.find(connection, stored_id(plain))
    if row is None:
        raise _unknown()
    return answer(_shown(row, plain))


async def update(call: AdminCall) -> web.Response:
    """POST /invitation/update: marks an invitation as accepted or not."""
    values = await call.fields()
    plain, accepted = values["invitation_id"], values["is_accepted"]

    async def work(connection: Connection) -> dict[str, Any]:
        before = await INVITATIONS.find(connection, stored_id(plain), lock=True)
        if before is None:
            raise _unknown()
        columns = {"is_accepted": accepted, "accepted_at": call.now if accepted else None}
        row = await INVITATIONS.update(connection, [before["id"]], columns, call.caller.actor)
        assert row is not None, "the transaction has it locked"
        await call.note(
            connection,
            Action.UPDATED,
            _TABLE,
            row["id"],
            before=_audited(before),
            after=_audited(row),
        )
        return _shown(row, plain)

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """POST /invitation/delete: deletes one; for proxy admins and whoever made it."""
    plain = (await call.fields())["invitation_id"]

    async def work(connection: Connection) -> dict[str, Any]:
        row = await INVITATIONS.delete(connection, stored_id(plain))
        caller = call.caller
        if not caller.is_admin and (row is None or row["created_by"] != caller.identity):
            raise _not_allowed("Only who made an invitation may delete it")
        if row is None:
            raise _unknown()
        await call.note(connection, Action.DELETED, _TABLE, row["id"], before=_audited(row))
        return _shown(row, plain)

    return await call.write(work)


async def get_token(call: OpenCall) -> web.Response:
    """GET /onboarding/get_token: whose link it is, while it can be used."""
    plain = call.query.text("invite_link")
    if plain is None:
        raise Unprocessable([Issue("missing", ("query", "invite_link"), "Field required")])
    row = await _open(call, plain)
    body = {name: row[name] for name in ("user_id", "user_email", "expires_at")}
    return answer(wire_row(body))


async def claim_token(call: OpenCall) -> web.Response:
    """POST /onboarding/claim_token: sets the password of the invited user, once."""
    values = read_fields(await call.body(), _CLAIM_FIELDS)
    plain, user_id = values["invitation_link"], values["user_id"]
    row = await _open(call, plain, user_id)
    stored = await asyncio.to_thread(hash_password, values["password"])

    async def work(connection: Connection) -> dict[str, Any]:
        # The user's row first, as whoever deletes it does.
        await users.find_user(connection, user_id, lock=True)
        if not await invitations.claim_invitation(connection, plain, user_id):
            raise _not_open()
        await set_password(connection, user_id, stored)
        await end_sessions(connection, user_id)
        link = {"user_id": user_id, "is_accepted": True}
        await call.note_by(connection, user_id, Action.UPDATED, _TABLE, row["id"], after=link)
        await call.note_by(
            connection, user_id, Action.UPDATED, USER_TABLE, user_id, after={"password": "set"}
        )
        return {"user_id": user_id, "user_email": row["user_email"]}

    return await call.write(work)


async def _open(call: OpenCall, plain: str, user_id: str | None = None) -> Row:
    """An invitation that can still be claimed, of this user if one is named; 401, and 429 for
    whoever asks for too many others."""
    attempts, address = call.services.invitation_attempts, call.request.remote or ""
    attempts.begin(address)
    row = await invitations.open_invitation(call.services.store, plain)
    if row is None or user_id not in (None, row["user_id"]):
        raise _not_open()
    attempts.succeeded(address)
    return row


async def _check_inviter(call: AdminCall, connection: Connection, user: Row | None) -> None:
    """Raises unless the caller administers all that the user belongs to, and did not take it in by
    itself. A link takes the account over, so users who sign in already, and admins, are for proxy
    admins alone."""
    caller = call.caller
    refusal = _not_allowed("Only an admin of all teams and organizations of a user may invite it")
    if user is None or user["user_role"] in _ADMINS or user["sso_user_id"] is not None:
        raise refusal
    password = await find_password(connection, user["user_id"])
    if password is None or password.hash is not None:
        raise refusal
    organizations = {m["organization_id"] for m in user["organization_memberships"] or ()}
    teams = await user_members.organizations_of_teams(connection, user["teams"])
    own_teams = all(
        team in caller.admin_teams or organization in caller.admin_organizations
        for team, organization in teams.items()
    )
    own = own_teams and organizations <= caller.admin_organizations
    vouched = await user_members.vouched_users(connection, [user["user_id"]], organizations, teams)
    if not own or not vouched:
        raise refusal


def _shown(row: Row, plain: str) -> dict[str, Any]:
    return wire_row({**row, "id": plain})


def _audited(row: Row) -> Mapping[str, Any]:
    """What the audit log keeps, where the hash alone names the link."""
    return {name: row[name] for name in ("user_id", "is_accepted", "accepted_at", "expires_at")}


def _unknown() -> InvalidRequest:
    return InvalidRequest("There is no such invitation", param="invitation_id")


def _not_allowed(message: str) -> InvalidRequest:
    # Not 403: the contract has 400 for roles here.
    return InvalidRequest(message)


def _not_open() -> AuthenticationFailed:
    return AuthenticationFailed("This invitation is unknown, expired or used; ask for a new one")


_SELF_MANAGED = frozenset({"self_managed_routes"})
_NO_GROUP: frozenset[str] = frozenset()
_D = Shape.DETAIL

INVITATION_ROUTES = (
    AdminRoute("POST", "/invitation/new", new, ANY_KEY, _SELF_MANAGED, _D, body=(_USER_ID,)),
    AdminRoute(
        "GET",
        "/invitation/info",
        info,
        ADMIN_ONLY,
        frozenset({"admin_viewer_routes"}),
        _D,
        query=text_parameters("invitation_id", required=True),
    ),
    AdminRoute(
        "POST", "/invitation/update", update, ADMIN_ONLY, _NO_GROUP, _D, body=_UPDATE_FIELDS
    ),
    AdminRoute(
        "POST", "/invitation/delete", delete, ANY_KEY, _SELF_MANAGED, _D, body=(_INVITATION_ID,)
    ),
)
INVITATION_OPEN_ROUTES = (
    OpenRoute(
        "GET",
        "/onboarding/get_token",
        get_token,
        _D,
        query=text_parameters("invite_link", required=True),
    ),
    OpenRoute("POST", "/onboarding/claim_token", claim_token, _D, body=_CLAIM_FIELDS),
)
