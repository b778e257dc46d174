"""Users and teams that tokens of a sign-in provider name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import asyncpg

from shared.db.rows import Queryable

# By id, else by the provider's id, else by address.
_FIND = """
select user_id from app_user
where user_id = $1 or sso_user_id = $1 or lower(user_email) = lower($2)
order by (user_id = $1) desc, (sso_user_id = $1) desc nulls last limit 1
"""
# An address that another user has stays that user's.
_ADD = """
with made as (
    insert into app_user (user_id, user_email, user_role, created_by, updated_by)
    values ($1, $2, 'internal_user', $1, $1) on conflict do nothing
    returning user_id, user_email, user_role
)
insert into audit_log (
    id, changed_by, changed_by_api_key, source_ip, route, action, table_name, object_id,
    updated_values)
select gen_random_uuid()::text, user_id, $3, $4, 'jwt', 'created', 'LiteLLM_UserTable', user_id,
       to_jsonb(made)
from made
"""
_TEAMS = "select team_id from team where team_id = any($1::text[]) and not blocked"


async def find_user(store: Queryable, name: str, email: str | None) -> str | None:
    """The id of the user whom a token names."""
    user_id: str | None = await store.fetchval(_FIND, name, email)
    return user_id


async def add_user(
    store: Queryable, user_id: str, email: str | None, *, by: str, source_ip: str | None
) -> None:
    """Makes an internal user, unless there is one by now or this process may make none; with an
    audit entry of a caller named `by`."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        await store.execute(_ADD, user_id, email, by, source_ip)


async def usable_teams(store: Queryable, teams: Sequence[str]) -> tuple[str, ...]:
    """Those of the teams that there are and that are not blocked, in the order given."""
    found = {row["team_id"] for row in await store.fetch(_TEAMS, list(teams))}
    return tuple(team for team in teams if team in found)
