"""The key routes of the management API (management contract §3.1)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.body import read_fields
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.key_fields import BLOCK_FIELDS, DELETE_FIELDS
from services.admin.api.key_list import read_key_list
from services.admin.api.key_policy import KeyChange, NewKey, key_change, new_key
from services.admin.api.key_rows import generated_body, key_body, read_spends, spend_window
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer, read_object
from services.admin.api.wait import read_wait, with_propagation
from shared.db import key_admin, key_list
from shared.db.key_admin import KeyRow
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError
from shared.keys.generate import stored_form


async def generate(call: AdminCall) -> web.Response:
    """POST /key/generate"""
    wait = read_wait(call.query)
    body = await read_object(call.request)
    key = new_key(body, call.services.rules, call.now, call.caller.actor)

    async def work(connection: Connection) -> dict[str, Any]:
        return await _store(connection, key, call)

    committed = await call.services.commits.shared(
        work, order=key.columns["key_alias"] or "", numbered=wait.wanted
    )
    shown = generated_body(committed.result, key.plain)
    return answer(await with_propagation(shown, committed, wait, call.services.commits))


async def info(call: AdminCall) -> web.Response:
    """GET /key/info"""
    given = call.query.text("key")
    token = call.caller.token if given is None else stored_form(given) or given
    async with call.services.store.connection() as connection:
        row = await key_admin.find_key(connection, token)
        row = row or await key_admin.find_deleted_key(connection, token)
        if row is None:
            raise _not_found(type="not_found_error")
        own = row["token"] == call.caller.token or (
            row["user_id"] is not None and row["user_id"] == call.caller.user_id
        )
        if not own and not call.caller.sees_all:
            raise PermissionDenied("This key may ask only about itself", param="key")
        body = await _shown(connection, row, call)
    del body["token"]
    return answer({"key": given or token, "info": body})


async def update(call: AdminCall) -> web.Response:
    """POST /key/update"""
    wait = read_wait(call.query)
    values, change = key_change(await read_object(call.request), call.services.rules, call.now)

    async def work(connection: Connection) -> dict[str, Any]:
        token = await _named(connection, values)
        return await _change(connection, token, change, call)

    committed = await call.services.commits.alone(work, numbered=wait.wanted)
    body = {"key": values.get("key") or committed.result["token"], **committed.result}
    return answer(await with_propagation(body, committed, wait, call.services.commits))


async def delete(call: AdminCall) -> web.Response:
    """POST /key/delete"""
    wait = read_wait(call.query)
    values = read_fields(await read_object(call.request), DELETE_FIELDS)
    keys, aliases = values.get("keys") or [], values.get("key_aliases") or []
    if not keys and not aliases:
        raise Unprocessable([Issue("value_error", ("body",), "Either keys or key_aliases")])

    async def work(connection: Connection) -> None:
        tokens = [stored_form(key) or "" for key in keys]
        tokens += await key_admin.tokens_by_alias(connection, aliases)
        caller = call.caller
        gone = await key_admin.delete_keys(
            connection, tokens, caller.actor, caller.token, caller.changed_by
        )
        if not gone:
            raise _not_found(param="keys" if keys else "key_aliases")

    committed = await call.services.commits.alone(work, numbered=wait.wanted)
    body = {"deleted_keys": [*keys, *aliases]}
    return answer(await with_propagation(body, committed, wait, call.services.commits))


async def block(call: AdminCall) -> web.Response:
    """POST /key/block"""
    return await _set_blocked(call, blocked=True)


async def unblock(call: AdminCall) -> web.Response:
    """POST /key/unblock"""
    return await _set_blocked(call, blocked=False)


async def list_keys(call: AdminCall) -> web.Response:
    """GET /key/list"""
    asked = read_key_list(call.query, call.caller, call.now)
    rules = call.services.rules
    async with call.services.store.connection() as connection:
        rows, total = await key_list.list_keys(
            connection,
            asked.chosen,
            sort_by=asked.sort_by,
            descending=asked.descending,
            limit=asked.size,
            offset=asked.offset,
        )
        spends = await read_spends(connection, rows, rules, call.now) if asked.whole_rows else {}
    keys: list[Any] = [row["token"] for row in rows]
    if asked.whole_rows:
        keys = [key_body(row, spends, rules, call.now) for row in rows]
    return answer(
        {
            "keys": keys,
            "total_count": total,
            "current_page": asked.page,
            "total_pages": -(-total // asked.size),
        }
    )


_GROUPS = frozenset({"management_routes", "key_management_routes", "internal_user_routes"})
_INFO_GROUPS = _GROUPS | {"info_routes"}

KEY_ROUTES = (
    AdminRoute("POST", "/key/generate", generate, groups=_GROUPS),
    AdminRoute("GET", "/key/info", info, ANY_KEY, _INFO_GROUPS),
    AdminRoute("POST", "/key/update", update, groups=_GROUPS),
    AdminRoute("POST", "/key/delete", delete, groups=_GROUPS),
    AdminRoute("POST", "/key/block", block, groups=_GROUPS),
    AdminRoute("POST", "/key/unblock", unblock, groups=_GROUPS),
    AdminRoute("GET", "/key/list", list_keys, ANY_KEY, _INFO_GROUPS),
)


async def _store(connection: Connection, key: NewKey, call: AdminCall) -> dict[str, Any]:
    columns = dict(key.columns)
    columns["object_permission_id"] = await _permission(connection, key.object_permission)
    await key_admin.insert_key(connection, columns)
    return await _after_write(connection, key.token, key.spend, call)


async def _change(
    connection: Connection,
    token: str,
    change: KeyChange,
    call: AdminCall,
    *,
    missing: str | None = None,
) -> dict[str, Any]:
    columns = dict(change.columns)
    if change.object_permission is not None:
        columns["object_permission_id"] = await _permission(connection, change.object_permission)
    if not await key_admin.update_key(
        connection, token, columns, change.metadata, call.caller.actor
    ):
        raise _not_found(type=missing)
    return await _after_write(connection, token, change.spend, call)


async def _permission(connection: Connection, permission: Mapping[str, Any] | None) -> str | None:
    if permission is None:
        return None
    permission_id = str(uuid.uuid4())
    await key_admin.insert_object_permission(
        connection, {**permission, "object_permission_id": permission_id}
    )
    return permission_id


async def _after_write(
    connection: Connection, token: str, spend: Any, call: AdminCall
) -> dict[str, Any]:
    row = await key_admin.find_key(connection, token)
    assert row is not None, "the transaction has just written it"
    if spend is not None:
        window_start_s = spend_window(row, call.services.rules, call.now)
        await key_admin.set_key_spend(connection, token, window_start_s, spend)
    return await _shown(connection, row, call)


async def _shown(connection: Connection, row: KeyRow, call: AdminCall) -> dict[str, Any]:
    rules = call.services.rules
    spends = await read_spends(connection, [row], rules, call.now)
    return key_body(row, spends, rules, call.now)


async def _named(connection: Connection, values: Mapping[str, Any]) -> str:
    """The token that an update names, by key or else by alias."""
    if values.get("key") is not None:
        return stored_form(values["key"]) or ""
    tokens = await key_admin.tokens_by_alias(connection, [values["key_alias"]])
    if not tokens:
        raise _not_found(param="key_alias")
    return tokens[0]


async def _set_blocked(call: AdminCall, *, blocked: bool) -> web.Response:
    wait = read_wait(call.query)
    key = read_fields(await read_object(call.request), BLOCK_FIELDS).get("key")
    if key is None:
        raise Unprocessable([Issue("missing", ("body", "key"), "Field required")])
    token = stored_form(key)
    if token is None:
        raise InvalidRequest(
            "key is neither a plain key (sk-…) nor the hash of one",
            param="key",
            type="bad_request_error",
        )
    change = KeyChange(
        columns={"blocked": blocked}, metadata={}, object_permission=None, spend=None
    )

    async def work(connection: Connection) -> dict[str, Any]:
        return await _change(connection, token, change, call, missing="not_found_error")

    committed = await call.services.commits.alone(work, numbered=wait.wanted)
    return answer(await with_propagation(committed.result, committed, wait, call.services.commits))


def _not_found(param: str = "key", type: str | None = None) -> RequestError:  # noqa: A002 - wire word
    return RequestError("There is no such key", status=404, param=param, type=type)
