"""The project routes of the management API (management contract §2.4, §6)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY, Relation, Role, access
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.linked_budgets import LinkedBudget, changed_link, new_link
from services.admin.api.linked_columns import own_columns
from services.admin.api.linked_rows import LinkedRows
from services.admin.api.parameters import text_parameters
from services.admin.api.project_access import check_caps, check_permission, may_see, team_of
from services.admin.api.project_fields import (
    DELETE_FIELDS,
    KEPT,
    NEW_FIELDS,
    SHOWN_METADATA,
    UPDATE_FIELDS,
)
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.row_size import check_size
from services.admin.api.team_writes import store_permission
from shared.db.audit import Action
from shared.db.budgets import find_budgets
from shared.db.projects import (
    PROJECTS,
    delete_projects,
    list_projects,
    lock_projects,
    project_in_use,
)
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError

_TABLE = "LiteLLM_ProjectTable"
_PROJECTS = LinkedRows("project", ("project_id",))


async def new(call: AdminCall) -> web.Response:
    """POST /project/new: makes a project of a team."""
    sent = await call.fields()
    values = {name: value for name, value in sent.items() if value is not None}
    check_permission(call, values)
    project_id, actor = values.get("project_id") or str(uuid.uuid4()), call.caller.actor

    async def work(connection: Connection) -> dict[str, Any]:
        team = await team_of(call, connection, values["team_id"])
        if not call.caller.is_admin and await project_in_use(connection, [project_id]):
            raise InvalidRequest("project_id is in use by keys", param="project_id")
        check_size(call.caller, values)
        link = await new_link(call, connection, values)
        check_caps(team, {**values, **await _limits(connection, link)})
        row = await PROJECTS.insert(
            connection,
            {
                **own_columns(values, NEW_FIELDS),
                "project_id": project_id,
                "budget_id": link.budget_id,
                "object_permission_id": await store_permission(
                    connection, values.get("object_permission")
                ),
                "created_by": actor,
                "updated_by": actor,
            },
        )
        body = await _shown_one(call, connection, row)
        await link.note(call, connection)
        await call.note(connection, Action.CREATED, _TABLE, project_id, after=row)
        return body

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /project/update: changes a project."""
    values = await call.fields()
    check_permission(call, values)
    project_id = values["project_id"]

    async def work(connection: Connection) -> dict[str, Any]:
        before = await PROJECTS.find(connection, project_id, lock=True)
        if before is None:
            raise _not_found()
        call.require(team_id=before["team_id"])
        columns = own_columns(values, UPDATE_FIELDS, before["metadata"], KEPT)
        check_size(call.caller, columns, before)
        team_id = columns.get("team_id", before["team_id"])
        link = await changed_link(call, connection, before["budget_id"], values)
        if team_id is not None:
            team = await team_of(call, connection, team_id)
            # A project that stays in its team is only held to what is changed now.
            asked: Mapping[str, Any] = values
            if team_id != before["team_id"] or link.budget_id != before["budget_id"]:
                asked = {**before, **columns, **await _limits(connection, link)}
            check_caps(team, asked)
        columns["budget_id"] = link.budget_id
        if "object_permission" in values:
            columns["object_permission_id"] = await store_permission(
                connection, values["object_permission"]
            )
        after = await PROJECTS.update(connection, (project_id,), columns, call.caller.actor)
        assert after is not None, "its row is locked"
        body = await _shown_one(call, connection, after)
        await link.note(call, connection)
        await call.note(connection, Action.UPDATED, _TABLE, project_id, before=before, after=after)
        return body

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """DELETE /project/delete: deletes projects."""
    wanted = sorted(set((await call.fields())["project_ids"]))
    if not wanted:
        raise InvalidRequest("project_ids names none", param="project_ids")

    async def work(connection: Connection) -> list[dict[str, Any]]:
        rows = await lock_projects(connection, wanted)
        for project_id in wanted:
            if project_id not in rows:
                raise _not_found("project_ids")
        used = await project_in_use(connection, wanted)
        if used is not None:
            message = f"The project {used[0][:80]!r} has {used[1]} keys: delete or move them first"
            raise InvalidRequest(message, param="project_ids")
        bodies = await _shown(call, connection, list(rows.values()))
        await delete_projects(connection, wanted)
        gone = [(project_id, row, None) for project_id, row in rows.items()]
        await call.note_all(connection, Action.DELETED, _TABLE, gone)
        return bodies

    return await call.write(work)


async def info(call: AdminCall) -> web.Response:
    """GET /project/info: a project."""
    project_id = call.query.text("project_id")
    if project_id is None:
        raise Unprocessable([Issue("missing", ("query", "project_id"), "Field required")])
    async with call.services.store.connection() as connection:
        row = await PROJECTS.find(connection, project_id)
        if row is not None and not may_see(call, row):
            raise PermissionDenied("The caller is not in the project's team", param="project_id")
        if row is None:
            raise _not_found()
        body = await _shown_one(call, connection, row)
    return answer(body)


async def list_all(call: AdminCall) -> web.Response:
    """GET /project/list: the projects that the caller may see."""
    caller = call.caller
    own_team = caller.principal.key.team_id
    teams = {*caller.teams} | ({own_team} if own_team is not None else set())
    async with call.services.store.connection() as connection:
        rows = await list_projects(connection, None if caller.sees_all else sorted(teams))
        bodies = await _shown(call, connection, rows)
    return answer(bodies)


_LISTED = frozenset({"internal_user_routes", "self_managed_routes", "org_admin_allowed_routes"})
_MANAGED = frozenset({"self_managed_routes", "org_admin_allowed_routes"})
_NONE: frozenset[str] = frozenset()
# Everybody gets past the gate, and only admins of the team past the handler.
_TEAM_ADMINS = access(Role.INTERNAL_USER, Role.INTERNAL_USER_VIEWER, Relation.TEAM_ADMIN)

PROJECT_ROUTES = (
    AdminRoute("POST", "/project/new", new, _TEAM_ADMINS, _MANAGED, body=NEW_FIELDS),
    AdminRoute("POST", "/project/update", update, _TEAM_ADMINS, _MANAGED, body=UPDATE_FIELDS),
    AdminRoute("DELETE", "/project/delete", delete, groups=_NONE, body=DELETE_FIELDS, returns=LIST),
    AdminRoute(
        "GET",
        "/project/info",
        info,
        ANY_KEY,
        _LISTED,
        query=text_parameters("project_id", required=True),
    ),
    AdminRoute("GET", "/project/list", list_all, ANY_KEY, _LISTED, returns=LIST),
)


async def _limits(connection: Connection, link: LinkedBudget) -> Row:
    """The limits of a project's budget as they are after the change."""
    if link.after is not None or link.budget_id is None:
        return link.after or {}
    return (await find_budgets(connection, [link.budget_id])).get(link.budget_id, {})


async def _shown(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    return [
        {
            **body,
            **{name: body["metadata"].get(name) for name in SHOWN_METADATA},
            "model_spend": {},
        }
        for body in await _PROJECTS.shown(call, connection, rows)
    ]


async def _shown_one(call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
    (body,) = await _shown(call, connection, [row])
    return body


def _not_found(param: str = "project_id") -> RequestError:
    message = "There is no such project"
    return RequestError(message, status=404, type="not_found_error", param=param)
