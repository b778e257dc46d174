"""Rows with what they link to: a budget, what was spent of it, an object permission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from attrs import frozen

from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.calls import AdminCall
from services.admin.api.linked_budgets import shown_budget
from services.admin.api.wire_rows import wire, wire_row
from shared.db.budgets import find_budgets
from shared.db.object_permissions import find_permissions
from shared.db.rows import Connection
from shared.db.table import Row

_NO_BUDGET: Mapping[str, Any] = MappingProxyType({"max_budget": None, "budget_duration": None})


@frozen
class LinkedRows:
    """Rows of one kind of owner. `kind` is that of `spend_counter`, where `id_columns`, joined by
    colons, name an owner."""

    kind: str
    id_columns: tuple[str, ...]

    def owner(self, row: Mapping[str, Any]) -> str:
        """The id of a row's owner in the counters."""
        return ":".join(str(row[name]) for name in self.id_columns)

    async def shown(
        self, call: AdminCall, connection: Connection, rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        """The rows as answers show them, with `spend` in the window that the budget counts,
        `litellm_budget_table` and `object_permission`."""
        budgets = await find_budgets(connection, _named(rows, "budget_id"))
        permissions = await find_permissions(connection, _named(rows, "object_permission_id"))
        windows = BudgetWindows(self.kind, call.services.rules, call.now)
        counted = {self.owner(row): budgets.get(row["budget_id"] or "", _NO_BUDGET) for row in rows}
        spends = await windows.spends(connection, counted)
        return [
            {
                **wire_row(row),
                "spend": wire(spends[self.owner(row)]),
                "litellm_budget_table": shown_budget(call, budgets.get(row["budget_id"] or "")),
                "object_permission": permissions.get(row.get("object_permission_id") or ""),
            }
            for row in rows
        ]

    async def shown_one(self, call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
        """One row as answers show it."""
        (body,) = await self.shown(call, connection, [row])
        return body

    async def set_spend(
        self, call: AdminCall, connection: Connection, row: Row, spend: Decimal
    ) -> None:
        """Makes the counter of the window that the row's budget counts say that much."""
        budgets = await find_budgets(connection, _named([row], "budget_id"))
        windows = BudgetWindows(self.kind, call.services.rules, call.now)
        budget = budgets.get(row["budget_id"] or "", _NO_BUDGET)
        await windows.set_spend(connection, self.owner(row), budget, spend)


def _named(rows: Sequence[Row], column: str) -> set[str]:
    return {row[column] for row in rows if row.get(column) is not None}
