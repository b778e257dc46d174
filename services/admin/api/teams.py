"""The routes of teams themselves (management contract §3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from services.admin.api.access import Relation, Role, access
from services.admin.api.auth import Caller
from services.admin.api.body import read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.row_size import check_size
from services.admin.api.team_access import (
    BOTH,
    MANAGED,
    MANAGEMENT,
    NO_GROUP,
    ORGANIZED,
    TEAM_TABLE,
    above_team,
    managed_team,
    no_team,
)
from services.admin.api.team_caps import check_organization, check_user, user_limits
from services.admin.api.team_fields import (
    DELETE_FIELDS,
    MODELS_FIELDS,
    NEW_TEAM_FIELDS,
    TEAM_FIELDS,
    TEAM_NAME,
)
from services.admin.api.team_logging import sealed
from services.admin.api.team_members import add_members
from services.admin.api.team_policy import (
    NewTeam,
    TeamChange,
    changed_columns,
    check_sender,
    check_team,
    check_team_admin,
    new_team,
    team_change,
)
from services.admin.api.team_rows import audited, team_body
from services.admin.api.team_writes import (
    delete_teams,
    note_member_budget,
    set_member_budget,
    store_columns,
    store_permission,
    written_team,
)
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.teams import (
    TEAMS,
    find_team,
    find_teams,
    is_named,
    lock_to_delete,
)
from shared.domain.errors import AuthenticationFailed, InvalidRequest, PermissionDenied
from shared.routing.access import ALL_PROXY_MODELS, NO_DEFAULT_MODELS

_MOST_AT_ONCE = 500
_LISTS = frozenset({"models", "default_team_member_models"})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


async def new(call: AdminCall) -> web.Response:
    """POST /team/new: makes a team."""
    team = new_team(await call.body(), call.services.team_rules, call.caller)

    async def work(connection: Connection) -> dict[str, Any]:
        await _check_new(call, connection, team)
        columns = dict(team.columns)
        columns["metadata"] = sealed(columns["metadata"], team.team_id, call.services.models.sealer)
        columns["object_permission_id"] = await store_permission(connection, team.object_permission)
        await TEAMS.insert(connection, columns)
        budget = await set_member_budget(call, connection, columns, team.member_budget)
        row = await written_team(connection, team.team_id)
        outcome = await add_members(call, connection, row, team.members, {})
        if any(each.forbidden for each in outcome):
            raise PermissionDenied(
                "Only a proxy admin may add somebody who is no user yet", param="members_with_roles"
            )
        row = await written_team(connection, team.team_id)
        body = await team_body(call, connection, row)
        await call.note(connection, Action.CREATED, TEAM_TABLE, team.team_id, after=audited(row))
        await note_member_budget(call, connection, budget)
        return body

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /team/update: changes a team."""
    body = await call.body()
    return await _update(call, read_fields(body, TEAM_NAME)["team_id"], team_change(body))


async def patch(call: AdminCall) -> web.Response:
    """PATCH /team/{team_id}: changes a team."""
    return await _update(call, call.named("team_id"), team_change(await call.body()))


async def delete(call: AdminCall) -> web.Response:
    """POST /team/delete: deletes teams with their keys and members."""
    team_ids = list(dict.fromkeys(read_fields(await call.body(), DELETE_FIELDS)["team_ids"]))
    if not 0 < len(team_ids) <= _MOST_AT_ONCE:
        message = f"team_ids must name between 1 and {_MOST_AT_ONCE} teams"
        raise InvalidRequest(message, param="team_ids")

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_to_delete(connection, team_ids)
        rows = await find_teams(connection, team_ids)
        if len(rows) < len(team_ids):
            raise no_team()
        for row in rows:
            call.require(team_id=row["team_id"], organization_id=row["organization_id"])
        await delete_teams(call, connection, rows)
        return {"deleted_teams": team_ids}

    return await call.write(work)


async def block(call: AdminCall) -> web.Response:
    """POST /team/block: blocks a team's keys."""
    return await _set_blocked(call, Action.BLOCKED, blocked=True)


async def unblock(call: AdminCall) -> web.Response:
    """POST /team/unblock: lets a blocked team's keys work again."""
    return await _set_blocked(call, Action.UNBLOCKED, blocked=False)


async def add_models(call: AdminCall) -> web.Response:
    """POST /team/model/add: adds models to those that a team may use."""
    values = read_fields(await call.body(), MODELS_FIELDS)

    async def work(connection: Connection) -> dict[str, Any]:
        row = await managed_team(call, connection, values["team_id"])
        # No models are all of them, and adding to a list takes none away.
        before = [name for name in row["models"] or [ALL_PROXY_MODELS] if name != NO_DEFAULT_MODELS]
        models = list(dict.fromkeys([*before, *values["models"]]))
        await _check_caps(call, connection, row, {"models": models})
        return await store_columns(call, connection, row, {"models": models})

    return await call.write(work)


async def delete_models(call: AdminCall) -> web.Response:
    """POST /team/model/delete: takes models from those that a team may use."""
    values = read_fields(await call.body(), MODELS_FIELDS)

    async def work(connection: Connection) -> dict[str, Any]:
        row = await managed_team(call, connection, values["team_id"])
        models = [name for name in row["models"] if name not in values["models"]]
        if row["models"] and not models:
            # An empty list would give every model.
            models = [NO_DEFAULT_MODELS]
        return await store_columns(call, connection, row, {"models": models})

    return await call.write(work)


