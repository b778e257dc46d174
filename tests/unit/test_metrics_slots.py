"""Metric values in shared files: sums over processes, dead processes, bounds, damage."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.domain.errors import ConfigError
from shared.telemetry import catalogue
from shared.telemetry.catalogue import CATALOGUE, Kind
from shared.telemetry.metrics import Metrics
from shared.telemetry.slot_directory import SlotDirectory

ROOT = Path(__file__).parents[2]

# A process that counts what it is told on stdin and says when it is done.
PROCESS = """
import sys
from pathlib import Path
from shared.telemetry import catalogue
from shared.telemetry.metrics import Metrics
metrics = Metrics.open(Path(sys.argv[1]), "eu", "1")
metrics.in_flight.add(1)
rows = metrics.counter(catalogue.LEDGER_ROWS)
lag = metrics.histogram(catalogue.LOOP_LAG)
feed = metrics.gauge(catalogue.FEED_VERSION)
age = metrics.gauge(catalogue.JOURNAL_AGE)
for line in sys.stdin:
    rows.add(int(line))
    lag.observe(0.001 * int(line))
    feed.set(int(line))
    age.set(int(line))
    print("done", flush=True)
"""


@contextmanager
def counting(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with metrics of its own in the same state directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(state_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def count(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_sum_over_processes_survives_a_kill(tmp_path: Path) -> None:
    """Counters of all processes add up, also after SIGKILL; gauges end with their process."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    metrics.counter(catalogue.LEDGER_ROWS).add(5)
    metrics.in_flight.add(2)
    directory = SlotDirectory(tmp_path / "metrics")
    with counting(tmp_path) as first, counting(tmp_path) as second:
        count(first, 10)
        count(second, 20)
        live = directory.collect()
        assert live["meridian_ledger_rows_posted_total", ()] == [35]
        assert live["litellm_in_flight_requests", ()] == [4]
        assert live["meridian_feed_version_applied", ()] == [10]
        assert live["meridian_journal_oldest_unposted_seconds", ()] == [20_000]
        first.kill()
        first.wait()
        for _ in range(3):
            after = directory.collect()
            assert after["meridian_ledger_rows_posted_total", ()] == [35]
            assert after["litellm_in_flight_requests", ()] == [3]
            assert after["meridian_feed_version_applied", ()] == [20]
            histogram = after["meridian_event_loop_lag_seconds", ()]
            assert (sum(histogram[:-1]), histogram[-1]) == (2, 30_000)
        count(second, 1)
        assert directory.collect()["meridian_ledger_rows_posted_total", ()] == [36]
    assert directory.collect()["meridian_ledger_rows_posted_total", ()] == [36]
    assert len(list(directory.path.glob("*.slots"))) == 1
    metrics.close()
    final = directory.collect()
    assert final["meridian_ledger_rows_posted_total", ()] == [36]
    assert ("litellm_in_flight_requests", ()) not in final
    assert not list(directory.path.glob("*.slots"))


def test_next_process_goes_on_counting(tmp_path: Path) -> None:
    """A restart begins where the last run ended, whether or not anybody scraped in between."""
    directory = SlotDirectory(tmp_path / "metrics")
    for run in range(1, 4):
        metrics = Metrics.open(tmp_path, "eu", "1")
        metrics.counter(catalogue.LEDGER_ROWS).add(7)
        assert directory.collect()["meridian_ledger_rows_posted_total", ()] == [7 * run]
        metrics.close()


