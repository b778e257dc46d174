"""Teams as the management API sees them: whole rows, and the archive of deleted teams.

A row's columns have its `members` beside (oldest first, each with `role`, `user_id` and
`user_email`) and `object_permission` (the linked row). Whoever changes a team, its members or
their budgets locks the team first, so that changes of one team come one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

TEAMS = Table(
    name="team",
    key=("team_id",),
    json=frozenset(
        {
            "model_aliases",
            "metadata",
            "router_settings",
            "budget_limits",
            "model_max_budget",
            "members",
            "object_permission",
        }
    ),
    refusals=MappingProxyType(
        {
            "team_pkey": ("team_id", "is in use by another team"),
            "team_money": ("A budget", "must be an amount from 0 to 9999999999"),
            "team_rates": ("A rate limit", "must not be below 0"),
        }
    ),
)

_COLUMNS = """
    team_id, team_alias, organization_id, models, model_aliases, metadata, router_settings,
    blocked, max_budget, soft_budget, budget_duration, budget_limits, model_max_budget, rpm_limit,
    tpm_limit, tpd_limit, max_parallel_requests, access_group_ids, team_member_permissions,
    default_team_member_models, object_permission_id, created_at, created_by, updated_at,
    updated_by
"""
_MEMBERS = """
    coalesce((
        select jsonb_agg(
            jsonb_build_object(
                'role', m.role, 'user_id', m.user_id,
                'user_email', coalesce(m.user_email, u.user_email))
            order by m.created_at, m.user_id)
        from team_member m left join app_user u on u.user_id = m.user_id
        where m.team_id = t.team_id), '[]') as members
"""
_PERMISSION = """
    case when o.object_permission_id is not null then to_jsonb(o) end as object_permission
"""
_PERMISSION_JOIN = (
    "left join object_permission o on o.object_permission_id = t.object_permission_id"
)
LIVE_TEAMS = f"select t.*, {_MEMBERS}, {_PERMISSION} from team t {_PERMISSION_JOIN}"  # noqa: S608 - only constants of this module
DELETED_TEAMS = f"select t.*, {_PERMISSION} from deleted_team t {_PERMISSION_JOIN}"  # noqa: S608 - only constants of this module

_FIND = f"{LIVE_TEAMS} where t.team_id = any($1::text[]) order by t.created_at desc, t.team_id"
# Foreign keys of members may go on being checked meanwhile.
_LOCK = "select from team where team_id = $1 for no key update"
_LOCK_TO_DELETE = """
select team_id from team where team_id = any($1::text[]) order by team_id for update
"""
_DELETE = "delete from team where team_id = any($1::text[])"
_ARCHIVE = f"""
insert into deleted_team (
    {_COLUMNS}, spend, members, deleted_by, deleted_by_api_key, litellm_changed_by)
select {_COLUMNS}, coalesce(s.spend, 0), m.members, $2, $3, $4
from team t
cross join lateral (select {_MEMBERS}) m
left join lateral (
    select sum(c.spend) as spend from spend_counter c
    where c.kind = 'team' and c.id = t.team_id and c.window_start_s = 0
) s on true
where t.team_id = any($1::text[])
"""  # noqa: S608 - only constants of this module
_KEYS = "select token from virtual_key where team_id = any($1::text[]) order by token"
_MEMBER_KEYS = """
select token from virtual_key
where team_id = $1 and user_id = any($2::text[]) order by token
"""
_DELETE_MODELS = """
delete from model where model_info ->> 'team_id' = any($1::text[]) returning model_id
"""
_ALLOW = """
update team t set
    team_member_permissions = t.team_member_permissions || array(
        select p from unnest($1::text[]) with ordinality as w(p, place)
        where p <> all (t.team_member_permissions) order by place),
    updated_at = clock_timestamp(), updated_by = $3
where ($2::text[] is null or t.team_id = any($2))
  and not t.team_member_permissions @> $1::text[]
returning t.team_id, t.team_member_permissions
"""
_IS_NAMED = """
select exists (select from virtual_key where team_id = $1)
    or exists (select from project where team_id = $1)
    or exists (select from deleted_team where team_id = $1)
    or exists (select from deleted_virtual_key where team_id = $1)
    or exists (select from spend_counter where kind = 'team' and id = $1)
"""
_LOCK_MANY = """
select team_id, team_member_permissions from team
where $1::text[] is null or team_id = any($1) order by team_id for no key update
"""


async def find_team(connection: Connection, team_id: str, *, lock: bool = False) -> Row | None:
    """A live team; `lock` keeps others from changing it until the transaction ends."""
    if lock:
        await connection.execute(_LOCK, team_id)
    rows = await find_teams(connection, [team_id])
    return rows[0] if rows else None


async def find_teams(connection: Connection, team_ids: Sequence[str]) -> list[Row]:
    """The live teams of some ids, newest first."""
    return [TEAMS.read(row) for row in await connection.fetch(_FIND, list(team_ids))]


async def is_named(connection: Connection, team_id: str) -> bool:
    """Whether keys, projects or calls name or named a team of that id, which need not exist."""
    named: bool = await connection.fetchval(_IS_NAMED, team_id)
    return named


async def lock_to_delete(connection: Connection, team_ids: Sequence[str]) -> None:
    """Keeps others from changing teams and from adding to them."""
    await connection.execute(_LOCK_TO_DELETE, list(team_ids))


async def archive_teams(
    connection: Connection,
    team_ids: Sequence[str],
    actor: str,
    api_key: str,
    changed_by: str | None,
) -> None:
    """Moves teams to the archive; their memberships go with them."""
    with refusing(TEAMS.refusals):
        await connection.execute(_ARCHIVE, list(team_ids), actor, api_key, changed_by)
        await connection.execute(_DELETE, list(team_ids))


async def team_keys(connection: Connection, team_ids: Sequence[str]) -> list[str]:
    """The tokens of teams' live keys."""
    return [row["token"] for row in await connection.fetch(_KEYS, list(team_ids))]


async def member_keys(connection: Connection, team_id: str, user_ids: Sequence[str]) -> list[str]:
    """The tokens of the live keys of a team that belong to some users."""
    rows = await connection.fetch(_MEMBER_KEYS, team_id, list(user_ids))
    return [row["token"] for row in rows]


async def delete_team_models(connection: Connection, team_ids: Sequence[str]) -> list[str]:
    """Takes away the models that teams have brought, and answers their ids."""
    rows = await connection.fetch(_DELETE_MODELS, list(team_ids))
    return [row["model_id"] for row in rows]


async def allow_members(
    connection: Connection, permissions: Sequence[str], team_ids: Sequence[str] | None, actor: str
) -> list[tuple[str, list[str], list[str]]]:
    """Adds permissions to teams, to all of them where none are named.

    Answers the teams that lacked any: id, permissions before and after.
    """
    wanted = None if team_ids is None else list(team_ids)
    before: Mapping[str, list[str]] = {
        row["team_id"]: row["team_member_permissions"]
        for row in await connection.fetch(_LOCK_MANY, wanted)
    }
    rows = await connection.fetch(_ALLOW, list(permissions), wanted, actor)
    return [
        (row["team_id"], before.get(row["team_id"], []), row["team_member_permissions"])
        for row in sorted(rows, key=lambda row: str(row["team_id"]))
    ]
