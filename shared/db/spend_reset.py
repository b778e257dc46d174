"""Setting what keys and teams have spent back to nothing.

The calls and the roll-ups stay. What processes hold of budgets stays too: it is granted and not
spent, and the ledger takes it off as it is. A call that is posted later counts as spent later.
"""

from __future__ import annotations

from decimal import Decimal

from attrs import frozen

from shared.db.rows import Connection

# Locked in the order in which the ledger locks counters, so that neither waits for ever.
_ZERO = """
with spent as materialized (
    select kind, id, window_start_s, shard, spend from spend_counter
    where kind = any($1::text[]) and spend <> 0
    order by kind, id, window_start_s, shard for update
)
update spend_counter c set spend = 0
from spent s
where c.kind = s.kind and c.id = s.id and c.window_start_s = s.window_start_s
  and c.shard = s.shard
returning s.kind, s.id, s.window_start_s, s.spend
"""


@frozen
class Reset:
    """How many owners had spent something, and how much in their whole life."""

    owners: int
    spend: Decimal


async def reset_spend(connection: Connection, *kinds: str) -> dict[str, Reset]:
    """Zeroes the counters of every owner of some kinds, of the lifetime and of every window."""
    zeroed = await connection.fetch(_ZERO, kinds)
    found = {}
    for kind in kinds:
        rows = [row for row in zeroed if row["kind"] == kind]
        lifetime = (row["spend"] for row in rows if row["window_start_s"] == 0)
        found[kind] = Reset(len({row["id"] for row in rows}), sum(lifetime, Decimal(0)))
    return found
