"""Virtual keys as the management API sees them: whole rows, and the archive of deleted keys.

Rows are plain mappings from column to value, since the API shows every column: money is
`Decimal`, times are aware UTC, JSON is decoded. `last_active`, `budget` (the linked budget row),
`object_permission` (its row) and `origin` (the id of the key's counters, see migration 0001) stand
beside the columns. Values that the store refuses are `InvalidRequest`, naming the field where the
refusal does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import msgspec

from shared.db.refusing import refusing
from shared.db.rows import Connection

KeyRow: TypeAlias = "Mapping[str, Any]"

# Columns that a request may set; the rest is set by statements of this module.
_SETTABLE = """
    key_alias, key_type, user_id, team_id, organization_id, project_id, agent_id, models, aliases,
    config, permissions, router_settings, expires, blocked, max_budget, soft_budget,
    budget_duration, budget_limits, budget_fallbacks, model_max_budget,
    throttle_on_budget_exceeded, budget_id, end_user_budget_id, rpm_limit, tpm_limit, tpd_limit,
    max_parallel_requests, allowed_routes, allowed_cache_controls, access_group_ids,
    object_permission_id, auto_rotate, rotation_interval, key_rotation_at
"""
_INSERTED = f"token, key_name, metadata, created_by, updated_by, {_SETTABLE}"
STORED = f"{_INSERTED}, rotation_count, last_rotation_at, created_at, updated_at"
_JSON_COLUMNS = (
    "aliases",
    "config",
    "permissions",
    "metadata",
    "router_settings",
    "budget_limits",
    "budget_fallbacks",
    "model_max_budget",
    "budget",
    "object_permission",
)


def qualified(columns: str, table: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in columns.split(","))


_BESIDE = """
    case when b.budget_id is not null then jsonb_build_object(
        'budget_id', b.budget_id, 'max_budget', b.max_budget, 'soft_budget', b.soft_budget,
        'budget_duration', b.budget_duration, 'rpm_limit', b.rpm_limit, 'tpm_limit', b.tpm_limit,
        'tpd_limit', b.tpd_limit, 'max_parallel_requests', b.max_parallel_requests,
        'model_max_budget', b.model_max_budget, 'allowed_models', b.allowed_models,
        'created_at', b.created_at, 'created_by', b.created_by, 'updated_at', b.updated_at,
        'updated_by', b.updated_by) end as budget,
    case when o.object_permission_id is not null then jsonb_build_object(
        'object_permission_id', o.object_permission_id, 'mcp_servers', o.mcp_servers,
        'mcp_access_groups', o.mcp_access_groups, 'mcp_tool_permissions', o.mcp_tool_permissions,
        'mcp_toolsets', o.mcp_toolsets, 'mcp_tool_search_enabled', o.mcp_tool_search_enabled,
        'blocked_tools', o.blocked_tools, 'vector_stores', o.vector_stores, 'agents', o.agents,
        'agent_access_groups', o.agent_access_groups, 'models', o.models,
        'search_tools', o.search_tools, 'skills', o.skills) end as object_permission
"""
_BESIDE_JOINS = """
    left join budget b on b.budget_id = k.budget_id
    left join object_permission o on o.object_permission_id = k.object_permission_id
"""


def _live(source: str) -> str:
    return f"""
select {qualified(STORED, "k")}, a.last_active, coalesce(n.origin, k.token) as origin, {_BESIDE}
from {source} k left join key_activity a on a.token = k.token
    left join key_origin n on n.token = k.token {_BESIDE_JOINS}
"""  # noqa: S608 - only constants of this module


LIVE_KEYS = _live("virtual_key")
DELETED_KEYS = f"""
select {qualified(STORED, "k")}, k.spend, k.last_active, k.deleted_at, k.deleted_by,
    k.deleted_by_api_key, k.litellm_changed_by, k.token as origin, {_BESIDE}
