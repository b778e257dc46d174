"""Teams and memberships as answers show them (management contract §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.admin.api.budget_rows import budget_body
from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.calls import AdminCall
from services.admin.api.team_logging import masked
from services.admin.api.team_policy import MEMBER_BUDGET
from services.admin.api.wire_rows import wire, wire_row
from shared.db.budgets import find_budgets
from shared.db.rows import Connection
from shared.db.spend_counters import read_spends
from shared.db.table import Row

_HIDDEN = frozenset({"members", "model_aliases", "deletion_id"})
_NO_BUDGET: Mapping[str, Any] = {"max_budget": None, "budget_duration": None}


async def team_bodies(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Teams' rows with what follows from them: members, spend, reset time. Archived ones have
    spent what they had when they went."""
    windows = BudgetWindows("team", call.services.rules, call.now)
    live = {row["team_id"]: row for row in rows if "spend" not in row}
    spends = await windows.spends(connection, live)
    return [
        _team_body(row, windows, row["spend"] if "spend" in row else spends[row["team_id"]])
        for row in rows
    ]


async def team_body(call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
    """One team's row."""
    return (await team_bodies(call, connection, [row]))[0]


async def membership_bodies(
    call: AdminCall,
    connection: Connection,
    rows: Sequence[Row],
    teams: Mapping[str, Row],
) -> list[dict[str, Any]]:
    """Memberships of some teams: what each member has spent, and its budget or the team's."""
    budgets = await find_budgets(connection, {r["budget_id"] for r in rows if r["budget_id"]})
    windows = BudgetWindows("team_member", call.services.rules, call.now)
    counted = {counter_id(row): budgets.get(row["budget_id"], _NO_BUDGET) for row in rows}
    spends = await windows.spends(connection, counted)
    totals = await read_spends(connection, "team_member", [(owner, 0) for owner in counted])
    bodies = []
    for row in rows:
        budget, owner = budgets.get(row["budget_id"]), counter_id(row)
        bodies.append(
            {
                "user_id": row["user_id"],
                "team_id": row["team_id"],
                "spend": wire(spends[owner]),
                "total_spend": float(totals.get(owner, 0)),
                "budget_id": row["budget_id"],
                "litellm_budget_table": None
                if budget is None
                else budget_body(budget, call.services.rules, call.now),
                "budget_source": budget_source(row["budget_id"], teams[row["team_id"]]),
            }
        )
    return bodies


def counter_id(row: Row) -> str:
    """What a membership is called among the counters of spend."""
    return f"{row['user_id']}:{row['team_id']}"


def budget_source(budget_id: str | None, team: Row) -> str | None:
    """Whose budget a member has: its own (`custom`), that of all members, or none."""
    if budget_id is None:
        return None
    return "team_default" if budget_id == team["metadata"].get(MEMBER_BUDGET) else "custom"


def audited(row: Row) -> dict[str, Any]:
    """A team's row as the audit log keeps it."""
    return {**row, "metadata": masked(row["metadata"])}


def _team_body(row: Row, windows: BudgetWindows, spend: Any) -> dict[str, Any]:
    body = wire_row(row, _HIDDEN)
    aliases = row["model_aliases"]
    members = row["members"]
    body |= {
        "metadata": masked(row["metadata"]),
        "members_with_roles": members,
        "admins": [each["user_id"] for each in members if each["role"] == "admin"],
        "members": [each["user_id"] for each in members if each["role"] == "user"],
        "spend": wire(spend),
        "budget_reset_at": wire(windows.reset_at(row)),
        "model_spend": {},
        "model_id": None,
        "litellm_model_table": {"model_aliases": aliases} if aliases else None,
    }
    return body
