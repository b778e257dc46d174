"""SIGKILL of those who write journals and of those who adopt them: no call lost, none twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from shared.db.link import Link
from shared.domain.clock import Clock
from shared.spend.adoption import Adopter
from shared.spend.journal import Journal
from tests.support.ledger_calls import Calls, open_soon

ROOT = Path(__file__).parents[2]
KIB = 1024

# Opens and closes calls as fast as it can, some left open, and names each one that was opened on
# its output, as an upstream would that counts what reaches it.
WRITER = """
import os, sys
from pathlib import Path
from shared.domain.clock import Clock
from shared.domain.errors import Overloaded
from shared.spend.journal import Journal
from tests.support.ledger_calls import Calls

calls = Calls()
journal = Journal(Path(sys.argv[1]), instance="dead", boot=3, clock=Clock(), segment_size=64 * 1024)
live = []
while True:
    record = calls.opened()
    try:
        journal.open(record)
    except Overloaded:
        continue
    os.write(1, b"o" + record.id.hex.encode() + b"\\n")
    live.append(record)
    if len(live) == 20:
        for record in live[:17]:
            journal.close(calls.closed(record))
            os.write(1, b"c" + record.id.hex.encode() + b"\\n")
        del live[:17]
"""

ADOPTER = """
import asyncio, sys
from pathlib import Path
from shared.db.link import Link
from shared.spend.adoption import Adopter

async def main():
    link = Link("bulk", sys.argv[2], application_name="adopter")
    await link.open()
    adopter = Adopter(Path(sys.argv[1]), link, batch_rows=20)
    await adopter.adopt_all()
    await link.close()

asyncio.run(main())
"""


@pytest.fixture
async def link(database: str) -> AsyncIterator[Link]:
    made = Link("bulk", database, application_name="test")
    await made.open()
    yield made
    await made.close()


def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def read_then_kill(process: subprocess.Popen[bytes], lines: int) -> list[str]:
    """What the process told until it was killed, some time after that many lines."""
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    return [line.decode().strip() for line in told if line.endswith(b"\n")]


async def statuses(link: Link) -> dict[str, str]:
    rows = await link.fetch("select id, status from spend_log")
    return {row["id"].hex: row["status"] for row in rows}


@pytest.mark.parametrize("lines", [1, 700, 2500])
async def test_a_killed_process_loses_no_call(link: Link, tmp_path: Path, lines: int) -> None:
    """Every call that had gone upstream before the SIGKILL has exactly one row afterwards."""
    process = start(WRITER, str(tmp_path))
    told = await asyncio.to_thread(read_then_kill, process, lines)
    opened = {line[1:] for line in told if line[0] == "o"}
    closed = {line[1:] for line in told if line[0] == "c"}
    assert opened
    adopter = Adopter(tmp_path, link)
    assert await adopter.adopt_all() == 1
    found = await statuses(link)
    # One call, or one close, may have been written and not told any more.
    assert opened <= found.keys()
    assert len(found) - len(opened) <= 1
    assert {found[call] for call in closed} <= {"success"}
    untold = [call for call in opened - closed if found[call] != "interrupted"]
    assert len(untold) <= 1
    assert adopter.stats.torn <= 1
    assert adopter.stats.orphans == 0
    sums = await link.fetchrow(
        "select (select sum(cost) from spend_log) as log,"
        " (select spend from spend_counter where kind = 'global') as counter,"
        " (select sum(spend) from daily_spend where kind = 'key') as daily"
    )
    assert sums is not None
    assert sums["log"] == sums["counter"] == sums["daily"]


async def test_killed_adopters_add_nothing_twice(database: str, link: Link, tmp_path: Path) -> None:
    """Adopters that are killed one after the other, at any point, end in the exact sums."""
    calls = Calls()
    journal = Journal(tmp_path, instance="dead", boot=3, clock=Clock(), segment_size=64 * KIB)
    closed, cut_off = 0, 0
    for number in range(1000):
        record = calls.opened(estimate=Decimal("0.5"))
        open_soon(journal, record)
        if number % 5 == 0:
            cut_off += 1
        else:
            journal.close(calls.closed(record, cost=Decimal("0.001")))
            closed += 1
    journal.shutdown(remove=False)
    await link.execute("insert into budget_hold values ('key:k', 0, 'dead', 3, 9)")

    kills = 0
    while any(tmp_path.iterdir()):  # noqa: ASYNC240 - a directory of this test
        before = await progress(link)
        process = await asyncio.to_thread(start, ADOPTER, str(tmp_path), database)
        if kills < 6:
            # Spread over the whole run: closed calls come first, interrupted ones last.
            while process.poll() is None and await progress(link) < before + 8:  # noqa: ASYNC110
                await asyncio.sleep(0.002 * (kills % 3))
            process.kill()
            kills += 1
        await asyncio.to_thread(process.wait)
        assert process.stdout is not None
        process.stdout.close()
    assert kills >= 4
    found = await statuses(link)
    assert sum(status == "success" for status in found.values()) == closed
    assert sum(status == "interrupted" for status in found.values()) == cut_off
    spend = await link.fetchval("select spend from spend_counter where kind = 'global'")
    assert spend == closed * Decimal("0.001") + cut_off * Decimal("0.5")
    assert spend == await link.fetchval("select sum(cost) from spend_log")
    assert await link.fetchval("select count(*) from budget_hold") == 0
    assert await link.fetchval("select count(*) from journal_cursor") == 0


async def progress(link: Link) -> int:
    """Batches of twenty that are in the ledger."""
    rows: int = await link.fetchval("select count(*) from spend_log")
    return rows // 20
