"""Lists of teams, live or archived: filters, order and pages; and the keys of teams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import frozen

from shared.db.key_admin import LIVE_KEYS, KeyRow, read_row
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.teams import DELETED_TEAMS, LIVE_TEAMS, TEAMS


@frozen(kw_only=True)
class TeamScope:
    """The teams that a caller may see: those of its user and those of some organizations."""

    user_id: str | None
    organization_ids: tuple[str, ...] = ()


@frozen(kw_only=True)
class TeamFilter:
    """Which teams a list shows; `None` and `False` do not narrow.

    `team_alias` and `id_part` need only be part of the value, `search` part of either, in any
    case. `unorganized` are teams without an organization.
    """

    scope: TeamScope | None = None
    deleted: bool = False
    user_id: str | None = None
    organization_id: str | None = None
    unorganized: bool = False
    team_id: str | None = None
    team_alias: str | None = None
    id_part: str | None = None
    search: str | None = None


_IS_MEMBER = {
    False: """exists (
        select from team_member m where m.team_id = t.team_id and m.user_id = {user})""",
    True: "t.members @> jsonb_build_array(jsonb_build_object('user_id', {user}::text))",
}
_WHERE = """
where ($1::text is null or {asked_is_member})
  and ($2::text is null or t.organization_id = $2)
  and (not $3::boolean or t.organization_id is null)
  and ($4::text is null or t.team_id = $4)
  and ($5::text is null or strpos(lower(t.team_alias), lower($5)) > 0)
  and ($6::text is null or strpos(lower(t.team_id), lower($6)) > 0)
  and ($7::text is null or strpos(lower(t.team_id), lower($7)) > 0
       or strpos(lower(t.team_alias), lower($7)) > 0)
  and (not $8::boolean or {scoped_is_member} or t.organization_id = any($10::text[]))
"""
_WHERES: Mapping[bool, str] = MappingProxyType(
    {
        deleted: _WHERE.format(
            asked_is_member=test.format(user="$1"), scoped_is_member=test.format(user="$9")
        )
        for deleted, test in _IS_MEMBER.items()
    }
)
_TABLES: Mapping[bool, str] = MappingProxyType({False: "team", True: "deleted_team"})
_SPEND = """(
    select sum(c.spend) from spend_counter c
    where c.kind = 'team' and c.id = t.team_id and c.window_start_s = 0)"""
SORTABLE: Mapping[str, str] = MappingProxyType(
    {
        name: f"t.{name}"
        for name in (
            "team_id",
            "team_alias",
            "organization_id",
            "max_budget",
            "rpm_limit",
            "tpm_limit",
            "created_at",
            "updated_at",
        )
    }
    | {"spend": f"coalesce({_SPEND}, 0)"}
)
"""What lists can be sorted by, and the expression that does it."""

_KEY_COUNTS = """
select team_id, count(*) as keys from virtual_key where team_id = any($1::text[]) group by team_id
"""
_KEYS = (
    f"{LIVE_KEYS} where k.team_id = any($1::text[]) order by k.created_at desc, k.token limit $2"
)


async def list_teams(
    connection: Connection,
    chosen: TeamFilter,
    *,
    sort_by: str = "created_at",
    descending: bool = True,
    limit: int | None = None,
    offset: int = 0,
) -> list[Row]:
    """A page of teams; without a limit all of them. `sort_by` is one of `SORTABLE`."""
    select = DELETED_TEAMS if chosen.deleted else LIVE_TEAMS
    direction = "desc" if descending else "asc"
    rows = await connection.fetch(
        f"{select} {_WHERES[chosen.deleted]} "
        f"order by {SORTABLE[sort_by]} {direction} nulls last, t.team_id limit $11 offset $12",
        *_filter_args(chosen),
        limit,
        offset,
    )
    return [TEAMS.read(row) for row in rows]


async def count_teams(connection: Connection, chosen: TeamFilter) -> int:
    """How many teams there are on all pages."""
    table = _TABLES[chosen.deleted]
    total = await connection.fetchval(
        f"select count(*) from {table} t {_WHERES[chosen.deleted]}",  # noqa: S608 - only constants of this module
        *_filter_args(chosen),
    )
    return int(total)


async def key_counts(connection: Connection, team_ids: Sequence[str]) -> dict[str, int]:
    """How many live keys teams have; those without any are absent."""
    rows = await connection.fetch(_KEY_COUNTS, list(team_ids))
    return {row["team_id"]: row["keys"] for row in rows}


async def keys_of_teams(
    connection: Connection, team_ids: Sequence[str], limit: int | None = None
) -> list[KeyRow]:
    """The live keys of teams, newest first."""
    return [read_row(row) for row in await connection.fetch(_KEYS, list(team_ids), limit)]


def _filter_args(chosen: TeamFilter) -> tuple[Any, ...]:
    scope = chosen.scope
    return (
        chosen.user_id,
        chosen.organization_id,
        chosen.unorganized,
        chosen.team_id,
        chosen.team_alias,
        chosen.id_part,
        chosen.search,
        scope is not None,
        None if scope is None else scope.user_id,
        [] if scope is None else list(scope.organization_ids),
    )
