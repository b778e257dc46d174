"""The model routes of the management API (management contract §3.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY, Relation, access
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.model_access import check_delegated
from services.admin.api.model_fields import (
    BLOCK_FIELDS,
    DELETE_FIELDS,
    NEW_FIELDS,
    PATCH_FIELDS,
    UPDATE_FIELDS,
    read_new,
)
from services.admin.api.model_list import LIST_PARAMETERS, list_models
from services.admin.api.model_rows import audited, model_body
from services.admin.api.model_teams import joined_team, left_team, renamed_in_team
from services.admin.api.model_writes import merged_info, merged_params, new_model, sealed
from shared.config.stored import model_path
from shared.db.audit import Action
from shared.db.models import MODELS, load_stored, lock_models
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError

_TABLE = "LiteLLM_ProxyModelTable"


async def new(call: AdminCall) -> web.Response:
    """POST /model/new: adds a model."""
    models = call.services.models
    models.require_stored()
    values = read_new(await call.body())
    params, info = values["litellm_params"], values["model_info"]
    team_id = info.get("team_id")
    if not call.caller.is_admin:
        call.require(team_id=team_id)
        check_delegated(params, params, info)
    _refuse_file_model(call, info.get("id"), param="model_info.id")

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        columns = new_model(values, call.caller.actor, models.sealer)
        row = await MODELS.insert(connection, columns)
        await _check(call, connection, row["model_id"])
        if team_id is not None:
            await joined_team(call, connection, team_id, values["model_name"])
        await call.note(connection, Action.CREATED, _TABLE, row["model_id"], after=audited(row))
        return model_body(row)

    return await _written(call, work)


async def update(call: AdminCall) -> web.Response:
    """POST /model/update: changes a model."""
    call.services.models.require_stored()
    values = await call.fields()
    model_id = (values.get("model_info") or {}).get("id")
    if model_id is None:
        raise InvalidRequest("model_info.id is needed", param="model_info.id")
    _refuse_file_model(call, model_id, param="model_info.id")

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, model_id)
        if before is None:
            raise InvalidRequest("There is no such model", param="model_info.id")
        return await _change(call, connection, before, values, null_removes=False)

    return await _written(call, work)


async def patch(call: AdminCall) -> web.Response:
    """PATCH /model/{model_id}/update: changes a model."""
    call.services.models.require_stored()
    model_id = call.named("model_id")
    values = await call.fields()
    _refuse_file_model(call, model_id, param="model_id", type="validation_error")

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, model_id)
        if before is None:
            raise _not_found()
        return await _change(call, connection, before, values, null_removes=True)

    return await _written(call, work)


async def delete(call: AdminCall) -> web.Response:
    """POST /model/delete: deletes a model."""
    call.services.models.require_stored()
    model_id = (await call.fields())["id"]
    _refuse_file_model(call, model_id, param="id")

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, model_id)
        if before is None:
            raise InvalidRequest("There is no such model", param="id")
        _require_own(call, before)
        await MODELS.delete(connection, model_id)
        await _check(call, connection, model_id)
        await left_team(call, connection, before["model_info"])
        await call.note(connection, Action.DELETED, _TABLE, model_id, before=audited(before))
        return {"message": f"Model {model_id} was deleted"}

    return await _written(call, work)


async def block(call: AdminCall) -> web.Response:
    """POST /model/block: takes a model out of use."""
    return await _set_blocked(call, blocked=True)


async def unblock(call: AdminCall) -> web.Response:
    """POST /model/unblock: puts a blocked model to use again."""
    return await _set_blocked(call, blocked=False)


_OWN = access(Relation.TEAM_ADMIN)
_GROUPS = frozenset({"management_routes", "self_managed_routes"})

MODEL_ROUTES = (
    AdminRoute("POST", "/model/new", new, _OWN, _GROUPS, body=NEW_FIELDS),
    AdminRoute("POST", "/model/update", update, _OWN, _GROUPS, body=UPDATE_FIELDS),
    AdminRoute("PATCH", "/model/{model_id}/update", patch, _OWN, _GROUPS, body=PATCH_FIELDS),
    AdminRoute("POST", "/model/delete", delete, _OWN, _GROUPS, body=DELETE_FIELDS),
    AdminRoute("POST", "/model/block", block, body=BLOCK_FIELDS),
    AdminRoute("POST", "/model/unblock", unblock, body=BLOCK_FIELDS),
    AdminRoute(
        "GET",
        "/v2/model/info",
        list_models,
        ANY_KEY,
        frozenset({"management_routes", "info_routes"}),
        Shape.DETAIL,
        query=LIST_PARAMETERS,
    ),
)


async def _written(call: AdminCall, work: Any) -> web.Response:
    response = await call.write(work)
    await call.services.models.refresh()
    return response


async def _locked(connection: Connection, model_id: str) -> Row | None:
    await lock_models(connection)
    return await MODELS.find(connection, model_id, lock=True)


async def _check(call: AdminCall, connection: Connection, model_id: str) -> None:
    """Raises unless everything that would be stored then can be in force."""
    call.services.models.check(await load_stored(connection), model_path(model_id))


async def _change(
    call: AdminCall,
    connection: Connection,
    before: Row,
    values: Mapping[str, Any],
    *,
    null_removes: bool,
) -> dict[str, Any]:
    _require_own(call, before)
    model_id, info_before = before["model_id"], before["model_info"]
    sent, info_sent = values.get("litellm_params") or {}, values.get("model_info") or {}
    params = merged_params(before["litellm_params"], sent, null_removes=null_removes)
    blocked = values.get("blocked")
    if blocked is None:
        blocked = info_sent.get("blocked")
    if not call.caller.is_admin:
        check_delegated(params, sent, info_sent, info_before)
        if blocked is not None:
            raise PermissionDenied("blocked is for proxy admins to say", param="blocked")
    info = merged_info(info_before, info_sent, null_removes=null_removes)
    columns: dict[str, Any] = {"model_info": info}
    if sent:
        columns |= sealed(model_id, params, call.services.models.sealer)
    if blocked is not None:
        columns["blocked"] = blocked
    name = values.get("model_name")
    if info_before.get("team_id") is None:
        columns |= {} if name is None else {"model_name": name}
    else:
        # A team's model is stored under a name of its own.
        public = name or info_sent.get("team_public_model_name")
        info["team_public_model_name"] = public or info_before["team_public_model_name"]
    row = await MODELS.update(connection, [model_id], columns, call.caller.actor)
    assert row is not None, "it is locked"
    await _check(call, connection, model_id)
    await renamed_in_team(call, connection, info_before, info)
    note = {"before": audited(before), "after": audited(row, before)}
    await call.note(connection, Action.UPDATED, _TABLE, model_id, **note)
    return model_body(row)


async def _set_blocked(call: AdminCall, *, blocked: bool) -> web.Response:
    call.services.models.require_stored()
    model_id = (await call.fields())["model_id"]
    _refuse_file_model(call, model_id, param="model_id")

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, model_id)
        if before is None:
            raise _not_found()
        row = await MODELS.update(connection, [model_id], {"blocked": blocked}, call.caller.actor)
        assert row is not None, "it is locked"
        action = Action.BLOCKED if blocked else Action.UNBLOCKED
        note = {"before": audited(before), "after": audited(row)}
        await call.note(connection, action, _TABLE, model_id, **note)
        return model_body(row)

    return await _written(call, work)


def _require_own(call: AdminCall, row: Row) -> None:
    if not call.caller.is_admin:
        call.require(team_id=row["model_info"].get("team_id"))


def _refuse_file_model(
    call: AdminCall,
    model_id: str | None,
    *,
    param: str,
    type: str | None = None,  # noqa: A002 - the wire's own word
) -> None:
    entry = None if model_id is None else call.services.models.entry_of_file(model_id)
    if entry is not None:
        raise InvalidRequest(
            f"This model stands in the configuration file and is changed there: {entry.source}, "
            f"{entry.path}",
            param=param,
            type=type,
        )


def _not_found() -> RequestError:
    return RequestError(
        "There is no such model", status=404, type="not_found_error", param="model_id"
    )
