"""Looking at keys: one, several, pages of them (management contract §3.1)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.key_access import INFO, KeyAccess
from services.admin.api.key_fields import V2_INFO_FIELDS
from services.admin.api.key_list import (
    ALIAS_PARAMETERS,
    LIST_PARAMETERS,
    narrowed,
    read_alias_list,
    read_key_list,
)
from services.admin.api.key_routes import KEY_INFO_GROUPS
from services.admin.api.key_writes import bodies, body_of, no_such_key
from services.admin.api.parameters import text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from shared.db import key_admin, key_list
from shared.db.key_admin import KeyRow
from shared.db.rows import Connection
from shared.domain.errors import PermissionDenied
from shared.keys.generate import stored_form


async def info(call: AdminCall) -> web.Response:
    """GET /key/info: a key, what it may do and has spent; without `key` the caller's own."""
    given = call.query.text("key")
    token = call.caller.token if given is None else stored_form(given) or given
    async with call.services.store.connection() as connection:
        row = await _look_up(connection, token)
        access = await KeyAccess.load(connection, call.caller, [row])
        if not access.may(row, INFO):
            raise PermissionDenied("This key is not the caller's to see", param="key")
        body = await body_of(connection, call, row)
        if row.get("deleted_at") is None:
            body |= await _usage(connection, call, row)
    del body["token"]
    return answer({"key": given or token, "info": body})


async def info_of_several(call: AdminCall) -> web.Response:
    """POST /v2/key/info: several keys, by value, hash or alias."""
    values = await call.fields()
    keys, aliases = values.get("keys") or [], values.get("key_aliases") or []
    if not keys and not aliases:
        raise Unprocessable([Issue("value_error", ("body",), "Either keys or key_aliases")])
    tokens = [stored_form(key) or "" for key in keys]
    async with call.services.store.connection() as connection:
        tokens += await key_admin.tokens_by_alias(connection, aliases)
        rows = await key_admin.find_keys(connection, tokens)
        access = await KeyAccess.load(connection, call.caller, rows)
        seen = [row for row in rows if access.may(row, INFO)]
        return answer({"key": values.get("keys"), "info": await bodies(connection, call, seen)})


async def list_keys(call: AdminCall) -> web.Response:
    """GET /key/list: a page of the keys that the caller may see."""
    asked = read_key_list(call.query, call.now)
    async with call.services.store.connection() as connection:
        chosen = await narrowed(connection, asked.chosen, call.caller)
        rows, total = await key_list.list_keys(
            connection,
            chosen,
            sort_by=asked.sort_by,
            descending=asked.descending,
            limit=asked.size,
            offset=asked.offset,
        )
        if chosen.token is not None and chosen.scope is not None and not total:
            raise PermissionDenied("This key is not the caller's to list")
        keys: list[Any] = [row["token"] for row in rows]
        if asked.whole_rows:
            keys = await bodies(connection, call, rows)
    return answer(
        {
            "keys": keys,
            "total_count": total,
            "current_page": asked.page,
            "total_pages": -(-total // asked.size),
        }
    )


async def list_aliases(call: AdminCall) -> web.Response:
    """GET /key/aliases: a page of the aliases that the caller may see."""
    asked = read_alias_list(call.query, call.now)
    async with call.services.store.connection() as connection:
        chosen = await narrowed(connection, asked.chosen, call.caller)
        aliases, total = await key_list.list_aliases(
            connection, chosen, limit=asked.size, offset=asked.offset
        )
    return answer(
        {
            "aliases": aliases,
            "total_count": total,
            "current_page": asked.page,
            "total_pages": -(-total // asked.size),
            "size": asked.size,
        }
    )


async def health(call: AdminCall) -> web.Response:
    """POST /key/health: whether the caller's key works.

    This release reports calls to nobody, so a key that counts on its own callbacks is unhealthy.
    """
    logging = call.caller.principal.key.metadata.get("logging")
    if not logging:
        return answer({"key": "healthy", "logging_callbacks": None})
    entries = logging if isinstance(logging, list) else [logging]
    names = [entry["callback_name"] for entry in entries if _names_callback(entry)]
    details = "Callbacks of keys are stored and not called by this release"
    state = {"callbacks": names, "status": "unhealthy", "details": details}
    return answer({"key": "unhealthy", "logging_callbacks": state})


def _names_callback(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("callback_name"), str)


async def _look_up(connection: Connection, token: str) -> KeyRow:
    """A live key, the one that a rotated one still works as, or an archived one."""
    row = await key_admin.find_key(connection, token)
    if row is None:
        successor = await key_admin.find_successor(connection, token)
        if successor is not None:
            row = await key_admin.find_key(connection, successor)
    row = row or await key_admin.find_deleted_key(connection, token)
    if row is None:
        raise no_such_key(type="not_found_error")
    return row


async def _usage(connection: Connection, call: AdminCall, row: KeyRow) -> dict[str, Any]:
    windows = BudgetWindows("key", call.services.rules, call.now)
    usage = await windows.limits_usage(connection, row["origin"], row)
    return {} if usage is None else {"budget_limits_usage": usage}


KEY_VIEW_ROUTES = (
    AdminRoute("GET", "/key/info", info, ANY_KEY, KEY_INFO_GROUPS, query=text_parameters("key")),
    AdminRoute(
        "POST",
        "/v2/key/info",
        info_of_several,
        ANY_KEY,
        frozenset({"info_routes"}),
        body=V2_INFO_FIELDS,
        reads=True,
    ),
    AdminRoute("GET", "/key/list", list_keys, ANY_KEY, KEY_INFO_GROUPS, query=LIST_PARAMETERS),
    AdminRoute(
        "GET",
        "/key/aliases",
        list_aliases,
        ANY_KEY,
        KEY_INFO_GROUPS - {"info_routes"},
        query=ALIAS_PARAMETERS,
    ),
    AdminRoute("POST", "/key/health", health, ANY_KEY, frozenset({"info_routes"}), reads=True),
)
