"""Instance ids, heartbeats, the database's clock, and what a lapse means."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define

from shared.db.feed import head_version
from shared.db.instances import InstanceFacts, list_instances
from shared.db.link import Link
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable
from shared.fleet.applied import wait_applied
from shared.fleet.heartbeat import Heartbeat, Identity
from tests.support.postgres import Postgres
from tests.support.wire import Wire

WORKER = InstanceFacts("worker", "eu-west-1", "host-a", "1.2.3", 4, ("llm", "probes"))
ADMIN = InstanceFacts("admin", "eu-west-1", "host-a", "1.2.3", 4, ("management", "ui"))


@define
class Skewed(Clock):
    """A machine whose wall clock is wrong by a constant."""

    error_s: float = 0.0

    def now(self) -> float:
        return time.time() + self.error_s + self.offset_s


@contextmanager
def claimed(state_dir: Path) -> Iterator[Identity]:
    identity = Identity.claim(state_dir)
    try:
        yield identity
    finally:
        identity.release()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a background task brings about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is the product's own state
            await asyncio.sleep(0.01)


@pytest.fixture
async def link(database: str) -> AsyncIterator[Link]:
    made = Link("listen", database, application_name="meridian-test")
    await made.open()
    yield made
    await made.close()


def test_an_id_is_kept_over_restarts_and_private(tmp_path: Path) -> None:
    """A process started anew in the same directory has the same id, in a file of mode 0600."""
    with claimed(tmp_path / "state") as first:
        kept = first.id
    with claimed(tmp_path / "state") as second:
        assert second.id == kept
    file = tmp_path / "state" / "instance_id"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(kept) == 16


def test_processes_side_by_side_have_ids_of_their_own(tmp_path: Path) -> None:
    """Every live process has another id, also across processes, and each is stable."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from shared.fleet.heartbeat import Identity
        identity = Identity.claim(Path(sys.argv[1]))
        print(identity.id, flush=True)
        sys.stdin.read()
        """
    )
    root = Path(__file__).parents[2]
    with ExitStack() as stack:
        mine = stack.enter_context(claimed(tmp_path)).id
        other = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
        )
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        third = stack.enter_context(claimed(tmp_path)).id
        assert len({mine, theirs, third}) == 3
        other.kill()
        other.wait()
        assert stack.enter_context(claimed(tmp_path)).id == theirs


@pytest.mark.parametrize("content", ["", "not an id\n", "\xff" * 40])
def test_a_damaged_id_file_is_replaced(tmp_path: Path, content: str) -> None:
    """An id that is not one never reaches the database."""
    (tmp_path / "instance_id").write_text(content, encoding="latin-1")
    with claimed(tmp_path) as identity:
        made = identity.id
    assert (tmp_path / "instance_id").read_text() == f"{made}\n"


def test_a_directory_that_cannot_be_used_is_a_setting_to_be_fixed(tmp_path: Path) -> None:
    """The message names the variable and the directory."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"MERIDIAN_STATE_DIR.*file"):
        Identity.claim(tmp_path / "file" / "below")


async def test_a_beat_tells_the_database_and_learns_from_it(link: Link, tmp_path: Path) -> None:
    """The row holds what the process says of itself; the answer holds head and live servers."""
    with ExitStack() as stack:
        beats = [
            Heartbeat(
                link,
                Clock(),
                stack.enter_context(claimed(tmp_path)),
                facts,
                applied=lambda: 1,
            )
            for facts in (WORKER, ADMIN, WORKER)
        ]
        assert beats[0].staleness_s == float("inf")
        for beat in (*beats, *beats):
            await beat.beat()
        assert [beat.live_servers for beat in beats] == [2, 2, 2]
        assert beats[0].head_version == await head_version(link)
        assert 0 < beats[0].server_started_s < time.time()
        assert beats[0].staleness_s < 5.0
        assert len({beat.boot for beat in beats}) == 3
        rows = {row.id: row for row in await list_instances(link)}
        row = rows[beats[0].id]
        assert (row.binary, row.region, row.host, row.version, row.schema_version) == (
            "worker",
            "eu-west-1",
            "host-a",
            "1.2.3",
            4,
        )
        assert (row.boot, row.capabilities) == (beats[0].boot, ("llm", "probes"))
        assert (row.applied_version, row.live, row.stopped_at) == (1, True, None)
        await beats[2].stop()
        await beats[0].beat()
        assert beats[0].live_servers == 1
        assert beats[2].id not in {row.id for row in await list_instances(link, 900.0)}


async def test_the_dead_no_longer_count(link: Link, tmp_path: Path) -> None:
    """An instance unseen for 8 s shares no limits any more, and is listed as not live."""
    with ExitStack() as stack:
        first, second = (
            Heartbeat(link, Clock(), stack.enter_context(claimed(tmp_path)), WORKER)
            for _ in range(2)
        )
        await first.beat()
        await second.beat()
        await link.execute(
            "update instance set last_seen = now() - interval '8.5 s' where id = $1", second.id
        )
        await first.beat()
        assert first.live_servers == 1
        live = {row.id: row.live for row in await list_instances(link, 900.0)}
        assert live == {first.id: True, second.id: False}
        assert (await wait_applied(link, 1, 0.0)).unreachable == 2


