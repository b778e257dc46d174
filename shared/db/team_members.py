"""Who is in which team, and the users that are made for it.

To be called with the team locked (see `teams`), but for reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.db.refusing import Contended, refusing
from shared.db.rows import Connection
from shared.db.table import Row

# In an order that all writers share; who comes second finds the first one's row.
_ADD_USERS = """
insert into app_user (user_id, user_email, user_role, created_by, updated_by)
select n.user_id, n.user_email, 'internal_user', $2, $2
from jsonb_to_recordset($1::jsonb) as n(user_id text, user_email text)
order by coalesce(lower(n.user_email), ''), n.user_id
on conflict do nothing returning user_id
"""
_ALL_USERS = "select user_id from app_user order by created_at, user_id"
_ADD = """
insert into team_member (team_id, user_id, user_email, role, budget_id, claimed, created_at)
select $1, n.user_id, n.user_email, n.role, n.budget_id, $3,
    clock_timestamp() + n.place * interval '1 microsecond'
from jsonb_to_recordset($2::jsonb) as n(
    place integer, user_id text, user_email text, role text, budget_id text)
order by n.place
on conflict do nothing
returning user_id
"""
_CHANGE = """
update team_member set
    role = coalesce($3, role), budget_id = $4, updated_at = clock_timestamp()
where team_id = $1 and user_id = $2
returning user_id
"""
_REMOVE = """
delete from team_member where team_id = $1 and user_id = any($2::text[])
returning user_id, budget_id
"""
_LINK_ALL = """
update team_member set budget_id = $2, updated_at = clock_timestamp()
where team_id = $1 and budget_id is null
"""
_FOUND = """
select m.team_id, m.user_id, coalesce(m.user_email, u.user_email) as user_email, m.role,
    m.budget_id, m.created_at, m.updated_at
from team_member m left join app_user u on u.user_id = m.user_id
"""
_OF_TEAMS = f"""
{_FOUND} where m.team_id = any($1::text[]) and ($2::text is null or m.user_id = $2)
order by m.team_id, m.created_at, m.user_id
"""
_MEMBERS_BY_EMAIL = """
select e.email as given, m.user_id
from team_member m left join app_user u on u.user_id = m.user_id
join unnest($2::text[]) as e(email)
    on lower(e.email) in (lower(m.user_email), lower(u.user_email))
where m.team_id = $1
order by m.created_at desc, m.user_id
"""


async def add_users(
    connection: Connection, users: Sequence[Mapping[str, str | None]], actor: str
) -> list[str]:
    """Makes users of ids and emails, and answers the ids of those made. One whose id or email
    somebody has meanwhile made is left."""
    with refusing({}):
        rows = await connection.fetch(_ADD_USERS, msgspec.json.encode(users), actor)
    return [row["user_id"] for row in rows]


async def all_user_ids(connection: Connection) -> list[str]:
    """Everybody, oldest first."""
    return [row["user_id"] for row in await connection.fetch(_ALL_USERS)]


async def add_members(
    connection: Connection, team_id: str, members: Sequence[Mapping[str, Any]], *, claimed: bool
) -> list[str]:
    """Adds members (`user_id`, `user_email`, `role`, `budget_id`) and answers the ids of those who
    were not in the team. `claimed` is whether no proxy admin vouches for it."""
    placed = [{**member, "place": place} for place, member in enumerate(members)]
    with refusing({}):
        rows = await connection.fetch(_ADD, team_id, msgspec.json.encode(placed), claimed)
    return [row["user_id"] for row in rows]


async def change_member(
    connection: Connection, team_id: str, user_id: str, role: str | None, budget_id: str | None
) -> None:
    """Sets a member's budget, and its role unless that is `None`. Raises `Contended` for one that
    has just gone with its user."""
    if await connection.fetchval(_CHANGE, team_id, user_id, role, budget_id) is None:
        raise Contended


async def remove_members(
    connection: Connection, team_id: str, user_ids: Sequence[str]
) -> dict[str, str | None]:
    """Takes members away and answers the budget of each."""
    rows = await connection.fetch(_REMOVE, team_id, list(user_ids))
    return {row["user_id"]: row["budget_id"] for row in rows}


async def link_members(connection: Connection, team_id: str, budget_id: str) -> None:
    """Gives a budget to every member who has none."""
    await connection.execute(_LINK_ALL, team_id, budget_id)


async def memberships(
    connection: Connection, team_ids: Sequence[str], user_id: str | None = None
) -> list[Row]:
    """The memberships of teams, of one user if one is named."""
    rows = await connection.fetch(_OF_TEAMS, list(team_ids), user_id)
    return [dict(row) for row in rows]


async def members_by_email(
    connection: Connection, team_id: str, emails: Iterable[str]
) -> dict[str, str]:
    """The member of each address, as `users.ids_by_email`; of several the oldest one."""
    rows = await connection.fetch(_MEMBERS_BY_EMAIL, team_id, list(emails))
    return {row["given"]: row["user_id"] for row in rows}
