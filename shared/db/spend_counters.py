"""What owners have spent, by kind of owner and budget window (see migration 0003)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from shared.db.refusing import refusing
from shared.db.rows import Connection

_SPENDS = """
select c.id, sum(c.spend) as spend
from unnest($2::text[], $3::bigint[]) as w(id, window_start_s)
join spend_counter c
    on c.kind = $1 and c.id = w.id and c.window_start_s = w.window_start_s
group by c.id
"""
_SET = """
insert into spend_counter as c (kind, id, window_start_s, shard, spend)
values ($1, $2, $3, 0, $4)
on conflict (kind, id, window_start_s, shard) do update set spend = excluded.spend
"""


async def read_spends(
    connection: Connection, kind: str, windows: Iterable[tuple[str, int]]
) -> dict[str, Decimal]:
    """USD spent per owner in one window each (its start in seconds since the epoch, 0 for the
    lifetime). An owner that has spent nothing is absent."""
    pairs = list(windows)
    ids, starts = [owner for owner, _ in pairs], [start for _, start in pairs]
    rows = await connection.fetch(_SPENDS, kind, ids, starts)
    return {row["id"]: row["spend"] for row in rows}


async def set_spend(
    connection: Connection, kind: str, owner: str, window_start_s: int, spend: Decimal
) -> None:
    """Makes the counter of a window say that much."""
    with refusing({}):
        await connection.execute(_SET, kind, owner, window_start_s, spend)