def test_files_left_by_an_interrupted_fold_count_once(tmp_path: Path) -> None:
    """A process that dies between adding up and removing a dead one's files leaves no double."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    metrics.counter(catalogue.LEDGER_ROWS).add(3)
    metrics.close()
    folder = tmp_path / "metrics"
    left = {path: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    directory = SlotDirectory(folder)
    assert directory.collect()["meridian_ledger_rows_posted_total", ()] == [3]
    for path, data in left.items():
        path.write_bytes(data)
    assert directory.collect()["meridian_ledger_rows_posted_total", ()] == [3]
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "retired.json"]


def test_state_directories_do_not_mix(tmp_path: Path) -> None:
    """Two gateways on one machine with directories of their own do not see each other."""
    first, second = (Metrics.open(tmp_path / name, "eu", "1") for name in ("a", "b"))
    first.counter(catalogue.LEDGER_ROWS).add(1)
    second.counter(catalogue.LEDGER_ROWS).add(2)
    assert first.directory.collect()["meridian_ledger_rows_posted_total", ()] == [1]
    assert second.directory.collect()["meridian_ledger_rows_posted_total", ()] == [2]
    first.close()
    second.close()


def test_label_sets_are_bounded(tmp_path: Path) -> None:
    """Beyond the bound, values go to `other`, nothing is lost and the overflow is counted."""
    metrics = Metrics.open(tmp_path, "eu", "1", cap=3)
    for number in range(10):
        metrics.counter(catalogue.KEY_CACHE_LOOKUPS, f"result-{number}").add(1)
    metrics.counter(catalogue.KEY_CACHE_LOOKUPS, "result-0").add(1)
    values = metrics.directory.collect()
    lookups = {key[1]: value for key, value in values.items() if key[0].endswith("lookups_total")}
    assert lookups == {
        ("result-0",): [2],
        ("result-1",): [1],
        ("result-2",): [1],
        ("other",): [7],
    }
    assert values[catalogue.LABEL_OVERFLOW.name, (catalogue.KEY_CACHE_LOOKUPS.name,)] == [7]
    metrics.close()


def test_every_metric_can_be_filled_to_its_bound(tmp_path: Path) -> None:
    """The file has room for all label sets of all metrics, none overlaps another."""
    metrics = Metrics.open(tmp_path, "eu", "1", cap=4)
    for metric in CATALOGUE:
        for number in range(6 if metric.labels else 1):
            slot = metrics.slot(metric, *(f"{name}-{number}" for name in metric.labels))
            if metric is not catalogue.LABEL_OVERFLOW:
                for offset in range(metric.width):
                    metrics.values[slot + offset] += 1
    for (name, labels), values in metrics.directory.collect().items():
        if name not in {catalogue.LABEL_OVERFLOW.name, catalogue.BUILD_INFO.name}:
            assert set(values) == {2 if "other" in labels else 1}, (name, labels)
    metrics.close()


def test_retired_label_sets_are_bounded(tmp_path: Path) -> None:
    """Label sets that come and go over many runs do not let the retired totals grow for ever."""
    directory = SlotDirectory(tmp_path / "metrics")
    for run in range(3):
        metrics = Metrics.open(tmp_path, "eu", "1")
        for number in range(600):
            metrics.counter(catalogue.KEY_CACHE_LOOKUPS, f"{run}-{number}").add(1)
        metrics.close()
    values = directory.collect()
    lookups = [value for key, value in values.items() if key[0].endswith("lookups_total")]
    assert len(lookups) == 1001
    assert sum(value[0] for value in lookups) == 1800


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    """Lines cut short or foreign, an empty slot file and totals cut short stop nothing."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    metrics.counter(catalogue.LEDGER_ROWS).add(4)
    folder = tmp_path / "metrics"
    labels = next(folder.glob("*.labels"))
    rows = catalogue.LEDGER_REJECTED
    with labels.open("a") as file:
        file.write(f'\n["{rows.name}",{rows.fingerprint + 1},[],40]')
        file.write(f'\n["{rows.name}",{rows.fingerprint},["label"],40]')
        file.write(f'\n["{rows.name}",{rows.fingerprint},[],999999999]')
        file.write('\n["of_another_release",1,[],40]\n[[[\n{}')
        file.write(f'\n["{rows.name}",{rows.fingerprint},[],4')
    metrics.counter(catalogue.KEY_CACHE_LOOKUPS, "hit").add(2)
    (folder / "empty.slots").touch()
    (folder / "retired.json").write_text('{"folded":[')
    values = SlotDirectory(folder).collect()
    assert values["meridian_ledger_rows_posted_total", ()] == [4]
    assert values[catalogue.KEY_CACHE_LOOKUPS.name, ("hit",)] == [2]
    assert (rows.name, ()) not in values
    metrics.close()


