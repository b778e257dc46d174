"""Settings that the management API has stored: a row for each section of the configuration.

Whoever changes one calls `shared.db.models.lock_models` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.db.rows import Connection
from shared.db.table import Table

CONFIG = Table(name="config", key=("param_name",), json=frozenset({"value"}))


async def read_section(connection: Connection, section: str) -> dict[str, Any]:
    """The members of a section, secrets sealed; none if it was never stored."""
    row = await CONFIG.find(connection, section)
    value = {} if row is None else row["value"]
    return value if isinstance(value, dict) else {}


async def write_section(
    connection: Connection, section: str, members: Mapping[str, Any], actor: str
) -> None:
    """Stores a section whole."""
    value = {"value": dict(members)}
    if await CONFIG.update(connection, [section], value, actor) is None:
        await CONFIG.insert(connection, {"param_name": section, **value, "updated_by": actor})
