"""Posts a journal to the ledger: reads records from the file, joins them, sends them in batches.

Nothing is queued in memory beyond one batch. While the store is away the batch waits, the file
grows, and posting goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping

import structlog

from shared.db import ledger
from shared.db.rows import Queryable
from shared.domain.errors import StoreUnavailable
from shared.spend.batches import (
    BATCH_ROWS,
    Batch,
    BatchReader,
    CursorMoved,
    FlushStats,
    Poster,
)
from shared.spend.journal import Journal

INTERVAL_S = 0.2
RETAIN_S = 900.0
RETAIN_BYTES = 256 * 1024 * 1024

_PIECE_ROWS = 100
_PIECES_AFTER = 3
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 2.0
_IDLE_S = 30.0
_log = structlog.get_logger(__name__)


class Flusher:
    """The one task that posts this process's journal. Give `run` to a supervisor.

    A close is posted at most `interval_s` later, sooner when `batch_rows` have come together.
    Posted segments are kept `retain_s` and up to `retain_bytes`, to be offered again when a
    database comes back without its last transactions. `posted` is set while nothing waits.
    """

    def __init__(
        self,
        journal: Journal,
        link: Queryable,
        *,
        interval_s: float = INTERVAL_S,
        batch_rows: int = BATCH_ROWS,
        retain_s: float = RETAIN_S,
        retain_bytes: int = RETAIN_BYTES,
    ) -> None:
        self.stats = FlushStats()
        self.posted = asyncio.Event()
        self.posted.set()
        self._journal = journal
        self._link = link
        self._interval_s = interval_s
        self._batch_rows = batch_rows
        self._retain_s = retain_s
        self._retain_bytes = min(retain_bytes, journal.max_bytes // 2)
        self._poster = Poster(link, journal.id, journal.instance, journal.boot, self.stats)
        self._reader = self._new_reader({})
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._hurry = False
        self._waiting_since_s: float | None = None
        self._must_resync = False
        journal.notify_at = batch_rows
        journal.notify = self._notified
        if journal.unread:
            self._notified()

    @property
    def oldest_unposted_s(self) -> float:
        """Seconds that the oldest unposted close has waited; 0 when none does."""
        if self._waiting_since_s is None:
            return 0.0
        return self._journal.clock.mono() - self._waiting_since_s

    def resync(self) -> None:
        """Offers again what the database does not have; to be called after a failover."""
        self._must_resync = True
        self._wake.set()
        self._full.set()

    async def drain(self, timeout_s: float) -> bool:
        """Posts without delay from now on; whether all closes were posted in time."""
        self._hurry = True
        self._full.set()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.posted.wait(), timeout_s)
        return self.posted.is_set()

    async def retire(self) -> bool:
        """Ends the journal once `run` is over and nothing is opened or closed any more.

        It is removed when everything in it was posted, else left to an adopter; answers which.
        """
        journal = self._journal
        clean = self.posted.is_set() and not journal.open_calls
        await asyncio.to_thread(journal.shutdown, remove=clean)
        if clean:
            with contextlib.suppress(StoreUnavailable):
                await ledger.forget(self._link, journal.id)
        return clean

    async def run(self) -> None:
        """Posts until cancelled."""
        try:
            while True:
                try:
                    await self._turn()
                except (StoreUnavailable, CursorMoved):
                    self._must_resync = True
                    await self._pause()
                except Exception:  # noqa: BLE001 - supervisor: no fault of a batch may end posting
                    _log.exception("ledger.flush_failed", journal=str(self._journal.id))
                    self._must_resync = True
                    await self._pause()
        finally:
            self._reader.close()

    async def _turn(self) -> None:
        if not self._must_resync:
            await self._wait()
        if self._must_resync:
            await self._resync()
        self._full.clear()
        since_s = self._waiting_since_s
        self._journal.take_unread()
        while (batch := await self._reader.next_batch(self._batch_rows)) is not None:
            at_end = self._reader.at_end
            await self._deliver(batch)
            self._reader.posted(batch)
            if at_end:
                # What came meanwhile waits until it is worth a batch of its own.
                break
        self._reader.settle()
        if not self._journal.unread:
            self._waiting_since_s = None
            self.posted.set()
        elif self._waiting_since_s == since_s:
            self._waiting_since_s = self._journal.clock.mono()
        await self._free()

    async def _wait(self) -> None:
        """Until there is something to post, and then until it is worth a batch or in a hurry."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _IDLE_S)
        self._wake.clear()
        if not self._hurry and self._journal.unread:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._interval_s)

    async def _deliver(self, batch: Batch) -> None:
        """Posts one batch however long it takes; `CursorMoved` when it was not the next one."""
        while True:
            try:
                if self.stats.failures < _PIECES_AFTER:
                    await self._poster.post(batch)
                else:
                    # Perhaps it was too much for the time allowed.
                    for piece in batch.pieces(_PIECE_ROWS):
                        await self._poster.post(piece)
            except StoreUnavailable:
                await self._pause()
            else:
                self.stats.failures = 0
                return

    async def _pause(self) -> None:
        self.stats.failures += 1
        if self.stats.failures == 1:
            _log.warning("ledger.unreachable", bytes_pending=self._journal.bytes_pending)
        delay_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** min(self.stats.failures, 10))
        await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spreads the fleet

    async def _resync(self) -> None:
        """Starts reading anew from the first segment kept, past what the database has."""
        cursors = await ledger.cursors(self._link, self._journal.id)
        self._reader.close()
        self._reader = self._new_reader(cursors)
        self._must_resync = False
        self.stats.resyncs += 1
        self.stats.failures = 0

    async def _free(self) -> None:
        """Gives back posted segments that are old enough or too many."""
        keep_from = self._reader.oldest_needed()
        freed = -1
        for segment in tuple(self._journal.segments):
            if segment.number >= keep_from or segment.sealed_s is None:
                break
            aged = self._journal.clock.mono() - segment.sealed_s >= self._retain_s
            if not aged and self._journal.bytes_allocated <= self._retain_bytes:
                break
            self._journal.free(segment)
            freed = segment.number
        if freed >= 0:
            await ledger.forget(self._link, self._journal.id, freed)

    def _notified(self) -> None:
        self.posted.clear()
        if self._waiting_since_s is None:
            self._waiting_since_s = self._journal.clock.mono()
        self._wake.set()
        if self._journal.unread >= self._batch_rows:
            self._full.set()

    def _new_reader(self, cursors: Mapping[int, int]) -> BatchReader:
        return BatchReader(lambda: self._journal.segments, cursors, self.stats)
