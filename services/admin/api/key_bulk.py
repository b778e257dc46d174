"""Changing many keys with one request (management contract §3.1), each for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from attrs import frozen

from services.admin.api.body import read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.key_access import UPDATE, UPDATE_TEAM, KeyAccess, KeyAction
from services.admin.api.key_fields import (
    BULK_FIELDS,
    BULK_ITEM_NAMES,
    TEAM_BULK_FIELDS,
    UPDATE_FIELDS,
)
from services.admin.api.key_policy import KeyChange, change_of
from services.admin.api.key_routes import KEY_GROUPS, KEY_WRITERS
from services.admin.api.key_writes import KeyWrite, bodies, change_key, lock_for, locked_key
from services.admin.api.refusals import Issue, Unprocessable
from shared.db.audit import append
from shared.db.key_list import usable_tokens
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError
from shared.keys.generate import stored_form

_MOST = 500
_ITEM_FIELDS = tuple(field for field in UPDATE_FIELDS if field.name in BULK_ITEM_NAMES)
_UPDATE_FIELDS = tuple(field for field in UPDATE_FIELDS if field.name != "key")


@frozen
class _Item:
    """A key as it was named, and what is to become of it; a refusal is known before."""

    key: str
    change: KeyChange | RequestError
    team_id: str | None = None


async def bulk_update(call: AdminCall) -> web.Response:
    """POST /key/bulk_update: changes many keys, each in its own way."""
    if not call.caller.is_admin:
        raise PermissionDenied("Only a proxy admin may change keys in bulk")
    sent = (await call.fields())["keys"]
    _check_number(len(sent), "keys")
    items = [_item(call, place, fields) for place, fields in enumerate(sent)]

    async def work(connection: Connection) -> dict[str, Any]:
        return await _apply(connection, call, items, UPDATE)

    return await call.write(work)


async def team_bulk_update(call: AdminCall) -> web.Response:
    """POST /team/key/bulk_update: changes many keys of a team in one way."""
    values = await call.fields()
    team_id, keys = values["team_id"], values.get("key_ids")
    if (keys is not None) == bool(values.get("all_keys_in_team")):
        raise InvalidRequest("Send either key_ids or all_keys_in_team", param="key_ids")
    if keys is not None:
        _check_number(len(keys), "key_ids")
    fields = read_fields(values["update_fields"], _UPDATE_FIELDS)
    if not fields:
        raise InvalidRequest("update_fields says nothing", param="update_fields")
    change = change_of(fields, call.services.rules, call.now)

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_for(connection, change)
        await _check_team(connection, call, team_id)
        named = keys
        if named is None:
            named = await usable_tokens(connection, team_id, call.now, _MOST + 1)
            _check_number(len(named), "all_keys_in_team", least=0)
        items = [_Item(key, change, team_id) for key in named]
        return {"team_id": team_id, **await _apply(connection, call, items, UPDATE_TEAM)}

    return await call.write(work)


async def _check_team(connection: Connection, call: AdminCall, team_id: str) -> None:
    """Whoever may change no key of the team hears so once."""
    row = {"team_id": team_id, "organization_id": None, "user_id": None, "token": None}
    access = await KeyAccess.load(connection, call.caller, [row])
    access.require(row, UPDATE_TEAM)


async def _apply(
    connection: Connection, call: AdminCall, items: Sequence[_Item], action: KeyAction
) -> dict[str, Any]:
    """Every change in a savepoint of its own, in the order in which everybody locks keys."""
    order = sorted(range(len(items)), key=lambda place: stored_form(items[place].key) or "")
    done: dict[int, KeyWrite] = {}
    failed: dict[int, str] = {}
    for place in order:
        try:
            async with connection.transaction():
                done[place] = await _change(connection, call, items[place], action)
        except RequestError as error:
            failed[place] = error.message
    places = sorted(done)
    rows = [row for place in places if (row := done[place].after) is not None]
    shown = await bodies(connection, call, rows)
    await append(connection, *(entry for each in done.values() for entry in each.entries(call)))
    return {
        "total_requested": len(items),
        "successful_updates": [
            {"key": items[place].key, "key_info": body}
            for place, body in zip(places, shown, strict=True)
        ],
        "failed_updates": [
            {"key": items[place].key, "key_info": None, "failed_reason": failed[place]}
            for place in sorted(failed)
        ],
    }


async def _change(
    connection: Connection, call: AdminCall, item: _Item, action: KeyAction
) -> KeyWrite:
    if isinstance(item.change, RequestError):
        raise item.change
    row = await locked_key(connection, item.key)
    if item.team_id is not None and row["team_id"] != item.team_id:
        raise InvalidRequest("The key is not in this team", param="key_ids")
    return await change_key(connection, call, row, item.change, action)


def _item(call: AdminCall, place: int, sent: Mapping[str, Any]) -> _Item:
    """One entry of `keys`; what is of the wrong type refuses the whole request."""
    try:
        values = read_fields(sent, _ITEM_FIELDS)
    except Unprocessable as error:
        raise Unprocessable(
            [
                Issue(issue.type, ("body", "keys", place, *issue.loc[1:]), issue.msg)
                for issue in error.issues
            ]
        ) from None
    except InvalidRequest as error:
        return _Item(str(sent.get("key")), error)
    key = values.get("key")
    if key is None:
        missing = Issue("missing", ("body", "keys", place, "key"), "Field required")
        raise Unprocessable([missing])
    try:
        return _Item(key, change_of(values, call.services.rules, call.now))
    except InvalidRequest as error:
        return _Item(key, error)


def _check_number(number: int, param: str, least: int = 1) -> None:
    if not least <= number <= _MOST:
        raise InvalidRequest(f"{param} must be from {least} to {_MOST} keys", param=param)


KEY_BULK_ROUTES = (
    AdminRoute(
        "POST",
        "/key/bulk_update",
        bulk_update,
        KEY_WRITERS,
        KEY_GROUPS,
        Shape.DETAIL,
        body=BULK_FIELDS,
    ),
    AdminRoute(
        "POST",
        "/team/key/bulk_update",
        team_bulk_update,
        KEY_WRITERS,
        KEY_GROUPS,
        Shape.DETAIL,
        body=TEAM_BULK_FIELDS,
    ),
)
