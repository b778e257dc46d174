"""What callers who are no proxy admins may give to a user they make (management contract §4.7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.admin.api.access import Role
from services.admin.api.auth import Caller
from services.admin.api.calls import AdminCall
from services.admin.api.key_access import SERVICE_ACCOUNT
from services.admin.api.key_delegation import ADMIN_METADATA
from services.admin.api.row_size import check_size
from services.admin.api.team_caps import check_user, user_limits
from services.admin.api.user_policy import NewUser
from shared.db import users
from shared.db.rows import Connection
from shared.domain.errors import (
    AuthenticationFailed,
    InvalidRequest,
    PermissionDenied,
    RequestError,
)
from shared.domain.keys import MASTER_USER_ID

_ADMINS = frozenset({Role.PROXY_ADMIN, Role.PROXY_ADMIN_VIEWER})
_RESERVED = (
    "permissions",
    "allowed_routes",
    "key_type",
    "key",
    "throttle_on_budget_exceeded",
    "end_user_budget_id",
    "budget_id",
    "project_id",
    "agent_id",
    "access_group_ids",
    "object_permission",
    "sso_user_id",
    "spend",
    *ADMIN_METADATA,
)
_OPEN: tuple[Any, ...] = (None, (), [])


def check_grant(body: Mapping[str, Any], user: NewUser, caller: Caller) -> None:
    """Raises for what a caller who is no proxy admin may not give to a new user."""
    if caller.is_admin:
        return
    if not user.organizations:
        raise AuthenticationFailed(
            "Name one of the organizations that you administer", param="organizations"
        )
    if not caller.admin_organizations.issuperset(user.organizations):
        raise PermissionDenied(
            "Users are made only for organizations that the caller administers",
            param="organizations",
        )
    if user.columns["user_role"] in _ADMINS:
        raise PermissionDenied("Only a proxy admin may make another", param="user_role")
    for name in _reserved(body):
        raise PermissionDenied(f"Only a proxy admin may set {name}", param=name)


async def limit_columns(call: AdminCall, connection: Connection, columns: dict[str, Any]) -> None:
    """Gives no more than the caller has: its own limits fill what is open, and cap the rest."""
    if call.caller.is_admin:
        return
    await check_new_id(call, connection, columns["user_id"])
    check_size(call.caller, columns)
    for name, limit in (await user_limits(connection, call.caller)).items():
        if name in columns and columns[name] in _OPEN:
            columns[name] = limit
    await check_user(connection, call.caller, columns)


async def check_new_id(call: AdminCall, connection: Connection, user_id: str) -> None:
    """Raises for an id that a caller who is no proxy admin may not give to a new user: it would
    give what belongs to whom keys, teams or calls name so, or to another user's membership, whose
    counters are named `user:team`."""
    if call.caller.is_admin:
        return
    if ":" in user_id:
        raise InvalidRequest("user_id must not hold a colon", param="user_id")
    if user_id == MASTER_USER_ID or await users.is_named(connection, user_id):
        raise RequestError("user_id is in use", status=409)


def _reserved(body: Mapping[str, Any]) -> Iterator[str]:
    """The names in a body that only a proxy admin may say, also inside of `metadata`."""
    metadata = body.get("metadata")
    inside = metadata if isinstance(metadata, Mapping) else {}
    yield from (name for name in _RESERVED if body.get(name))
    yield from (
        f"metadata.{name}" for name in (*ADMIN_METADATA, SERVICE_ACCOUNT) if inside.get(name)
    )