from deleted_virtual_key k {_BESIDE_JOINS}
"""  # noqa: S608 - only constants of this module

_FIND = f"{LIVE_KEYS} where k.token = $1"
_FIND_DELETED = f"{DELETED_KEYS} where k.token = $1 order by k.deletion_id desc limit 1"
_FIND_LOCKED = f"{_FIND} for update of k"
_FIND_MANY = f"{LIVE_KEYS} where k.token = any($1::text[]) order by k.token"
_FIND_MANY_LOCKED = f"{_FIND_MANY} for update of k"
_SUCCESSOR = """
select active_token from deprecated_virtual_key where token = $1 and revoke_at > clock_timestamp()
"""
_WAS_ROTATED = "select exists (select from key_origin where token = $1 or origin = $1)"
_LOCK_ALIASES = "select pg_advisory_xact_lock(hashtext('virtual_key_alias'))"
_TOKENS_BY_ALIAS = "select token from virtual_key where key_alias = any($1::text[]) order by token"

_INSERT = f"""
with made as (
    insert into virtual_key ({_INSERTED})
    select {_INSERTED} from jsonb_populate_record(null::virtual_key, $1::jsonb)
    returning {STORED}
) {_live("made")}
"""  # noqa: S608 - only constants of this module

# The row as it is fills what the document does not name, in the same statement: two updates of one
# key that run at once both count.
_UPDATE = f"""
update virtual_key k set
    ({_SETTABLE}) = (
        select {qualified(_SETTABLE, "n")} from jsonb_populate_record(k, $2::jsonb) n),
    metadata = case when $2::jsonb ? 'metadata' then $2::jsonb -> 'metadata' else k.metadata end
        || $3::jsonb,
    updated_at = clock_timestamp(),
    updated_by = $4
where k.token = $1
returning k.token
"""  # noqa: S608 - only constants of this module

_DELETE = f"""
with locked as materialized (
    select token from virtual_key where token = any($1::text[]) order by token for update
), gone as (
    delete from virtual_key where token in (select token from locked) returning {STORED}
)
insert into deleted_virtual_key (
    {STORED}, spend, last_active, deleted_by, deleted_by_api_key, litellm_changed_by)
select {qualified(STORED, "g")}, coalesce(s.spend, 0), a.last_active, $2, $3, $4
from gone g
left join key_activity a on a.token = g.token
left join key_origin n on n.token = g.token
left join lateral (
    select sum(c.spend) as spend from spend_counter c
    where c.kind = 'key' and c.id = coalesce(n.origin, g.token) and c.window_start_s = 0
) s on true
returning token
"""  # noqa: S608 - only constants of this module

_SPENDS = """
select c.id, sum(c.spend) as spend
from unnest($1::text[], $2::bigint[]) as w(id, window_start_s)
join spend_counter c
    on c.kind = 'key' and c.id = w.id and c.window_start_s = w.window_start_s
group by c.id
"""
_LOCK_SPEND = """
select spend from spend_counter
where kind = 'key' and id = $1 and window_start_s = $2 order by shard for update
"""
_SET_SPEND = """
insert into spend_counter as c (kind, id, window_start_s, shard, spend)
values ('key', $1, $2, 0, $3)
on conflict (kind, id, window_start_s, shard) do update set spend = excluded.spend
"""
_INSERT_PERMISSION = """
insert into object_permission (
    object_permission_id, mcp_servers, mcp_access_groups, mcp_tool_permissions, mcp_toolsets,
    mcp_tool_search_enabled, blocked_tools, vector_stores, agents, agent_access_groups, models,
    search_tools, skills)
select object_permission_id, coalesce(mcp_servers, '{}'), coalesce(mcp_access_groups, '{}'),
    coalesce(mcp_tool_permissions, '{}'), coalesce(mcp_toolsets, '{}'), mcp_tool_search_enabled,
    coalesce(blocked_tools, '{}'), coalesce(vector_stores, '{}'), coalesce(agents, '{}'),
    coalesce(agent_access_groups, '{}'), coalesce(models, '{}'), coalesce(search_tools, '{}'),
    coalesce(skills, '{}')
