"""What of a row goes into the audit log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from shared.domain.keys import MASTER_KEY_NAME
from shared.telemetry.redact import MASK, Redactor, is_secret

# Stored forms of keys are names of objects, and say nothing of the plain key.
_HASHES = frozenset({"token", "token_id", "key", "active_token"})
_HASH = re.compile(r"[0-9a-f]{64}")

Members = Mapping[str, Any]


def clean(before: Members | None, after: Members | None) -> tuple[Members | None, Members | None]:
    """Both sides without secrets; of an update, only the members that differ."""
    if before is not None and after is not None:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        before = {name: before.get(name) for name in names}
        after = {name: after.get(name) for name in names}
    return (None if before is None else _clean(before), None if after is None else _clean(after))


def _clean(members: Members) -> Members:
    redactor = Redactor()
    return {name: _value(redactor, name, value) for name, value in members.items()}


def _value(redactor: Redactor, name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name in _HASHES and isinstance(value, str):
        return value if _HASH.fullmatch(value) or value == MASTER_KEY_NAME else MASK
    if is_secret(name):
        return MASK
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return redactor.value(value)
