"""Budgets as answers show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.key_policy import KeyRules
from services.admin.api.wire_rows import wire, wire_row


def budget_body(row: Mapping[str, Any], rules: KeyRules, now: datetime) -> dict[str, Any]:
    """A budget's row; when it starts anew follows from the calendar."""
    body = wire_row(row)
    body["model_max_budget"] = row["model_max_budget"] or None
    body["budget_reset_at"] = wire(BudgetWindows("budget", rules, now).reset_at(row))
    return body