async def test_a_restart_is_a_new_life_under_the_old_id(link: Link, tmp_path: Path) -> None:
    """Boot numbers only grow, even after the row was purged."""
    boots = []
    for _ in range(2):
        with claimed(tmp_path) as identity:
            beat = Heartbeat(link, Clock(), identity, WORKER)
            await beat.beat()
            boots.append((identity.id, beat.boot))
            await beat.stop()
    await link.execute("delete from instance")
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, Clock(), identity, WORKER)
        await beat.beat()
        boots.append((identity.id, beat.boot))
    assert len({name for name, _ in boots}) == 1
    numbers = [boot for _, boot in boots]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("error_s", [3600.0, -0.75])
async def test_the_clock_follows_the_databases(link: Link, tmp_path: Path, error_s: float) -> None:
    """After a beat a wrong wall clock is right to within the round trip, and stays so when it is
    put right while we run."""
    clock = Skewed(error_s=error_s)
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, clock, identity, WORKER)
        await beat.beat()
        assert abs(clock.now() - time.time()) < 0.1
        for _ in range(20):
            await beat.beat()
        assert abs(clock.now() - time.time()) < 0.02
        clock.error_s = 0.0
        await beat.beat()
        assert abs(clock.now() - time.time()) < 0.1


async def test_a_slow_answer_moves_the_clock_little(database: str, tmp_path: Path) -> None:
    """An answer that took long says little about the clock and does not spoil the estimate."""
    async with Wire(database) as wire:
        slow = Link("listen", wire.dsn, application_name="meridian-test")
        await slow.open()
        clock = Clock()
        with claimed(tmp_path) as identity:
            beat = Heartbeat(slow, clock, identity, WORKER)
            for _ in range(3):
                await beat.beat()
            wire.freeze()
            late = asyncio.create_task(beat.beat())
            asyncio.get_running_loop().call_later(0.5, wire.thaw)
            await late
            assert abs(clock.offset_s) < 0.1
        await slow.close()


async def test_a_lapse_is_told_and_the_beat_goes_on(link: Link, tmp_path: Path) -> None:
    """A row unwritten for more than 8 s means that others took us for dead; less does not."""
    told: list[int] = []
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, Clock(), identity, WORKER)
        beat.on_lapsed(lambda: told.append(beat.boot))
        await beat.beat()
        boot = beat.boot
        for age, lapses in (("7 s", 0), ("9 s", 1), ("1 s", 1)):
            await link.execute("update instance set last_seen = now() - $1::text::interval", age)
            await beat.beat()
            assert (beat.lapses, beat.boot) == (lapses, boot)
    assert told == [boot]


async def test_an_acknowledgement_does_not_hide_a_lapse(link: Link, tmp_path: Path) -> None:
    """Reporting a version after a silence leaves the lapse to be found by the next beat."""
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, Clock(), identity, WORKER)
        await beat.beat()
        await link.execute("update instance set last_seen = now() - interval '20 s'")
        await beat.acknowledge(9)
        (row,) = await list_instances(link)
        assert row.applied_version == 9
        await beat.beat()
        assert beat.lapses == 1


async def test_a_purged_row_is_taken_again(link: Link, tmp_path: Path) -> None:
    """A row that is gone is written anew under a new boot number, and counts as a lapse."""
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, Clock(), identity, WORKER)
        await beat.beat()
        before = (beat.id, beat.boot)
        await link.execute("delete from instance")
        await beat.beat()
        assert beat.id == before[0]
        assert beat.boot > before[1]
        assert beat.lapses == 1
        assert [row.boot for row in await list_instances(link)] == [beat.boot]


async def test_a_copied_state_directory_does_not_make_two_of_one(
    link: Link, tmp_path: Path
) -> None:
    """Two machines with the same id file end up with two rows, and both keep beating."""
    with claimed(tmp_path / "a") as identity:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "instance_id").write_text(f"{identity.id}\n")
        with claimed(tmp_path / "b") as copy:
            assert copy.id == identity.id
            first = Heartbeat(link, Clock(), identity, WORKER)
            second = Heartbeat(link, Clock(), copy, WORKER)
            for _ in range(3):
                await first.beat()
                await second.beat()
            assert first.id != second.id
            assert {row.id for row in await list_instances(link)} == {first.id, second.id}
            assert (first.lapses, second.lapses) == (1, 0)
            assert first.live_servers == 2
            kept = first.id
    with claimed(tmp_path / "a") as again:
        assert again.id == kept


@pytest.mark.xdist_group("faults")
async def test_an_outage_is_outlived(own_postgres: Postgres, tmp_path: Path) -> None:
    """Beats fail while the server is away, the running task goes on, and the row is written again
    afterwards; stopping during an outage does not hang."""
    dsn = own_postgres.create()
    link = Link("listen", dsn, application_name="meridian-test")
    await link.open()
    with claimed(tmp_path) as identity:
        beat = Heartbeat(link, Clock(), identity, WORKER, interval_s=0.05)
        task = asyncio.create_task(beat.run())
        await until(lambda: beat.boot > 0)
        await asyncio.to_thread(own_postgres.stop)
        with pytest.raises(StoreUnavailable):
            await beat.beat()
        await beat.stop()
        stale = beat.staleness_s
        assert beat.staleness_s >= stale
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: beat.staleness_s < stale)
        (row,) = await list_instances(link)
        assert row.live
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await link.close()
