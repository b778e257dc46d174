"""Batches of ledger rows: read from a journal's files, sent to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

import structlog
from attrs import define, frozen

from shared.db import ledger
from shared.db.rows import Queryable
from shared.spend.records import Joiner, Row
from shared.spend.segments import Segment, SegmentReader

BATCH_ROWS = 1000

_BATCH_BYTES = 4 * 1024 * 1024
_log = structlog.get_logger(__name__)


class CursorMoved(Exception):
    """The database's cursor is not where this batch starts: read the cursors and start anew."""


@frozen
class Batch:
    """Rows of one segment whose closes end in (`start`, `end`], in order."""

    segment: int
    start: int
    end: int
    rows: tuple[Row, ...]

    def body(self) -> bytes:
        """The rows as a JSON array."""
        return b"[" + b",".join([row.body for row in self.rows]) + b"]"

    def pieces(self, size: int) -> Iterator[Batch]:
        """The same stretch in batches of at most `size` rows."""
        start = self.start
        for first in range(0, len(self.rows), size):
            rows = self.rows[first : first + size]
            end = rows[-1].end if first + size < len(self.rows) else self.end
            yield Batch(self.segment, start, end, rows)
            start = end


@define
class FlushStats:
    """What posting has done so far; `failures` are those in a row, 0 when the store answers."""

    rows: int = 0
    known: int = 0
    batches: int = 0
    rejected: int = 0
    resyncs: int = 0
    failures: int = 0
    torn: int = 0
    orphans: int = 0


class BatchReader:
    """Reads a journal's segments from the first on and makes batches of what is past the cursors.

    `segments` answers with those that exist now. For one task; gives way to others while reading.
    """

    def __init__(
        self,
        segments: Callable[[], list[Segment]],
        cursors: Mapping[int, int],
        stats: FlushStats,
    ) -> None:
        self._segments = segments
        self._posted = dict(cursors)
        self._joiner = Joiner(cursors)
        self._stats = stats
        self._segment: Segment | None = None
        self._file: SegmentReader | None = None
        self._position = 0
        self._done = False
        self.at_end = False
        """Whether the last batch held all that had been written when it was read."""

    async def next_batch(self, limit: int = BATCH_ROWS) -> Batch | None:
        """The next rows, at most `limit`; `None` when all that is written has been read."""
        rows: list[Row] = []
        size = 0
        self.at_end = False
        while self._segment is not None or self._advance():
            segment = self._segment
            assert segment is not None
            found = self._read(segment, limit - len(rows))
            rows += found
            size += sum(len(row.body) for row in found)
            if len(rows) >= limit or size >= _BATCH_BYTES:
                break
            if self._done or self._position >= segment.end:
                self.at_end = not self._later(segment)
                if rows or not self._advance():
                    break
            else:
                await asyncio.sleep(0)
        self._stats.orphans += self._joiner.orphans
        self._joiner.orphans = 0
        if not rows or self._segment is None:
            return None
        number = self._segment.number
        return Batch(number, self._posted.get(number, 0), rows[-1].end, tuple(rows))

    def posted(self, batch: Batch) -> None:
        """Everything up to the batch's end has been taken by the database."""
        self._posted[batch.segment] = batch.end

    def settle(self) -> None:
        """Notes on the segments what has been read; to be called when every batch was posted."""
        if self._segment is not None:
            self._segment.settled = self._position

    def oldest_needed(self) -> int:
        """The lowest segment that a crash right now would need, given that all is posted."""
        reading = self._segment.number if self._segment is not None else 0
        oldest = self._joiner.oldest_segment()
        return reading if oldest is None else min(oldest, reading)

    def interrupted(self) -> tuple[Row, ...]:
        """Rows of the calls that never ended; only for a dead journal that was read to its end."""
        return tuple(self._joiner.interrupted())

    def close(self) -> None:
        """Releases the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, segment: Segment, limit: int) -> list[Row]:
        """The rows of the next few frames."""
        assert self._file is not None
        rows: list[Row] = []
        if self._done or self._position >= segment.end:
            return rows
        chunk = self._file.read(self._position, segment.end)
        for frame in chunk.frames:
            row = self._joiner.feed(segment.number, frame)
            self._position = frame.end
            if row is not None:
                rows.append(row)
                if len(rows) >= limit:
                    return rows
        self._done = chunk.torn or not chunk.frames
        if chunk.torn:
            self._stats.torn += 1
            _log.error("journal.torn", path=str(segment.path), position=self._position)
        return rows

    def _later(self, last: Segment | None) -> list[Segment]:
        return [s for s in self._segments() if last is None or s.number > last.number]

    def _advance(self) -> bool:
        """Goes on to the next segment, if there is one."""
        last = self._segment
        following = self._later(last)
        if not following:
            return False
        self.close()
        if last is not None:
            last.settled = last.end
        self._segment = following[0]
        self._file = SegmentReader(self._segment.path)
        self._position = 0
        self._done = False
        return True


class Poster:
    """Sends batches of one journal to the database; the cursor there decides what is new."""

    def __init__(
        self,
        link: Queryable,
        journal: UUID,
        instance: str,
        boot: int,
        stats: FlushStats,
        *,
        owner_dead: bool = False,
    ) -> None:
        self._link = link
        self._journal = journal
        self._instance = instance
        self._boot = boot
        self._stats = stats
        self._owner_dead = owner_dead

    async def post(self, batch: Batch) -> None:
        """Posts the batch; rows that the database refuses are set aside.

        Raises `StoreUnavailable`, after which a part may have been posted, and `CursorMoved`.
        """
        try:
            answer = await ledger.apply(self._link, self._stretch(batch), batch.body())
        except ledger.RowsRefused as refusal:
            if len(batch.rows) > 1:
                for half in batch.pieces((len(batch.rows) + 1) // 2):
                    await self.post(half)
            else:
                await self._set_aside(batch, refusal)
            return
        self._check(answer, batch)
        self._stats.batches += 1
        self._stats.rows += answer.inserted
        if answer.applied:
            self._stats.known += len(batch.rows) - answer.inserted

    async def _set_aside(self, batch: Batch, refusal: ledger.RowsRefused) -> None:
        payload = batch.rows[0].body
        answer = await ledger.reject(self._link, self._stretch(batch), payload, refusal)
        self._check(answer, batch)
        self._stats.rejected += 1
        _log.critical(
            "ledger.row_rejected",
            journal=str(self._journal),
            segment=batch.segment,
            position=batch.end,
            sqlstate=refusal.sqlstate,
            help="see the table ledger_rejected",
        )

    def _check(self, answer: ledger.Applied, batch: Batch) -> None:
        # Standing at the end already: this very batch was taken and its answer lost.
        if not answer.applied and answer.stored != batch.end:
            raise CursorMoved

    def _stretch(self, batch: Batch) -> ledger.Stretch:
        return ledger.Stretch(
            journal=self._journal,
            segment=batch.segment,
            start=batch.start,
            end=batch.end,
            instance=self._instance,
            boot=self._boot,
            owner_dead=self._owner_dead,
        )
