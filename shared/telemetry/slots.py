"""A process's metric values: 64-bit integers in a file that is mapped into memory.

A process owns two files in `<state directory>/metrics`, `<name>.slots` (a page of header, then
the integers) and `<name>.labels` (one JSON line per label set: metric, fingerprint, label values,
first slot). It holds a lock (flock) on the first one for as long as it lives; whoever finds a
file without a lock may fold it away (`slot_directory`).

Only one thread, the event loop's, may write values: `slots[i] += n` is not atomic. Files must be
opened after a fork, never before it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from pathlib import Path

import msgspec

from shared.telemetry.catalogue import CATALOGUE, LABEL_OVERFLOW, Metric

HEADER_BYTES = mmap.PAGESIZE
SLOT_BYTES = 8
MAGIC = b"MERIDIAN-SLOTS-1"
OTHER = "other"
LONGEST_LABEL = 200

_CHUNK_BYTES = 64 * 1024


class SlotFile:
    """The files of this process. Create it under the lock of its `SlotDirectory`.

    `values` is the memory itself; indexes into it come from `series`. A metric has at most `cap`
    label sets; further ones share the set whose values are all `other`. Where the disk has no
    room, values go to a scratch area that is never read, so that serving goes on.
    """

    __slots__ = (
        "_cap",
        "_counts",
        "_fd",
        "_index",
        "_labels_fd",
        "_map",
        "_next",
        "_overflow",
        "_written",
        "name",
        "values",
    )

    def __init__(self, folder: Path, cap: int = 1000) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._cap = cap
        self._index: dict[tuple[str, tuple[str, ...]], int] = {}
        self._counts: dict[str, int] = {}
        self._overflow: set[str] = set()
        scratch = max(metric.width for metric in CATALOGUE)
        room = scratch + sum(metric.width * (cap + 1) for metric in CATALOGUE)
        size = HEADER_BYTES + room * SLOT_BYTES
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._fd = os.open(folder / f"{self.name}.slots", flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        labels = folder / f"{self.name}.labels"
        self._labels_fd = os.open(labels, flags | os.O_APPEND, 0o600)
        # The rest of the file is a hole. Touching a hole on a full disk kills the process, so
        # chunks are written before they are used.
        os.ftruncate(self._fd, size)
        self._written = 0
        self._reserve(HEADER_BYTES + scratch * SLOT_BYTES)
        os.pwrite(self._fd, MAGIC, 0)
        self._map = mmap.mmap(self._fd, size)
        self.values = memoryview(self._map)[HEADER_BYTES:].cast("q")
        self._next = scratch

    def series(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """The first slot of a label set, made at its first use."""
        key = (metric.name, labels)
        slot = self._index.get(key)
        if slot is not None:
            return slot
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, got {labels}")
        known = self._counts.get(metric.name, 0)
        if known >= self._cap and metric.labels:
            return self._other(metric)
        self._counts[metric.name] = known + 1
        slot = self._index[key] = self._allocate(metric, labels)
        return slot

    def close(self) -> None:
        """Let go of the memory and the lock; the files stay, for others to fold."""
        self.values.release()
        self._map.close()
        os.close(self._labels_fd)
        os.close(self._fd)

    def _other(self, metric: Metric) -> int:
        """The shared label set; not indexed by the refused labels, which are without bound."""
        if metric is not LABEL_OVERFLOW:
            self.values[self.series(LABEL_OVERFLOW, (metric.name,))] += 1
        key = (metric.name, (OTHER,) * len(metric.labels))
        if key not in self._index:
            self._index[key] = self._allocate(metric, key[1])
        return self._index[key]

    def _allocate(self, metric: Metric, labels: tuple[str, ...]) -> int:
        slot = self._next
        end = slot + metric.width
        values = [label[:LONGEST_LABEL] for label in labels]
        # The line feed comes first, so that a line cut short by a full disk spoils no other.
        line = b"\n" + msgspec.json.encode([metric.name, metric.fingerprint, values, slot])
        try:
            self._reserve(HEADER_BYTES + end * SLOT_BYTES)
            if os.write(self._labels_fd, line) < len(line):
                return 0
        except OSError:
            return 0
        self._next = end
        return slot

    def _reserve(self, size: int) -> None:
        """Make sure that so many bytes of the file have room on the disk."""
        while self._written < size:
            os.pwrite(self._fd, bytes(_CHUNK_BYTES), self._written)
            self._written += _CHUNK_BYTES
