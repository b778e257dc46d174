"""Budgets that other objects link to: named by `budget_id`, or made of fields in the object's body.

A body's budget fields (`max_budget`, `rpm_limit`, …) are not the object's own: they make a budget
for it, or change the one it links to, in the transaction that writes the object.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from services.admin.api.body import Field
from services.admin.api.budget_rows import budget_body
from services.admin.api.calls import AdminCall
from services.admin.api.common_fields import budget_duration, model_budget, texts
from services.admin.api.values import (
    MAX_PARALLEL,
    Loc,
    count,
    instant,
    mapping,
    money,
    reader,
    text,
)
from shared.db.audit import Action
from shared.db.budgets import BUDGETS, is_shared
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, PermissionDenied

BUDGET_TABLE = "LiteLLM_BudgetTable"


@reader(**text.schema)
def _budget_id(value: Any, loc: Loc) -> str | None:
    return text(value, loc) or None


BUDGET_ID = Field("budget_id", _budget_id)
BUDGET_FIELDS = (
    Field("max_budget", money),
    Field("soft_budget", money),
    Field("budget_duration", budget_duration),
    Field("rpm_limit", count()),
    Field("tpm_limit", count()),
    Field("tpd_limit", count()),
    Field("max_parallel_requests", count(MAX_PARALLEL)),
    Field("model_max_budget", mapping(model_budget), empty={}),
    Field("allowed_models", texts, empty=()),
    Field("temp_budget_increase", money),
    Field("temp_budget_expiry", instant),
)
LINK_FIELDS = (BUDGET_ID, *BUDGET_FIELDS)


@frozen
class LinkedBudget:
    """The budget that an object links to from now on, and what became of its row."""

    budget_id: str | None
    before: Row | None = None
    after: Row | None = None

    async def note(self, call: AdminCall, connection: Connection) -> None:
        """Adds the change of the row, if there is one, to the audit log; at the transaction's
        end, like every entry."""
        if self.after is None or self.budget_id is None:
            return
        action = Action.CREATED if self.before is None else Action.UPDATED
        await call.note(
            connection,
            action,
            BUDGET_TABLE,
            self.budget_id,
            before=self.before,
            after=self.after,
        )


def budget_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the sent values that are columns of a budget; null is what clears each."""
    return {
        field.name: field.empty if values[field.name] is None else values[field.name]
        for field in BUDGET_FIELDS
        if field.name in values
    }


def only_one_budget(values: Mapping[str, Any]) -> None:
    """Refuses a new object that names a budget and describes another one."""
    if values.get("budget_id") is None:
        return
    described = [field.name for field in BUDGET_FIELDS if values.get(field.name) is not None]
    if described:
        raise InvalidRequest(
            f"budget_id names a budget, so {described[0]} would describe another one: send either",
            param="budget_id",
        )


async def new_link(
    call: AdminCall, connection: Connection, values: Mapping[str, Any], *, always: bool = False
) -> LinkedBudget:
    """The budget of a new object: the one it names, or one made of what its body says, if it says
    anything or `always`."""
    only_one_budget(values)
    budget_id = values.get("budget_id")
    if budget_id is not None:
        _require_admin(call)
        return LinkedBudget(budget_id)
    said = {name: value for name, value in budget_columns(values).items() if value is not None}
    if not any(values.get(field.name) is not None for field in BUDGET_FIELDS) and not always:
        return LinkedBudget(None)
    return await create_budget(call, connection, str(uuid.uuid4()), said)


async def changed_link(
    call: AdminCall, connection: Connection, linked: str | None, values: Mapping[str, Any]
) -> LinkedBudget:
    """The budget of an object whose row is locked and links to `linked`.

    A sent `budget_id` changes the link, null takes it away; budget fields change the row that is
    linked then, or make one.
    """
    if "budget_id" in values and values["budget_id"] != linked:
        _require_admin(call)
        linked = values["budget_id"]
    columns = budget_columns(values)
    if not columns:
        return LinkedBudget(linked)
    if linked is None:
        if not any(values.get(name) is not None for name in columns):
            return LinkedBudget(None)
        said = {name: value for name, value in columns.items() if value is not None}
        return await create_budget(call, connection, str(uuid.uuid4()), said)
    return await _change(call, connection, linked, columns)


async def create_budget(
    call: AdminCall, connection: Connection, budget_id: str, columns: Mapping[str, Any]
) -> LinkedBudget:
    """A new budget."""
    actor = call.caller.actor
    signed = {**columns, "budget_id": budget_id, "created_by": actor, "updated_by": actor}
    return LinkedBudget(budget_id, None, await BUDGETS.insert(connection, signed))


def shown_budget(call: AdminCall, row: Row | None) -> dict[str, Any] | None:
    """The `litellm_budget_table` of an object."""
    return None if row is None else budget_body(row, call.services.rules, call.now)


async def _change(
    call: AdminCall, connection: Connection, budget_id: str, columns: Mapping[str, Any]
) -> LinkedBudget:
    before = await BUDGETS.find(connection, budget_id, lock=True)
    if before is None:
        raise InvalidRequest(
            "budget_id names no budget", param="budget_id", type="bad_request_error"
        )
    if not call.caller.is_admin and await is_shared(connection, budget_id):
        raise PermissionDenied(
            "Other objects have this budget too: only a proxy admin may change it"
        )
    after = await BUDGETS.update(connection, (budget_id,), columns, call.caller.actor)
    return LinkedBudget(budget_id, before, after)


def _require_admin(call: AdminCall) -> None:
    if not call.caller.is_admin:
        raise PermissionDenied("Only a proxy admin may link a budget by its id", param="budget_id")
