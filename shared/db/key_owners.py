"""What owners of virtual keys have, and let their members do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec
from attrs import frozen

from shared.db.rows import Connection

_LIMITS = "max_budget, rpm_limit, tpm_limit, tpd_limit, max_parallel_requests"
_TEAMS = f"""
select t.team_id, t.organization_id, t.team_member_permissions, t.access_group_ids, t.models,
    {_LIMITS}, case
    when o.object_permission_id is not null then to_jsonb(o) end as object_permission
from team t left join object_permission o using (object_permission_id)
where t.team_id = any($1::text[])
"""  # noqa: S608 - only constants of this module
_USER = f"""
select u.models, {_LIMITS}, case
    when o.object_permission_id is not null then to_jsonb(o) end as object_permission
from app_user u left join object_permission o using (object_permission_id)
where u.user_id = $1
"""  # noqa: S608 - only constants of this module
# Whoever takes one of these away waits for the key, and then finds it.
_HOLD_TEAM = "select from team where team_id = $1 for key share"
_HOLD_USER = "select from app_user where user_id = $1 for key share"
_HOLD_MEMBER = "select from team_member where team_id = $1 and user_id = $2 for key share"
_TEAMS_OF = "select team_id from team where organization_id = any($1::text[]) order by team_id"
_OPEN_TEAMS = """
select team_id from team
where team_id = any($1::text[]) and $2 = any(team_member_permissions) order by team_id
"""


@frozen
class Means:
    """What an owner has, of which it can give no more to a key. `None` is no limit of its own, an
    empty list of models is every model; `permission` is its object permission row."""

    owner: str
    limits: Mapping[str, Decimal | int | None]
    models: tuple[str, ...] = ()
    permission: Mapping[str, Any] = {}


@frozen
class KeyTeam:
    """A team of keys. `permissions` are the routes that its members may call for its keys."""

    team_id: str
    organization_id: str | None
    permissions: frozenset[str]
    access_groups: frozenset[str]
    means: Means


async def find_teams(connection: Connection, team_ids: Iterable[str]) -> dict[str, KeyTeam]:
    """Those of some teams that there are, by id."""
    wanted = sorted(set(team_ids))
    if not wanted:
        return {}
    return {
        row["team_id"]: KeyTeam(
            row["team_id"],
            row["organization_id"],
            frozenset(row["team_member_permissions"]),
            frozenset(row["access_group_ids"]),
            _means("team", row),
        )
        for row in await connection.fetch(_TEAMS, wanted)
    }


async def find_means_of_user(connection: Connection, user_id: str) -> Means | None:
    """What a user has; `None` if there is none."""
    row = await connection.fetchrow(_USER, user_id)
    return None if row is None else _means("user", row)


async def hold_owners(
    connection: Connection, team_id: str | None, user_id: str | None
) -> tuple[bool, bool]:
    """Whether the team and the user that a key is to have are there, and stay until the
    transaction ends; no owner is always there."""
    team = team_id is None or await connection.fetchrow(_HOLD_TEAM, team_id) is not None
    user = user_id is None or await connection.fetchrow(_HOLD_USER, user_id) is not None
    return team, user


async def is_member(connection: Connection, team_id: str, user_id: str) -> bool:
    """Whether a user is in a team, and stays so until the transaction ends."""
    return await connection.fetchrow(_HOLD_MEMBER, team_id, user_id) is not None


async def teams_of(connection: Connection, organization_ids: Iterable[str]) -> list[str]:
    """The teams of some organizations."""
    wanted = sorted(organization_ids)
    if not wanted:
        return []
    return [row["team_id"] for row in await connection.fetch(_TEAMS_OF, wanted)]


async def teams_that_permit(
    connection: Connection, team_ids: Iterable[str], permission: str
) -> list[str]:
    """Those of some teams that let their members call a route."""
    wanted = sorted(team_ids)
    if not wanted:
        return []
    return [row["team_id"] for row in await connection.fetch(_OPEN_TEAMS, wanted, permission)]


def _means(owner: str, row: asyncpg.Record) -> Means:
    permission = row["object_permission"]
    return Means(
        owner,
        {name.strip(): row[name.strip()] for name in _LIMITS.split(",")},
        tuple(row["models"]),
        {} if permission is None else msgspec.json.decode(permission),
    )
