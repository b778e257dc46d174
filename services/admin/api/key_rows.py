"""Keys as answers show them (management contract §3.1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from services.admin.api.key_fields import METADATA_NAMES
from services.admin.api.key_policy import KeyRules
from shared.db.key_admin import KeyRow, key_spends
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest
from shared.limits.windows import next_reset, parse_budget_duration, window

_HIDDEN = frozenset({"budget"})


def key_body(
    row: KeyRow, spends: Mapping[str, Decimal], rules: KeyRules, now: datetime
) -> dict[str, Any]:
    """A key's row with what follows from it: spend, reset time, status, its budget."""
    body = {name: _plain(value) for name, value in row.items() if name not in _HIDDEN}
    spend = row.get("spend", spends.get(row["token"], Decimal(0)))
    body["spend"] = _plain(spend)
    body["budget_reset_at"] = _plain(_reset_at(row, rules, now))
    body["litellm_budget_table"] = row["budget"] or _soft_budget(row)
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
    return await key_spends(
        connection, [(row["token"], spend_window(row, rules, now)) for row in rows]
    )


def _duration(row: KeyRow) -> Any:
    text = row["budget_duration"] or (row["budget"] or {}).get("budget_duration")
    if not text:
        return None
    try:
        return parse_budget_duration(text)
    except InvalidRequest:
        # Written by other means than this API; it resets nothing, as for the limits.
        return None


def _reset_at(row: KeyRow, rules: KeyRules, now: datetime) -> datetime | None:
    duration = _duration(row)
    if duration is None:
        return None
    return next_reset(duration, now.timestamp(), rules.timezone, rules.reset_time)


def _soft_budget(row: KeyRow) -> dict[str, Any] | None:
    if row["soft_budget"] is None:
        return None
    return {
        "budget_id": None,
        "max_budget": _plain(row["max_budget"]),
        "soft_budget": _plain(row["soft_budget"]),
        "budget_duration": row["budget_duration"],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
