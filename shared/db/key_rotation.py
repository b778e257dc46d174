"""Rotating virtual keys: a new token for a key that stays what it is.

Counters and limits are kept under the key's first token (`key_origin`), so nothing of them moves:
calls that began under an older token are added to the same counters whenever they are posted.
"""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from shared.db.key_admin import REFUSALS, STORED, KeyRow, find_key, qualified
from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest

# Groups before keys, the order in which changes of a group lock them.
_RENAME_IN_GROUPS = """
update access_group set assigned_key_ids = array_replace(assigned_key_ids, $1, $2)
where $1 = any(assigned_key_ids)
"""
_ARCHIVE = f"""
insert into deleted_virtual_key (
    {STORED}, reason, spend, last_active, deleted_by, deleted_by_api_key, litellm_changed_by)
select {qualified(STORED, "k")}, 'rotated', coalesce(s.spend, 0), a.last_active, $3, $4, $5
from virtual_key k
left join key_activity a on a.token = k.token
left join lateral (
    select sum(c.spend) as spend from spend_counter c
    where c.kind = 'key' and c.id = $2 and c.window_start_s = 0
) s on true
where k.token = $1
"""  # noqa: S608 - only constants of that module
# Calls of a key that is gone may yet be posted, and must not count for another one.
_WAS_USED = """
select exists (select from key_origin where token = $1 or origin = $1)
    or exists (select from deleted_virtual_key where token = $1)
"""
_NAME_ORIGIN = """
insert into key_origin (token, origin) select $1, $2 where $1 <> $2 on conflict do nothing
"""
_END_GRACE = "delete from deprecated_virtual_key where token = $1"
# What was deprecated for the old token follows by the foreign key.
_RENAME = """
update virtual_key set token = $2, key_name = $3, rotation_count = rotation_count + 1,
    last_rotation_at = clock_timestamp(), key_rotation_at = $4,
    updated_at = clock_timestamp(), updated_by = $5
where token = $1
"""
_COPY_ACTIVITY = """
insert into key_activity as a (token, last_active)
select $2, o.last_active from key_activity o where o.token = $1
on conflict (token) do update set last_active = greatest(a.last_active, excluded.last_active)
"""
_DEPRECATE = """
insert into deprecated_virtual_key as d (token, active_token, revoke_at) values ($1, $2, $3)
on conflict (token) do update
    set active_token = excluded.active_token, revoke_at = excluded.revoke_at
"""
_DUE = """
select token from virtual_key
where auto_rotate and rotation_interval is not null
  and (key_rotation_at is null or key_rotation_at <= clock_timestamp())
order by key_rotation_at nulls first limit $1 for update skip locked
"""


@frozen(kw_only=True)
class Rotation:
    """What a key is to become: `token` and `key_name` are the new ones.

    The old token works as the new one until `revoke_at`, if that is set. `next_at` is when the key
    is to be rotated again. The rest says who does it.
    """

    token: str
    key_name: str | None
    revoke_at: datetime | None
    next_at: datetime | None
    actor: str
    api_key: str | None = None
    changed_by: str | None = None


async def rename_in_groups(connection: Connection, old: str, new: str) -> None:
    """Puts the new token into the access groups that name the old one; the first step."""
    await connection.execute(_RENAME_IN_GROUPS, old, new)


async def rotate_key(connection: Connection, row: KeyRow, rotation: Rotation) -> KeyRow:
    """Gives a key, whose row is locked, another token, archives the old row, and answers the new
    one. Raises `InvalidRequest` for a token that is or was another key's."""
    old, new, origin = row["token"], rotation.token, row["origin"]
    if new == old or (new != origin and await connection.fetchval(_WAS_USED, new)):
        raise InvalidRequest("new_key was used before", param="new_key", type="bad_request_error")
    await connection.execute(
        _ARCHIVE, old, origin, rotation.actor, rotation.api_key, rotation.changed_by
    )
    await connection.execute(_NAME_ORIGIN, new, origin)
    await connection.execute(_END_GRACE, new)
    with refusing({**REFUSALS, "virtual_key_pkey": ("new_key", "exists already")}):
        await connection.execute(
            _RENAME, old, new, rotation.key_name, rotation.next_at, rotation.actor
        )
    await connection.execute(_COPY_ACTIVITY, old, new)
    if rotation.revoke_at is not None:
        await connection.execute(_DEPRECATE, old, new, rotation.revoke_at)
    after = await find_key(connection, new)
    assert after is not None, "the transaction has just written it"
    return after


async def due_tokens(connection: Connection, limit: int) -> list[str]:
    """Keys that are to be rotated now, locked until the transaction ends; those that another
    transaction holds are left out."""
    return [row["token"] for row in await connection.fetch(_DUE, limit)]
