"""Answers for people and for programs."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from attrs import frozen

from services.cli.shapes import at
from services.cli.status import Refused
from services.cli.table import NOTHING, clean, fitted, rows_of_text, text_of, width

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


@frozen
class Screen:
    """Where answers go. `columns` is the width of a terminal, `None` where there is none."""

    stream: TextIO
    columns: int | None
    colour: bool

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Screen:
        """Standard output, which from now on shows what its encoding lacks as an escape."""
        stream = sys.stdout
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        terminal = stream.isatty()
        plain = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
        columns = shutil.get_terminal_size().columns if terminal else None
        return cls(stream, columns, terminal and not plain)

    def line(self, text: str) -> None:
        """One line, at once."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def json(self, value: Any) -> None:
        """One document of plain ASCII, members in the order of the answer."""
        self.line(json.dumps(value, indent=2))

    def json_lines(self, rows: Iterable[Any]) -> None:
        """A document of one line for each row."""
        for row in rows:
            self.line(json.dumps(row, separators=(",", ":")))

    def table(self, columns: Sequence[str], rows: Sequence[Any]) -> None:
        """The rows below a heading; says which columns have found no room."""
        pairs = [_column(each) for each in columns]
        cells = [[heading.upper() for heading, _ in pairs]]
        cells += [[text_of(at(row, path)) for _, path in pairs] for row in rows]
        widths = [max(width(row[index]) for row in cells) for index in range(len(pairs))]
        room = fitted(widths, self.columns)
        heading, *lines = rows_of_text(cells, room)
        self.line(f"{_BOLD}{heading}{_PLAIN}" if self.colour else heading)
        for text in lines:
            self.line(text)
        hidden = [heading for heading, _ in pairs[len(room) :]]
        if hidden:
            note(f"no room for {', '.join(hidden)}; see --columns and --json")

    def record(self, value: Any, label: str, without: frozenset[str] = frozenset()) -> None:
        """The members that hold something, one below the other; of a list each entry."""
        if isinstance(value, Mapping):
            shown = {
                clean(str(name)): text_of(inner)
                for name, inner in value.items()
                if name not in without
            }
            shown = {name: text for name, text in shown.items() if text != NOTHING}
            longest = max(map(width, shown), default=0)
            for name, text in shown.items():
                self.line(f"{name}{' ' * (longest - width(name))}  {text}")
        elif isinstance(value, list):
            for each in value:
                self.record(each, label, without)
        elif value is None:
            self.line(label)
        else:
            self.line(f"{label}: {text_of(value)}")

    def only(self, path: str, value: Any, body: Any) -> None:
        """One member, bare: of a list of each row."""
        rows = value if isinstance(value, list) else [value]
        for row in rows:
            found = at(row, path)
            found = at(body, path) if found is None else found
            if found is None:
                raise Refused(f"the answer has no {path}")
            bare = found if isinstance(found, str) else json.dumps(found)
            self.line(clean(bare) if self.columns is not None else bare)


def note(text: str) -> None:
    """One line beside the answer, for people."""
    _to_stderr(text)


def complain(text: str) -> None:
    """One line that says why a command has not done what it should."""
    _to_stderr(f"meridian: {text}")


def silence() -> None:
    """Whoever read the output has gone: nothing more is written, and none of it is an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def _column(text: str) -> tuple[str, str]:
    heading, colon, path = text.partition(":")
    return (heading, path) if colon else (text.rpartition(".")[2], text)
