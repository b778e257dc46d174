"""Recovers the journals of processes that died: any live one with the same state directory does.

What was closed is posted from where the dead process's cursor stands. What was opened and never
closed becomes one `interrupted` row each, at its estimated cost. Then what the owner held of
budgets is given back and the journal goes. A crash at any point is made good by the next adopter:
cursors refuse what was posted, and nothing is removed before the last row is in.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import UUID

import msgspec
import structlog

from shared.db import ledger
from shared.db.rows import Queryable
from shared.domain.errors import StoreUnavailable
from shared.spend.batches import BATCH_ROWS, Batch, BatchReader, CursorMoved, FlushStats, Poster
from shared.spend.records import FORMAT, JournalHeader, decode_header
from shared.spend.segments import (
    HEADER,
    JournalLock,
    Segment,
    SegmentReader,
    found_segments,
    is_blank,
    journal_directories,
    sweep,
)

INTERVAL_S = 10.0

_INTERRUPTED = -1
_REMAINS_S = 3600.0
_log = structlog.get_logger(__name__)


class Adopter:
    """The one task that looks for dead journals under `root`. Give `run` to a supervisor.

    `own` is left alone, and so are journals made for another `store` or by a later release.
    `stats` sums up what adopting has posted, `adopted` and `interrupted` count journals and calls.
    """

    def __init__(
        self,
        root: Path,
        link: Queryable,
        *,
        own: UUID | None = None,
        store: str = "",
        interval_s: float = INTERVAL_S,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self.stats = FlushStats()
        self.adopted = 0
        self.interrupted = 0
        self.failures = 0
        self._root = root
        self._link = link
        self._own = own
        self._store = store
        self._interval_s = interval_s
        self._batch_rows = batch_rows
        self._foreign: set[UUID] = set()

    async def run(self) -> None:
        """Looks now and every `interval_s` until cancelled."""
        while True:
            try:
                await self.adopt_all()
            except StoreUnavailable:
                self.failures += 1
            except Exception:  # noqa: BLE001 - supervisor: one bad directory may not end adopting
                self.failures += 1
                _log.exception("journal.adoption_failed")
            await asyncio.sleep(self._interval_s)

    async def adopt_all(self) -> int:
        """Adopts every journal whose owner is dead; returns how many.

        Raises `StoreUnavailable` and leaves the rest for the next time.
        """
        adopted = 0
        for journal, directory in journal_directories(self._root):
            if journal == self._own or journal in self._foreign:
                continue
            lock = JournalLock.take(directory)
            if lock is not None:
                adopted += await self._adopt(journal, lock)
        for journal in await asyncio.to_thread(sweep, self._root, time.time() - _REMAINS_S):
            await ledger.forget(self._link, journal)
        return adopted

    async def _adopt(self, journal: UUID, lock: JournalLock) -> int:
        try:
            segments = found_segments(lock.directory)
            header = _header(segments)
            if header is None:
                if not all(is_blank(segment) for segment in segments):
                    raise OSError("no header can be read")
            elif not self._ours(header):
                self._foreign.add(journal)
                lock.release()
                return 0
            else:
                await self._post(journal, header, segments)
                await ledger.release_holds(self._link, header.instance, header.boot)
        except (OSError, CursorMoved) as error:
            lock.release()
            self.failures += 1
            _log.error("journal.not_adopted", journal=str(journal), error=str(error))
            return 0
        except BaseException:
            lock.release()
            raise
        await asyncio.to_thread(lock.remove)
        self.adopted += 1
        await ledger.forget(self._link, journal)
        return 1

    def _ours(self, header: JournalHeader) -> bool:
        if header.format <= FORMAT and header.store == self._store:
            return True
        _log.warning(
            "journal.not_ours",
            journal=str(header.journal),
            format=header.format,
            same_store=header.store == self._store,
        )
        return False

    async def _post(self, journal: UUID, header: JournalHeader, segments: list[Segment]) -> None:
        cursors = await ledger.cursors(self._link, journal)
        torn, rows_before = self.stats.torn, self.stats.rows
        poster = Poster(
            self._link, journal, header.instance, header.boot, self.stats, owner_dead=True
        )
        reader = BatchReader(lambda: segments, cursors, self.stats)
        try:
            while (batch := await reader.next_batch(self._batch_rows)) is not None:
                await poster.post(batch)
                reader.posted(batch)
        finally:
            reader.close()
        interrupted = reader.interrupted()
        done = cursors.get(_INTERRUPTED, 0)
        # In this pseudo segment positions count rows.
        whole = Batch(_INTERRUPTED, done, len(interrupted), interrupted[done:])
        for piece in whole.pieces(self._batch_rows):
            await poster.post(piece)
        self.interrupted += max(0, len(interrupted) - done)
        _log.info(
            "journal.adopted",
            journal=str(journal),
            instance=header.instance,
            boot=header.boot,
            rows=self.stats.rows - rows_before,
            interrupted=len(interrupted),
            torn=self.stats.torn - torn,
        )


def _header(segments: list[Segment]) -> JournalHeader | None:
    """The owner as the first readable header names it; `None` when nothing was ever recorded."""
    for segment in segments:
        reader = SegmentReader(segment.path)
        try:
            frames = reader.read(0, segment.size).frames
        finally:
            reader.close()
        if frames and frames[0].kind == HEADER:
            try:
                return decode_header(frames[0].payload)
            except msgspec.ValidationError:
                continue
    return None
