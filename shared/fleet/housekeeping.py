"""What the database needs done now and then; any process may do it, any number at once. What one
admin at a time does is in `jobs`."""

from __future__ import annotations

import asyncio
import random

import structlog

from shared.db.feed import trim
from shared.db.leases import clear_leases
from shared.db.ledger import ensure_partitions
from shared.db.rows import Queryable
from shared.db.upkeep import forget_instances
from shared.domain.errors import StoreUnavailable

_EVERY_S = 3600.0
_AGAIN_S = 10.0

_log = structlog.get_logger(__name__)


async def keep_house(link: Queryable, *, keep_dead_money: bool) -> None:
    """Makes ledger partitions ahead, trims the change feed, clears leases that have ended and rows
    of instances long gone, until cancelled. `keep_dead_money`: what a dead process held stays
    until somebody decides."""
    while True:
        pause_s = _EVERY_S * random.uniform(0.5, 1.0)  # noqa: S311 - spreads processes
        try:
            made = await ensure_partitions(link)
            trimmed = await trim(link)
            await clear_leases(link, keep_dead=keep_dead_money)
            await forget_instances(link)
            _log.debug("housekeeping", partitions_made=made, changes_trimmed=trimmed)
        except StoreUnavailable:
            pause_s = _AGAIN_S
        except Exception:  # noqa: BLE001 - supervisor: partitions must go on being made
            _log.exception("housekeeping_failed")
            pause_s = _AGAIN_S
        await asyncio.sleep(pause_s)
