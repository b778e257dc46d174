"""POST /user/bulk_update: many users at once, each for itself (management contract §3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from attrs import evolve, frozen

from services.admin.api.body import Field, Place
from services.admin.api.calls import AdminCall
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.user_policy import UserChange, user_change
from services.admin.api.user_rows import user_bodies, windows_of
from services.admin.api.user_store import TABLE, change_user, shown_users
from services.admin.api.values import document, flag, listing
from shared.db import users
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError

_MOST_USERS = 500
BULK_FIELDS = (
    Field("users", listing(document), Place.CONTROL),
    Field("all_users", flag, Place.CONTROL),
    Field("user_updates", document, Place.CONTROL),
)
# What two users cannot share.
_SINGULAR = ("user_id", "user_email", "sso_user_id", "object_permission")


@frozen
class _Item:
    """What is asked for one user, or why it cannot be."""

    user_id: str | None
    user_email: str | None
    change: UserChange | None
    error: str | None = None


async def bulk_update(call: AdminCall) -> web.Response:
    """POST /user/bulk_update: changes many internal users."""
    values = await call.fields()
    updates, named = values.get("user_updates"), values.get("users")
    if values.get("all_users"):
        if not updates:
            raise InvalidRequest("all_users needs user_updates", param="user_updates")
        return await _update_all(call, updates)
    if not named:
        raise Unprocessable([Issue("missing", ("body", "users"), "users or all_users is needed")])
    if len(named) > _MOST_USERS:
        raise InvalidRequest(f"users must be at most {_MOST_USERS}", param="users")
    return await _update_named(call, [_item(each) for each in named])


async def _update_named(call: AdminCall, items: Sequence[_Item]) -> web.Response:
    async def work(connection: Connection) -> dict[str, Any]:
        found = await _resolve(connection, items)
        ids = sorted({each.user_id for each in found if each.user_id is not None})
        rows = await users.find_users(connection, ids, lock=True)
        before = await user_bodies(connection, rows, windows_of(call))
        errors = [await _apply(call, connection, rows, each) for each in found]
        after = await shown_users(call, connection, rows)
        changes = [
            (user_id, before[user_id], after[user_id])
            for user_id in rows
            if before[user_id] != after[user_id]
        ]
        await call.note_all(connection, Action.UPDATED, TABLE, changes)
        return _answer(
            [
                _result(item, error, after.get(item.user_id or ""))
                for item, error in zip(found, errors, strict=True)
            ]
        )

    return await call.write(work)


async def _update_all(call: AdminCall, updates: Mapping[str, Any]) -> web.Response:
    for name in _SINGULAR:
        if name in updates:
            raise InvalidRequest(f"user_updates.{name} cannot be the same for all", param=name)
    change = user_change(updates)
    windows = windows_of(call)

    async def work(connection: Connection) -> dict[str, Any]:
        rows = await users.lock_all_users(connection)
        before = await user_bodies(connection, rows, windows)
        await users.update_users(
            connection, list(rows), change.columns, change.metadata, call.caller.actor
        )
        if change.spend is not None:
            for user_id, row in (await users.find_users(connection, rows)).items():
                await windows.set_spend(connection, user_id, row, change.spend)
        after = await shown_users(call, connection, rows)
        changes = [(user_id, before[user_id], after[user_id]) for user_id in rows]
        await call.note_all(connection, Action.UPDATED, TABLE, changes)
        items = [_Item(user_id, row["user_email"], change) for user_id, row in rows.items()]
        return _answer([_result(item, None, after[item.user_id or ""]) for item in items])

    return await call.write(work)


def _item(sent: Mapping[str, Any]) -> _Item:
    """One entry of `users`; what is wrong with it is its own matter."""
    shown = [sent.get(name) for name in ("user_id", "user_email")]
    user_id, user_email = (each if isinstance(each, str) else None for each in shown)
    try:
        change = user_change(sent)
    except RequestError as error:
        return _Item(user_id, user_email, None, error.message)
    if change.user_id is None and change.user_email is None:
        return _Item(user_id, user_email, None, "Either user_id or user_email is needed")
    return _Item(change.user_id, change.user_email, change)


async def _resolve(connection: Connection, items: Sequence[_Item]) -> list[_Item]:
    """The items with the ids of those that are named by address."""
    emails = [each.user_email for each in items if each.user_email and each.user_id is None]
    ids = await users.ids_by_email(connection, emails)
    return [
        each
        if each.user_id is not None or each.user_email is None
        else evolve(each, user_id=ids.get(each.user_email))
        for each in items
    ]


async def _apply(
    call: AdminCall, connection: Connection, rows: Mapping[str, Row], item: _Item
) -> str | None:
    """Why the item's user was not changed; then nothing of it was."""
    if item.change is None:
        return item.error
    row = rows.get(item.user_id or "")
    if row is None:
        return "There is no such user"
    try:
        async with connection.transaction():
            await change_user(call, connection, row, item.change)
    except RequestError as error:
        return error.message
    return None


def _result(item: _Item, error: str | None, updated: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "user_id": item.user_id,
        "user_email": item.user_email if updated is None else updated["user_email"],
        "success": error is None,
        "error": error,
        "updated_user": updated if error is None else None,
    }


def _answer(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = sum(bool(each["success"]) for each in results)
    return {
        "results": results,
        "total_requested": len(results),
        "successful_updates": done,
        "failed_updates": len(results) - done,
    }
