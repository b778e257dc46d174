"""Invitations to set a password. The plain id is the secret of a link and is stored nowhere: `id`
holds its hash (see `stored_id`). All times are the database's."""

from __future__ import annotations

import hashlib
from datetime import datetime
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection, Queryable
from shared.db.table import Row, Table

INVITATIONS = Table(
    name="invitation",
    key=("id",),
    refusals=MappingProxyType({"invitation_user_id_fkey": ("user_id", "names no user")}),
)

_OPEN = """
select i.*, u.user_email from invitation i join app_user u using (user_id)
where i.id = $1 and not i.is_accepted and i.expires_at > clock_timestamp()
"""
# Whoever comes second waits for the first, and then finds the row accepted.
_CLAIM = """
update invitation set is_accepted = true, accepted_at = clock_timestamp(),
    updated_at = clock_timestamp(), updated_by = $2
where id = $1 and user_id = $2 and not is_accepted and expires_at > clock_timestamp()
returning id
"""
_DROP_OTHERS = "delete from invitation where user_id = $1 and not is_accepted and id <> $2"


def stored_id(plain: str) -> str:
    """The stored form of an invitation's id."""
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


async def open_invitation(store: Queryable, plain: str) -> Row | None:
    """An invitation that can still be claimed, with the `user_email` of its user."""
    row = await store.fetchrow(_OPEN, stored_id(plain))
    return None if row is None else INVITATIONS.read(row)


async def claim_invitation(connection: Connection, plain: str, user_id: str) -> bool:
    """Uses an invitation up, once; other open ones of the user go. Whether it could be claimed."""
    with refusing({}):
        if await connection.fetchval(_CLAIM, stored_id(plain), user_id) is None:
            return False
        await connection.execute(_DROP_OTHERS, user_id, stored_id(plain))
        return True


async def insert_invitation(
    connection: Connection, plain: str, user_id: str, expires_at: datetime, actor: str
) -> Row:
    """Adds an invitation of a user."""
    return await INVITATIONS.insert(
        connection,
        {
            "id": stored_id(plain),
            "user_id": user_id,
            "expires_at": expires_at,
            "created_by": actor,
            "updated_by": actor,
        },
    )
