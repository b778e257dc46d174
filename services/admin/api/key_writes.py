"""Storing keys and their changes: what every route that writes keys has in common.

Each write answers with a `KeyWrite`, whose `note` adds the audit entries. These come at the end of
the transaction, after everything else that it does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from attrs import evolve, frozen

from services.admin.api.calls import AdminCall
from services.admin.api.key_access import (
    GENERATE,
    GENERATE_ACCOUNT,
    SERVICE_ACCOUNT,
    KeyAccess,
    KeyAction,
)
from services.admin.api.key_delegation import ADMIN_METADATA, check_maker, check_plan
from services.admin.api.key_plan import KeyPlan, narrowed
from services.admin.api.key_policy import KeyChange, NewKey, new_key, rotation_time
from services.admin.api.key_rows import key_body, read_spends, spend_window
from services.admin.api.linked_budgets import BUDGET_TABLE, LinkedBudget, changed_link
from services.admin.api.team_logging import unmasked
from shared.db import key_admin
from shared.db.audit import Action, AuditEntry, append
from shared.db.key_admin import KeyRow
from shared.db.key_owners import find_teams
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied, RequestError
from shared.keys.generate import stored_form

KEY_TABLE = "LiteLLM_VerificationToken"

# Not a part of the row, or written by traffic.
_UNAUDITED = frozenset({"budget", "origin", "last_active", "updated_at"})
_NO_BUDGET = LinkedBudget(None)


@frozen
class KeyWrite:
    """A key as it was and as it is, and the budget that was made or changed with it."""

    action: Action
    before: KeyRow | None
    after: KeyRow | None
    budget: LinkedBudget = _NO_BUDGET

    async def note(self, call: AdminCall, connection: Connection) -> None:
        """Adds it to the audit log."""
        await append(connection, *self.entries(call))

    def entries(self, call: AdminCall) -> list[AuditEntry]:
        """What the audit log is to hold of it."""
        row = self.before or self.after
        assert row is not None, "something was written"
        change = (row["token"], _audited(self.before), _audited(self.after))
        return [*self._budget_entries(call), *call.entries(self.action, KEY_TABLE, [change])]

    def _budget_entries(self, call: AdminCall) -> list[AuditEntry]:
        budget = self.budget
        if budget.after is None or budget.budget_id is None:
            return []
        action = Action.CREATED if budget.before is None else Action.UPDATED
        change = (budget.budget_id, budget.before, budget.after)
        return call.entries(action, BUDGET_TABLE, [change])


async def store_key(
    connection: Connection,
    call: AdminCall,
    key: NewKey,
    sent: Mapping[str, Any],
    action: KeyAction = GENERATE,
) -> KeyWrite:
    """Makes a key, as far as the caller may; `sent` is what its maker said."""
    columns, caller = dict(key.columns), call.caller
    if not caller.is_admin:
        if columns["user_id"] is None and SERVICE_ACCOUNT not in columns["metadata"]:
            columns["user_id"] = caller.user_id
        undescribed = new_key({}, call.services.rules, call.now, caller.actor).columns
        access = await KeyAccess.load(connection, caller, [columns])
        plan = KeyPlan(undescribed, columns, key.object_permission, new=True)
        columns |= narrowed(plan, caller, action)
        await check_plan(connection, access, plan, action, call.services.rules)
        check_maker(access, sent, columns, call.services.rules)
    if action is GENERATE_ACCOUNT and not await find_teams(connection, [columns["team_id"]]):
        raise InvalidRequest("team_id names no team", param="team_id")
    if sent.get("key") is not None and await key_admin.was_rotated(connection, key.token):
        raise InvalidRequest("key exists already", param="key", type="bad_request_error")
    if columns["key_alias"] is not None:
        await key_admin.lock_aliases(connection)
    columns["object_permission_id"] = await _permission(connection, key.object_permission)
    budget = await _soft_budget(connection, call, {"budget_id": None}, columns)
    after = await key_admin.insert_key(connection, columns)
    await _set_spend(connection, call, after, key.spend)
    return KeyWrite(Action.CREATED, None, after, budget)


async def change_key(
    connection: Connection,
    call: AdminCall,
    row: KeyRow,
    change: KeyChange,
    action: KeyAction,
    *,
    done: Action = Action.UPDATED,
) -> KeyWrite:
    """Changes a key whose row is locked, as far as the caller may."""
    caller = call.caller
    change = _kept(row, change, everything=not caller.is_admin)
    if not caller.is_admin:
        access = await KeyAccess.load(connection, caller, [row, change.applied(row)])
        plan = KeyPlan(row, change.applied(row), change.object_permission, new=False)
        change = evolve(change, columns={**change.columns, **narrowed(plan, caller, action)})
        plan = evolve(plan, after=change.applied(row))
        await check_plan(connection, access, plan, action, call.services.rules)
        if change.spend is not None and not access.manages(row):
            raise PermissionDenied("The owner of a key cannot set its spend", param="spend")
    columns = dict(change.columns)
    if change.object_permission is not None:
        columns["object_permission_id"] = await _permission(connection, change.object_permission)
    if "auto_rotate" in columns or "rotation_interval" in columns:
        columns["key_rotation_at"] = rotation_time(change.applied(row), call.now)
    budget = await _soft_budget(connection, call, row, columns)
    await key_admin.update_key(connection, row["token"], columns, change.metadata, caller.actor)
    after = await key_admin.find_key(connection, row["token"])
    assert after is not None, "the transaction has just written it"
    await _set_spend(connection, call, after, change.spend)
    return KeyWrite(done, row, after, budget)


async def lock_for(connection: Connection, change: KeyChange) -> None:
    """What a change needs to itself before it locks its key."""
    if change.columns.get("key_alias") is not None:
        await key_admin.lock_aliases(connection)


async def locked_key(
    connection: Connection, given: str, *, param: str = "key", missing: str | None = None
) -> KeyRow:
    """The row of a key that a request names, locked; one that was rotated while it still works is
    the one that it works as. 404 of the type `missing` if there is none."""
    token = stored_form(given) or ""
    row = await key_admin.find_key(connection, token, lock=True)
    # The lock may have waited for a rotation, which left another token behind.
    while row is None:
        successor = await key_admin.find_successor(connection, token)
        if successor is None:
            raise no_such_key(param, missing)
        row = await key_admin.find_key(connection, successor, lock=True)
    return row


async def bodies(connection: Connection, call: AdminCall, rows: Iterable[KeyRow]) -> list[Any]:
    """Keys as answers show them."""
    shown, rules = list(rows), call.services.rules
    spends = await read_spends(connection, shown, rules, call.now)
    return [key_body(row, spends, rules, call.now) for row in shown]


async def body_of(connection: Connection, call: AdminCall, row: KeyRow | None) -> dict[str, Any]:
    """One key as answers show it."""
    assert row is not None, "the caller has it"
    [body] = await bodies(connection, call, [row])
    return dict(body)


def no_such_key(param: str = "key", type: str | None = None) -> RequestError:  # noqa: A002 - wire word
    """The refusal of a key that there is not."""
    return RequestError("There is no such key", status=404, param=param, type=type)


def _kept(row: KeyRow, change: KeyChange, *, everything: bool) -> KeyChange:
    """A change that replaces `metadata` leaves what the caller cannot say: that a key is a service
    account, which never changes, secrets that answers mask, and with `everything` what is for
    proxy admins."""
    old = row["metadata"]
    change = evolve(change, metadata=unmasked(change.metadata, old))
    if "metadata" not in change.columns:
        return change
    new = unmasked(change.columns["metadata"], old)
    for name in (SERVICE_ACCOUNT, *(ADMIN_METADATA if everything else ())):
        if name in old:
            new.setdefault(name, old[name])
    if new.get(SERVICE_ACCOUNT) != old.get(SERVICE_ACCOUNT):
        param = f"metadata.{SERVICE_ACCOUNT}"
        raise InvalidRequest(f"{param} can never be changed", param=param)
    return evolve(change, columns={**change.columns, "metadata": new})


async def _soft_budget(
    connection: Connection, call: AdminCall, row: Mapping[str, Any], columns: dict[str, Any]
) -> LinkedBudget:
    """A `soft_budget` is also that of the linked budget, which is made if there is none."""
    linked = row["budget_id"]
    if "soft_budget" not in columns or (columns.get("budget_id") or linked) != linked:
        return _NO_BUDGET
    soft = {"soft_budget": columns["soft_budget"]}
    budget = await changed_link(call, connection, linked, soft)
    columns["budget_id"] = budget.budget_id
    return budget


async def _permission(connection: Connection, permission: Mapping[str, Any] | None) -> str | None:
    if permission is None:
        return None
    permission_id = str(uuid.uuid4())
    await key_admin.insert_object_permission(
        connection, {**permission, "object_permission_id": permission_id}
    )
    return permission_id


async def _set_spend(
    connection: Connection, call: AdminCall, row: KeyRow, spend: Decimal | None
) -> None:
    if spend is not None:
        start_s = spend_window(row, call.services.rules, call.now)
        await key_admin.set_key_spend(connection, row["origin"], start_s, spend)


def _audited(row: KeyRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {name: value for name, value in row.items() if name not in _UNAUDITED}
