"""The teams and organizations of users, from the users' side."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from attrs import frozen

from shared.db.budgets import BUDGETS
from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

_TEAMS = """
select team_id, organization_id from team where team_id = any($1::text[]) for key share
"""
_ORGANIZATIONS = """
select organization_id from organization where organization_id = any($1::text[]) for key share
"""
# A team may have a budget for members that come without one of their own.
_JOIN_TEAM = """
insert into team_member (team_id, user_id, user_email, role, budget_id)
select t.team_id, $2, $3, $4, coalesce($5, (
    select b.budget_id from budget b where b.budget_id = t.metadata ->> 'team_member_budget_id'))
from team t where t.team_id = $1
on conflict (team_id, user_id) do update
set user_email = excluded.user_email, role = excluded.role, budget_id = excluded.budget_id,
    updated_at = clock_timestamp()
"""
_JOIN_ORGANIZATION = """
insert into organization_member (organization_id, user_id, user_role) values ($1, $2, $3)
on conflict (organization_id, user_id) do nothing
"""
_READDRESS = """
update team_member set user_email = $2, updated_at = clock_timestamp()
where (team_id, user_id) in (
    select team_id, user_id from team_member
    where user_id = $1 and user_email is distinct from $2 order by team_id for update)
"""
_LEAVE = (
    """
    delete from team_member where (team_id, user_id) in (
        select team_id, user_id from team_member where user_id = any($1::text[])
        order by team_id, user_id for update)
    """,
    """
    delete from organization_member where (organization_id, user_id) in (
        select organization_id, user_id from organization_member where user_id = any($1::text[])
        order by organization_id, user_id for update)
    """,
)
_VOUCHED = """
select m.user_id from organization_member m
where m.user_id = any($1::text[]) and m.organization_id = any($2::text[]) and not m.claimed
union
select m.user_id from team_member m
where m.user_id = any($1::text[]) and m.team_id = any($3::text[]) and not m.claimed
"""
_TEAM_COLUMNS = """
    t.team_id, t.team_alias, t.organization_id, t.models, t.blocked, t.max_budget, t.soft_budget,
    t.budget_duration, t.budget_limits, t.tpm_limit, t.rpm_limit, t.tpd_limit,
    t.max_parallel_requests, t.created_at, t.updated_at
"""
_TEAMS_OF_USER = f"""
select {_TEAM_COLUMNS}, m.role from team t join team_member m using (team_id)
where m.user_id = $1 order by t.created_at desc, t.team_id
"""  # noqa: S608 - only constants of this module
_ALL_TEAMS = f"""
select {_TEAM_COLUMNS} from team t order by t.created_at desc, t.team_id limit $1
"""  # noqa: S608 - only constants of this module
_ALIASES = "select team_id, team_alias from team where team_id = any($1::text[])"
_TEAM = Table(name="team", key=("team_id",), json=frozenset({"budget_limits"}))


@frozen(kw_only=True)
class TeamJoin:
    """A team that a user joins, as `user` or `admin`, with a budget (USD) in it or the team's."""

    team_id: str
    role: str = "user"
    max_budget: Decimal | None = None


async def organizations_of_teams(
    connection: Connection, team_ids: Iterable[str]
) -> dict[str, str | None]:
    """The organization of each of some teams, those that there are; they stay until the
    transaction ends."""
    rows = await connection.fetch(_TEAMS, list(team_ids))
    return {row["team_id"]: row["organization_id"] for row in rows}


async def existing_organizations(
    connection: Connection, organization_ids: Iterable[str]
) -> frozenset[str]:
    """Those of some organizations that there are; they stay until the transaction ends."""
    rows = await connection.fetch(_ORGANIZATIONS, list(organization_ids))
    return frozenset(row["organization_id"] for row in rows)


async def join_teams(
    connection: Connection, user_id: str, email: str | None, joins: Sequence[TeamJoin], actor: str
) -> None:
    """Makes a user a member of teams that there are."""
    for join in sorted(joins, key=lambda each: each.team_id):
        budget_id = None
        if join.max_budget is not None:
            budget_id = str(uuid.uuid4())
            budget = {"budget_id": budget_id, "max_budget": join.max_budget}
            await BUDGETS.insert(connection, {**budget, "created_by": actor, "updated_by": actor})
        with refusing({}):
            await connection.execute(_JOIN_TEAM, join.team_id, user_id, email, join.role, budget_id)


async def join_organizations(
    connection: Connection, user_id: str, organization_ids: Iterable[str], role: str
) -> None:
    """Makes a user a member of organizations that there are."""
    for organization_id in sorted(set(organization_ids)):
        await connection.execute(_JOIN_ORGANIZATION, organization_id, user_id, role)


async def readdress(connection: Connection, user_id: str, email: str | None) -> None:
    """Notes the new address of a user in its teams."""
    with refusing({}):
        await connection.execute(_READDRESS, user_id, email)


async def leave_all(connection: Connection, user_ids: Sequence[str]) -> None:
    """Takes users out of every team and organization."""
    with refusing({}):
        for statement in _LEAVE:
            await connection.execute(statement, list(user_ids))


async def vouched_users(
    connection: Connection,
    user_ids: Iterable[str],
    organization_ids: Iterable[str],
    team_ids: Iterable[str] = (),
) -> frozenset[str]:
    """Those of some users whom a proxy admin has put into one of these organizations or teams, or
    who were made for one."""
    rows = await connection.fetch(_VOUCHED, list(user_ids), list(organization_ids), list(team_ids))
    return frozenset(row["user_id"] for row in rows)


async def teams_of_user(connection: Connection, user_id: str) -> list[Row]:
    """The teams of a user, and its `role` in each; the newest team first."""
    return [_TEAM.read(row) for row in await connection.fetch(_TEAMS_OF_USER, user_id)]


async def all_teams(connection: Connection, limit: int) -> list[Row]:
    """The newest teams."""
    return [_TEAM.read(row) for row in await connection.fetch(_ALL_TEAMS, limit)]


async def team_aliases(connection: Connection, team_ids: Iterable[str]) -> Mapping[str, str | None]:
    """What some teams are called."""
    rows = await connection.fetch(_ALIASES, list(team_ids))
    return {row["team_id"]: row["team_alias"] for row in rows}
