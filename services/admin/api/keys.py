"""The key routes of the management API (management contract §3.1): one key or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.key_access import (
    BLOCK,
    DELETE,
    GENERATE,
    GENERATE_ACCOUNT,
    UNBLOCK,
    UPDATE,
    KeyAccess,
    KeyAction,
)
from services.admin.api.key_bulk import KEY_BULK_ROUTES
from services.admin.api.key_fields import (
    BLOCK_FIELDS,
    DELETE_FIELDS,
    GENERATE_FIELDS,
    UPDATE_FIELDS,
)
from services.admin.api.key_policy import KeyChange, NewKey, key_change, new_key, service_account
from services.admin.api.key_rotation import KEY_ROTATION_ROUTES
from services.admin.api.key_routes import KEY_GROUPS, KEY_WRITERS
from services.admin.api.key_rows import generated_body, key_body
from services.admin.api.key_views import KEY_VIEW_ROUTES
from services.admin.api.key_writes import (
    KeyWrite,
    body_of,
    change_key,
    lock_for,
    locked_key,
    no_such_key,
    store_key,
)
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.wait import read_wait, with_propagation
from shared.db import key_admin
from shared.db.audit import Action, AuditEntry, append
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied
from shared.keys.generate import stored_form


async def generate(call: AdminCall) -> web.Response:
    """POST /key/generate: makes a key; only this answer shows it."""
    sent = await call.body()
    key = new_key(sent, call.services.rules, call.now, call.caller.actor)
    return await _make(call, key, sent, GENERATE)


async def generate_account(call: AdminCall) -> web.Response:
    """POST /key/service-account/generate: makes a key that belongs to a team and to no user."""
    sent = await call.body()
    key = service_account(new_key(sent, call.services.rules, call.now, call.caller.actor))
    return await _make(call, key, sent, GENERATE_ACCOUNT)


async def update(call: AdminCall) -> web.Response:
    """POST /key/update: changes a key."""
    values, change = key_change(await call.body(), call.services.rules, call.now)

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_for(connection, change)
        key, param = await _named(connection, values)
        row = await locked_key(connection, key, param=param)
        written = await change_key(connection, call, row, change, UPDATE)
        body = await body_of(connection, call, written.after)
        await written.note(call, connection)
        return {"key": values.get("key") or body["token"], **body}

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """POST /key/delete: deletes keys, by value, hash or alias."""
    values = await call.fields()
    keys, aliases = values.get("keys") or [], values.get("key_aliases") or []
    if not keys and not aliases:
        raise Unprocessable([Issue("value_error", ("body",), "Either keys or key_aliases")])

    async def work(connection: Connection) -> dict[str, Any]:
        tokens = [stored_form(key) or "" for key in keys]
        named = await key_admin.tokens_by_alias(connection, aliases)
        rows = await key_admin.find_keys(connection, [*tokens, *named], lock=True)
        await _check_deletion(connection, call, rows)
        unknown = len({*tokens, *named}) > len(rows) or len(set(aliases)) > len(named)
        if not rows or (unknown and not call.caller.is_admin):
            raise no_such_key("keys" if keys else "key_aliases")
        caller = call.caller
        tokens = [row["token"] for row in rows]
        await key_admin.delete_keys(
            connection, tokens, caller.actor, caller.token, caller.changed_by
        )
        gone = [KeyWrite(Action.DELETED, row, None) for row in rows]
        await append(connection, *(entry for each in gone for entry in each.entries(call)))
        return {"deleted_keys": [*keys, *aliases]}

    return await call.write(work)


async def block(call: AdminCall) -> web.Response:
    """POST /key/block: blocks a key."""
    return await _set_blocked(call, BLOCK, Action.BLOCKED, blocked=True)


async def unblock(call: AdminCall) -> web.Response:
    """POST /key/unblock: lets a blocked key work again."""
    return await _set_blocked(call, UNBLOCK, Action.UNBLOCKED, blocked=False)


KEY_ROUTES = (
    AdminRoute("POST", "/key/generate", generate, KEY_WRITERS, KEY_GROUPS, body=GENERATE_FIELDS),
    AdminRoute(
        "POST",
        "/key/service-account/generate",
        generate_account,
        KEY_WRITERS,
        KEY_GROUPS,
        Shape.DETAIL,
        body=GENERATE_FIELDS,
    ),
    AdminRoute("POST", "/key/update", update, KEY_WRITERS, KEY_GROUPS, body=UPDATE_FIELDS),
    AdminRoute("POST", "/key/delete", delete, KEY_WRITERS, KEY_GROUPS, body=DELETE_FIELDS),
    AdminRoute("POST", "/key/block", block, KEY_WRITERS, KEY_GROUPS, body=BLOCK_FIELDS),
    AdminRoute("POST", "/key/unblock", unblock, KEY_WRITERS, KEY_GROUPS, body=BLOCK_FIELDS),
    *KEY_VIEW_ROUTES,
    *KEY_BULK_ROUTES,
    *KEY_ROTATION_ROUTES,
)


async def _make(
    call: AdminCall, key: NewKey, sent: Mapping[str, Any], action: KeyAction
) -> web.Response:
    wait = read_wait(call.query)

    async def work(connection: Connection) -> tuple[dict[str, Any], KeyWrite]:
        written = await store_key(connection, call, key, sent, action)
        if key.spend is None and sent.get("key") is None:
            # A value that nobody has ever had has spent nothing.
            assert written.after is not None
            return key_body(written.after, {}, call.services.rules, call.now), written
        return await body_of(connection, call, written.after), written

    def note(made: tuple[dict[str, Any], KeyWrite]) -> list[AuditEntry]:
        return made[1].entries(call)

    committed = await call.services.commits.shared(
        work, note, order=key.columns["key_alias"] or "", numbered=wait.wanted
    )
    shown = generated_body(committed.result[0], key.plain)
    return answer(await with_propagation(shown, committed, wait, call.services.commits))


async def _named(connection: Connection, values: Mapping[str, Any]) -> tuple[str, str]:
    """The key that an update names, by itself or else by its alias, and the field that does."""
    if values.get("key") is not None:
        return values["key"], "key"
    tokens = await key_admin.tokens_by_alias(connection, [values["key_alias"]])
    if not tokens:
        raise no_such_key("key_alias")
    return tokens[0], "key_alias"


async def _check_deletion(connection: Connection, call: AdminCall, rows: list[Any]) -> None:
    """One key that is not the caller's to delete saves all."""
    access = await KeyAccess.load(connection, call.caller, rows)
    if not all(access.may(row, DELETE) for row in rows):
        raise PermissionDenied("One of these keys is not the caller's to delete", param="keys")


async def _set_blocked(
    call: AdminCall, action: KeyAction, done: Action, *, blocked: bool
) -> web.Response:
    key = (await call.fields())["key"]
    if stored_form(key) is None:
        raise InvalidRequest(
            "key is neither a plain key (sk-…) nor the hash of one",
            param="key",
            type="bad_request_error",
        )
    change = KeyChange(columns={"blocked": blocked})

    async def work(connection: Connection) -> dict[str, Any]:
        row = await locked_key(connection, key, missing="not_found_error")
        written = await change_key(connection, call, row, change, action, done=done)
        body = await body_of(connection, call, written.after)
        await written.note(call, connection)
        return body

    return await call.write(work)
