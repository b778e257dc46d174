"""The credential routes of the management API (management contract §3.10)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.common_fields import texts
from services.admin.api.credential_rows import (
    audited,
    credential_body,
    file_credentials,
    masked_values,
    model_credential,
)
from services.admin.api.model_fields import members, name, refuse_masks
from services.admin.api.model_writes import sealed_column
from services.admin.api.respond import answer
from services.admin.api.values import text
from shared.config.stored import credential_path
from shared.db.audit import Action
from shared.db.credentials import CREDENTIALS, list_credentials
from shared.db.models import MODELS, load_stored, lock_models
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError
from shared.secrets.members import credential_values, model_params, unmasked

_TABLE = "LiteLLM_CredentialsTable"
_VALUES = "credential_values"
_DELETED = "credential_values_to_delete"

_COMMON = (
    Field(_VALUES, members),
    Field("credential_info", members, empty={}),
    Field("display_name", text),
)
_NEW = (
    Field("credential_name", name, required=True),
    *_COMMON,
    Field("model_id", name, Place.CONTROL),
)
_PATCH = (
    Field("credential_name", name, Place.CONTROL),
    *_COMMON,
    Field(_DELETED, texts, Place.CONTROL),
)


async def create(call: AdminCall) -> web.Response:
    """POST /credentials: stores a provider's credential."""
    fields = await call.fields()
    credential_name, model_id = fields["credential_name"], fields.get("model_id")
    values = fields.get(_VALUES)
    if not values and model_id is None:
        raise InvalidRequest(f"Either {_VALUES} or model_id is needed", param=_VALUES)
    refuse_masks(values, _VALUES)
    _refuse_file_credential(call, credential_name, status=409)

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_models(connection)
        if await CREDENTIALS.find(connection, credential_name) is not None:
            raise RequestError(
                "There is a credential of this name", status=409, param="credential_name"
            )
        credential_id = str(uuid.uuid4())
        given = values or await _of_model(call, connection, str(model_id))
        row = await CREDENTIALS.insert(
            connection,
            {
                "credential_id": credential_id,
                "credential_name": credential_name,
                "display_name": fields.get("display_name"),
                "credential_info": fields.get("credential_info") or {},
                **_sealed(call, credential_id, given),
                "created_by": call.caller.actor,
                "updated_by": call.caller.actor,
            },
        )
        await _check(call, connection, credential_name)
        await call.note(connection, Action.CREATED, _TABLE, credential_name, after=audited(row))
        return _done(f"Credential {credential_name} was created")

    return await _written(call, work)


async def patch(call: AdminCall) -> web.Response:
    """PATCH /credentials/{credential_name}: changes a credential."""
    credential_name = call.named("credential_name")
    fields = await call.fields()
    if fields.get("credential_name") not in {None, credential_name}:
        raise InvalidRequest("credential_name cannot be changed", param="credential_name")
    _refuse_file_credential(call, credential_name)

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, credential_name)
        after = {**before[_VALUES]}
        for member in fields.get(_DELETED) or ():
            after.pop(member, None)
        for member, value in (fields.get(_VALUES) or {}).items():
            after[member] = unmasked(value, before[_VALUES].get(member))
        refuse_masks(after, _VALUES)
        columns = {
            "credential_info": {
                **before["credential_info"],
                **(fields.get("credential_info") or {}),
            },
            **_sealed(call, before["credential_id"], after),
        }
        if "display_name" in fields:
            columns["display_name"] = fields["display_name"]
        row = await CREDENTIALS.update(connection, [credential_name], columns, call.caller.actor)
        assert row is not None, "it is locked"
        await _check(call, connection, credential_name)
        note = {"before": audited(before), "after": audited(row, before)}
        await call.note(connection, Action.UPDATED, _TABLE, credential_name, **note)
        return _done(f"Credential {credential_name} was updated")

    return await _written(call, work)


async def delete(call: AdminCall) -> web.Response:
    """DELETE /credentials/{credential_name}: deletes a credential."""
    credential_name = call.named("credential_name")
    _refuse_file_credential(call, credential_name)

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _locked(connection, credential_name)
        await CREDENTIALS.delete(connection, credential_name)
        await _check(call, connection, credential_name)
        await call.note(connection, Action.DELETED, _TABLE, credential_name, before=audited(before))
        return _done(f"Credential {credential_name} was deleted")

    return await _written(call, work)