def test_totals_of_another_release_are_left_out(tmp_path: Path) -> None:
    """Retired numbers of a metric that has changed its meaning are not shown as the new one."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    metrics.counter(catalogue.LEDGER_ROWS).add(4)
    metrics.close()
    directory = SlotDirectory(tmp_path / "metrics")
    directory.collect()
    retired = directory.path / "retired.json"
    fingerprint = str(catalogue.LEDGER_ROWS.fingerprint)
    assert fingerprint in retired.read_text()
    retired.write_text(retired.read_text().replace(fingerprint, "1"))
    assert ("meridian_ledger_rows_posted_total", ()) not in directory.collect()


async def test_scrapes_at_once_agree(tmp_path: Path) -> None:
    """Several threads that fold and read at once all see the whole sum."""
    for _ in range(5):
        dead = Metrics.open(tmp_path, "eu", "1")
        dead.counter(catalogue.LEDGER_ROWS).add(1)
        dead.close()
    metrics = Metrics.open(tmp_path, "eu", "1")
    scrapes = [asyncio.to_thread(metrics.directory.collect) for _ in range(8)]
    for values in await asyncio.gather(*scrapes):
        assert values["meridian_ledger_rows_posted_total", ()] == [5]
    metrics.close()


def test_long_label_values_are_cut(tmp_path: Path) -> None:
    """A label value takes at most 200 characters of the file."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    metrics.counter(catalogue.KEY_CACHE_LOOKUPS, "x" * 5000).add(1)
    assert metrics.directory.collect()[catalogue.KEY_CACHE_LOOKUPS.name, ("x" * 200,)] == [1]
    metrics.close()


def test_wrong_labels_or_kind_are_programming_errors(tmp_path: Path) -> None:
    """Too few labels, or a handle of the wrong kind, fail at once and by name."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    with pytest.raises(ValueError, match=r"has the labels \('result',\), got \(\)"):
        metrics.counter(catalogue.KEY_CACHE_LOOKUPS)
    with pytest.raises(ValueError, match="is a gauge, not a counter"):
        metrics.counter(catalogue.IN_FLIGHT)
    metrics.close()


def test_unusable_directory_names_the_setting(tmp_path: Path) -> None:
    """A state directory that cannot be made says which setting changes it."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot keep metrics there .*MERIDIAN_STATE_DIR"):
        Metrics.open(tmp_path / "file", "eu", "1")


def test_full_disk_does_not_stop_serving(tmp_path: Path) -> None:
    """Where files cannot grow, counting goes on without an error and what fitted stays readable."""
    script = """
import resource, signal, sys
from pathlib import Path
from shared.telemetry import catalogue
from shared.telemetry.metrics import Metrics
metrics = Metrics.open(Path(sys.argv[1]), "eu", "1")
metrics.counter(catalogue.LEDGER_ROWS).add(9)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = next(Path(sys.argv[1]).glob("metrics/*.labels")).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for number in range(900):
    metrics.histogram(catalogue.TOTAL_LATENCY, *(str(number),) * 6).observe(1.0)
metrics.counter(catalogue.LEDGER_ROWS).add(1)
print(metrics.directory.collect()["meridian_ledger_rows_posted_total", ()])
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[10]\n"), done.stderr


def test_files_are_private(tmp_path: Path) -> None:
    """Only the owner may read the directory and what lies in it."""
    metrics = Metrics.open(tmp_path, "eu", "1")
    folder = tmp_path / "metrics"
    modes = {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())}
    assert modes == {0}
    metrics.close()
    shutil.rmtree(folder)


def test_catalogue_is_sound() -> None:
    """Names are unique and of the two families, buckets ascend, only gauges merge otherwise."""
    names = [metric.exposed for metric in CATALOGUE]
    assert len(names) == len(set(names)) >= 30
    for metric in CATALOGUE:
        assert metric.name.startswith(("litellm_", "meridian_"))
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
        assert metric.kind is Kind.GAUGE or metric.merge == "sum"
        forbidden = {"hashed_api_key", "api_key_alias", "user", "team", "end_user", "le", "job"}
        assert not forbidden & set(metric.labels)
