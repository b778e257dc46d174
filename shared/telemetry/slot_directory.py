"""The metric files of all processes of one state directory, read as one.

The sum goes over files of live processes and over `retired.json`, which holds the counters of the
dead, so that a counter never goes back when a process ends. Gauges end with their process.
Everything here happens under one lock file, and is done by whoever scrapes or starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from attrs import field, frozen

from shared.domain.errors import ConfigError
from shared.telemetry.catalogue import CATALOGUE, Kind, Merge, Metric
from shared.telemetry.slots import HEADER_BYTES, MAGIC, OTHER, SLOT_BYTES, SlotFile

SeriesKey = tuple[str, tuple[str, ...]]
"""Metric name and label values in the order of the catalogue."""

_Line = tuple[str, int, list[str], int]
_RETIRED_CAP = 1000


class _RetiredSeries(msgspec.Struct, array_like=True):
    metric: str
    fingerprint: int
    labels: list[str]
    values: list[int]


class _Retired(msgspec.Struct):
    """`folded` names the files whose values are in `series`: they may still lie there when the
    process that folded them died before it could remove them."""

    folded: list[str]
    series: list[_RetiredSeries]


@frozen
class SlotDirectory:
    """`<state directory>/metrics`. Calls block on the lock and on the disk for milliseconds."""

    path: Path
    _metrics: dict[str, Metric] = field(
        init=False, factory=lambda: {metric.name: metric for metric in CATALOGUE}, repr=False
    )

    def create(self, cap: int = 1000) -> SlotFile:
        """A file for this process. Raises `ConfigError` where the directory cannot be used."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._fold()
                return SlotFile(self.path, cap)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot keep metrics there ({error.strerror});"
                " set MERIDIAN_STATE_DIR to a directory that can be written"
            ) from error

    def collect(self) -> dict[SeriesKey, list[int]]:
        """The raw slots of every label set, merged over processes."""
        with self._locked():
            totals, live = self._fold()
            merged = {key: list(values) for key, values in totals.items()}
            for name in live:
                for key, values in self._read(name).items():
                    self._merge(merged, key, values)
        return merged

    def _fold(self) -> tuple[dict[SeriesKey, list[int]], list[str]]:
        """Move what dead processes left into the retired totals; those, and the live files."""
        retired = self._load()
        for name in retired.folded:
            self._remove(name)
        totals = {
            (series.metric, tuple(series.labels)): series.values
            for series in retired.series
            if self._fits(series.metric, series.fingerprint, len(series.labels), series.values)
        }
        live, dead = self._sorted_out()
        if dead:
            for name in dead:
                self._retire(totals, name)
            self._store(totals, dead)
            for name in dead:
                self._remove(name)
        return totals, live

    def _retire(self, totals: dict[SeriesKey, list[int]], name: str) -> None:
        counts: dict[str, int] = {}
        for metric, _ in totals:
            counts[metric] = counts.get(metric, 0) + 1
        for key, values in self._read(name).items():
            if self._metrics[key[0]].kind is Kind.GAUGE:
                continue
            if key not in totals:
                if counts.get(key[0], 0) >= _RETIRED_CAP:
                    key = (key[0], (OTHER,) * len(key[1]))
                counts[key[0]] = counts.get(key[0], 0) + 1
            self._merge(totals, key, values)

    def _merge(self, into: dict[SeriesKey, list[int]], key: SeriesKey, values: list[int]) -> None:
        known = into.get(key)
        if known is None:
            into[key] = values
            return
        match self._metrics[key[0]].merge:
            case Merge.SUM:
                into[key] = [a + b for a, b in zip(known, values, strict=True)]
            case Merge.MAX:
                into[key] = [max(known[0], values[0])]
            case Merge.MIN:
                into[key] = [min(known[0], values[0])]

    def _sorted_out(self) -> tuple[list[str], list[str]]:
        """Names of the files of live and of dead processes."""
        live: list[str] = []
        dead: list[str] = []
        for path in sorted(self.path.glob("*.slots")):
            fd = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                dead.append(path.stem)
            except BlockingIOError:
                live.append(path.stem)
            finally:
                os.close(fd)
        return live, dead

    def _read(self, name: str) -> dict[SeriesKey, list[int]]:
        """The values of one file; lines that are cut short or of another release are left out."""
        lines = self._lines(name)
        fd = os.open(self.path / f"{name}.slots", os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size <= HEADER_BYTES or os.pread(fd, len(MAGIC), 0) != MAGIC:
                return {}
            with (
                mmap.mmap(fd, size, access=mmap.ACCESS_READ) as memory,
                memoryview(memory)[HEADER_BYTES : size - size % SLOT_BYTES] as data,
                data.cast("q") as values,
            ):
                return {
                    (metric, tuple(labels)): values[slot : slot + width].tolist()
                    for metric, labels, slot, width in lines
                    if slot + width <= len(values)
                }
        finally:
            os.close(fd)

    def _lines(self, name: str) -> list[tuple[str, list[str], int, int]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for text in (self.path / f"{name}.labels").read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    metric, fingerprint, labels, slot = msgspec.json.decode(text, type=_Line)
                    if slot > 0 and self._fits(metric, fingerprint, len(labels)):
                        found.append((metric, labels, slot, self._metrics[metric].width))
        return found

    def _fits(
        self, name: str, fingerprint: int, labels: int, values: list[int] | None = None
    ) -> bool:
        """Whether stored numbers mean what the catalogue of this release says."""
        metric = self._metrics.get(name)
        return (
            metric is not None
            and metric.fingerprint == fingerprint
            and len(metric.labels) == labels
            and (values is None or len(values) == metric.width)
        )

    def _load(self) -> _Retired:
        """The retired totals. A file that is cut short counts as none: counters start anew."""
        try:
            data = (self.path / "retired.json").read_bytes()
            return msgspec.json.decode(data, type=_Retired)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Retired([], [])

    def _store(self, totals: dict[SeriesKey, list[int]], folded: list[str]) -> None:
        series = [
            _RetiredSeries(name, self._metrics[name].fingerprint, list(labels), values)
            for (name, labels), values in totals.items()
        ]
        scratch = self.path / "retired.json.new"
        scratch.write_bytes(msgspec.json.encode(_Retired(folded, series)))
        scratch.replace(self.path / "retired.json")

    def _remove(self, name: str) -> None:
        for suffix in ("slots", "labels"):
            (self.path / f"{name}.{suffix}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock of the directory; waits for other threads and processes."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
