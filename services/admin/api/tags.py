"""The tag routes of the management API (management contract §3.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from aiohttp import web

from services.admin.api.access import Role, access
from services.admin.api.body import Field, Place
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.common_fields import texts
from services.admin.api.linked_budgets import LINK_FIELDS, changed_link, new_link
from services.admin.api.linked_columns import own_columns
from services.admin.api.linked_rows import LinkedRows
from services.admin.api.parameters import day_parameters
from services.admin.api.prose import prose
from services.admin.api.query import Query
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.values import text
from services.admin.api.wire_rows import wire
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.tags import TAGS, SeenTag, all_tags, find_tags, model_names, seen_tags
from shared.domain.errors import InvalidRequest, RequestError

_TABLE = "LiteLLM_TagTable"
_TAGS = LinkedRows("tag", ("name",))
_SEEN = "Named by calls; not stored, so it has no rules."
# How far back somebody who is no admin sees the tags of own calls without asking for days.
_OWN_DAYS = timedelta(days=30)

_NAME = Field("name", text, Place.CONTROL, required=True)
_FIELDS = (_NAME, Field("description", prose), Field("models", texts, empty=()), *LINK_FIELDS)
_NAMES_FIELDS = (Field("names", texts, required=True),)


async def new(call: AdminCall) -> web.Response:
    """POST /tag/new: makes a tag."""
    values = await call.fields()
    name = values["name"]
    said = {each: value for each, value in values.items() if value is not None}

    async def work(connection: Connection) -> dict[str, Any]:
        link = await new_link(call, connection, said)
        columns = {
            **own_columns(said, _FIELDS),
            "name": name,
            "budget_id": link.budget_id,
            "created_by": call.caller.actor,
        }
        row = await TAGS.insert(connection, columns)
        (body,) = await _bodies(call, connection, [row])
        await link.note(call, connection)
        await call.note(connection, Action.CREATED, _TABLE, name, after=row)
        return {"message": f"Tag {name} created", "tag": body}

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /tag/update: changes a tag."""
    values = await call.fields()
    name = values["name"]

    async def work(connection: Connection) -> dict[str, Any]:
        before = await TAGS.find(connection, name, lock=True)
        if before is None:
            raise _not_found([name])
        link = await changed_link(call, connection, before["budget_id"], values)
        columns = {**own_columns(values, _FIELDS), "budget_id": link.budget_id}
        after = await TAGS.update(connection, (name,), columns, call.caller.actor)
        assert after is not None, "its row is locked"
        (body,) = await _bodies(call, connection, [after])
        await link.note(call, connection)
        await call.note(connection, Action.UPDATED, _TABLE, name, before=before, after=after)
        return {"message": f"Tag {name} updated", "tag": body}

    return await call.write(work)


async def info(call: AdminCall) -> web.Response:
    """POST /tag/info: several tags."""
    names = (await call.fields())["names"]
    async with call.services.store.connection() as connection:
        rows = await find_tags(connection, names)
        missing = [name for name in names if name not in rows]
        if missing:
            raise _not_found(missing)
        bodies = await _bodies(call, connection, list(rows.values()))
    return answer({body["name"]: body for body in bodies})


async def list_all(call: AdminCall) -> web.Response:
    """GET /tag/list: every tag, those that traffic has shown included."""
    start, end = _day(call.query, "start_date"), _day(call.query, "end_date")
    caller = call.caller
    async with call.services.store.connection() as connection:
        bodies = await _bodies(call, connection, await all_tags(connection))
        if caller.sees_all:
            seen = await seen_tags(connection, start, end)
        else:
            # Tags are for everybody to use; what they may spend is not for everybody to know.
            bodies = [{**body, "spend": None, "litellm_budget_table": None} for body in bodies]
            if start is None and end is None:
                start = (call.now - _OWN_DAYS).date()
            seen = await seen_tags(
                connection, start, end, token=caller.token, user_id=caller.user_id
            )
    return answer([*bodies, *map(_seen_body, seen)])


async def delete(call: AdminCall) -> web.Response:
    """POST /tag/delete: deletes a tag."""
    name = (await call.fields())["name"]

    async def work(connection: Connection) -> dict[str, Any]:
        before = await TAGS.delete(connection, name)
        if before is None:
            raise _not_found([name])
        await call.note(connection, Action.DELETED, _TABLE, name, before=before)
        return {"message": f"Tag {name} deleted"}

    return await call.write(work)


_NONE: frozenset[str] = frozenset()
_LISTED = frozenset({"internal_user_routes", "internal_user_view_only_routes"})
_USERS = access(Role.INTERNAL_USER, Role.INTERNAL_USER_VIEWER)

TAG_ROUTES = (
    AdminRoute("POST", "/tag/new", new, groups=_NONE, errors=Shape.PLAIN_DETAIL, body=_FIELDS),
    AdminRoute(
        "POST", "/tag/update", update, groups=_NONE, errors=Shape.PLAIN_DETAIL, body=_FIELDS
    ),
    AdminRoute(
        "POST",
        "/tag/info",
        info,
        groups=_NONE,
        errors=Shape.PLAIN_DETAIL,
        body=_NAMES_FIELDS,
        reads=True,
    ),
    AdminRoute(
        "GET",
        "/tag/list",
        list_all,
        _USERS,
        _LISTED,
        Shape.PLAIN_DETAIL,
        query=day_parameters("start_date", "end_date"),
        returns=LIST,
    ),
    AdminRoute(
        "POST", "/tag/delete", delete, groups=_NONE, errors=Shape.PLAIN_DETAIL, body=(_NAME,)
    ),
)


async def _bodies(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Tags with the names of their models: `None` for an id that no model has."""
    shown = await _TAGS.shown(call, connection, rows)
    names = await _model_names(call, connection, {each for row in rows for each in row["models"]})
    for body in shown:
        del body["object_permission"]
        body["model_info"] = {each: names[each] for each in body["models"]}
    return shown


async def _model_names(
    call: AdminCall, connection: Connection, ids: AbstractSet[str]
) -> Mapping[str, str | None]:
    names: dict[str, str | None] = {**await model_names(connection, ids)}
    for each in ids - names.keys():
        entry = call.services.models.entry_of_file(each)
        names[each] = None if entry is None else entry.model_name
    return names


def _seen_body(tag: SeenTag) -> Mapping[str, Any]:
    return {
        "name": tag.name,
        "description": _SEEN,
        "models": [],
        "model_info": {},
        "budget_id": None,
        "spend": None,
        "litellm_budget_table": None,
        "created_at": _midnight(tag.first_day),
        "updated_at": _midnight(tag.last_day),
        "created_by": None,
    }


def _midnight(day: date | None) -> Any:
    return None if day is None else wire(datetime.combine(day, time(0), UTC))


def _day(query: Query, name: str) -> date | None:
    given = query.text(name)
    try:
        return None if given is None else date.fromisoformat(given)
    except ValueError:
        raise InvalidRequest(f"{name} is not a day as in 2026-01-31", param=name) from None


def _not_found(names: Sequence[str]) -> RequestError:
    return RequestError(f"There is no tag {', '.join(names)[:200]}", status=404, param="name")
