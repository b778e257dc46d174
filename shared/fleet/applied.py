"""The admin's side of the feed: announcing changes, and waiting until they are in force."""

from __future__ import annotations

import asyncio
import time

import structlog
from attrs import frozen

from shared.db.feed import notify, want_ack
from shared.db.instances import confirmations
from shared.db.rows import Queryable
from shared.domain.errors import StoreUnavailable

# Default of MERIDIAN_STALE_LIMIT_S: how long an instance serves cached state without the store.
STALE_LIMIT_S = 900.0

_NOTIFY_SPACING_S = 0.05
_POLL_S = 0.05

_log = structlog.get_logger(__name__)


@frozen
class Applied:
    """How far a change is in force: `unreachable` instances have not confirmed it."""

    applied: int
    unreachable: int
    elapsed_ms: int


class Notifier:
    """Wakes the followers after commits, with at most 20 notifications a second.

    `poke` is a plain call to be made after a commit. A notification that gets lost is made good
    by the followers' polling.
    """

    def __init__(self, store: Queryable) -> None:
        self._store = store
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """Something was committed that followers should see soon."""
        self._poked.set()

    async def run(self) -> None:
        """Sends until cancelled."""
        while True:
            await self._poked.wait()
            self._poked.clear()
            try:
                await notify(self._store)
            except StoreUnavailable:
                _log.warning("feed_notify_failed")
            await asyncio.sleep(_NOTIFY_SPACING_S)


async def wait_applied(
    store: Queryable, version: int, timeout_s: float, *, stale_limit_s: float = STALE_LIMIT_S
) -> Applied:
    """Waits until every live instance has applied a version, `timeout_s` at the longest.

    Instances that vanished without a clean stop are not waited for; they count as unreachable
    until they cannot be serving cached state any more, and so do live ones that took too long.
    """
    started = time.monotonic()
    await want_ack(store, version)
    while True:
        seen = await confirmations(store, version, stale_limit_s)
        elapsed_s = time.monotonic() - started
        if seen.pending == 0 or elapsed_s >= timeout_s:
            return Applied(seen.applied, seen.unreachable + seen.pending, int(elapsed_s * 1000))
        await asyncio.sleep(_POLL_S)
