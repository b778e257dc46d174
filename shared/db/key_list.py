"""Lists of virtual keys, live or archived: filters, order and pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import frozen

from shared.db.key_admin import DELETED_KEYS, LIVE_KEYS, KeyRow, read_row
from shared.db.rows import Connection

UI_SESSION_TEAM = "litellm-dashboard"
"""The team of browser sessions' keys, which lists never show."""


@frozen(kw_only=True)
class KeyFilter:
    """Which keys a list shows; `None` and `False` do not narrow.

    With `substring`, `user_id` and `key_alias` need only be part of the value. `owned_by` widens
    a filter by user to keys it created (`with_created`) and keys of teams it administers
    (`with_team_keys`). `now` decides what has expired.
    """

    now: datetime
    deleted: bool = False
    blocked: bool | None = None
    expired: bool | None = None
    user_id: str | None = None
    team_id: str | None = None
    organization_id: str | None = None
    project_id: str | None = None
    agent_id: str | None = None
    access_group_id: str | None = None
    token: str | None = None
    key_alias: str | None = None
    search: str | None = None
    substring: bool = False
    with_created: bool = False
    with_team_keys: bool = False


_WHERE = """
where k.team_id is distinct from $1
  and ($2::boolean is null or coalesce(k.blocked, false) = $2)
  and ($3::boolean is null or coalesce(k.expires <= $4, false) = $3)
  and ($5::text is null
       or case when $6 then strpos(lower(k.user_id), lower($5)) > 0 else k.user_id = $5 end
       or $7 and k.created_by = $5
       or $8 and k.team_id in (
           select m.team_id from team_member m where m.user_id = $5 and m.role = 'admin'))
  and ($9::text is null or k.team_id = $9)
  and ($10::text is null or k.organization_id = $10)
  and ($11::text is null or k.project_id = $11)
  and ($12::text is null or k.agent_id = $12)
  and ($13::text is null or $13 = any(k.access_group_ids))
  and ($14::text is null or k.token = $14)
  and ($15::text is null
       or case when $6 then strpos(lower(k.key_alias), lower($15)) > 0 else k.key_alias = $15 end)
  and ($16::text is null or strpos(lower(k.key_alias), lower($16)) > 0 or k.token = $16
       or k.key_name = $16 or strpos(lower(k.user_id), lower($16)) > 0
       or strpos(lower(k.team_id), lower($16)) > 0)
"""
_TABLES = {False: "virtual_key", True: "deleted_virtual_key"}
_LIFETIME = """(
    select sum(c.spend) from spend_counter c
    where c.kind = 'key' and c.id = k.token and c.window_start_s = 0)"""
SORTABLE: Mapping[str, str] = {
    name: f"k.{name}"
    for name in (
        "token",
        "key_name",
        "key_alias",
        "user_id",
        "team_id",
        "organization_id",
        "expires",
        "max_budget",
        "rpm_limit",
        "tpm_limit",
        "budget_duration",
        "created_at",
        "updated_at",
    )
} | {"spend": f"coalesce({_LIFETIME}, 0)"}
"""What lists can be sorted by, and the expression that does it."""


async def list_keys(
    connection: Connection,
    chosen: KeyFilter,
    *,
    sort_by: str,
    descending: bool,
    limit: int,
    offset: int,
) -> tuple[list[KeyRow], int]:
    """A page of keys, and how many there are on all pages. `sort_by` is one of `SORTABLE`."""
    args = _filter_args(chosen)
    table = _TABLES[chosen.deleted]
    total = await connection.fetchval(
        f"select count(*) from {table} k {_WHERE}",  # noqa: S608 - only constants of this module
        *args,
    )
    direction = "desc" if descending else "asc"
    rows = await connection.fetch(
        f"{DELETED_KEYS if chosen.deleted else LIVE_KEYS} {_WHERE} "
        f"order by {SORTABLE[sort_by]} {direction} nulls last, k.token limit $17 offset $18",
        *args,
        limit,
        offset,
    )
    return [read_row(row) for row in rows], int(total)


def _filter_args(chosen: KeyFilter) -> tuple[Any, ...]:
    return (
        UI_SESSION_TEAM,
        chosen.blocked,
        chosen.expired,
        chosen.now,
        chosen.user_id,
        chosen.substring,
        chosen.with_created,
        chosen.with_team_keys,
        chosen.team_id,
        chosen.organization_id,
        chosen.project_id,
        chosen.agent_id,
        chosen.access_group_id,
        chosen.token,
        chosen.key_alias,
        chosen.search,
    )
