"""Transactions that only read, for the spend pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.db.pool import Store
from shared.db.rows import Connection

# A plan that serves any parameters serves none: a day or a year, one owner or all of them. Sorts
# and sums of a page fit into memory.
_SETTINGS = """
select set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('work_mem', '64MB', true)
"""


@asynccontextmanager
async def reading(store: Store) -> AsyncIterator[Connection]:
    """A connection that sees the database as of one instant."""
    async with (
        store.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(_SETTINGS)
        yield connection
