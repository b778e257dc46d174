"""The routes about model access groups (management contract §3.9): `model_info.access_groups` of
deployments, and the budget of a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.body import Field
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.commits import Work
from services.admin.api.common_fields import texts
from services.admin.api.linked_budgets import LINK_FIELDS, changed_link, new_link
from services.admin.api.linked_rows import LinkedRows
from services.admin.api.model_access_group_members import (
    GroupChange,
    load_members,
    regrouped,
)
from services.admin.api.respond import answer
from services.admin.api.values import Loc, reader, text
from shared.db.audit import Action
from shared.db.model_access_groups import MODEL_ACCESS_GROUPS
from shared.db.models import lock_models
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError

_TABLE = "LiteLLM_ModelAccessGroupBudgetTable"
_GROUPS = LinkedRows("model_access_group", ("access_group",))


@reader(**text.schema, minLength=1)
def _name(value: Any, loc: Loc) -> str:
    name = text(value, loc)
    if not name.strip():
        raise InvalidRequest("access_group must not be blank", param="access_group")
    return name


_MODELS = (Field("model_names", texts), Field("model_ids", texts))
_NEW_FIELDS = (Field("access_group", _name, required=True), *_MODELS)


async def new(call: AdminCall) -> web.Response:
    """POST /access_group/new: makes an access group of models."""
    values = await call.fields()
    group = values["access_group"]
    names, ids = _wanted(values)

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        members = await load_members(call, connection)
        if group in members.names():
            message = f"There is an access group {group[:80]!r} already"
            raise RequestError(message, status=409, param="access_group")
        chosen = members.choose(group, names, ids).stored
        change = regrouped(group, chosen, chosen)
        await change.store(call, connection)
        await change.note(call, connection)
        return _changed(group, change, names, ids)

    return await _written(call, work)


async def list_all(call: AdminCall) -> web.Response:
    """GET /access_group/list: every access group of models."""
    async with call.services.store.connection() as connection:
        members = await load_members(call, connection)
    return answer({"access_groups": [members.body(group) for group in members.names()]})


async def info(call: AdminCall) -> web.Response:
    """GET /access_group/{access_group}/info: an access group of models."""
    group = call.named("access_group")
    async with call.services.store.connection() as connection:
        members = await load_members(call, connection)
        members.require(group)
        shown = await _budget(call, connection, group)
    return answer({**members.body(group), "spend": shown["spend"], "budget": shown["budget"]})


async def update(call: AdminCall) -> web.Response:
    """PUT /access_group/{access_group}/update: changes which models an access group has."""
    group = call.named("access_group")
    values = await call.fields()
    names, ids = _wanted(values)

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        members = await load_members(call, connection)
        members.require(group)
        chosen = members.choose(group, names, ids)
        members.require_kept(group, chosen.file)
        change = regrouped(group, members.stored, chosen.stored)
        await change.store(call, connection)
        await change.note(call, connection)
        return _changed(group, change, names, ids)

    return await _written(call, work)


async def delete(call: AdminCall) -> web.Response:
    """DELETE /access_group/{access_group}/delete: deletes an access group of models."""
    group = call.named("access_group")

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        members = await load_members(call, connection)
        members.require(group)
        members.require_kept(group)
        change = regrouped(group, members.stored, ())
        await change.store(call, connection)
        row = await MODEL_ACCESS_GROUPS.delete(connection, group)
        await change.note(call, connection)
        if row is not None:
            await call.note(connection, Action.DELETED, _TABLE, group, before=row)
        return {
            "access_group": group,
            "models_updated": len(change.models),
            "message": f"Access group {group} deleted",
        }

    return await _written(call, work)


async def show_budget(call: AdminCall) -> web.Response:
    """GET /access_group/{access_group}/budget: the budget of an access group."""
    group = call.named("access_group")
    async with call.services.store.connection() as connection:
        (await load_members(call, connection)).require(group)
        shown = await _budget(call, connection, group)
    return answer(shown)


async def set_budget(call: AdminCall) -> web.Response:
    """PUT /access_group/{access_group}/budget: gives an access group a budget."""
    group = call.named("access_group")
    sent = await call.fields()
    values = {name: value for name, value in sent.items() if value is not None}
    if not values:
        raise InvalidRequest("Either budget_id or max_budget is needed", param="budget_id")
    actor = call.caller.actor

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        (await load_members(call, connection)).require(group)
        before = await MODEL_ACCESS_GROUPS.find(connection, group, lock=True)
        if before is None:
            link = await new_link(call, connection, values)
            columns = {"budget_id": link.budget_id, "created_by": actor, "updated_by": actor}
            after: Row | None = await MODEL_ACCESS_GROUPS.insert(
                connection, {"access_group": group, **columns}
            )
        else:
            link = await changed_link(call, connection, before["budget_id"], sent)
            after = await MODEL_ACCESS_GROUPS.update(
                connection, (group,), {"budget_id": link.budget_id}, actor
            )
        shown = await _budget(call, connection, group)
        await link.note(call, connection)
        action = Action.CREATED if before is None else Action.UPDATED
        await call.note(connection, action, _TABLE, group, before=before, after=after)
        return shown

    return await call.write(work)


async def drop_budget(call: AdminCall) -> web.Response:
    """DELETE /access_group/{access_group}/budget: takes an access group's budget away."""
    group = call.named("access_group")

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        row = await MODEL_ACCESS_GROUPS.delete(connection, group)
        if row is None:
            message = f"The access group {group[:80]!r} has no budget"
            raise RequestError(message, status=404, param="access_group")
        await call.note(connection, Action.DELETED, _TABLE, group, before=row)
        return {"access_group": group, "message": f"Budget of access group {group} deleted"}

    return await call.write(work)


