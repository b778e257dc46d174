"""What became of the lines of an import, and where it is told."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from attrs import define, field, frozen

from services.cli.bulk_file import Line
from services.cli.output import Screen, note
from services.cli.progress import Progress
from services.cli.status import Misused
from services.cli.table import NOTHING, text_of

CREATED, EXISTS, FAILED = "created", "exists", "failed"


@frozen
class Outcome:
    """What became of a line: `told` of what was made, or `error`."""

    line: Line
    outcome: str
    told: dict[str, Any] = field(factory=dict)
    error: str | None = None

    def body(self) -> dict[str, Any]:
        """As JSON. An error tells nothing of the line: it may hold a key."""
        body: dict[str, Any] = {"line": self.line.number, "outcome": self.outcome}
        known, name = self.line.known_as
        if known:
            body[known] = name
        return {**body, **self.told, **({} if self.error is None else {"error": self.error})}


@define
class Report:
    """Tells outcomes as they come, each at once: a key that is not written down is lost."""

    screen: Screen
    progress: Progress
    form: str
    made: TextIO | None
    errors: TextIO | None
    counts: Counter[str] = field(factory=Counter)
    outcomes: list[dict[str, Any]] = field(factory=list)

    def tell(self, outcome: Outcome) -> None:
        """Counts and writes one outcome."""
        self.counts[outcome.outcome] += 1
        self.progress.clear()
        body = outcome.body()
        if outcome.outcome == CREATED and self.made is not None:
            _write(self.made, body)
            body.pop("key", None)
        if outcome.error is not None:
            self._tell_error(outcome, body)
        if self.form == "jsonl":
            self.screen.json_lines([body])
        elif self.form == "json":
            self.outcomes.append(body)
        elif outcome.error is None:
            self._tell_text(outcome, body)
        self.progress.step()

    def end(self, total: int) -> None:
        """The sum of it all."""
        self.progress.clear()
        untried = total - self.counts.total()
        if self.form == "json":
            counts = {name: self.counts[name] for name in (CREATED, EXISTS, FAILED)}
            whole = {"lines": total, **counts, "untried": untried, "outcomes": self.outcomes}
            self.screen.json(whole)
        parts = [
            f"{self.counts[CREATED]} created",
            f"{self.counts[EXISTS]} there already",
            f"{self.counts[FAILED]} failed",
        ]
        if untried:
            parts.append(f"{untried} not tried (run it again to go on)")
        note(f"{total} lines: {', '.join(parts)}")

    def _tell_error(self, outcome: Outcome, body: dict[str, Any]) -> None:
        if self.errors is not None:
            _write(self.errors, body)
        else:
            note(f"line {outcome.line.number}: {outcome.error}")

    def _tell_text(self, outcome: Outcome, body: dict[str, Any]) -> None:
        names = [text_of(value) for name, value in body.items() if name not in ("line", "outcome")]
        shown = " ".join(name for name in names if name != NOTHING)
        self.screen.line(f"{outcome.outcome:<7}  line {outcome.line.number}  {shown}")


@contextmanager
def report_to(
    screen: Screen, total: int, form: str, made: str | None, errors: str | None
) -> Iterator[Report]:
    """A report that also writes to the files that are named. Raises `Misused` if they cannot be
    written, before anything has been made."""
    with ExitStack() as stack:
        yield Report(
            screen,
            Progress.of(total),
            form,
            None if made is None else stack.enter_context(_private(made)),
            None if errors is None else stack.enter_context(_emptied(errors)),
        )


def _write(stream: TextIO, body: dict[str, Any]) -> None:
    stream.write(json.dumps(body) + "\n")
    stream.flush()


def _private(name: str) -> TextIO:
    """A file to append keys to, that nobody else may read."""
    try:
        handle = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise Misused(f"{name}: cannot be written ({error.strerror})") from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        os.close(handle)
        raise Misused(f"{name}: may be read by others, and keys go there; run `chmod 600` on it")
    return os.fdopen(handle, "a", encoding="utf-8")


def _emptied(name: str) -> TextIO:
    try:
        return Path(name).open("w", encoding="utf-8")
    except OSError as error:
        raise Misused(f"{name}: cannot be written ({error.strerror})") from None
