"""Internal users as answers show them (management contract §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.calls import OpenCall
from services.admin.api.key_rows import key_body, read_spends
from services.admin.api.wire_rows import wire, wire_row
from shared.db.key_list import KeyFilter, list_keys
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.user_members import team_aliases

_NAMES = frozenset({"user_id", "user_email", "user_alias", "user_role"})
_PROFILE = (
    "user_id",
    "user_email",
    "user_alias",
    "user_role",
    "spend",
    "max_budget",
    "tpm_limit",
    "rpm_limit",
    "tpd_limit",
    "max_parallel_requests",
    "models",
    "budget_duration",
    "budget_reset_at",
    "budget_limits",
    "metadata",
    "teams",
    "sso_user_id",
    "object_permission",
    "model_max_budget",
    "created_at",
    "updated_at",
)


def windows_of(call: OpenCall, kind: str = "user") -> BudgetWindows:
    """The budget windows of one kind of owner as they are now."""
    return BudgetWindows(kind, call.services.rules, call.now)


def user_body(row: Row, spend: Decimal, windows: BudgetWindows) -> dict[str, Any]:
    """A user's row with what follows from it."""
    body = wire_row(row)
    body["organization_memberships"] = row["organization_memberships"] or []
    body["spend"] = wire(spend)
    body["budget_reset_at"] = wire(windows.reset_at(row))
    return body


async def user_bodies(
    connection: Connection, rows: Mapping[str, Row], windows: BudgetWindows
) -> dict[str, dict[str, Any]]:
    """Users by id, as answers show them."""
    spends = await windows.spends(connection, rows)
    return {user_id: user_body(row, spends[user_id], windows) for user_id, row in rows.items()}


def names_only(body: Mapping[str, Any]) -> dict[str, Any]:
    """A user as admins see it who have only taken it in: who it is, and nothing of what it has."""
    empty: Mapping[type, Any] = {list: [], dict: {}}
    return {
        name: value if name in _NAMES else empty.get(type(value)) for name, value in body.items()
    }


def profile(body: Mapping[str, Any]) -> dict[str, Any]:
    """What /v2/user/info tells of a user."""
    return {name: body[name] for name in _PROFILE}


async def usage_of(connection: Connection, row: Row, windows: BudgetWindows) -> dict[str, Any]:
    """The spend of budgets that run beside the main one; empty for a user without any."""
    usage = await windows.limits_usage(connection, row["user_id"], row)
    return {} if usage is None else {"budget_limits_usage": usage}


async def team_bodies(
    connection: Connection, rows: list[Row], windows: BudgetWindows
) -> list[dict[str, Any]]:
    """Teams in short; /team/info tells the rest."""
    spends = await windows.spends(connection, {row["team_id"]: row for row in rows})
    return [
        {
            **wire_row(row),
            "spend": wire(spends[row["team_id"]]),
            "budget_reset_at": wire(windows.reset_at(row)),
        }
        for row in rows
    ]


async def key_bodies(
    connection: Connection, call: OpenCall, user_id: str | None, most: int
) -> list[dict[str, Any]]:
    """The newest keys of a user, or of all, each with its team's name."""
    rules = call.services.rules
    rows, _ = await list_keys(
        connection,
        KeyFilter(now=call.now, user_id=user_id),
        sort_by="created_at",
        descending=True,
        limit=most,
        offset=0,
    )
    spends = await read_spends(connection, rows, rules, call.now)
    aliases = await team_aliases(connection, {row["team_id"] for row in rows if row["team_id"]})
    return [
        key_body(row, spends, rules, call.now) | {"team_alias": aliases.get(row["team_id"] or "")}
        for row in rows
    ]