from jsonb_populate_record(null::object_permission, $1::jsonb)
"""

REFUSALS: Mapping[str, tuple[str, str]] = {
    "virtual_key_alias": ("key_alias", "is in use by another key"),
    "virtual_key_pkey": ("key", "exists already"),
    "virtual_key_budget_id_fkey": ("budget_id", "names no budget"),
    "virtual_key_end_user_budget_id_fkey": ("end_user_budget_id", "names no budget"),
}


async def lock_aliases(connection: Connection) -> None:
    """To be called by a transaction that gives an alias to a key, before it locks any key.

    One that waits for another's alias may hold what that one waits for; so they come in turn.
    """
    await connection.execute(_LOCK_ALIASES)


async def insert_key(connection: Connection, columns: Mapping[str, Any]) -> KeyRow:
    """Adds a key and answers its row. `columns` holds every settable column, `token`, `key_name`,
    `metadata` and who made it."""
    with refusing(REFUSALS):
        row = await connection.fetchrow(_INSERT, _encode(columns))
    assert row is not None
    return read_row(row)


async def update_key(
    connection: Connection,
    token: str,
    columns: Mapping[str, Any],
    metadata: Mapping[str, Any],
    actor: str,
) -> bool:
    """Sets the named columns; `metadata` is merged over the stored or the newly set object.

    Whether there is such a key. The row stays locked until the transaction ends.
    """
    with refusing(REFUSALS):
        found = await connection.fetchval(
            _UPDATE, token, _encode(columns), _encode(metadata), actor
        )
    return found is not None


async def delete_keys(
    connection: Connection, tokens: Sequence[str], actor: str, api_key: str, changed_by: str | None
) -> list[str]:
    """Moves keys to the archive and answers the tokens of those that there were."""
    rows = await connection.fetch(_DELETE, list(tokens), actor, api_key, changed_by)
    return [row["token"] for row in rows]


async def find_key(connection: Connection, token: str, *, lock: bool = False) -> KeyRow | None:
    """A live key; `lock` keeps others from changing it until the transaction ends."""
    row = await connection.fetchrow(_FIND_LOCKED if lock else _FIND, token)
    return None if row is None else read_row(row)


async def find_keys(
    connection: Connection, tokens: Iterable[str], *, lock: bool = False
) -> list[KeyRow]:
    """Those of some keys that live, in order of their tokens."""
    query = _FIND_MANY_LOCKED if lock else _FIND_MANY
    return [read_row(row) for row in await connection.fetch(query, sorted(set(tokens)))]


async def find_successor(connection: Connection, token: str) -> str | None:
    """The key that a rotated one works as, while its grace period runs."""
    successor: str | None = await connection.fetchval(_SUCCESSOR, token)
    return successor


async def was_rotated(connection: Connection, token: str) -> bool:
    """Whether a token is or was one of a key that was rotated."""
    found: bool = await connection.fetchval(_WAS_ROTATED, token)
    return found


async def find_deleted_key(connection: Connection, token: str) -> KeyRow | None:
    """The last archived row of a key, with `spend` as it was when the key went."""
    row = await connection.fetchrow(_FIND_DELETED, token)
    return None if row is None else read_row(row)


async def tokens_by_alias(connection: Connection, aliases: Sequence[str]) -> list[str]:
    """The live keys of some aliases."""
    return [row["token"] for row in await connection.fetch(_TOKENS_BY_ALIAS, list(aliases))]


async def key_spends(
    connection: Connection, windows: Iterable[tuple[str, int]]
) -> dict[str, Decimal]:
    """USD spent per `origin` in one budget window each (seconds since the epoch, 0 for lifetime).

    One that has spent nothing is absent.
    """
    pairs = list(windows)
    origins, starts = [origin for origin, _ in pairs], [start for _, start in pairs]
    rows = await connection.fetch(_SPENDS, origins, starts)
    return {row["id"]: row["spend"] for row in rows}


async def lock_key_spend(connection: Connection, origin: str, window_start_s: int) -> Decimal:
    """What a window's counter says; nothing is added to it until the transaction ends."""
    rows = await connection.fetch(_LOCK_SPEND, origin, window_start_s)
    return sum((row["spend"] for row in rows), Decimal(0))


async def set_key_spend(
    connection: Connection, origin: str, window_start_s: int, spend: Decimal
) -> None:
    """Makes the counter of a window say that much."""
    await connection.execute(_SET_SPEND, origin, window_start_s, spend)


async def insert_object_permission(connection: Connection, columns: Mapping[str, Any]) -> None:
    """Adds a row of what a key may reach besides models."""
    with refusing(REFUSALS):
        await connection.execute(_INSERT_PERMISSION, _encode(columns))


def _encode(columns: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(columns)


def read_row(record: asyncpg.Record) -> KeyRow:
    """A record of `LIVE_KEYS` or `DELETED_KEYS`."""
    row = dict(record)
    for name in _JSON_COLUMNS:
        value = row.get(name)
        if value is not None:
            row[name] = msgspec.json.decode(value)
    return row