TEAM_ROUTES = (
    AdminRoute(
        "POST",
        "/team/new",
        new,
        access(Relation.ORG_ADMIN, named=(Role.INTERNAL_USER,)),
        MANAGEMENT,
        body=NEW_TEAM_FIELDS,
    ),
    AdminRoute("POST", "/team/update", update, MANAGED, BOTH, body=(*TEAM_NAME, *TEAM_FIELDS)),
    AdminRoute("PATCH", "/team/{team_id}", patch, MANAGED, MANAGEMENT, body=TEAM_FIELDS),
    AdminRoute(
        "POST", "/team/delete", delete, ORGANIZED, MANAGEMENT, Shape.DETAIL, body=DELETE_FIELDS
    ),
    AdminRoute("POST", "/team/block", block, ORGANIZED, MANAGEMENT, Shape.DETAIL, body=TEAM_NAME),
    AdminRoute(
        "POST", "/team/unblock", unblock, ORGANIZED, MANAGEMENT, Shape.DETAIL, body=TEAM_NAME
    ),
    AdminRoute(
        "POST", "/team/model/add", add_models, ORGANIZED, NO_GROUP, Shape.DETAIL, body=MODELS_FIELDS
    ),
    AdminRoute(
        "POST",
        "/team/model/delete",
        delete_models,
        ORGANIZED,
        NO_GROUP,
        Shape.DETAIL,
        body=MODELS_FIELDS,
    ),
)


async def _check_new(call: AdminCall, connection: Connection, team: NewTeam) -> None:
    caller, organization_id = call.caller, team.columns["organization_id"]
    if not caller.is_admin:
        if organization_id is None and caller.organizations:
            raise AuthenticationFailed("Name one of your organizations", param="organization_id")
        if organization_id is not None and organization_id not in caller.admin_organizations:
            raise PermissionDenied("Only its admins make teams of an organization")
    check_sender(caller, {}, team.columns["metadata"])
    _check_size(caller, team.columns)
    if organization_id is None and not caller.is_admin:
        for name, limit in (await user_limits(connection, caller)).items():
            if team.columns[name] in (None, (), []):
                team.columns[name] = limit
    await _check_caps(call, connection, team.columns, team.columns)
    if not caller.is_admin and ":" in team.team_id:
        # Counters of members are named `user:team`; two of them must not be one.
        raise InvalidRequest("team_id must not hold a colon", param="team_id")
    there = await find_team(connection, team.team_id) is not None
    # What is left of another team would be this one's.
    if there or (not caller.is_admin and await is_named(connection, team.team_id)):
        raise InvalidRequest("team_id is in use by another team", param="team_id")


async def _check_caps(
    call: AdminCall, connection: Connection, row: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """What a team is to have, against the limits of its organization or of the caller."""
    organization_id = row["organization_id"]
    if organization_id is not None:
        await check_organization(connection, organization_id, asked)
    elif not call.caller.is_admin:
        if asked.get("access_group_ids"):
            message = "Only a proxy admin gives access groups to a team without organization"
            raise PermissionDenied(message, param="access_group_ids")
        await check_user(connection, call.caller, asked)


async def _update(call: AdminCall, team_id: str, change: TeamChange) -> web.Response:
    async def work(connection: Connection) -> dict[str, Any]:
        row = await managed_team(call, connection, team_id)
        columns = changed_columns(row, change)
        if not above_team(call, row):
            check_team_admin(row, columns, change, call.services.team_rules)
        await _check_change(call, connection, row, columns)
        if "metadata" in columns:
            sealer = call.services.models.sealer
            columns["metadata"] = sealed(columns["metadata"], team_id, sealer)
        if change.object_permission is not None:
            columns["object_permission_id"] = await store_permission(
                connection, change.object_permission
            )
        after = {**row, **columns}
        budget = await set_member_budget(call, connection, after, change.member_budget)
        columns["metadata"] = after["metadata"]
        body = {"team_id": team_id, "data": await store_columns(call, connection, row, columns)}
        await note_member_budget(call, connection, budget)
        return body

    return await call.write(work)


async def _check_change(
    call: AdminCall, connection: Connection, row: Row, columns: Mapping[str, Any]
) -> None:
    after = {**row, **columns}
    check_team(after)
    check_sender(call.caller, row["metadata"], after["metadata"])
    _check_size(call.caller, columns, row)
    asked = columns
    if "organization_id" in columns:
        if not above_team(call, after):
            message = "Only admins of both organizations may move a team"
            raise PermissionDenied(message, param="organization_id")
        asked = after
    await _check_caps(call, connection, after, asked)


def _check_size(
    caller: Caller, columns: Mapping[str, Any], before: Mapping[str, Any] = _NOTHING
) -> None:
    """Lists of models have a bound of their own."""
    check_size(caller, {n: v for n, v in columns.items() if n not in _LISTS}, before)


async def _set_blocked(call: AdminCall, action: Action, *, blocked: bool) -> web.Response:
    team_id = read_fields(await call.body(), TEAM_NAME)["team_id"]

    async def work(connection: Connection) -> dict[str, Any]:
        row = await managed_team(call, connection, team_id)
        return await store_columns(call, connection, row, {"blocked": blocked}, action)

    return await call.write(work)
