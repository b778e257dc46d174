"""Lists of virtual keys, live or archived: filters, order and pages.

Statements hold only the conditions that a list asks for, so that each is planned for itself.
"""

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
class KeyScope:
    """The keys that a list is confined to: any of a user's, one by its token, those of teams and
    organizations, and those that somebody made."""

    user_id: str | None = None
    token: str | None = None
    team_ids: tuple[str, ...] = ()
    organization_ids: tuple[str, ...] = ()
    created_by: str | None = None


@frozen(kw_only=True)
class KeyFilter:
    """Which keys a list shows; `None` and `False` do not narrow.

    With `substring`, `user_id` and `key_alias` need only be part of the value. A filter by user is
    widened to keys it created (`with_created`) and keys of teams it administers
    (`with_team_keys`). `now` decides what has expired. `scope` is what the asker may see.
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
    scope: KeyScope | None = None


_USABLE = """
select token from virtual_key
where team_id = $1 and not coalesce(blocked, false) and (expires is null or expires > $2)
order by token limit $3
"""
# Counting a million rows takes longer than a page.
_ALL = """
select (select coalesce(sum(n), 0) from key_tally)
    - (select count(*) from virtual_key where team_id = $1)
"""
_EQUAL = ("team_id", "organization_id", "project_id", "agent_id", "token")
_IS_PART = "strpos(lower(k.{column}), lower({value})) > 0"
_FOUND = """(strpos(lower(k.key_alias), lower({value})) > 0 or k.token = {value}
    or k.key_name = {value} or strpos(lower(k.user_id), lower({value})) > 0
    or strpos(lower(k.team_id), lower({value})) > 0)"""
_OF_TEAMS = """k.team_id in (
    select m.team_id from team_member m where m.user_id = {value} and m.role = 'admin')"""
_SCOPES = {
    "user_id": "k.user_id = {value}",
    "token": "k.token = {value}",
    "team_ids": "k.team_id = any({value}::text[])",
    "organization_ids": "k.organization_id = any({value}::text[])",
    "created_by": "k.created_by = {value}",
}
_TABLES = {False: "virtual_key", True: "deleted_virtual_key"}
_LIFETIME = """(
    select sum(c.spend) from spend_counter c where c.kind = 'key' and c.window_start_s = 0
      and c.id = coalesce((select o.origin from key_origin o where o.token = k.token), k.token))"""
# An order that allows for nulls where there are none would not be that of the index.
_NEVER_NULL = frozenset({"token", "created_at", "updated_at", "spend"})
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
    where = _Where.of(chosen)
    table = _TABLES[chosen.deleted]
    counted = _ALL if where.is_open and not chosen.deleted else _counted(table, where)
    total = await connection.fetchval(counted, *where.args)
    order = f"{SORTABLE[sort_by]} {'desc' if descending else 'asc'}"
    if sort_by not in _NEVER_NULL:
        order += " nulls last"
    page = where.plus(limit, offset)
    # The rows of the pages before are not read, so what is joined to them is not either.
    id_of, whole = ("deletion_id", DELETED_KEYS) if chosen.deleted else ("token", LIVE_KEYS)
    order += ", k.token"
    ids = f"select k.{id_of} from {table} k {where.text} order by {order}"  # noqa: S608 - only constants of this module
    rows = await connection.fetch(
        f"with page as materialized ({ids} limit {page[0]} offset {page[1]}) "
        f"{whole} join page on page.{id_of} = k.{id_of} order by {order}",
        *where.args,
    )
    return [read_row(row) for row in rows], int(total)


async def list_aliases(
    connection: Connection, chosen: KeyFilter, *, limit: int, offset: int
) -> tuple[list[str], int]:
    """A page of the aliases of keys in alphabetical order, and how many there are."""
    where = _Where.of(chosen)
    source = f"from {_TABLES[chosen.deleted]} k {where.text} and k.key_alias is not null"
    total = await connection.fetchval(f"select count(*) {source}", *where.args)
    page = where.plus(limit, offset)
    rows = await connection.fetch(
        f"select k.key_alias {source} order by k.key_alias limit {page[0]} offset {page[1]}",
        *where.args,
    )
    return [row["key_alias"] for row in rows], int(total)


async def usable_tokens(
    connection: Connection, team_id: str, now: datetime, limit: int
) -> list[str]:
    """Keys of a team that are neither blocked nor expired, at most that many."""
    return [row["token"] for row in await connection.fetch(_USABLE, team_id, now, limit)]


def _counted(table: str, where: _Where) -> str:
    return f"select count(*) from {table} k {where.text}"  # noqa: S608 - only constants of this module


class _Where:
    """Conditions over the alias `k`, with the values of their parameters."""

    def __init__(self) -> None:
        self.args: list[Any] = []
        self._conditions: list[str] = []

    @property
    def text(self) -> str:
        """The clause."""
        return f"where {' and '.join(self._conditions)}"

    @property
    def is_open(self) -> bool:
        """Whether nothing is left out but the keys that no list shows."""
        return len(self._conditions) == 1

    def plus(self, *values: Any) -> list[str]:
        """Further parameters; how the statement names them."""
        first = len(self.args) + 1
        self.args += values
        return [f"${place}" for place in range(first, first + len(values))]

    def add(self, template: str, value: Any, **more: str) -> None:
        """One more condition on a value."""
        self._conditions.append(template.format(value=self.plus(value)[0], **more))

    @classmethod
    def of(cls, chosen: KeyFilter) -> _Where:
        """What a filter comes to."""
        where = cls()
        where.add("k.team_id is distinct from {value}", UI_SESSION_TEAM)
        if chosen.blocked is not None:
            where.add("coalesce(k.blocked, false) = {value}", chosen.blocked)
        if chosen.expired is not None:
            sign = "" if chosen.expired else "not "
            where.add(f"{sign}coalesce(k.expires <= {{value}}, false)", chosen.now)
        for name in _EQUAL:
            value = getattr(chosen, name)
            if value is not None:
                where.add("k.{column} = {value}", value, column=name)
        if chosen.access_group_id is not None:
            where.add("{value} = any(k.access_group_ids)", chosen.access_group_id)
        matches = _IS_PART if chosen.substring else "k.{column} = {value}"
        if chosen.key_alias is not None:
            where.add(matches, chosen.key_alias, column="key_alias")
        if chosen.search is not None:
            where.add(_FOUND, chosen.search)
        if chosen.user_id is not None:
            wider = [matches]
            wider += ["k.created_by = {value}"] if chosen.with_created else []
            wider += [_OF_TEAMS] if chosen.with_team_keys else []
            where.add(f"({' or '.join(wider)})", chosen.user_id, column="user_id")
        if chosen.scope is not None:
            where.confine(chosen.scope)
        return where

    def confine(self, scope: KeyScope) -> None:
        """Leaves what a scope holds."""
        parts = [
            template.format(value=self.plus(value)[0])
            for name, template in _SCOPES.items()
            if (value := getattr(scope, name))
        ]
        self._conditions.append(f"({' or '.join(parts)})" if parts else "false")
