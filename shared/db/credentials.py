"""Named credentials as the management API sees them."""

from __future__ import annotations

from types import MappingProxyType

from shared.db.rows import Connection
from shared.db.table import Row, Table

CREDENTIALS = Table(
    name="credential",
    key=("credential_name",),
    json=frozenset({"credential_values", "credential_info"}),
    refusals=MappingProxyType(
        {"credential_credential_name_key": ("credential_name", "is in use by another credential")}
    ),
)

_ALL = "select * from credential order by created_at, credential_id"


async def list_credentials(connection: Connection) -> list[Row]:
    """Every credential, oldest first."""
    return [CREDENTIALS.read(row) for row in await connection.fetch(_ALL)]
