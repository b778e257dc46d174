"""Writing the audit log: who changed what, chained by digests (see migration 0001)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from attrs import frozen

from shared.db.rows import Connection

_INSERT = """
insert into audit_log (
    id, changed_by, actor, changed_by_api_key, source_ip, route, action, table_name, object_id,
    before_value, updated_values)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb)
"""
# Each statement has the time-out of one.
_MOST_AT_ONCE = 500


class Action(StrEnum):
    """What was done. The values are stored and appear in answers."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    ROTATED = "rotated"
    RESET = "reset"


@frozen(kw_only=True)
class AuditEntry:
    """A change. `before` and `after` are JSON objects that hold no secrets; `None` where there was
    or is nothing.

    `changed_by` is whom the caller names as the author; `actor` is the caller itself, where the
    two differ.
    """

    changed_by: str
    changed_by_api_key: str | None
    source_ip: str | None
    route: str
    action: Action
    table: str
    object_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    actor: str | None = None


async def append(connection: Connection, *entries: AuditEntry) -> None:
    """Adds entries. The first locks the end of the chain until the transaction ends, so they come
    after everything else that the transaction does."""
    for first in range(0, len(entries), _MOST_AT_ONCE):
        rows = [_columns(entry) for entry in entries[first : first + _MOST_AT_ONCE]]
        await connection.executemany(_INSERT, rows)


def _columns(entry: AuditEntry) -> tuple[str | bytes | None, ...]:
    return (
        str(uuid.uuid4()),
        entry.changed_by,
        entry.actor,
        entry.changed_by_api_key,
        entry.source_ip,
        entry.route,
        entry.action.value,
        entry.table,
        entry.object_id,
        None if entry.before is None else msgspec.json.encode(entry.before),
        None if entry.after is None else msgspec.json.encode(entry.after),
    )
