"""The routes about unified access groups (management contract §3.9)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Mapping
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place, placed
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.common_fields import texts
from services.admin.api.prose import prose
from services.admin.api.respond import answer
from services.admin.api.returns import NOTHING, Returns
from services.admin.api.team_access import KEY_TABLE, TEAM_TABLE
from services.admin.api.team_fields import needed
from services.admin.api.values import Loc, listing, mapping, reader, text
from services.admin.api.wire_rows import wire_row
from shared.db.access_groups import (
    ACCESS_GROUPS,
    ASSIGNED_KEYS,
    ASSIGNED_TEAMS,
    Assignees,
    all_access_groups,
)
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError
from shared.keys.generate import stored_form

_TABLE = "LiteLLM_AccessGroupTable"


@reader(**text.schema)
def _key(value: Any, loc: Loc) -> str:
    given = text(value, loc)
    return stored_form(given) or given


_OTHERS = (
    Field("description", prose),
    Field("access_model_names", texts, empty=()),
    Field("access_mcp_server_ids", texts, empty=()),
    Field("access_agent_ids", texts, empty=()),
    Field("access_skill_names", texts, empty=()),
    Field("mcp_tool_permissions", mapping(texts), empty={}),
    Field("assigned_team_ids", texts, Place.CONTROL),
    Field("assigned_key_ids", listing(_key), Place.CONTROL),
)
_NEW_FIELDS = (Field("access_group_name", needed, required=True), *_OTHERS)
_UPDATE_FIELDS = (Field("access_group_name", needed), *_OTHERS)

# Field, whom it assigns to, and what their table is called in the audit log.
_ASSIGNED: tuple[tuple[str, Assignees, str], ...] = (
    ("assigned_team_ids", ASSIGNED_TEAMS, TEAM_TABLE),
    ("assigned_key_ids", ASSIGNED_KEYS, KEY_TABLE),
)
# Whom, and the groups before and after.
_Change = tuple[str, list[str], list[str]]


async def new(call: AdminCall) -> web.Response:
    """POST /v1/access_group: makes an access group."""
    values = await call.fields()
    group_id, actor = str(uuid.uuid4()), call.caller.actor

    async def work(connection: Connection) -> dict[str, Any]:
        said = {name: value for name, value in values.items() if value is not None}
        columns = {
            **placed(said, _NEW_FIELDS, Place.COLUMN),
            "access_group_id": group_id,
            "created_by": actor,
            "updated_by": actor,
        }
        row = await _named_once(ACCESS_GROUPS.insert(connection, columns))
        assert row is not None, "it has just been made"
        changes = await _assign(call, connection, group_id, values)
        body = await _body(connection, row)
        await _note_assigned(call, connection, changes)
        await call.note(connection, Action.CREATED, _TABLE, group_id, after=row)
        return body

    return await call.write(work, status=201)


async def list_all(call: AdminCall) -> web.Response:
    """GET /v1/access_group: every access group."""
    async with call.services.store.connection() as connection:
        rows = await all_access_groups(connection)
        assigned = {name: await assignees.of_groups(connection) for name, assignees, _ in _ASSIGNED}
    bodies = []
    for row in rows:
        owners = {name: of.get(row["access_group_id"], []) for name, of in assigned.items()}
        bodies.append({**wire_row(row), **owners})
    return answer(bodies)


async def info(call: AdminCall) -> web.Response:
    """GET /v1/access_group/{access_group_id}: an access group."""
    async with call.services.store.connection() as connection:
        row = await ACCESS_GROUPS.find(connection, call.named("access_group_id"))
        if row is None:
            raise _not_found()
        body = await _body(connection, row)
    return answer(body)


async def update(call: AdminCall) -> web.Response:
    """PUT /v1/access_group/{access_group_id}: changes an access group."""
    group_id = call.named("access_group_id")
    values = await call.fields()
    empty = {field.name: field.empty for field in _UPDATE_FIELDS}

    async def work(connection: Connection) -> dict[str, Any]:
        before = await ACCESS_GROUPS.find(connection, group_id, lock=True)
        if before is None:
            raise _not_found()
        columns = {
            name: empty[name] if value is None else value
            for name, value in placed(values, _UPDATE_FIELDS, Place.COLUMN).items()
            if not (name == "access_group_name" and value is None)
        }
        after = await _named_once(
            ACCESS_GROUPS.update(connection, (group_id,), columns, call.caller.actor)
        )
        assert after is not None, "its row is locked"
        changes = await _assign(call, connection, group_id, values)
        body = await _body(connection, after)
        await _note_assigned(call, connection, changes)
        await call.note(connection, Action.UPDATED, _TABLE, group_id, before=before, after=after)
        return body

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """DELETE /v1/access_group/{access_group_id}: deletes an access group."""
    group_id = call.named("access_group_id")

    async def work(connection: Connection) -> None:
        before = await ACCESS_GROUPS.find(connection, group_id, lock=True)
        if before is None:
            raise _not_found()
        nobody: dict[str, Any] = {name: [] for name, _, _ in _ASSIGNED}
        changes = await _assign(call, connection, group_id, nobody)
        await ACCESS_GROUPS.delete(connection, group_id)
        await _note_assigned(call, connection, changes)
        await call.note(connection, Action.DELETED, _TABLE, group_id, before=before)

    response = await call.write(work, status=204)
    response.body = None
    del response.headers["content-type"]
    return response


_NONE: frozenset[str] = frozenset()

ACCESS_GROUP_ROUTES = tuple(
    AdminRoute(
        method,
        f"{prefix}{tail}",
        handler,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=body,
        returns=returns,
    )
    for prefix in ("/v1/access_group", "/v1/unified_access_group")
    for method, tail, handler, body, returns in (
        ("POST", "", new, _NEW_FIELDS, Returns(_NEW_FIELDS, status=201)),
        ("GET", "", list_all, None, Returns(_NEW_FIELDS, many=True)),
        ("GET", "/{access_group_id}", info, None, Returns(_NEW_FIELDS)),
        ("PUT", "/{access_group_id}", update, _UPDATE_FIELDS, Returns(_NEW_FIELDS)),
        ("DELETE", "/{access_group_id}", delete, None, NOTHING),
    )
)


async def _body(connection: Connection, row: Row) -> dict[str, Any]:
    group_id = row["access_group_id"]
    assigned = {
        name: await assignees.of_group(connection, group_id) for name, assignees, _ in _ASSIGNED
    }
    return {**wire_row(row), **assigned}


async def _assign(
    call: AdminCall, connection: Connection, group_id: str, values: Mapping[str, Any]
) -> dict[str, list[_Change]]:
    """Makes the sent assignments true; an absent or null list leaves them as they are."""
    changes: dict[str, list[_Change]] = {}
    for name, assignees, table in _ASSIGNED:
        ids = values.get(name)
        if ids is None:
            continue
        already = await assignees.of_group(connection, group_id)
        unknown = await assignees.missing(connection, sorted(set(ids) - set(already)))
        if unknown:
            raise InvalidRequest(f"{name} names nobody by {unknown[0][:80]!r}", param=name)
        changes[table] = await assignees.assign(connection, group_id, ids, call.caller.actor)
    return changes


async def _note_assigned(
    call: AdminCall, connection: Connection, changes: Mapping[str, list[_Change]]
) -> None:
    for table, owners in changes.items():
        entries = [
            (owner, {"access_group_ids": before}, {"access_group_ids": after})
            for owner, before, after in owners
        ]
        await call.note_all(connection, Action.UPDATED, table, entries)


async def _named_once(write: Awaitable[Row | None]) -> Row | None:
    try:
        return await write
    except InvalidRequest as error:
        if error.param != "access_group_name":
            raise
        raise RequestError(error.message, status=409, param=error.param) from error


def _not_found() -> RequestError:
    return RequestError("There is no such access group", status=404, param="access_group_id")