_NONE: frozenset[str] = frozenset()
_ONE = "/access_group/{access_group}"

MODEL_ACCESS_GROUP_ROUTES = tuple(
    AdminRoute(method, path, handler, groups=_NONE, errors=Shape.DETAIL, body=body)
    for method, path, handler, body in (
        ("POST", "/access_group/new", new, _NEW_FIELDS),
        ("GET", "/access_group/list", list_all, None),
        ("GET", f"{_ONE}/info", info, None),
        ("PUT", f"{_ONE}/update", update, _MODELS),
        ("DELETE", f"{_ONE}/delete", delete, None),
        ("GET", f"{_ONE}/budget", show_budget, None),
        ("PUT", f"{_ONE}/budget", set_budget, LINK_FIELDS),
        ("DELETE", f"{_ONE}/budget", drop_budget, None),
    )
)


async def _written(call: AdminCall, work: Work[Any]) -> web.Response:
    response = await call.write(work)
    await call.services.models.refresh()
    return response


def _wanted(values: Mapping[str, Any]) -> tuple[list[str] | None, list[str] | None]:
    """The names and ids of a body; ids go before names."""
    names, ids = values.get("model_names"), values.get("model_ids")
    if not names and not ids:
        raise InvalidRequest("Either model_names or model_ids is needed", param="model_names")
    return (None, ids) if ids else (names, None)


def _changed(
    group: str, change: GroupChange, names: list[str] | None, ids: list[str] | None
) -> dict[str, Any]:
    return {
        "access_group": group,
        "model_names": names,
        "model_ids": ids,
        "models_updated": len(change.models),
    }


async def _budget(call: AdminCall, connection: Connection, group: str) -> dict[str, Any]:
    row = await MODEL_ACCESS_GROUPS.find(connection, group)
    shown = await _GROUPS.shown_one(
        call, connection, row or {"access_group": group, "budget_id": None}
    )
    return {
        "access_group": group,
        "budget_id": shown["budget_id"],
        "spend": shown["spend"],
        "budget": shown["litellm_budget_table"],
    }
