"""Lists of internal users: filters, order and pages."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from shared.db.key_list import UI_SESSION_TEAM
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.users import SELECT_USERS, read_user


@frozen(kw_only=True)
class UserFilter:
    """Which users a list shows; `None` does not narrow.

    `user_email`, `user_id_part` and `search` need only be part of the value, in any case.
    `organization_ids` and `within_teams` are of any of which the user is a member; with
    `within_teams`, members of `within_organizations` count too, and `or_user` in any case.
    """

    role: str | None = None
    user_ids: tuple[str, ...] | None = None
    sso_user_ids: tuple[str, ...] | None = None
    user_email: str | None = None
    user_id_part: str | None = None
    search: str | None = None
    team: str | None = None
    organization_ids: tuple[str, ...] | None = None
    within_teams: tuple[str, ...] | None = None
    within_organizations: tuple[str, ...] = ()
    or_user: str | None = None


_WHERE = """
where ($1::text is null or coalesce(u.user_role, 'internal_user') = $1)
  and ($2::text[] is null or u.user_id = any($2))
  and ($3::text[] is null or u.sso_user_id = any($3))
  and ($4::text is null or strpos(lower(u.user_email), lower($4)) > 0)
  and ($5::text is null or strpos(lower(u.user_id), lower($5)) > 0)
  and ($6::text is null or strpos(lower(u.user_id), lower($6)) > 0
       or strpos(lower(u.user_email), lower($6)) > 0
       or strpos(lower(u.user_alias), lower($6)) > 0)
  and ($7::text is null or exists (
       select from team_member m where m.user_id = u.user_id and m.team_id = $7))
  and ($8::text[] is null or exists (
       select from organization_member m
       where m.user_id = u.user_id and m.organization_id = any($8)))
  and ($9::text[] is null or u.user_id = $11
       or exists (select from team_member m where m.user_id = u.user_id and m.team_id = any($9))
       or exists (select from organization_member m
                  where m.user_id = u.user_id and m.organization_id = any($10)))
"""
_LIFETIME = """(
    select sum(c.spend) from spend_counter c
    where c.kind = 'user' and c.id = u.user_id and c.window_start_s = 0)"""
SORTABLE: Mapping[str, str] = MappingProxyType(
    {
        name: f"u.{name}"
        for name in (
            "user_id",
            "user_email",
            "user_alias",
            "user_role",
            "max_budget",
            "created_at",
            "updated_at",
        )
    }
    | {"spend": f"coalesce({_LIFETIME}, 0)"}
)
"""What lists can be sorted by, and the expression that does it."""

_KEY_COUNTS = """
select user_id, count(*) as keys from virtual_key
where user_id = any($1::text[]) and team_id is distinct from $2
group by user_id
"""


async def list_users(
    connection: Connection,
    chosen: UserFilter,
    *,
    sort_by: str,
    descending: bool,
    limit: int,
    offset: int,
) -> tuple[list[Row], int]:
    """A page of users, and how many there are on all pages. `sort_by` is one of `SORTABLE`."""
    args = _filter_args(chosen)
    total = await connection.fetchval(
        f"select count(*) from app_user u {_WHERE}",  # noqa: S608 - only constants of this module
        *args,
    )
    direction = "desc" if descending else "asc"
    rows = await connection.fetch(
        f"{SELECT_USERS} {_WHERE} order by {SORTABLE[sort_by]} {direction} nulls last, u.user_id "
        "limit $12 offset $13",
        *args,
        limit,
        offset,
    )
    return [read_user(row) for row in rows], int(total)


async def key_counts(connection: Connection, user_ids: list[str]) -> dict[str, int]:
    """How many keys users have, browser sessions apart; a user without any is absent."""
    rows = await connection.fetch(_KEY_COUNTS, user_ids, UI_SESSION_TEAM)
    return {row["user_id"]: int(row["keys"]) for row in rows}


def _filter_args(chosen: UserFilter) -> tuple[Any, ...]:
    return (
        chosen.role,
        chosen.user_ids,
        chosen.sso_user_ids,
        chosen.user_email,
        chosen.user_id_part,
        chosen.search,
        chosen.team,
        chosen.organization_ids,
        chosen.within_teams,
        chosen.within_organizations,
        chosen.or_user,
    )
