"""Writing internal users: what one request changes, inside its transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from services.admin.api.calls import AdminCall
from services.admin.api.key_policy import NewKey
from services.admin.api.key_rows import generated_body
from services.admin.api.key_writes import KeyWrite, body_of, store_key
from services.admin.api.user_grants import limit_columns
from services.admin.api.user_policy import NewUser, UserChange
from services.admin.api.user_rows import user_bodies, windows_of
from shared.db import key_admin, user_members, users
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError

TABLE = "LiteLLM_UserTable"

_ORGANIZATION_ROLE = "internal_user"
# What the answer of a call that made no key says in its place.
NO_KEY: Mapping[str, None] = dict.fromkeys(
    ("key", "key_name", "key_alias", "token", "token_id", "expires")
)


async def insert_user(call: AdminCall, connection: Connection, user: NewUser) -> dict[str, Any]:
    """Adds a user with its memberships, and answers it as shown; 409 for one that exists, 404 for
    a team or an organization that does not."""
    actor = call.caller.actor
    columns = dict(user.columns)
    await limit_columns(call, connection, columns)
    await _check_memberships(call, connection, user)
    columns["object_permission_id"] = await _permission(connection, user.object_permission)
    try:
        await users.insert_user(connection, columns)
    except InvalidRequest as error:
        if error.param in users.UNIQUE:
            raise RequestError(error.message, status=409) from None
        raise
    await user_members.join_teams(
        connection, user.user_id, columns["user_email"], user.teams, actor
    )
    await user_members.join_organizations(
        connection, user.user_id, user.organizations, _ORGANIZATION_ROLE
    )
    row = await users.find_user(connection, user.user_id)
    assert row is not None, "the transaction has just written it"
    windows = windows_of(call)
    if user.spend is not None:
        await windows.set_spend(connection, user.user_id, row, user.spend)
    return (await user_bodies(connection, {user.user_id: row}, windows))[user.user_id]


async def insert_key(
    call: AdminCall, connection: Connection, key: NewKey, sent: Mapping[str, Any]
) -> tuple[dict[str, Any], KeyWrite]:
    """Adds the key that comes with a new user, and answers it as /key/generate does."""
    if call.caller.is_admin:
        write = await store_key(connection, call, key, sent)
    else:
        # Whoever may make the user may make this key, which has nothing of its own.
        await key_admin.insert_key(connection, {**key.columns, "object_permission_id": None})
        row = await key_admin.find_key(connection, key.token)
        write = KeyWrite(Action.CREATED, None, row)
    return generated_body(await body_of(connection, call, write.after), key.plain), write


async def change_user(
    call: AdminCall, connection: Connection, row: Row, change: UserChange
) -> None:
    """Applies a change to a locked user; 409 for a name that another user has."""
    columns = dict(change.columns)
    if change.object_permission is not None:
        columns["object_permission_id"] = await _permission(connection, change.object_permission)
    try:
        await users.update_users(
            connection, [row["user_id"]], columns, change.metadata, call.caller.actor
        )
    except InvalidRequest as error:
        if error.param in users.UNIQUE:
            raise RequestError(error.message, status=409) from None
        raise
    if "user_email" in columns:
        await user_members.readdress(connection, row["user_id"], columns["user_email"])
    if change.object_permission is not None and row["object_permission_id"]:
        await users.delete_permissions(connection, [row["object_permission_id"]])
    if change.spend is not None:
        now = await users.find_user(connection, row["user_id"])
        assert now is not None, "the transaction has it locked"
        await windows_of(call).set_spend(connection, row["user_id"], now, change.spend)


async def remove_users(
    call: AdminCall, connection: Connection, rows: Mapping[str, Row]
) -> list[KeyWrite]:
    """Takes locked users away with their keys, which go to the archive, memberships, sessions and
    invitations."""
    caller, ids = call.caller, list(rows)
    tokens = await users.keys_of_users(connection, ids)
    keys = await key_admin.find_keys(connection, tokens, lock=True)
    await key_admin.delete_keys(connection, tokens, caller.actor, caller.token, caller.changed_by)
    await user_members.leave_all(connection, ids)
    await users.delete_users(connection, rows.values())
    return [KeyWrite(Action.DELETED, key, None) for key in keys]


async def shown_users(
    call: AdminCall, connection: Connection, user_ids: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Users as they are now, by id, as answers show them."""
    rows = await users.find_users(connection, user_ids)
    return await user_bodies(connection, rows, windows_of(call))


async def _check_memberships(call: AdminCall, connection: Connection, user: NewUser) -> None:
    caller = call.caller
    wanted = [join.team_id for join in user.teams]
    found = await user_members.organizations_of_teams(connection, wanted)
    for team_id in wanted:
        if team_id not in found:
            raise RequestError(f"There is no team {team_id!r}", status=404, param="teams")
        own = team_id in caller.admin_teams or found[team_id] in caller.admin_organizations
        if not caller.is_admin and not own:
            raise PermissionDenied(
                f"The team {team_id!r} is not the caller's to add to", param="teams"
            )
    known = await user_members.existing_organizations(connection, user.organizations)
    for organization_id in user.organizations:
        if organization_id not in known:
            raise RequestError(
                f"There is no organization {organization_id!r}", status=404, param="organizations"
            )


async def _permission(connection: Connection, permission: Mapping[str, Any] | None) -> str | None:
    if permission is None:
        return None
    permission_id = str(uuid.uuid4())
    await key_admin.insert_object_permission(
        connection, {**permission, "object_permission_id": permission_id}
    )
    return permission_id
