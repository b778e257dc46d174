"""Giving a key another value, and its budget a fresh start (management contract §3.1, §4.6)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aiohttp import web

from services.admin.api.body import read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.key_access import RESET_SPEND, ROTATE, KeyAccess
from services.admin.api.key_fields import RESET_FIELDS, ROTATION_FIELDS, UPDATE_FIELDS
from services.admin.api.key_policy import change_of, plain_key
from services.admin.api.key_rotator import Rotator
from services.admin.api.key_routes import KEY_GROUPS, KEY_WRITERS
from services.admin.api.key_rows import generated_body, reset_time, spend_window
from services.admin.api.key_writes import (
    KEY_TABLE,
    KeyWrite,
    body_of,
    change_key,
    lock_for,
    locked_key,
)
from services.admin.api.wire_rows import wire
from shared.db import key_admin
from shared.db.audit import Action
from shared.db.key_admin import KeyRow
from shared.db.key_rotation import rename_in_groups
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest
from shared.domain.keys import hash_key
from shared.keys.generate import stored_form


async def regenerate(call: AdminCall) -> web.Response:
    """POST /key/regenerate, POST /key/{key}/regenerate: gives a key a new value."""
    body = await call.body() if call.request.can_read_body else {}
    control = read_fields(body, ROTATION_FIELDS)
    given = control.get("key") or call.request.match_info.get("key")
    if not given:
        raise InvalidRequest("key is needed, in the path or in the body", param="key")
    if control.get("new_master_key") is not None:
        raise InvalidRequest(
            "The master key is set where this process is started, and cannot be changed here",
            param="new_master_key",
        )
    rules, caller = call.services.rules, call.caller
    change = change_of(read_fields(body, UPDATE_FIELDS), rules, call.now)
    plain = plain_key(control.get("new_key"), rules, param="new_key")
    rotator = Rotator(
        rules=rules,
        now=call.now,
        actor=caller.actor,
        api_key=caller.token,
        changed_by=caller.changed_by,
    )

    async def work(connection: Connection) -> dict[str, Any]:
        await lock_for(connection, change)
        await rename_in_groups(connection, stored_form(given) or "", hash_key(plain))
        row = await locked_key(connection, given)
        written = await change_key(connection, call, row, change, ROTATE)
        assert written.after is not None
        after = await rotator.rotate(connection, written.after, plain, control.get("grace_period"))
        shown = await body_of(connection, call, after)
        await KeyWrite(Action.ROTATED, row, after, written.budget).note(call, connection)
        return generated_body(shown, plain) | {"token": None}

    return await call.write(work)


async def reset_spend(call: AdminCall) -> web.Response:
    """POST /key/{key}/reset_spend: sets what a key has spent."""
    spend: Decimal = (await call.fields())["reset_to"]
    given, rules = call.named("key"), call.services.rules

    async def work(connection: Connection) -> dict[str, Any]:
        row = await locked_key(connection, given)
        access = await KeyAccess.load(connection, call.caller, [row])
        access.require(row, RESET_SPEND)
        start_s = spend_window(row, rules, call.now)
        previous = await key_admin.lock_key_spend(connection, row["origin"], start_s)
        _check_reset(row, spend, previous)
        await key_admin.set_key_spend(connection, row["origin"], start_s, spend)
        await call.note(
            connection,
            Action.RESET,
            KEY_TABLE,
            row["token"],
            before={"spend": previous},
            after={"spend": spend},
        )
        return {
            "key_hash": row["token"],
            "spend": float(spend),
            "previous_spend": float(previous),
            "max_budget": wire(row["max_budget"]),
            "budget_reset_at": wire(reset_time(row, rules, call.now)),
        }

    return await call.write(work)


def _check_reset(row: KeyRow, spend: Decimal, previous: Decimal) -> None:
    if spend > previous:
        raise InvalidRequest(
            f"reset_to is above what the key has spent: {float(previous)}", param="reset_to"
        )
    most = row["max_budget"]
    if most is not None and spend > most:
        raise InvalidRequest("reset_to is above the key's max_budget", param="reset_to")


KEY_ROTATION_ROUTES = (
    AdminRoute(
        "POST",
        "/key/regenerate",
        regenerate,
        KEY_WRITERS,
        KEY_GROUPS,
        body=(*ROTATION_FIELDS, *UPDATE_FIELDS),
    ),
    AdminRoute(
        "POST",
        "/key/{key:.+}/regenerate",
        regenerate,
        KEY_WRITERS,
        KEY_GROUPS,
        body=(*ROTATION_FIELDS, *UPDATE_FIELDS),
    ),
    AdminRoute(
        "POST",
        "/key/{key:.+}/reset_spend",
        reset_spend,
        KEY_WRITERS,
        KEY_GROUPS,
        Shape.DETAIL,
        body=RESET_FIELDS,
    ),
)
