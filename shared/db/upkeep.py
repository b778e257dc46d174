"""What the background jobs delete and put right. Each call takes a few rows at a time and answers
how many; a caller that got as many as it asked for calls again."""

from __future__ import annotations

from shared.db.key_list import UI_SESSION_TEAM
from shared.db.rows import Connection, Queryable

_UI_KEYS = """
delete from virtual_key where token in (
    select token from virtual_key
    where team_id = $1 and expires < clock_timestamp() order by token limit $2
    for update skip locked)
"""
_EXPIRED_KEYS = """
select token from virtual_key
where expires < clock_timestamp() - make_interval(secs => $1::float8)
  and team_id is distinct from $2
order by expires, token limit $3
"""
_OLD_TOKENS = """
delete from deprecated_virtual_key where token in (
    select token from deprecated_virtual_key
    where revoke_at <= clock_timestamp() order by token limit $1 for update skip locked)
"""
_INVITATIONS = """
delete from invitation where id in (
    select id from invitation
    where expires_at < clock_timestamp() - make_interval(secs => $1::float8)
    order by id limit $2 for update skip locked)
"""
_SESSIONS = """
delete from ui_session where session_id in (
    select session_id from ui_session
    where expires_at < clock_timestamp() - make_interval(secs => $1::float8)
    order by session_id limit $2 for update skip locked)
"""
_DROP_SPEND = """
select spend_log_drop_before(clock_timestamp() - make_interval(secs => $1::float8))
"""
_DROP_STRAYS = """
delete from spend_log_default
where id < spend_log_floor(clock_timestamp() - make_interval(secs => $1::float8))
"""

_FORGET_INSTANCES = """
delete from instance where id in (
    select id from instance
    where last_seen < clock_timestamp() - interval '7 days' order by id
    for update skip locked)
"""


async def drop_ui_keys(connection: Connection, most: int) -> int:
    """Deletes keys of browser sessions that have expired."""
    return _count(await connection.execute(_UI_KEYS, UI_SESSION_TEAM, most))


async def expired_keys(connection: Connection, age_s: float, most: int) -> list[str]:
    """Keys, but for those of browser sessions, that expired at least so long ago."""
    rows = await connection.fetch(_EXPIRED_KEYS, age_s, UI_SESSION_TEAM, most)
    return [row["token"] for row in rows]


async def drop_old_tokens(connection: Connection, most: int) -> int:
    """Deletes hashes of rotated keys whose grace period is over."""
    return _count(await connection.execute(_OLD_TOKENS, most))


async def drop_invitations(connection: Connection, age_s: float, most: int) -> int:
    """Deletes invitations that expired at least so long ago."""
    return _count(await connection.execute(_INVITATIONS, age_s, most))


async def drop_sessions(connection: Connection, age_s: float, most: int) -> int:
    """Deletes browser sessions that expired at least so long ago."""
    return _count(await connection.execute(_SESSIONS, age_s, most))


async def drop_spend(connection: Connection, age_s: float) -> int:
    """Drops the ledger's days that ended at least so long ago, and answers how many there were."""
    dropped = int(await connection.fetchval(_DROP_SPEND, age_s))
    await connection.execute(_DROP_STRAYS, age_s)
    return dropped


async def forget_instances(link: Queryable) -> int:
    """Deletes the rows of instances that nobody has seen for a week. None of them can be serving
    what it knew: the staleness limit is a day at most."""
    return _count(await link.execute(_FORGET_INSTANCES))


def _count(status: str) -> int:
    """The rows of a command's tag, e.g. `DELETE 3`."""
    return int(status.rpartition(" ")[2])
