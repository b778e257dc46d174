"""Fixtures of every suite: real PostgreSQL servers and databases.

- `postgres`: the run's one server (all xdist workers share it).
- `database`: the DSN of a fresh database with all migrations.
- `empty_database`: the DSN of a fresh database without any table.
- `own_postgres`: a server of the test's own that it may stop and start (mark such tests with
  `xdist_group("faults")`).
- `fleet`, `calls`: the run's one fleet of processes (mark such tests with `xdist_group("fleet")`),
  and a client of it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath

import pytest

from tests.support.fleet import Calls, Fleet, calls_to, running_fleet
from tests.support.postgres import RUN_VARIABLE, Postgres, RunDirectory

_RUN = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the run owns its folder; xdist workers inherit the variable."""
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        os.environ.pop(RUN_VARIABLE, None)
        stack.enter_context(RunDirectory.owned())
        config.stash[_RUN] = stack


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the run's servers and removes its folder."""
    stack = config.stash.get(_RUN, None)
    if stack is not None:
        stack.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps `xdist_group`s together: their names go into the ids by which tests are handed out.

    pytest-xdist 3.8 does the same in a way that pytest 9.2 does not see (pytest-xdist#1386).
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = type(item.id).parse(f"{item.nodeid}@{mark.args[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each part took, all processes together."""
    parts: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                part = PurePosixPath(report.nodeid).parts[1]
                parts[part] = parts.get(part, 0.0) + report.duration
    if parts:
        times = ", ".join(f"{part} {parts[part]:.0f} s" for part in sorted(parts))
        terminalreporter.write_line(f"time by part: {times}")


@pytest.fixture(scope="session")
def run_directory() -> RunDirectory:
    """The folder of this test run."""
    return RunDirectory.of_environment()


@pytest.fixture(scope="session")
def postgres(run_directory: RunDirectory) -> Postgres:
    """The server that the whole run shares; it cannot be stopped."""
    return run_directory.shared_server()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The DSN of a fresh database with all migrations."""
    dsn = postgres.create()
    yield dsn
    postgres.drop(dsn)


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The DSN of a fresh database without any table."""
    dsn = postgres.create_empty()
    yield dsn
    postgres.drop(dsn)


@pytest.fixture
def own_postgres(run_directory: RunDirectory) -> Iterator[Postgres]:
    """A server of this test alone; `create()` makes databases with all migrations on it."""
    with run_directory.own_server() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails on the fleet shows the ends of its logs."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(fleet, Fleet):
        report.sections += fleet.tails()
    return report


@pytest.fixture(scope="session")
def fleet(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """An admin, two workers and an upstream: real processes over one database."""
    with running_fleet(postgres, tmp_path_factory.mktemp("fleet")) as started:
        yield started


@pytest.fixture
async def calls(fleet: Fleet) -> AsyncIterator[Calls]:
    """A client of the fleet; its upstream has forgotten what earlier tests did."""
    async with calls_to(fleet) as client:
        yield client
