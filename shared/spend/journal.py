"""The journal of one process: every call is in it before its first byte goes upstream.

The file is the queue: in memory are offsets, counters and the ids of open calls. Records are
copied into the mapped file, whose pages survive the process, SIGKILL included; a thread brings
them to the disk every 50 ms, which bounds what a power loss or a crash of the host can take. The
copy neither enters the kernel nor gives up the interpreter lock, as a write would.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import structlog

from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, Overloaded
from shared.domain.ledger import CallClosed, CallOpened
from shared.spend.records import (
    CLOSE_RESERVE,
    JournalHeader,
    encode_close,
    encode_header,
    encode_open,
)
from shared.spend.segments import (
    CLOSED,
    OPENED,
    JournalLock,
    Segment,
    create_segment,
    frame,
)

SEGMENT_BYTES = 8 * 1024 * 1024
MAX_BYTES = 2 * 1024 * 1024 * 1024

_SYNC_EVERY_S = 0.05
_ALLOCATE_AGAIN_S = 1.0
_log = structlog.get_logger(__name__)


class Journal:
    """Appends call records to the segments of one journal, which this process owns.

    `root` is the directory of all journals, `<state directory>/journal`. `open`, `close` and
    what they call belong to one thread, the event loop's. `notify`, when set, is called from
    `close` at the first record since `take_unread` and at number `notify_at`.
    """

    def __init__(
        self,
        root: Path,
        *,
        instance: str,
        boot: int,
        clock: Clock,
        store: str = "",
        segment_size: int = SEGMENT_BYTES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Makes the journal on disk and starts its threads; `ConfigError` when that fails."""
        self.id: UUID = uuid4()
        self.instance = instance
        self.boot = boot
        self.store = store
        self.clock = clock
        self.segment_size = segment_size
        self.max_bytes = max_bytes
        self.notify: Callable[[], None] | None = None
        self.notify_at = 1000
        self.unread = 0
        self.sync_errors = 0
        self.allocation_failures = 0
        self.refused = 0
        self.stray_closes = 0
        self._open_calls: set[int] = set()
        self._spares: deque[Segment] = deque()
        self._sealed: deque[Segment] = deque()
        self._garbage: deque[Segment] = deque()
        self._numbers = 0
        self._dirty = False
        self._stopping = threading.Event()
        self._wake_keeper = threading.Event()
        self._wake_allocator = threading.Event()
        try:
            self._lock = JournalLock.create(root, self.id)
            try:
                self._current = self._new_segment()
            except OSError:
                self._lock.remove()
                raise
        except OSError as error:
            raise ConfigError(
                f"{root}: the journal cannot be made ({error.strerror}); "
                "set MERIDIAN_STATE_DIR to a directory that this process may write to"
            ) from error
        self._segments: list[Segment] = [self._current]
        self._threads = [
            threading.Thread(target=self._keep, name="journal-keep", daemon=True),
            threading.Thread(target=self._allocate, name="journal-allocate", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._wake_allocator.set()

    def open(self, record: CallOpened) -> None:
        """Records that a call goes upstream; again for each further attempt of the same call.

        Raises `Overloaded` when there is no room for it and for the closes of all open calls.
        """
        data = frame(OPENED, encode_open(record))
        key = record.id.int
        calls = len(self._open_calls)
        if key not in self._open_calls:
            calls += 1
        room = self._current.size - self._current.end - len(data)
        if room < (calls + 1) * CLOSE_RESERVE and not self._spares_suffice(len(data), calls):
            raise self._overloaded()
        self._append(data)
        self._open_calls.add(key)

    def close(self, record: CallClosed) -> None:
        """Records how a call ended. Never refused: its room was set aside by `open`."""
        key = record.id.int
        if key not in self._open_calls:
            self.stray_closes += 1
            _log.error("journal.stray_close", call=str(record.id))
            return
        self._append(frame(CLOSED, encode_close(record)))
        self._open_calls.discard(key)
        self.unread += 1
        if self.notify is not None and (self.unread == 1 or self.unread == self.notify_at):
            self.notify()

    def take_unread(self) -> int:
        """How many closes were written since the last time."""
        unread, self.unread = self.unread, 0
        return unread

    @property
    def segments(self) -> list[Segment]:
        """The segments that exist, in order; the last one is written to. Not to be changed."""
        return self._segments

    @property
    def open_calls(self) -> int:
        """Calls that are open."""
        return len(self._open_calls)

    @property
    def bytes_pending(self) -> int:
        """Bytes of records that still need posting, or wait for their call's end."""
        return sum(segment.end - segment.settled for segment in self._segments)

    @property
    def bytes_allocated(self) -> int:
        """Bytes on disk, spare segments included."""
        return self.segment_size * (len(self._segments) + len(self._spares) + len(self._garbage))

    def free(self, segment: Segment) -> None:
        """Gives back a sealed segment that nobody will read again."""
        self._segments.remove(segment)
        self._garbage.append(segment)
        self._wake_keeper.set()

    def shutdown(self, *, remove: bool) -> None:
        """Ends the journal; nothing may be opened or closed any more. Blocks for one disk sync.

        With `remove` its files go, which is right when everything in it has been posted.
        Without, whoever shares the state directory adopts it.
        """
        self._stopping.set()
        self._wake_keeper.set()
        self._wake_allocator.set()
        for thread in self._threads:
            thread.join()
        for segment in (*self._segments, *self._spares, *self._sealed):
            self._finish(segment)
        self._clear_garbage()
        if remove:
            self._lock.remove()
        else:
            self._lock.release()

    def _append(self, data: bytes) -> None:
        segment = self._current
        if len(data) > segment.size - segment.end:
            segment = self._roll()
        assert segment.view is not None
        end = segment.end + len(data)
        segment.view[segment.end : end] = data
        segment.end = end
        if not self._dirty:
            self._dirty = True
            self._wake_keeper.set()

    def _roll(self) -> Segment:
        if not self._spares:
            raise RuntimeError("the room that was set aside for closes is gone")
        sealed, self._current = self._current, self._spares.popleft()
        sealed.sealed_s = self.clock.mono()
        self._segments.append(self._current)
        self._sealed.append(sealed)
        self._wake_allocator.set()
        return self._current

    def _spares_suffice(self, size: int, calls: int) -> bool:
        """Whether a record of `size` and the closes of `calls` fit into all that is at hand."""
        spares = tuple(self._spares)
        room = sum(spare.room for spare in spares) - size
        if size <= self._current.room:
            room += self._current.room
        elif not spares or size > spares[0].room:
            return False
        self._wake_allocator.set()
        # Each segment may end in a gap that was too small for a close.
        return room >= (calls + len(spares) + 1) * CLOSE_RESERVE

    def _overloaded(self) -> Overloaded:
        self.refused += 1
        self._wake_allocator.set()
        return Overloaded(
            "the journal has no room for another call", headers=(("retry-after", "1"),)
        )

    def _note_sync_error(self, error: OSError) -> None:
        self.sync_errors += 1
        if self.sync_errors == 1 or not self.sync_errors % 1000:
            _log.critical("journal.sync_failed", error=str(error), count=self.sync_errors)

    def _new_segment(self) -> Segment:
        header = JournalHeader(self.id, self._numbers, self.instance, self.boot, self.store)
        segment = create_segment(
            self._lock.directory, self._numbers, self.segment_size, encode_header(header)
        )
        self._numbers += 1
        return segment

    def _wants_spare(self) -> bool:
        if self.bytes_allocated + self.segment_size > self.max_bytes:
            return False
        spare_room = sum(spare.room for spare in tuple(self._spares))
        reserved = len(self._open_calls) * CLOSE_RESERVE
        return spare_room < self.segment_size // 2 + reserved

    def _allocate(self) -> None:
        """The thread that keeps spare segments ready."""
        while not self._stopping.is_set():
            self._wake_allocator.wait()
            self._wake_allocator.clear()
            while not self._stopping.is_set() and self._wants_spare():
                try:
                    self._spares.append(self._new_segment())
                except OSError as error:
                    self.allocation_failures += 1
                    _log.error("journal.no_segment", error=str(error))
                    self._stopping.wait(_ALLOCATE_AGAIN_S)

    def _keep(self) -> None:
        """The thread that syncs what was written, closes sealed segments and removes free ones."""
        while not self._stopping.is_set():
            self._wake_keeper.wait()
            self._stopping.wait(_SYNC_EVERY_S)
            self._wake_keeper.clear()
            self._dirty = False
            current = self._current
            while self._sealed:
                self._finish(self._sealed.popleft())
            self._sync(current)
            self._clear_garbage()

    def _clear_garbage(self) -> None:
        while self._garbage:
            try:
                self._garbage[0].path.unlink(missing_ok=True)
            except OSError as error:
                self._note_sync_error(error)
            self._garbage.popleft()
            self._wake_allocator.set()

    def _finish(self, segment: Segment) -> None:
        view = segment.view
        if view is not None:
            self._sync(segment)
            segment.view = None
            view.close()

    def _sync(self, segment: Segment) -> None:
        try:
            if segment.view is not None:
                end = segment.end
                start = segment.synced - segment.synced % mmap.PAGESIZE
                # The whole mapping would be searched for the few pages that were written.
                segment.view.flush(start, end - start)
                segment.synced = end
        except OSError as error:
            self._note_sync_error(error)
