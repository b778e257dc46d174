"""Projects: whole rows, between teams and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

PROJECTS = Table(
    name="project",
    key=("project_id",),
    json=frozenset({"metadata"}),
    refusals=MappingProxyType(
        {
            "project_pkey": ("project_id", "is in use by another project"),
            "project_budget_id_fkey": ("budget_id", "names no budget"),
        }
    ),
)

_LIST = """
select * from project where $1::text[] is null or team_id = any($1)
order by created_at desc, project_id
"""
_LOCK = """
select * from project where project_id = any($1::text[]) order by project_id for update
"""
_DELETE = "delete from project where project_id = any($1::text[])"
_USED = """
select project_id, count(*) as keys from virtual_key where project_id = any($1::text[])
group by project_id order by project_id limit 1
"""


async def list_projects(connection: Connection, team_ids: Sequence[str] | None) -> list[Row]:
    """Projects, newest first: of some teams, or all."""
    wanted = None if team_ids is None else list(team_ids)
    return [PROJECTS.read(row) for row in await connection.fetch(_LIST, wanted)]


async def lock_projects(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
    """Projects by id, kept from changing until the transaction ends."""
    with refusing(PROJECTS.refusals):
        rows = await connection.fetch(_LOCK, list(ids))
    return {row["project_id"]: PROJECTS.read(row) for row in rows}


async def project_in_use(connection: Connection, ids: Sequence[str]) -> tuple[str, int] | None:
    """The first of some projects that keys belong to, and how many do."""
    row = await connection.fetchrow(_USED, list(ids))
    return None if row is None else (row["project_id"], row["keys"])


async def delete_projects(connection: Connection, ids: Sequence[str]) -> None:
    """Takes projects away."""
    await connection.execute(_DELETE, list(ids))
