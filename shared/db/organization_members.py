"""Who is in which organization. Whoever changes a membership locks the organization first."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from shared.db.rows import Connection
from shared.db.table import Row, Table

ORGANIZATION_MEMBERS = Table(
    name="organization_member",
    key=("organization_id", "user_id"),
    refusals=MappingProxyType(
        {"organization_member_pkey": ("member", "is in the organization already")}
    ),
    signed=False,
)

_OF = """
select m.*, u.user_email from organization_member m left join app_user u using (user_id)
where m.organization_id = any($1::text[])
order by m.organization_id, m.created_at, m.user_id
"""


async def organization_members(connection: Connection, ids: Sequence[str]) -> list[Row]:
    """The memberships of organizations, oldest first, with the users' addresses beside."""
    return [dict(row) for row in await connection.fetch(_OF, list(ids))]
