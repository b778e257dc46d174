"""Internal users: whole rows, as the management API shows and changes them.

Rows are plain mappings: money is `Decimal`, times are aware UTC, JSON is decoded. Beside the
columns stand `teams` (ids), `organization_memberships` and `object_permission` (its row). The
hash of the password is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import asyncpg
import msgspec

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

_TABLE = Table(
    name="app_user",
    key=("user_id",),
    json=frozenset(
        {
            "aliases",
            "permissions",
            "metadata",
            "budget_limits",
            "model_max_budget",
            "organization_memberships",
            "object_permission",
        }
    ),
    refusals=MappingProxyType(
        {
            "app_user_pkey": ("user_id", "is in use by another user"),
            "app_user_email": ("user_email", "is in use by another user"),
            "app_user_sso_user_id_key": ("sso_user_id", "is in use by another user"),
        }
    ),
)
UNIQUE = frozenset({"user_id", "user_email", "sso_user_id"})
"""What no two users share; the refusal of a second one names the field."""

SELECT_USERS = """
select u.user_id, u.user_email, u.user_alias, u.user_role, u.sso_user_id, u.models, u.aliases,
    u.permissions, u.metadata, u.max_budget, u.soft_budget, u.budget_duration, u.budget_limits,
    u.model_max_budget, u.rpm_limit, u.tpm_limit, u.tpd_limit, u.max_parallel_requests,
    u.allowed_cache_controls, u.object_permission_id, u.created_at, u.created_by, u.updated_at,
    u.updated_by,
    array(
        select m.team_id from team_member m where m.user_id = u.user_id
        order by m.created_at, m.team_id) as teams,
    (select jsonb_agg(jsonb_build_object(
        'user_id', m.user_id, 'organization_id', m.organization_id, 'user_role', m.user_role,
        'budget_id', m.budget_id, 'created_at', m.created_at, 'updated_at', m.updated_at)
        order by m.created_at, m.organization_id)
     from organization_member m where m.user_id = u.user_id) as organization_memberships,
    (select to_jsonb(p) from object_permission p
     where p.object_permission_id = u.object_permission_id) as object_permission
from app_user u
"""
_FIND = f"{SELECT_USERS} where u.user_id = any($1::text[]) order by u.user_id"
_ALL = f"{SELECT_USERS} order by u.user_id"
_LOCK = " for update of u"
_IDS_BY_EMAIL = """
select e.email as given, u.user_id
from unnest($1::text[]) as e(email) join app_user u on lower(u.user_email) = lower(e.email)
"""
_IS_NAMED = """
select exists (select from virtual_key where user_id = $1)
    or exists (select from team_member where user_id = $1)
    or exists (select from organization_member where user_id = $1)
    or exists (select from deleted_virtual_key where user_id = $1)
    or exists (select from spend_counter where kind = 'user' and id = $1)
"""
_KEYS = """
select token from virtual_key where user_id = any($1::text[]) order by token for update
"""
_END_SESSIONS = """
update ui_session set revoked_at = clock_timestamp()
where user_id = any($1::text[]) and revoked_at is null
"""
_DELETE = "delete from app_user where user_id = any($1::text[])"
_DELETE_PERMISSIONS = "delete from object_permission where object_permission_id = any($1::text[])"
_COUNTS = "select (select count(*) from app_user) as users, (select count(*) from team) as teams"


async def insert_user(connection: Connection, columns: Mapping[str, Any]) -> None:
    """Adds a user."""
    await _TABLE.insert(connection, columns)


async def find_users(
    connection: Connection, user_ids: Iterable[str], *, lock: bool = False
) -> dict[str, Row]:
    """The users of some ids, by id; those that there are. `lock` keeps others from changing them
    until the transaction ends."""
    query = _FIND + _LOCK if lock else _FIND
    with refusing({}):
        return _by_id(await connection.fetch(query, list(user_ids)))


async def find_user(connection: Connection, user_id: str, *, lock: bool = False) -> Row | None:
    """One user."""
    return (await find_users(connection, [user_id], lock=lock)).get(user_id)


async def lock_all_users(connection: Connection) -> dict[str, Row]:
    """Every user, by id; nobody else changes one of them until the transaction ends."""
    with refusing({}):
        return _by_id(await connection.fetch(_ALL + _LOCK))


async def ids_by_email(connection: Connection, emails: Iterable[str]) -> dict[str, str]:
    """The users of some addresses, by the address as it is given; case, as the database knows it,
    does not tell addresses apart."""
    rows = await connection.fetch(_IDS_BY_EMAIL, list(emails))
    return {row["given"]: row["user_id"] for row in rows}


async def update_users(
    connection: Connection,
    user_ids: Sequence[str],
    columns: Mapping[str, Any],
    metadata: Mapping[str, Any],
    actor: str,
) -> None:
    """Sets the named columns of some users to the same values; `metadata` is merged over the
    stored or the newly set object."""
    assigned = [f"{name} = n.{name}" for name in columns if name != "metadata"]
    base = "n.metadata" if "metadata" in columns else "t.metadata"
    assigned += [f"metadata = {base} || $2::jsonb", "updated_by = $3"]
    with refusing(_TABLE.refusals):
        await connection.execute(
            f"update app_user t set {', '.join(assigned)}, "  # noqa: S608 - columns of our tables
            "updated_at = clock_timestamp() "
            "from jsonb_populate_record(null::app_user, $1::jsonb) n "
            "where t.user_id = any($4::text[])",
            msgspec.json.encode(columns),
            msgspec.json.encode(metadata),
            actor,
            list(user_ids),
        )


async def is_named(connection: Connection, user_id: str) -> bool:
    """Whether keys, teams, organizations or calls name or named a user of that id, who need not
    exist."""
    named: bool = await connection.fetchval(_IS_NAMED, user_id)
    return named


async def keys_of_users(connection: Connection, user_ids: Sequence[str]) -> list[str]:
    """The tokens of users' keys; nobody else changes these keys until the transaction ends."""
    with refusing({}):
        return [row["token"] for row in await connection.fetch(_KEYS, list(user_ids))]


async def delete_users(connection: Connection, rows: Iterable[Row]) -> None:
    """Takes users away, with their invitations and what they may reach besides models, and ends
    their browser sessions."""
    gone = list(rows)
    ids = [row["user_id"] for row in gone]
    permissions = [row["object_permission_id"] for row in gone if row["object_permission_id"]]
    with refusing({}):
        await connection.execute(_END_SESSIONS, ids)
        await connection.execute(_DELETE, ids)
    await delete_permissions(connection, permissions)


async def delete_permissions(connection: Connection, permission_ids: Sequence[str]) -> None:
    """Takes away what users might reach besides models."""
    if permission_ids:
        await connection.execute(_DELETE_PERMISSIONS, list(permission_ids))


async def count_users(connection: Connection) -> tuple[int, int]:
    """How many users and teams there are."""
    row = await connection.fetchrow(_COUNTS)
    assert row is not None
    return int(row["users"]), int(row["teams"])


def read_user(record: asyncpg.Record) -> Row:
    """A record of `SELECT_USERS`, with or without columns of others beside."""
    return _TABLE.read(record)


def _by_id(records: Iterable[asyncpg.Record]) -> dict[str, Row]:
    return {record["user_id"]: read_user(record) for record in records}
