"""What a process asks of the shared counters, and what it is granted (0004_leases.sql).

Amounts are whole numbers for requests, tokens and slots, and USD for money. The fields are those
of the SQL types `lease_item` and `lease_grant`, which say what each means.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from attrs import frozen

from shared.db.rows import Queryable

RATE, SLOTS, MONEY = 0, 1, 2
_CLEAR = "select lease_clear($1::boolean)"
_ZERO = Decimal(0)


@frozen
class LeaseItem:
    """One scope and dimension of an ask, summed over all requests that wait for it."""

    kind: int
    scope: str
    dimension: str
    limit: Decimal
    least: Decimal = _ZERO
    need: Decimal = _ZERO
    ample: Decimal = _ZERO
    scarce: Decimal = _ZERO
    have: Decimal = _ZERO
    give_back: Decimal = _ZERO
    owed: Decimal = _ZERO
    stated: Decimal = _ZERO
    outstanding: Decimal = _ZERO
    window_id: int = 0
    length_ms: int = 0
    ahead: bool = False
    lease: int = 0


@frozen
class LeaseGrant:
    """What one item got. `starts_ms` and `ends_ms` count from the database's now."""

    granted: Decimal
    used: Decimal
    reserved: Decimal
    remaining: Decimal
    window_id: int
    starts_ms: float
    ends_ms: float


@frozen
class LeaseAsk:
    """All that one process asks at a time. `seq` grows with each ask of an owner.

    `live` is the number of processes that serve LLM traffic. A `money_ttl_s` of `None` keeps the
    money of dead owners until somebody releases it.
    """

    instance: str
    boot: int
    seq: int
    live: int
    slot_ttl_s: float
    money_ttl_s: float | None
    items: Sequence[LeaseItem]


_DECODER = msgspec.json.Decoder(tuple[LeaseGrant, ...])


def lease_arguments(ask: LeaseAsk) -> tuple[str, int, int, int, int, int | None, bytes]:
    """The arguments of `lease_take`, in order."""
    money_ttl_ms = None if ask.money_ttl_s is None else int(ask.money_ttl_s * 1000)
    return (
        ask.instance,
        ask.boot,
        ask.seq,
        ask.live,
        int(ask.slot_ttl_s * 1000),
        money_ttl_ms,
        msgspec.json.encode(ask.items),
    )


def lease_grants(answer: bytes) -> tuple[LeaseGrant, ...]:
    """The answer of `lease_take`, one grant per item, in order."""
    return _DECODER.decode(answer)


async def clear_leases(link: Queryable, *, keep_dead: bool) -> int:
    """Removes windows and holds that have ended; how many. `keep_dead` spares the money that dead
    owners held."""
    return int(await link.fetchval(_CLEAR, keep_dead))
