"""Who a key of the management API belongs to, and where its user has a say, in one statement."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from attrs import frozen

from shared.db.keys import LoadedPrincipals, decode_principals
from shared.db.rows import Queryable

_LOAD = """
with who as (
    select k.user_id from virtual_key k where k.token = coalesce(
        (select d.active_token from deprecated_virtual_key d
         where d.token = $1 and d.revoke_at > clock_timestamp()), $1)
)
select load_principals(array[$1]) as principals,
    (select jsonb_object_agg(m.team_id, m.role)
     from team_member m join who using (user_id)) as teams,
    (select jsonb_object_agg(m.organization_id, coalesce(m.user_role, 'internal_user'))
     from organization_member m join who using (user_id)) as organizations
"""
_LOAD_USER = """
select user_role,
    (select jsonb_object_agg(m.team_id, m.role)
     from team_member m where m.user_id = $1) as teams,
    (select jsonb_object_agg(m.organization_id, coalesce(m.user_role, 'internal_user'))
     from organization_member m where m.user_id = $1) as organizations
from app_user where user_id = $1
"""


@frozen
class LoadedCaller:
    """A key as `load_principals` knows it, and its user's role in each team and organization."""

    principals: LoadedPrincipals
    teams: Mapping[str, str]
    organizations: Mapping[str, str]


@frozen
class LoadedUser:
    """A user's own role, and the roles in each team and organization."""

    role: str | None
    teams: Mapping[str, str]
    organizations: Mapping[str, str]


async def load_caller(store: Queryable, token: str) -> LoadedCaller:
    """What is stored of the holder of a key; `principals.keys` is empty if there is no such key."""
    row = await store.fetchrow(_LOAD, token)
    assert row is not None
    return LoadedCaller(
        decode_principals(row["principals"]), _roles(row["teams"]), _roles(row["organizations"])
    )


async def load_user(store: Queryable, user_id: str) -> LoadedUser | None:
    """What is stored of a user who comes without a key."""
    row = await store.fetchrow(_LOAD_USER, user_id)
    if row is None:
        return None
    return LoadedUser(row["user_role"], _roles(row["teams"]), _roles(row["organizations"]))


def _roles(data: bytes | None) -> Mapping[str, str]:
    return {} if data is None else msgspec.json.decode(data, type=dict[str, str])
