"""The journal's files: nothing is lost or doubled, whatever is cut off and wherever."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, Overloaded
from shared.domain.ledger import BudgetCharge, CallStatus
from shared.spend.batches import Batch
from shared.spend.journal import Journal
from shared.spend.records import CLOSE_RESERVE, Row, encode_close, encode_open
from shared.spend.segments import (
    CLOSED,
    JournalLock,
    found_segments,
    frame,
    journal_directories,
    sweep,
)
from tests.support.ledger_calls import Calls, open_soon, recovered

KIB = 1024
Make = Callable[..., Journal]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Journal] = []

    def build(**options: Any) -> Journal:
        given_options = {"instance": "i1", "boot": 7, "clock": Clock()} | options
        journal = Journal(tmp_path / "journal", **given_options)
        made.append(journal)
        return journal

    yield build
    for journal in made:
        if not journal._stopping.is_set():
            journal.shutdown(remove=False)


def directory(tmp_path: Path, journal: Journal) -> Path:
    return tmp_path / "journal" / str(journal.id)


# What a run does: open a call, open a known one again (its next attempt), or close one.
STEPS = st.lists(
    st.tuples(st.sampled_from(("open", "open", "open", "again", "close", "close")), st.integers(0)),
    max_size=120,
)
TEXTS = st.text(max_size=40) | st.sampled_from(("\x00nul", "\ud800 surrogate", "x" * 5000))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=STEPS,
    text=TEXTS,
    segment_kib=st.sampled_from((16, 24, 64)),
    cut=st.none() | st.integers(0, 3000),
    garbage=st.binary(max_size=40),
    batch=st.sampled_from((1, 3, 100)),
)
def test_every_opened_call_gives_one_row(
    steps: list[tuple[str, int]],
    text: str,
    segment_kib: int,
    cut: int | None,
    garbage: bytes,
    batch: int,
) -> None:
    """Any run, any segment size, any torn tail: one row for each call whose open was written."""
    calls = Calls()
    with TemporaryDirectory() as root:
        journal = Journal(
            Path(root),
            instance="i1",
            boot=1,
            clock=Clock(),
            segment_size=segment_kib * KIB,
            max_bytes=64 * KIB * KIB,
        )
        written: list[tuple[str, str, int, int]] = []
        live = []

        def note(what: str, call_id: object) -> None:
            last = journal.segments[-1]
            written.append((what, str(call_id), last.number, last.end))

        for what, choice in steps:
            if what == "open":
                record = calls.opened(end_user=text, model=text, tags=(text,))
                open_soon(journal, record)
                live.append(record)
                note("open", record.id)
            elif live:
                record = live[choice % len(live)]
                if what == "again":
                    open_soon(journal, replace(record, deployment_id="second"))
                    note("open", record.id)
                else:
                    live.remove(record)
                    journal.close(calls.closed(record, error_type=text))
                    note("close", record.id)
        last = journal.segments[-1]
        journal.shutdown(remove=False)

        end = last.end
        if cut is not None:
            # A write that was cut short: what is behind the cut is zeros or half a record.
            end = max(last.end - cut, 0)
            with last.path.open("r+b") as file:
                file.seek(end)
                file.write(bytes(last.end - end))
                file.seek(end)
                file.write(garbage[: last.size - end])
        kept = [w for w in written if w[2] < last.number or w[3] <= end]
        expected = {call: "interrupted" for what, call, *_ in kept if what == "open"}
        expected |= {
            call: "success" for what, call, *_ in kept if what == "close" and call in expected
        }
        rows, stats = asyncio.run(recovered(Path(root) / str(journal.id), batch))
    assert sorted(row["id"] for row in rows) == sorted(expected)
    assert {row["id"]: row["status"] for row in rows} == expected
    assert stats.orphans == 0


async def test_cut_at_every_byte_of_the_last_record(
    make: Make, tmp_path: Path, calls: Calls
) -> None:
    """A close torn at any byte is cut and counted, and its call becomes interrupted."""
    journal = make(segment_size=16 * KIB)
    first, second = calls.opened(), calls.opened()
    journal.open(first)
    journal.open(second)
    journal.close(calls.closed(first))
    segment = journal.segments[0]
    start = segment.end
    journal.close(calls.closed(second))
    end = segment.end
    journal.shutdown(remove=False)
    whole = segment.path.read_bytes()
    for cut in range(start, end):
        segment.path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        rows, stats = await recovered(directory(tmp_path, journal))
        assert [(row["id"], row["status"]) for row in rows] == [
            (str(first.id), "success"),
            (str(second.id), "interrupted"),
        ]
        # Trailing zeros of the record itself make no difference: those cuts are no cuts.
        assert stats.torn == (1 if any(whole[start:cut]) else 0), cut


async def test_a_file_that_ends_early_is_read_to_its_end(
    make: Make, tmp_path: Path, calls: Calls
) -> None:
    """A segment file truncated in the middle of a record yields what is whole before it."""
    journal = make(segment_size=16 * KIB)
    records = [calls.opened() for _ in range(3)]
    for record in records:
        journal.open(record)
    segment = journal.segments[0]
    journal.shutdown(remove=False)
    os.truncate(segment.path, segment.end - 5)
    rows, stats = await recovered(directory(tmp_path, journal))
    assert [row["id"] for row in rows] == [str(record.id) for record in records[:2]]
    assert stats.torn == 1


async def test_closes_always_fit(make: Make, tmp_path: Path, calls: Calls) -> None:
    """With the journal full to the brim every open call can still be closed at full length."""
    journal = make(segment_size=32 * KIB, max_bytes=96 * KIB)
    live = []

    def fill() -> None:
        while True:
            record = calls.opened(tags=("t" * 200,) * 5)
            open_soon(journal, record, deadline_s=0.3)
            live.append(record)

    with pytest.raises(Overloaded) as refused:
        fill()
    assert refused.value.status == 503
    assert dict(refused.value.headers) == {"retry-after": "1"}
    assert len(live) > 20
    for record in live:
        journal.close(calls.closed(record, error_type="e" * 5000, upstream_id="\ud800" * 5000))
    assert journal.sync_errors == 0
    assert journal.bytes_allocated <= 96 * KIB
    journal.shutdown(remove=False)
    rows, _ = await recovered(directory(tmp_path, journal))
    assert [row["status"] for row in rows] == ["success"] * len(live)


def test_freed_segments_make_room(make: Make, calls: Calls) -> None:
    """A journal at its bound refuses calls until a sealed segment is given back."""
    journal = make(segment_size=16 * KIB, max_bytes=32 * KIB)

    def fill() -> None:
        while True:
            record = calls.opened()
            open_soon(journal, record, deadline_s=0.2)
            journal.close(calls.closed(record))

    with pytest.raises(Overloaded):
        fill()
    oldest = journal.segments[0]
    assert oldest.sealed_s is not None
    journal.free(oldest)
    open_soon(journal, calls.opened())
    assert not oldest.path.exists()
    assert journal.refused > 0


def test_records_are_bounded(calls: Calls) -> None:
    """Overlong, broken and absurd values are cut and repaired instead of failing a call."""
    opened = calls.opened(
        model="m" * 100_000,
        end_user="\ud800" + "é" * 10_000,
        tags=tuple("t" * 1000 for _ in range(500)),
        charges=(BudgetCharge("end_user:" + "\ud800" * 9000, 5),),
    )
    assert len(encode_open(opened)) < 16 * KIB
    closed = calls.closed(
        opened,
        error_type="\ud800" * 9000,
        upstream_id="x" * 9000,
        model="m" * 9000,
        deployment_id="d" * 9000,
        provider="p" * 9000,
        api_base="a" * 9000,
        prompt_tokens=10**40,
        completion_tokens=-(10**40),
        cost=Decimal("0." + "123456789" * 3),
    )
    assert len(frame(CLOSED, encode_close(closed))) <= CLOSE_RESERVE


async def test_fields_survive(make: Make, tmp_path: Path, calls: Calls) -> None:
    """A row holds the fields of both records, of a retried call those of its last attempt."""
    journal = make()
    opened = calls.opened(
        tags=("a", "b"), charges=(BudgetCharge("team:t1", 1_700_000_000),), session_id="s\x001"
    )
    journal.open(opened)
    journal.open(replace(opened, deployment_id="second", estimate=Decimal(1)))
    assert journal.open_calls == 1
    closed = calls.closed(
        opened, status=CallStatus.FAILURE, http_status=502, attempts=2, model="gpt-4o-mini"
    )
    journal.close(closed)
    other = calls.opened(estimate=Decimal("0.25"))
    journal.open(other)
    journal.shutdown(remove=False)
    (row, interrupted), _ = await recovered(directory(tmp_path, journal))
    assert (row["deployment_id"], row["model"]) == ("second", "gpt-4o-mini")
    assert row["cost"] == "0.0012345678"
    assert row["tags"] == ["a", "b"]
    assert row["charges"] == [{"scope": "team:t1", "window_start_s": 1_700_000_000}]
    assert row["session_id"] == "s\ufffd1"
    assert (row["status"], row["http_status"], row["attempts"]) == ("failure", 502, 2)
    assert interrupted["status"] == "interrupted"
    assert interrupted["cost"] == "0.25"
    assert interrupted["estimated"] is True
    assert "prompt_tokens" not in interrupted
    assert interrupted["ended_s"] >= max(other.started_s, closed.ended_s)


def test_memory_is_flat(make: Make, calls: Calls) -> None:
    """Ten thousand settled calls that nobody could post yet take files and no memory."""
    journal = make(segment_size=1024 * KIB)
    record = calls.opened()
    journal.open(record)
    journal.close(calls.closed(record))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10_000):
            record = calls.opened()
            open_soon(journal, record)
            journal.close(calls.closed(record))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(journal.segments) > 5
    assert journal.bytes_pending > 5 * 1024 * KIB
    assert after - before < 100 * KIB


def test_a_close_of_no_open_call_is_dropped(make: Make, calls: Calls) -> None:
    """Closing twice, or what was never opened, writes nothing and raises nothing."""
    journal = make()
    record = calls.opened()
    journal.open(record)
    journal.close(calls.closed(record))
    end = journal.segments[0].end
    journal.close(calls.closed(record))
    journal.close(calls.closed(calls.opened()))
    assert journal.segments[0].end == end
    assert journal.stray_closes == 2


def test_notify(make: Make, calls: Calls) -> None:
    """The flusher hears of the first close and of the one that fills its batch, of no other."""
    journal = make()
    heard: list[int] = []
    journal.notify_at = 3
    journal.notify = lambda: heard.append(journal.unread)
    for turn in range(2):
        for _ in range(5):
            record = calls.opened()
            journal.open(record)
            journal.close(calls.closed(record))
        assert heard == [1, 3] * (turn + 1)
        assert journal.take_unread() == 5


def test_files_are_private_and_owned(make: Make, tmp_path: Path, calls: Calls) -> None:
    """Directories are 0700, files 0600 and preallocated; the lock holds exactly while it lives."""
    journal = make(segment_size=64 * KIB)
    journal.open(calls.opened())
    home = directory(tmp_path, journal)
    assert journal_directories(tmp_path / "journal") == [(journal.id, home)]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    for entry in home.iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert (home / "0").stat().st_size == 64 * KIB
    assert JournalLock.take(home) is None
    journal.shutdown(remove=False)
    lock = JournalLock.take(home)
    assert lock is not None
    assert JournalLock.take(home) is None
    lock.remove()
    assert list((tmp_path / "journal").iterdir()) == []
    assert JournalLock.take(home) is None


def test_shutdown_removes_what_is_done(make: Make, tmp_path: Path) -> None:
    """A journal with nothing left in it leaves no file behind."""
    journal = make()
    journal.shutdown(remove=True)
    assert list((tmp_path / "journal").iterdir()) == []


def test_remains_are_swept(tmp_path: Path) -> None:
    """A removal that was cut short is finished at once and told, a making once it is old; journals
    and others stay."""
    journal = "6f1d2c3b-0000-4000-8000-000000000000"
    for name in (".new-x", f".done-{journal}", ".done-y", journal, "notes"):
        (tmp_path / name).mkdir()
    assert sweep(tmp_path, older_than_s=1.0) == [UUID(journal)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".new-x", journal, "notes"]
    assert sweep(tmp_path, older_than_s=tmp_path.stat().st_mtime + 10) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [journal, "notes"]
    assert sweep(tmp_path / "absent", older_than_s=1.0) == []
    assert journal_directories(tmp_path / "absent") == []


def test_a_place_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """A journal that cannot be made says where and what to set."""
    (tmp_path / "journal").write_text("a file")
    with pytest.raises(ConfigError, match="MERIDIAN_STATE_DIR"):
        Journal(tmp_path / "journal", instance="i", boot=1, clock=Clock())


def test_segments_are_listed_by_number(make: Make, tmp_path: Path, calls: Calls) -> None:
    """Ten and more segments are read in the order in which they were written."""
    journal = make(segment_size=16 * KIB)
    while len(journal.segments) < 12:
        record = calls.opened()
        open_soon(journal, record)
        journal.close(calls.closed(record))
    journal.shutdown(remove=False)
    numbers = [segment.number for segment in found_segments(directory(tmp_path, journal))]
    assert numbers == sorted(numbers)
    assert numbers[:12] == list(range(12))


@given(count=st.integers(1, 40), size=st.integers(1, 50))
def test_pieces_cover_a_batch(count: int, size: int) -> None:
    """Pieces of a batch hold its rows in order and meet end to start without a gap."""
    rows = tuple(Row(100 + 10 * n, json.dumps({"n": n}).encode()) for n in range(1, count + 1))
    whole = Batch(3, 100, rows[-1].end, rows)
    pieces = list(whole.pieces(size))
    assert tuple(row for piece in pieces for row in piece.rows) == rows
    assert pieces[0].start == whole.start
    assert pieces[-1].end == whole.end
    assert all(a.end == b.start for a, b in pairwise(pieces))
    assert all(piece.end == piece.rows[-1].end for piece in pieces)
