"""Segment files of a journal: how frames lie in them, how they are made, read and locked.

A journal is the directory `<root>/<uuid>/` (0700). In it are `lock`, held by flock for as long as
the owner lives, and segments named by their number (0600), preallocated with zeros.

Frame: payload length (u32), CRC-32 of kind and payload (u32), kind (u8), payload; little-endian.
A length of zero is the end of what was written. A frame that does not check is a torn write; the
rest of its segment is cut off.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from attrs import define, frozen

HEADER = ord("H")
OPENED = ord("O")
CLOSED = ord("C")

_PREFIX = struct.Struct("<IIB")
PREFIX_BYTES = _PREFIX.size
_SEEDS = {kind: zlib.crc32(bytes((kind,))) for kind in (HEADER, OPENED, CLOSED)}
_CHUNK = 64 * 1024
_ZEROS = bytes(1024 * 1024)
_LOCK = "lock"
_NEW = ".new-"
_DONE = ".done-"
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


class Frame(NamedTuple):
    """One record; `end` is the position behind it in its segment."""

    kind: int
    payload: bytes
    end: int


@frozen
class Chunk:
    """Some whole frames in order. `torn` says that the bytes behind them are not a frame."""

    frames: list[Frame]
    torn: bool = False


@define
class Segment:
    """A segment and its state. `end` is where the next frame goes.

    `settled` is how far its calls need no more posting, `synced` how far it is on the disk;
    `sealed_s` is when, on the monotonic clock, the owner went on to the next one. `view` is the
    file in memory, for its writer; `None` once nothing more is written.
    """

    number: int
    path: Path
    size: int
    end: int
    view: mmap.mmap | None = None
    settled: int = 0
    synced: int = 0
    sealed_s: float | None = None

    @property
    def room(self) -> int:
        """Bytes left."""
        return self.size - self.end


def frame(kind: int, payload: bytes) -> bytes:
    """A record as it lies in a segment."""
    return _PREFIX.pack(len(payload), zlib.crc32(payload, _SEEDS[kind]), kind) + payload


def create_segment(directory: Path, number: int, size: int, header: bytes) -> Segment:
    """A preallocated segment with its header record, durable in its directory.

    Blocks; raises `OSError` and leaves nothing behind when the space cannot be had.
    """
    path = directory / str(number)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        _allocate(fd, size)
        first = frame(HEADER, header)
        if os.pwrite(fd, first, 0) != len(first):
            raise OSError(errno.ENOSPC, "the header was cut short", str(path))
        os.fsync(fd)
        _sync_directory(directory)
        view = mmap.mmap(fd, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return Segment(number, path, size, len(first), view, settled=len(first))


def found_segments(directory: Path) -> list[Segment]:
    """The segments that a dead owner left, in order, to be read to where their frames end."""
    names = sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit())
    found = []
    for number in names:
        path = directory / str(number)
        size = path.stat().st_size
        found.append(Segment(number, path, size, size, sealed_s=0.0))
    return found


def is_blank(segment: Segment) -> bool:
    """Whether nothing was ever written to a segment: its making was cut short."""
    with segment.path.open("rb") as file:
        return not any(file.read(PREFIX_BYTES))


class SegmentReader:
    """Reads frames from one segment, also while its owner writes to it."""

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)

    def read(self, position: int, end: int) -> Chunk:
        """The next frames from `position`, none beyond `end`; no frames: there are no more."""
        frames: list[Frame] = []
        want = _CHUNK
        while True:
            data = os.pread(self._fd, min(want, end - position), position)
            missing, torn = _parse(data, position, end, frames)
            if frames or torn or not missing:
                return Chunk(frames, torn)
            want = missing

    def close(self) -> None:
        """Releases the file."""
        os.close(self._fd)


def _parse(data: bytes, base: int, end: int, frames: list[Frame]) -> tuple[int, bool]:
    """Appends the whole frames of `data`; how many bytes the cut one at its end needs, if any."""
    at = 0
    while len(data) - at >= PREFIX_BYTES:
        length, crc, kind = _PREFIX.unpack_from(data, at)
        if not length:
            return 0, bool(crc or kind)
        stop = at + PREFIX_BYTES + length
        if kind not in _SEEDS or base + stop > end:
            return 0, True
        if stop > len(data):
            return stop - at, False
        payload = data[at + PREFIX_BYTES : stop]
        if zlib.crc32(payload, _SEEDS[kind]) != crc:
            return 0, True
        frames.append(Frame(kind, payload, base + stop))
        at = stop
    return 0, False


class JournalLock:
    """Ownership of a journal's directory, for as long as this process lives or until released."""

    __slots__ = ("_fd", "directory")

    def __init__(self, directory: Path, fd: int) -> None:
        self.directory = directory
        self._fd = fd

    @classmethod
    def create(cls, root: Path, journal: UUID) -> JournalLock:
        """A new journal's directory, owned from the moment it can be seen under its name."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        making = root / f"{_NEW}{journal}"
        making.mkdir(mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(making / _LOCK, flags, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory = making.rename(root / str(journal))
        _sync_directory(root)
        return cls(directory, fd)

    @classmethod
    def take(cls, directory: Path) -> JournalLock | None:
        """A dead owner's directory; `None` while somebody owns it, or when it is gone."""
        try:
            fd = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        # Whoever held it until now may have removed the journal.
        if not (directory / _LOCK).exists():
            os.close(fd)
            return None
        return cls(directory, fd)

    def release(self) -> None:
        """Lets go; the directory stays for an adopter."""
        os.close(self._fd)

    def remove(self) -> None:
        """Removes the journal at one stroke and lets go. Blocks."""
        try:
            done = self.directory.rename(self.directory.with_name(_DONE + self.directory.name))
            shutil.rmtree(done, ignore_errors=True)
        finally:
            os.close(self._fd)


def journal_directories(root: Path) -> list[tuple[UUID, Path]]:
    """The journals under a root, whoever owns them."""
    found = []
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            found.append((UUID(entry.name), entry))
        except ValueError:
            continue
    return found


def sweep(root: Path, older_than_s: float) -> list[UUID]:
    """Removes what is left of journals whose removal or making was cut short. Blocks.

    A removal may be finished by anybody at any time; answers which were. One that is being made
    is left alone unless nothing has changed in it since `older_than_s`, a bound on the wall clock.
    """
    finished = []
    for entry in list(root.iterdir()) if root.is_dir() else ():
        if entry.name.startswith(_DONE):
            shutil.rmtree(entry, ignore_errors=True)
            with contextlib.suppress(ValueError):
                finished.append(UUID(entry.name.removeprefix(_DONE)))
        elif entry.name.startswith(_NEW):
            # It may get its name, or go, at any moment.
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < older_than_s:
                    shutil.rmtree(entry, ignore_errors=True)
    return finished


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    # Written, not just extended: only then is the space ours.
    for start in range(0, size, len(_ZEROS)):
        piece = _ZEROS[: size - start]
        if os.pwrite(fd, piece, start) != len(piece):
            raise OSError(errno.ENOSPC, "no space for a segment")


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
