"""The windows of time that the budgets of owners count, and what was spent in them.

For every kind of owner whose row has `max_budget`, `budget_duration` and perhaps `budget_limits`:
keys, users, teams, and what links to a budget row (that row is then the one to pass). Windows
follow the calendar, so nothing is stored and no job resets anything (contract §4.3)::

    windows = BudgetWindows("user", call.services.rules, call.now)
    spends = await windows.spends(connection, {row["user_id"]: row for row in rows})
    body["spend"], body["budget_reset_at"] = ...
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from attrs import frozen

from services.admin.api.key_policy import KeyRules
from shared.db.rows import Connection
from shared.db.spend_counters import read_spends, set_spend
from shared.domain.errors import InvalidRequest
from shared.limits.windows import Duration, next_reset, parse_budget_duration, window

Row = Mapping[str, Any]


@frozen
class BudgetWindows:
    """The windows of one kind of owner at one instant; `kind` is that of `spend_counter`."""

    kind: str
    rules: KeyRules
    now: datetime

    def start_s(self, row: Row) -> int:
        """The start of the window that the row's budget counts now (seconds since the epoch), 0
        for a lifetime budget or none."""
        duration = _duration(row)
        return 0 if row["max_budget"] is None or duration is None else self._start_s(duration)

    def reset_at(self, row: Row) -> datetime | None:
        """When the row's budget starts anew."""
        duration = _duration(row)
        if duration is None:
            return None
        return next_reset(
            duration, self.now.timestamp(), self.rules.timezone, self.rules.reset_time
        )

    async def spends(self, connection: Connection, rows: Mapping[str, Row]) -> dict[str, Decimal]:
        """What owners have spent, each in the window that its budget counts; 0 for nothing."""
        windows = [(owner, self.start_s(row)) for owner, row in rows.items()]
        found = await read_spends(connection, self.kind, windows)
        return {owner: found.get(owner, Decimal(0)) for owner in rows}

    async def limits_usage(
        self, connection: Connection, owner: str, row: Row
    ) -> dict[str, dict[str, float]] | None:
        """What was spent in each of the budgets that run at once, `None` for a row without any."""
        usage: dict[str, dict[str, float]] = {}
        for limit in row["budget_limits"] or ():
            duration = _duration(limit)
            if duration is not None:
                found = await read_spends(connection, self.kind, [(owner, self._start_s(duration))])
                spend = found.get(owner, Decimal(0))
                usage[limit["budget_duration"]] = {"current_spend": float(spend)}
        return usage or None

    async def set_spend(self, connection: Connection, owner: str, row: Row, spend: Decimal) -> None:
        """Makes the counter of the row's window say that much."""
        await set_spend(connection, self.kind, owner, self.start_s(row), spend)

    def _start_s(self, duration: Duration) -> int:
        rules = self.rules
        return window(duration, self.now.timestamp(), rules.timezone, rules.reset_time).start_s


def _duration(row: Row) -> Duration | None:
    text = row.get("budget_duration")
    if not text:
        return None
    try:
        return parse_budget_duration(text)
    except InvalidRequest:
        # Written by other means than this API; it resets nothing, as for the limits.
        return None
