"""What owners may reach besides models, by the id of the row."""

from __future__ import annotations

from collections.abc import Iterable

from shared.db.rows import Connection
from shared.db.table import Row, Table

_PERMISSIONS = Table(
    name="object_permission",
    key=("object_permission_id",),
    json=frozenset({"mcp_tool_permissions"}),
)
_FIND = "select * from object_permission where object_permission_id = any($1::text[])"


async def find_permissions(connection: Connection, ids: Iterable[str]) -> dict[str, Row]:
    """The rows of some ids, by id; those that there are."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    rows = await connection.fetch(_FIND, wanted)
    return {row["object_permission_id"]: _PERMISSIONS.read(row) for row in rows}
