"""Changing one's password, and leaving a browser session (management contract §3.2)."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.body import Field, Place
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.user_store import TABLE
from services.admin.api.values import Loc, Wrong, reader
from shared.db import passwords
from shared.db.audit import Action
from shared.db.key_list import UI_SESSION_TEAM
from shared.db.rows import Connection
from shared.domain.errors import AuthenticationFailed, InvalidRequest
from shared.keys.passwords import (
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    hash_password,
    verify_password,
)

_SESSION_TABLE = "LiteLLM_VerificationToken"


@reader(type="string", maxLength=LONGEST_PASSWORD)
def known_password(value: Any, loc: Loc) -> str:
    """A password that may be somebody's."""
    if not isinstance(value, str):
        raise Wrong("string_type", loc, "Input should be a valid string")
    if len(value) > LONGEST_PASSWORD:
        name = str(loc[-1])
        raise InvalidRequest(f"{name} has more than {LONGEST_PASSWORD} characters", param=name)
    return value


@reader(type="string", minLength=SHORTEST_PASSWORD, maxLength=LONGEST_PASSWORD)
def new_password(value: Any, loc: Loc) -> str:
    """A password that may become somebody's."""
    password = known_password(value, loc)
    if len(password) < SHORTEST_PASSWORD:
        name = str(loc[-1])
        raise InvalidRequest(f"{name} has fewer than {SHORTEST_PASSWORD} characters", param=name)
    return password


_CHANGE_FIELDS = (
    Field("current_password", known_password, Place.CONTROL, required=True),
    Field("new_password", new_password, Place.CONTROL, required=True),
)


async def change(call: AdminCall) -> web.Response:
    """POST /user/password/change: changes the caller's password."""
    values = await call.fields()
    user_id = call.caller.user_id
    found = None
    if user_id is not None:
        found = await passwords.find_password(call.services.store, user_id)
    if user_id is None or found is None or found.hash is None:
        raise InvalidRequest("The caller has no password; an invitation sets one")
    old = found.hash
    call.services.password_attempts.begin(user_id)
    if not await asyncio.to_thread(verify_password, values["current_password"], old):
        raise _wrong()
    stored = await asyncio.to_thread(hash_password, values["new_password"])

    async def work(connection: Connection) -> dict[str, Any]:
        if not await passwords.replace_password(connection, user_id, old, stored):
            raise _wrong()
        await passwords.end_sessions(connection, user_id, but=call.caller.token)
        await call.note(
            connection, Action.UPDATED, TABLE, user_id, before={}, after={"password": "changed"}
        )
        return {"user_id": user_id, "message": "The password is changed"}

    response = await call.write(work)
    call.services.password_attempts.succeeded(user_id)
    return response


async def logout(call: AdminCall) -> web.Response:
    """POST /session/logout: ends the caller's session."""
    caller = call.caller
    if caller.principal.key.team_id != UI_SESSION_TEAM:
        raise InvalidRequest("This key is no browser session's; POST /key/delete ends a key")

    async def work(connection: Connection) -> dict[str, Any]:
        await passwords.end_session(connection, caller.token, caller.user_id)
        before = {"team_id": UI_SESSION_TEAM, "user_id": caller.user_id}
        await call.note(connection, Action.DELETED, _SESSION_TABLE, caller.token, before=before)
        return {"message": "The session has ended"}

    return await call.write(work)


def _wrong() -> AuthenticationFailed:
    return AuthenticationFailed("The current password is another", param="current_password")


_SELF_MANAGED = frozenset({"self_managed_routes"})

PASSWORD_ROUTES = (
    AdminRoute(
        "POST", "/user/password/change", change, ANY_KEY, _SELF_MANAGED, body=_CHANGE_FIELDS
    ),
    AdminRoute("POST", "/session/logout", logout, ANY_KEY, _SELF_MANAGED),
)
