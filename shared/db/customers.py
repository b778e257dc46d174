"""End users: the registered ones with their rules, and those that only traffic has shown.

Traffic writes no rows here (see migration 0001); whom it has shown stands in the counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

CUSTOMERS = Table(
    name="end_user",
    key=("end_user_id",),
    json=frozenset({"metadata"}),
    refusals=MappingProxyType(
        {
            "end_user_pkey": ("user_id", "exists already"),
            "end_user_budget_id_fkey": ("budget_id", "names no budget"),
        }
    ),
    signed=False,
)

_LOCK = """
select * from end_user where end_user_id = any($1::text[]) order by end_user_id for update
"""
_BLOCK = """
insert into end_user (end_user_id, blocked)
select distinct id, true from unnest($1::text[]) as n(id) order by id
on conflict (end_user_id) do update set blocked = true, updated_at = clock_timestamp()
returning *
"""
_UNBLOCK = """
update end_user set blocked = false, updated_at = clock_timestamp()
where end_user_id = any($1::text[])
returning *
"""
_DELETE = "delete from end_user where end_user_id = any($1::text[])"
_SEEN = """
select exists (
    select from spend_counter where kind = 'end_user' and id = $1 and window_start_s = 0)
"""
# Each side gives no more than the page can need, in the order of an index.
_PAGE = """
with registered as (
    select end_user_id as id from end_user
    where $1::text is null or strpos(lower(end_user_id), lower($1)) > 0
       or strpos(lower(alias), lower($1)) > 0
    order by end_user_id collate "C" limit $2
), seen as (
    select id from spend_counter
    where kind = 'end_user' and window_start_s = 0
      and ($1 is null or strpos(lower(id), lower($1)) > 0)
    group by id order by id limit $2
), listed as (
    select id collate "C" as id from registered union select id from seen
    order by 1 limit $3 offset $4
)
select l.id as listed_id, u.* from listed l left join end_user u on u.end_user_id = l.id
order by l.id
"""


def unregistered(customer_id: str) -> Row:
    """The row that a customer whom only traffic has shown would have."""
    return {
        "end_user_id": customer_id,
        "alias": None,
        "blocked": False,
        "budget_id": None,
        "default_model": None,
        "allowed_model_region": None,
        "models": [],
        "object_permission_id": None,
    }


async def is_seen(connection: Connection, customer_id: str) -> bool:
    """Whether traffic has shown a customer."""
    return bool(await connection.fetchval(_SEEN, customer_id))


async def page_of_customers(
    connection: Connection, search: str | None, limit: int, offset: int
) -> list[Row]:
    """A page of customers by id, registered or not. `search` is part of an id or alias."""
    records = await connection.fetch(_PAGE, search, limit + offset, limit, offset)
    rows = []
    for record in records:
        row = CUSTOMERS.read(record)
        listed = row.pop("listed_id")
        rows.append(row if row["end_user_id"] is not None else unregistered(listed))
    return rows


async def lock_customers(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
    """Registered customers by id, kept from changing until the transaction ends."""
    with refusing(CUSTOMERS.refusals):
        rows = await connection.fetch(_LOCK, list(ids))
    return {row["end_user_id"]: CUSTOMERS.read(row) for row in rows}


async def block_customers(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
    """Blocks customers, registering those that are not."""
    with refusing(CUSTOMERS.refusals):
        rows = await connection.fetch(_BLOCK, list(ids))
    return {row["end_user_id"]: CUSTOMERS.read(row) for row in rows}


async def unblock_customers(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
    """Lifts the block of registered customers."""
    rows = await connection.fetch(_UNBLOCK, list(ids))
    return {row["end_user_id"]: CUSTOMERS.read(row) for row in rows}


async def delete_customers(connection: Connection, ids: Sequence[str]) -> None:
    """Takes registered customers away; what they have spent stays counted."""
    await connection.execute(_DELETE, list(ids))