async def list_all(call: AdminCall) -> web.Response:
    """GET /credentials: every credential, without its secrets."""
    async with call.services.store.connection() as connection:
        rows = await list_credentials(connection)
    models = call.services.models
    shown = [credential_body(row, models.wholes.sealer) for row in rows]
    return answer({"success": True, "credentials": [*file_credentials(models.wholes.file), *shown]})


async def by_name(call: AdminCall) -> web.Response:
    """GET /credentials/by_name/{credential_name}: a credential, without its secrets."""
    credential_name = call.named("credential_name")
    models = call.services.models
    for each in file_credentials(models.wholes.file):
        if each["credential_name"] == credential_name:
            return answer(each)
    async with call.services.store.connection() as connection:
        row = await CREDENTIALS.find(connection, credential_name)
    if row is None:
        raise _missing("There is no such credential", "credential_name")
    return answer(credential_body(row, models.wholes.sealer))


async def by_model(call: AdminCall) -> web.Response:
    """GET /credentials/by_model/{model_id}: the credential of a model, without its secrets."""
    model_id = call.named("model_id")
    async with call.services.store.connection() as connection:
        row = await MODELS.find(connection, model_id)
    entry = call.services.models.entry_of_file(model_id)
    if row is not None:
        params = model_params(model_id).masked(row["litellm_params"])
        credential = model_credential(params)
    elif entry is not None:
        credential = masked_values(model_credential(entry.params))
    else:
        raise _missing("There is no such model", "model_id")
    return answer(
        {
            "credential_name": f"{model_id}-credential",
            _VALUES: credential,
            "credential_info": {},
        }
    )


_NAME = "/credentials/{credential_name:.+}"

CREDENTIAL_ROUTES = (
    AdminRoute("POST", "/credentials", create, body=_NEW),
    AdminRoute("GET", "/credentials", list_all),
    AdminRoute("GET", "/credentials/by_name/{credential_name:.+}", by_name),
    AdminRoute("GET", "/credentials/by_model/{model_id}", by_model),
    AdminRoute("PATCH", _NAME, patch, body=_PATCH),
    AdminRoute("DELETE", _NAME, delete),
)


async def _written(call: AdminCall, work: Any) -> web.Response:
    response = await call.write(work)
    await call.services.models.refresh()
    return response


async def _locked(connection: Connection, credential_name: str) -> Row:
    await lock_models(connection)
    row = await CREDENTIALS.find(connection, credential_name, lock=True)
    if row is None:
        raise _missing("There is no such credential", "credential_name")
    return row


async def _check(call: AdminCall, connection: Connection, credential_name: str) -> None:
    """Raises unless all models can still be in force with the credentials as they are now."""
    stored = await load_stored(connection)
    call.services.models.check(stored, credential_path(credential_name))


async def _of_model(call: AdminCall, connection: Connection, model_id: str) -> dict[str, Any]:
    """What a model connects with, opened."""
    row = await MODELS.find(connection, model_id)
    entry = call.services.models.entry_of_file(model_id)
    if row is not None:
        sealer = call.services.models.sealer
        found = model_credential(model_params(model_id).open(row["litellm_params"], sealer))
    elif entry is not None:
        found = model_credential(entry.params)
    else:
        raise _missing("There is no such model", "model_id")
    if not found:
        raise InvalidRequest("The model has nothing to make a credential of", param="model_id")
    return found


def _sealed(call: AdminCall, credential_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    within = credential_values(credential_id)
    return sealed_column(_VALUES, within, values, call.services.models.sealer)


def _refuse_file_credential(call: AdminCall, credential_name: str, status: int = 400) -> None:
    file = call.services.models.wholes.file
    if credential_name in file.credentials:
        raise RequestError(
            f"This credential stands in `credential_list` of {file.source} and is changed there",
            status=status,
            param="credential_name",
        )


def _missing(message: str, param: str) -> RequestError:
    return RequestError(message, status=404, type="not_found_error", param=param)


def _done(message: str) -> dict[str, Any]:
    return {"success": True, "message": message}
