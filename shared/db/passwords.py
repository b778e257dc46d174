"""Hashes of users' passwords, and the browser sessions that end when one changes.

A session is a virtual key of the team `litellm-dashboard`; `ui_session.session_id` is its token.
"""

from __future__ import annotations

from attrs import frozen

from shared.db.key_admin import delete_keys
from shared.db.key_list import UI_SESSION_TEAM
from shared.db.rows import Connection, Queryable

_FIND = "select password_hash from app_user where user_id = $1"
_SET = """
update app_user
set password_hash = $2, updated_at = clock_timestamp(), updated_by = $1 where user_id = $1
"""
_REPLACE = f"{_SET} and password_hash = $3 returning user_id"
_SESSION_KEYS = """
select token from virtual_key
where user_id = $1 and team_id = $2 and token is distinct from $3 order by token
"""
_REVOKE = """
update ui_session set revoked_at = clock_timestamp()
where session_id = any($1::text[]) and revoked_at is null
"""
_REVOKE_ALL = """
update ui_session set revoked_at = clock_timestamp()
where user_id = $1 and session_id is distinct from $2 and revoked_at is null
"""


@frozen
class StoredPassword:
    """What is stored of a user's password; `None` where it has none yet."""

    hash: str | None


async def find_password(store: Queryable, user_id: str) -> StoredPassword | None:
    """What is stored of the password of a user; `None` without such a user."""
    row = await store.fetchrow(_FIND, user_id)
    return None if row is None else StoredPassword(row["password_hash"])


async def set_password(connection: Connection, user_id: str, stored: str) -> None:
    """Gives a user a password."""
    await connection.execute(_SET, user_id, stored)


async def replace_password(connection: Connection, user_id: str, old: str, stored: str) -> bool:
    """Gives a user another password in place of one; whether it was still that one."""
    return await connection.fetchval(_REPLACE, user_id, stored, old) is not None


async def end_session(connection: Connection, token: str, user_id: str | None) -> None:
    """Ends one session; its key goes to the archive."""
    await connection.execute(_REVOKE, [token])
    await delete_keys(connection, [token], user_id or token, token, None)


async def end_sessions(connection: Connection, user_id: str, *, but: str | None = None) -> None:
    """Ends the sessions of a user whose password is new, all but one."""
    rows = await connection.fetch(_SESSION_KEYS, user_id, UI_SESSION_TEAM, but)
    await connection.execute(_REVOKE_ALL, user_id, but)
    await delete_keys(connection, [row["token"] for row in rows], user_id, but or "", None)
