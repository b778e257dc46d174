"""Who the owners and keys of calls are: what they are called, and what belongs to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from shared.db.rows import Queryable
from shared.db.table import Row
from shared.domain.ids import id_floor

_KEYS = """
select distinct on (token) token, key_alias, team_id from (
    select token, key_alias, team_id, 0 as age from virtual_key where token = any($1::text[])
    union all
    select token, key_alias, team_id, 1 from deleted_virtual_key where token = any($1::text[])
) k order by token, age
"""
_PERMISSIONS = "select permissions from virtual_key where token = $1"
_OWN_KEYS = """
select distinct p.key from call_payer p
where p.user_id = $1
  and not exists (select from call_payer o where o.key = p.key and o.user_id <> $1)
"""
_TEAMS_OF = "select team_id from team where organization_id = any($1::text[]) order by team_id"
_SEEN = """
select c.id, count(*) over () as total
from spend_counter c
where c.kind = $1 and c.window_start_s = 0 and c.shard = 0
  and ($2::text is null or strpos(lower(c.id), lower($2)) > 0)
order by c.id limit $3 offset $4
"""
_SEEN_COUNT = """
select count(*) from spend_counter c
where c.kind = $1 and c.window_start_s = 0 and c.shard = 0
  and ($2::text is null or strpos(lower(c.id), lower($2)) > 0)
"""
_END_USERS_OF = """
select distinct l.end_user from spend_log l
where l.payer_id = any(array(select o.id from call_payer o
    where o.user_id = $1 and ($1 <> '' or o.key = $4)))
  and l.id >= $2::uuid and l.end_user is not null
  and ($3::text is null or strpos(lower(l.end_user), lower($3)) > 0)
order by l.end_user
"""
_ALIASES: Mapping[str, str] = {
    "user": "select user_id as id, user_email as alias from app_user "
    "where user_id = any($1::text[])",
    "team": "select team_id as id, team_alias as alias from team where team_id = any($1::text[])",
    "organization": "select organization_id as id, organization_alias as alias from organization "
    "where organization_id = any($1::text[])",
    "end_user": "select end_user_id as id, alias from end_user where end_user_id = any($1::text[])",
}


async def known_keys(store: Queryable, tokens: Sequence[str]) -> dict[str, Row]:
    """Alias and team of keys, live or deleted."""
    if not tokens:
        return {}
    rows = await store.fetch(_KEYS, list(tokens))
    return {
        row["token"]: {"key_alias": row["key_alias"], "team_id": row["team_id"]} for row in rows
    }


async def key_permissions(store: Queryable, token: str) -> dict[str, Any]:
    """The `permissions` of a live key."""
    found = await store.fetchval(_PERMISSIONS, token)
    return {} if found is None else msgspec.json.decode(found, type=dict[str, Any])


async def keys_of_user(store: Queryable, user_id: str) -> tuple[str, ...]:
    """The keys that only ever were this user's: nobody else's calls are among theirs."""
    return tuple(row["key"] for row in await store.fetch(_OWN_KEYS, user_id))


async def teams_of_organizations(
    store: Queryable, organization_ids: Sequence[str]
) -> tuple[str, ...]:
    """The teams of some organizations."""
    rows = await store.fetch(_TEAMS_OF, list(organization_ids))
    return tuple(row["team_id"] for row in rows)


async def owner_aliases(store: Queryable, kind: str, names: Sequence[str]) -> dict[str, str]:
    """What owners are called, where they are called anything."""
    statement = _ALIASES.get(kind)
    if statement is None or not names:
        return {}
    rows = await store.fetch(statement, list(names))
    return {row["id"]: row["alias"] for row in rows if row["alias"] is not None}


async def names_seen(
    store: Queryable, kind: str, *, search: str | None = None, limit: int, offset: int = 0
) -> tuple[list[str], int]:
    """Owners of a kind that calls were made for, by name, and how many there are on all pages.
    `search` is a part of the name."""
    rows = await store.fetch(_SEEN, kind, search, limit, offset)
    total = rows[0]["total"] if rows else await store.fetchval(_SEEN_COUNT, kind, search)
    return [row["id"] for row in rows], total


async def end_users_of(
    store: Queryable,
    user_id: str | None,
    token: str,
    since: datetime,
    *,
    search: str | None,
    limit: int,
    offset: int,
) -> tuple[list[str], int]:
    """The same of the end users that a user, or a key without one, has called for since an
    instant."""
    floor = id_floor(since.timestamp())
    rows = await store.fetch(_END_USERS_OF, user_id or "", floor, search, token)
    names = [row["end_user"] for row in rows]
    return names[offset : offset + limit], len(names)
