"""Organizations: whole rows, their teams, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table
from shared.db.teams import LIVE_TEAMS, TEAMS

ORGANIZATIONS = Table(
    name="organization",
    key=("organization_id",),
    json=frozenset({"metadata"}),
    refusals=MappingProxyType(
        {
            "organization_pkey": ("organization_id", "is in use by another organization"),
            "organization_budget_id_fkey": ("budget_id", "names no budget"),
        }
    ),
)

_LIST = """
select * from organization
where ($1::text[] is null or organization_id = any($1))
  and ($2::text is null or organization_id = $2)
  and ($3::text is null or strpos(lower(organization_alias), lower($3)) > 0)
order by created_at desc, organization_id
"""
_LOCK = """
select * from organization where organization_id = any($1::text[])
order by organization_id for update
"""
_DELETE = "delete from organization where organization_id = any($1::text[])"
_TEAMS = f"{LIVE_TEAMS} where t.organization_id = any($1::text[]) order by t.team_id"
_TEAM_IDS = """
select team_id from team where organization_id = any($1::text[]) order by team_id
"""
_KEYS = """
select token from virtual_key
where organization_id = any($1::text[]) or team_id = any($2::text[]) order by token
"""


async def list_organizations(
    connection: Connection,
    ids: Sequence[str] | None,
    organization_id: str | None = None,
    alias: str | None = None,
) -> list[Row]:
    """Organizations, newest first: of some ids or all, one of them, or those whose alias holds a
    text in any case."""
    wanted = None if ids is None else list(ids)
    rows = await connection.fetch(_LIST, wanted, organization_id, alias)
    return [ORGANIZATIONS.read(row) for row in rows]


async def lock_organizations(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
    """Organizations by id, kept from changing until the transaction ends."""
    with refusing(ORGANIZATIONS.refusals):
        rows = await connection.fetch(_LOCK, list(ids))
    return {row["organization_id"]: ORGANIZATIONS.read(row) for row in rows}


async def delete_organizations(connection: Connection, ids: Sequence[str]) -> None:
    """Takes organizations away; their memberships go with them."""
    with refusing(ORGANIZATIONS.refusals):
        await connection.execute(_DELETE, list(ids))


async def organization_teams(connection: Connection, ids: Sequence[str]) -> list[Row]:
    """The live teams of organizations."""
    return [TEAMS.read(row) for row in await connection.fetch(_TEAMS, list(ids))]


async def organization_team_ids(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The ids of the live teams of organizations."""
    return [row["team_id"] for row in await connection.fetch(_TEAM_IDS, list(ids))]


async def organization_keys(
    connection: Connection, ids: Sequence[str], team_ids: Sequence[str]
) -> list[str]:
    """The tokens of the live keys of organizations, and of some teams."""
    rows = await connection.fetch(_KEYS, list(ids), list(team_ids))
    return [row["token"] for row in rows]
