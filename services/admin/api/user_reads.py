"""The routes that tell of internal users (management contract §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY, Role
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.parameters import text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.user_query import (
    LIST_PARAMETERS,
    SEARCH_PARAMETERS,
    read_search,
    read_user_list,
)
from services.admin.api.user_rows import (
    key_bodies,
    names_only,
    profile,
    team_bodies,
    usage_of,
    user_bodies,
    windows_of,
)
from shared.db import user_list, user_members, users
from shared.db.rows import Connection
from shared.domain.errors import PermissionDenied, RequestError

# A proxy admin who names no user is shown the newest of everything, no more than this.
_MOST_KEYS = 5000
_MOST_TEAMS = 5000

_ROLES: Mapping[Role, tuple[str, str]] = MappingProxyType(
    {
        Role.PROXY_ADMIN: ("Admin (All Permissions)", "everything on the whole gateway"),
        Role.PROXY_ADMIN_VIEWER: ("Admin (View Only)", "sees everything and changes nothing"),
        Role.INTERNAL_USER: (
            "Internal User (Create/Delete/View)",
            "makes, sees and deletes own keys, and sees own spend",
        ),
        Role.INTERNAL_USER_VIEWER: ("Internal User (View Only)", "sees own keys and own spend"),
    }
)


async def info(call: AdminCall) -> web.Response:
    """GET /user/info: an internal user with keys and teams; without `user_id` the caller."""
    asked, caller = call.query.text("user_id"), call.caller
    everything = asked is None and caller.is_admin
    user_id = asked or caller.user_id
    if asked is not None and asked != caller.user_id and not caller.sees_all:
        raise PermissionDenied("A user may ask only about itself")
    async with call.services.store.connection() as connection:
        row = None if user_id is None else await users.find_user(connection, user_id)
        if row is None and not everything:
            raise _not_found()
        whose = None if everything else user_id
        user_info = None
        if row is not None:
            windows = windows_of(call)
            shown = await user_bodies(connection, {row["user_id"]: row}, windows)
            user_info = shown[row["user_id"]] | await usage_of(connection, row, windows)
        teams = (
            await user_members.all_teams(connection, _MOST_TEAMS)
            if whose is None
            else await user_members.teams_of_user(connection, whose)
        )
        body = {
            "user_id": user_id,
            "user_info": user_info,
            "keys": await key_bodies(connection, call, whose, _MOST_KEYS),
            "teams": await team_bodies(connection, teams, windows_of(call, "team")),
        }
    return answer(body)


async def profile_info(call: AdminCall) -> web.Response:
    """GET /v2/user/info: an internal user's profile."""
    caller = call.caller
    user_id = call.query.text("user_id") or caller.user_id
    windows = windows_of(call)
    async with call.services.store.connection() as connection:
        row = None if user_id is None else await users.find_user(connection, user_id)
        if row is None:
            raise _not_found()
        if not caller.sees_all and row["user_id"] != caller.user_id:
            own = await user_members.vouched_users(
                connection, [row["user_id"]], (), caller.admin_teams
            )
            if not own:
                raise _not_found()
        shown = (await user_bodies(connection, {row["user_id"]: row}, windows))[row["user_id"]]
        usage = await usage_of(connection, row, windows)
    return answer(profile(shown) | usage)


async def list_users(call: AdminCall) -> web.Response:
    """GET /user/list: a page of the internal users."""
    asked = read_user_list(call.query, call.caller)
    async with call.services.store.connection() as connection:
        rows, total = await user_list.list_users(
            connection,
            asked.chosen,
            sort_by=asked.sort_by,
            descending=asked.descending,
            limit=asked.size,
            offset=asked.offset,
        )
        by_id = {row["user_id"]: row for row in rows}
        shown = await user_bodies(connection, by_id, windows_of(call))
        if not call.caller.sees_all:
            shown = await _own_whole(call, connection, shown)
        counts = await user_list.key_counts(connection, list(by_id))
    return answer(
        {
            "users": [
                body | {"key_count": counts.get(user_id, 0)} for user_id, body in shown.items()
            ],
            "total": total,
            "page": asked.page,
            "page_size": asked.size,
            "total_pages": -(-total // asked.size),
        }
    )


async def search(call: AdminCall) -> web.Response:
    """GET /user/filter/ui: finds users by a part of their id or email."""
    asked = read_search(call.query, call.caller)
    async with call.services.store.connection() as connection:
        rows, _ = await user_list.list_users(
            connection,
            asked.chosen,
            sort_by=asked.sort_by,
            descending=asked.descending,
            limit=asked.size,
            offset=asked.offset,
        )
    names = ("user_id", "user_email")
    return answer([{name: row[name] for name in names} for row in rows])


async def available_roles(_call: AdminCall) -> web.Response:
    """GET /user/available_roles: every role and what it is for."""
    return answer(
        {
            role.value: {"description": description, "ui_label": label}
            for role, (label, description) in _ROLES.items()
        }
    )


async def available_users(call: AdminCall) -> web.Response:
    """GET /user/available_users: nothing here is counted by seats."""
    async with call.services.store.connection() as connection:
        user_count, team_count = await users.count_users(connection)
    used: dict[str, Any] = {"total_users_used": user_count, "total_teams_used": team_count}
    unlimited = ("total_users", "total_users_remaining", "total_teams", "total_teams_remaining")
    return answer(used | dict.fromkeys(unlimited))


async def _own_whole(
    call: AdminCall, connection: Connection, shown: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Users of the caller's organizations; of those whom it has only taken in, the names."""
    caller = call.caller
    vouched = await user_members.vouched_users(connection, shown, caller.admin_organizations)
    return {
        user_id: body if user_id in vouched or user_id == caller.user_id else names_only(body)
        for user_id, body in shown.items()
    }


def _not_found() -> RequestError:
    return RequestError("There is no such user", status=404, type="not_found_error")


_INFO = frozenset({"management_routes", "info_routes"})
_INFO_ONLY = frozenset({"info_routes"})
_SELF_MANAGED = frozenset({"self_managed_routes"})

USER_READ_ROUTES = (
    AdminRoute("GET", "/user/info", info, ANY_KEY, _INFO, query=text_parameters("user_id")),
    AdminRoute(
        "GET", "/v2/user/info", profile_info, ANY_KEY, _INFO_ONLY, query=text_parameters("user_id")
    ),
    AdminRoute(
        "GET",
        "/user/list",
        list_users,
        ANY_KEY,
        frozenset({"management_routes", "self_managed_routes"}),
        Shape.DETAIL,
        query=LIST_PARAMETERS,
    ),
    AdminRoute("GET", "/user/available_roles", available_roles, ANY_KEY, _SELF_MANAGED),
    AdminRoute(
        "GET",
        "/user/filter/ui",
        search,
        ANY_KEY,
        _INFO_ONLY,
        Shape.DETAIL,
        query=SEARCH_PARAMETERS,
        returns=LIST,
    ),
    AdminRoute("GET", "/user/available_users", available_users, groups=frozenset()),
)
