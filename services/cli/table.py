"""Values as texts of a terminal, and texts in columns."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

NOTHING = "-"
_GAP = "  "
_NARROWEST = 12
_FRACTION = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+(Z|\+00:00)")


def text_of(value: Any) -> str:
    """A value as one line without anything that would steer a terminal."""
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return clean(",".join(value))
    if isinstance(value, (list, Mapping)):
        return clean(json.dumps(value, ensure_ascii=False))
    text = str(value)
    return clean(_FRACTION.sub(r"\1Z", text))


def clean(text: str) -> str:
    """The text with its unprintable characters spelled out."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def width(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )


def cut(text: str, columns: int) -> str:
    """The text, its end cut off where it is wider."""
    if width(text) <= columns:
        return text
    kept, used = "", 0
    for each in text:
        used += width(each)
        if used > columns - 1:
            break
        kept += each
    return f"{kept}…"


def fitted(widths: Sequence[int], room: int | None) -> list[int]:
    """The widths of the columns that fit: the widest give way first, then the last are left out."""
    fitting = list(widths)
    if room is None:
        return fitting
    while fitting:
        surplus = sum(fitting) + len(_GAP) * (len(fitting) - 1) - room
        if surplus <= 0 or len(fitting) == 1:
            return fitting
        least = sum(min(each, _NARROWEST) for each in fitting) + len(_GAP) * (len(fitting) - 1)
        if least > room:
            fitting.pop()
            continue
        _shrink(fitting, surplus)
    return fitting


def rows_of_text(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    """Lines with the cells below each other; numbers end where their column ends."""
    right = [_numeric(row[index] for row in cells[1:]) for index in range(len(widths))]
    for row in cells:
        padded = []
        for cell, columns, to_right in zip(row, widths, right, strict=False):
            shown = cut(cell, columns)
            space = " " * (columns - width(shown))
            padded.append(space + shown if to_right else shown + space)
        yield _GAP.join(padded).rstrip()


def _shrink(widths: list[int], surplus: int) -> None:
    for _ in range(surplus):
        widths[max(range(len(widths)), key=widths.__getitem__)] -= 1


def _numeric(cells: Iterator[str]) -> bool:
    shown = [cell for cell in cells if cell != NOTHING]
    return bool(shown) and all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in shown)
