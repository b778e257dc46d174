"""Budgets: rows of limits that keys, members, organizations, customers, tags, projects and model
access groups link to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

BUDGETS = Table(
    name="budget",
    key=("budget_id",),
    json=frozenset({"model_max_budget"}),
    refusals=MappingProxyType(
        {
            "budget_pkey": ("budget_id", "exists already"),
            "budget_money": ("A budget", "must be an amount from 0 to 9999999999"),
            "budget_rates": ("A rate limit", "must not be below 0"),
        }
    ),
)

SORTABLE: Mapping[str, str] = MappingProxyType(
    {
        name: f"b.{name}"
        for name in (
            "budget_id",
            "max_budget",
            "soft_budget",
            "budget_duration",
            "rpm_limit",
            "tpm_limit",
            "created_at",
            "created_by",
            "updated_at",
        )
    }
)
"""What pages can be sorted by, and the expression that does it."""

_ALL = "select * from budget order by budget_id"
_FIND = "select * from budget where budget_id = any($1::text[]) order by budget_id"
_MATCHES = """
where $1::text is null or strpos(lower(b.budget_id), lower($1)) > 0
   or strpos(lower(b.created_by), lower($1)) > 0
"""
_COUNT = f"select count(*) from budget b {_MATCHES}"  # noqa: S608 - only constants of this module
_PAGE = f"select b.* from budget b {_MATCHES}"  # noqa: S608 - only constants of this module

# The columns that link to a budget, in the order in which rows are locked: that of the removal of
# organizations and teams. The primary keys say it within a table.
_LINKS = (
    ("organization", "budget_id", "organization_id"),
    ("organization_member", "budget_id", "organization_id, user_id"),
    ("virtual_key", "budget_id", "token"),
    ("virtual_key", "end_user_budget_id", "token"),
    ("team_member", "budget_id", "team_id, user_id"),
    ("end_user", "budget_id", "end_user_id"),
    ("tag", "budget_id", "name"),
    ("project", "budget_id", "project_id"),
    ("model_access_group", "budget_id", "access_group"),
)
_LOCKS = tuple(
    f"select from {table} where {column} = $1 order by {key} for update"
    for table, column, key in _LINKS
)
_TWO_LINKS = " union all ".join(
    f"(select from {table} where {column} = $1 limit 2)" for table, column, _ in _LINKS
)


async def find_budgets(connection: Connection, budget_ids: Iterable[str]) -> dict[str, Row]:
    """The budgets of some ids, by id; those that there are."""
    wanted = sorted(set(budget_ids))
    if not wanted:
        return {}
    rows = await connection.fetch(_FIND, wanted)
    return {row["budget_id"]: BUDGETS.read(row) for row in rows}


async def all_budgets(connection: Connection) -> list[Row]:
    """Every budget, by id."""
    return [BUDGETS.read(row) for row in await connection.fetch(_ALL)]


async def page_of_budgets(
    connection: Connection,
    search: str | None,
    order: Sequence[tuple[str, bool]],
    limit: int,
    offset: int,
) -> tuple[list[Row], int]:
    """A page of budgets, and how many there are on all pages.

    `search` is a part of the id or of the maker's name in any case; `order` holds names of
    `SORTABLE` and whether each descends.
    """
    total = await connection.fetchval(_COUNT, search)
    keys = [f"{SORTABLE[name]} {'desc' if down else 'asc'} nulls last" for name, down in order]
    rows = await connection.fetch(
        f"{_PAGE} order by {', '.join([*keys, 'b.budget_id'])} limit $2 offset $3",
        search,
        limit,
        offset,
    )
    return [BUDGETS.read(row) for row in rows], int(total)


async def is_shared(connection: Connection, budget_id: str) -> bool:
    """Whether more than one object links to a budget."""
    return len(await connection.fetch(_TWO_LINKS, budget_id)) > 1


async def delete_budget(connection: Connection, budget_id: str) -> Row | None:
    """Takes a budget away and answers it as it was; what linked to it links to none.

    Whoever changes an object and its budget locks the object first; so does this.
    """
    with refusing(BUDGETS.refusals):
        for lock in _LOCKS:
            await connection.execute(lock, budget_id)
    return await BUDGETS.delete(connection, budget_id)
