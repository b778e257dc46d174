"""Keys as answers show them (management contract §3.1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from services.admin.api.key_fields import METADATA_NAMES
from services.admin.api.key_policy import KeyRules
from services.admin.api.team_logging import masked
from services.admin.api.wire_rows import wire
from shared.db.key_admin import KeyRow, key_spends
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest
from shared.limits.windows import Duration, next_reset, parse_budget_duration, window

_HIDDEN = frozenset({"budget", "origin"})


def key_body(
    row: KeyRow, spends: Mapping[str, Decimal], rules: KeyRules, now: datetime
) -> dict[str, Any]:
    """A key's row with what follows from it: spend, reset time, status, its budget."""
    body = {name: wire(value) for name, value in row.items() if name not in _HIDDEN}
    spend = row.get("spend", spends.get(row["token"], Decimal(0)))
    body["metadata"] = masked(body["metadata"])
    body["spend"] = wire(spend)
    body["budget_reset_at"] = wire(reset_time(row, rules, now))
    body["budget_limits"] = _limits(row, rules, now)
    body["litellm_budget_table"] = row["budget"]
    body["status"] = key_status(row, now)
    return body


def generated_body(body: Mapping[str, Any], plain: str) -> dict[str, Any]:
    """The answer to /key/generate: the plain key, shown this once, and what was stored."""
    metadata = body["metadata"]
    answer = {name: value for name, value in body.items() if name != "status"}
    answer |= {name: metadata.get(name) for name in METADATA_NAMES}
    answer |= {"key": plain, "token_id": body["token"]}
    return answer


def key_status(row: KeyRow, now: datetime) -> str:
    """`deleted`, `revoked` (blocked), `expired` or `active`."""
    if row.get("deleted_at") is not None:
        return "deleted"
    if row["blocked"]:
        return "revoked"
    expires = row["expires"]
    return "expired" if expires is not None and expires <= now else "active"


def spend_window(row: KeyRow, rules: KeyRules, now: datetime) -> int:
    """The start of the window that the key's budget counts now (seconds since the epoch), 0 for a
    lifetime budget or none. The linked budget fills what the key leaves open."""
    budget = row["budget"] or {}
    max_budget = row["max_budget"] if row["max_budget"] is not None else budget.get("max_budget")
    duration = _duration(row)
    if max_budget is None or duration is None:
        return 0
    return window(duration, now.timestamp(), rules.timezone, rules.reset_time).start_s


async def read_spends(
    connection: Connection, rows: Sequence[KeyRow], rules: KeyRules, now: datetime
) -> dict[str, Decimal]:
    """What live keys have spent in the window that their budget counts."""
    found = await key_spends(
        connection, [(row["origin"], spend_window(row, rules, now)) for row in rows]
    )
    return {row["token"]: found[row["origin"]] for row in rows if row["origin"] in found}


def reset_time(row: KeyRow, rules: KeyRules, now: datetime) -> datetime | None:
    """When the key's budget starts anew."""
    duration = _duration(row)
    if duration is None:
        return None
    return next_reset(duration, now.timestamp(), rules.timezone, rules.reset_time)


def _duration(row: KeyRow) -> Duration | None:
    text = row["budget_duration"] or (row["budget"] or {}).get("budget_duration")
    return _period(text)


def _period(text: str | None) -> Duration | None:
    if not text:
        return None
    try:
        return parse_budget_duration(text)
    except InvalidRequest:
        # Written by other means than this API; it resets nothing, as for the limits.
        return None


def _limits(row: KeyRow, rules: KeyRules, now: datetime) -> list[dict[str, Any]] | None:
    """The budgets that run at once, each with the end of its window."""
    if row["budget_limits"] is None:
        return None
    shown = []
    for limit in row["budget_limits"]:
        period = _period(limit["budget_duration"])
        ends_at = None
        if period is not None:
            ends_at = next_reset(period, now.timestamp(), rules.timezone, rules.reset_time)
        shown.append({**limit, "reset_at": wire(ends_at)})
    return shown
