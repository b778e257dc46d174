"""Making many objects, one for each line of a file.

Each line is one call, so a line that fails hinders no other one. A run that is broken off is taken
up by running it again: what is there already is told, not made a second time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define

from services.cli.bulk_file import Line, read_lines
from services.cli.bulk_report import CREATED, EXISTS, FAILED, Outcome, Report, report_to
from services.cli.client import Client, call_again, client_of
from services.cli.command import BulkImport
from services.cli.connection import Connection
from services.cli.output import Screen
from services.cli.request import Request
from services.cli.shapes import at
from services.cli.status import DONE, INTERRUPTED, CommandError, Refused
from services.cli.status import FAILED as SOME_FAILED

_TAKEN = (400, 409)
# The key is wrong, or this is no such proxy: whatever the line says.
_HOPELESS = (401, 405)


async def run_import(
    row: BulkImport, options: argparse.Namespace, connection: Connection, screen: Screen
) -> int:
    """The exit status. The first interrupt lets running calls end, so that no key is lost."""
    lines = read_lines(row, options.file, options.format)
    form = "json" if options.json else "jsonl" if options.jsonl else "text"
    with report_to(screen, len(lines), form, options.out, options.errors) as report:
        async with client_of(connection, options.jobs) as client:
            run = _Run(row, client, report, iter(lines))
            with _interrupts(run.stop):
                await run.go(min(options.jobs, max(1, len(lines))))
        report.end(len(lines))
    if run.fault is not None:
        raise run.fault
    if run.stopped:
        return INTERRUPTED
    return SOME_FAILED if report.counts[FAILED] else DONE


@define
class _Run:
    """Workers that take one line after the other."""

    row: BulkImport
    client: Client
    report: Report
    lines: Iterator[Line]
    stopped: bool = False
    fault: CommandError | OSError | None = None

    def stop(self) -> None:
        """No further line is begun."""
        self.stopped = True

    async def go(self, workers: int) -> None:
        """Until all lines are done, or no more are begun."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while not self.stopped and (line := next(self.lines, None)) is not None:
            try:
                self.report.tell(await self._made(line))
            except (CommandError, OSError) as error:
                # No other line would fare better, or what is made could not be written down.
                self.fault = self.fault or error
                self.stop()

    async def _made(self, line: Line) -> Outcome:
        if line.wrong is not None:
            return Outcome(line, FAILED, error=line.wrong)
        create = self.row.create
        body = {**create.fixed, **line.fields}
        try:
            answer = await call_again(self.client, Request(create.method, create.path, {}, body))
        except Refused as error:
            if error.http_status < 400 or error.http_status in _HOPELESS:
                raise
            if error.http_status in _TAKEN and await self._is_there(line):
                return Outcome(line, EXISTS)
            return Outcome(line, FAILED, error=str(error))
        told = {name: at(answer.body, name) for name in self.row.told}
        return Outcome(line, CREATED, {n: value for n, value in told.items() if value})

    async def _is_there(self, line: Line) -> bool:
        """Whether the object of this line exists, and not only one that shares something."""
        field, name = line.known_as
        try:
            request = Request("GET", *self.row.lookup(field, name))
            body = (await call_again(self.client, request)).body
        except Refused:
            return False
        rows: Any = at(body, self.row.found) or ()
        return any(at(each, field) == name for each in rows)


@contextlib.contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Lets the first interrupt call `stop`; the second one is the usual one."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def once() -> None:
        for each in signals:
            loop.remove_signal_handler(each)
        stop()

    with contextlib.suppress(NotImplementedError):
        for each in signals:
            loop.add_signal_handler(each, once)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for each in signals:
                loop.remove_signal_handler(each)
