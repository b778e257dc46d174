"""The objects that a file for an import names, line by line."""

from __future__ import annotations

import csv
import io
import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from services.cli.command import BulkImport, Option
from services.cli.kinds import FIELDS, STDIN, loose
from services.cli.shapes import put
from services.cli.status import Misused

_FORMATS = ("jsonl", "csv")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
# Excel begins its files with it.
_BYTE_ORDER_MARK = "\ufeff"


@frozen
class Line:
    """A line with the object that it is, or with what is wrong with it. `known_as` is the field
    by which the object can be found again, and its value."""

    number: int
    fields: dict[str, Any]
    known_as: tuple[str, str] = ("", "")
    wrong: str | None = None

    @property
    def name(self) -> str:
        """What people call the object."""
        return self.known_as[1]


def read_lines(row: BulkImport, name: str, form: str | None) -> list[Line]:
    """All lines that are not empty, none of two with the same name twice. Raises `Misused` for a
    file that cannot be read at all."""
    text = _read(name).removeprefix(_BYTE_ORDER_MARK)
    form = form or _SUFFIXES.get(Path(name).suffix.lower())
    if form is None:
        raise Misused(f"{name}: say --format {' or '.join(_FORMATS)}")
    lines = _jsonl(text) if form == "jsonl" else _csv(text, row.create.options)
    return list(_named(lines, row.known_by))


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise Misused(f"{name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Misused(f"{name}: is not UTF-8") from None


def _jsonl(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Line(number, {}, wrong="no valid JSON")
            continue
        if isinstance(value, dict):
            yield Line(number, value)
        else:
            yield Line(number, {}, wrong="no JSON object")


def _csv(text: str, options: tuple[Option, ...]) -> Iterator[Line]:
    """Cells are read as the flags of the same fields are; an empty one is not given."""
    known = {option.field: option for option in options}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        heading = [name.strip() for name in next(rows, [])]
        if len(set(heading)) < len(heading) or not all(heading):
            raise Misused("the first line of a CSV file names each column once")
        for cells in rows:
            if cells:
                yield _cells(rows.line_num, heading, cells, known)
    except csv.Error as error:
        raise Misused(f"line {rows.line_num}: no valid CSV ({error})") from None


def _cells(number: int, heading: list[str], cells: list[str], known: dict[str, Option]) -> Line:
    if len(cells) > len(heading):
        return Line(number, {}, wrong="more cells than the first line has columns")
    fields: dict[str, Any] = {}
    try:
        for name, cell in zip(heading, cells, strict=False):
            if cell != "":
                put(fields, name, _cell(known.get(name), cell))
    except ArgumentTypeError as error:
        return Line(number, fields, wrong=f"{name}: {error}")
    except ValueError as error:
        return Line(number, fields, wrong=str(error))
    return Line(number, fields)


def _cell(option: Option | None, cell: str) -> Any:
    if option is None or option.kind is FIELDS or option.says is not None:
        # Whoever makes the file is not to read others with it.
        return cell if cell.startswith("@") else loose(cell)
    value = option.kind.read(cell)
    return value if option.kind.join is None else option.kind.join([value])


def _named(lines: Iterator[Line], known_by: tuple[str, ...]) -> Iterator[Line]:
    seen: dict[tuple[str, str], int] = {}
    for line in lines:
        if line.wrong is not None:
            yield line
            continue
        given = [(field, line.fields.get(field)) for field in known_by]
        names = [(field, value) for field, value in given if isinstance(value, str) and value]
        if not names:
            wrong = f"{' or '.join(known_by)} is needed, so that a second run finds what is there"
            yield Line(line.number, line.fields, wrong=wrong)
            continue
        taken = next((name for name in names if name in seen), None)
        if taken is not None:
            wrong = f"the {taken[0]} of line {seen[taken]} once more"
            yield Line(line.number, line.fields, names[0], wrong)
            continue
        seen |= dict.fromkeys(names, line.number)
        yield Line(line.number, line.fields, names[0])
