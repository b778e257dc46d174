"""How the words of a command line become values of a request."""

from __future__ import annotations

import json
import math
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen

_NOTHING = ("null", "none")
_AGO = re.compile(r"(?P<count>\d{1,5})(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_FIRST_YEAR = 1970
STDIN = "-"


@frozen
class Kind:
    """How one word is read. A flag of `many` may be repeated, and `join` makes one value of what
    it gave."""

    metavar: str
    read: Callable[[str], Any]
    join: Callable[[list[Any]], Any] | None = None

    @property
    def many(self) -> bool:
        """Whether the flag may be repeated."""
        return self.join is not None


def loose(text: str) -> Any:
    """JSON, or a plain text. `@FILE` is what a file holds, `@-` what standard input does, so that
    a secret need not stand in the list of processes."""
    if text.startswith("@"):
        return _held(text[1:])
    try:
        return json.loads(text)
    except ValueError:
        # What begins like this was meant as JSON.
        if text[:1] in ("{", "[", '"'):
            raise ArgumentTypeError(f"no valid JSON: {text[:60]}") from None
        return text


def json_file(name: str) -> Any:
    """The JSON value in a file, or on standard input."""
    try:
        return json.loads(_read(name))
    except (ValueError, RecursionError):
        raise ArgumentTypeError(f"{name}: no valid JSON") from None


def named(text: str) -> tuple[str, Any]:
    """`name=value`, the value loose."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"write name=value, not {text[:60]!r}")
    return name, loose(value)


def _held(name: str) -> str:
    return _read(name).rstrip("\r\n")


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == STDIN else Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentTypeError(f"{name}: cannot be read ({error})") from None


def _number(text: str) -> float | None:
    if text.lower() in _NOTHING:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"not a number: {text[:60]!r} (null clears)")
    return number


def _whole(text: str) -> int | None:
    if text.lower() in _NOTHING:
        return None
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"not a whole number: {text[:60]!r} (null clears)") from None


def _duration(text: str) -> str | None:
    return None if text.lower() in _NOTHING else text


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _joined(lists: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(word for words in lists for word in words))


def _count(text: str) -> tuple[str, int | None]:
    name, equals, value = text.rpartition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"write MODEL=NUMBER, not {text[:60]!r}")
    return name, _whole(value)


def _moment(text: str, *, late: bool) -> datetime:
    """A day, a moment, or how long ago; `late` takes a day's last second."""
    ago = _AGO.fullmatch(text)
    now = datetime.now(UTC)
    try:
        if ago is not None:
            moment = now - timedelta(**{_UNITS[ago["unit"]]: int(ago["count"])})
        else:
            moment = datetime.fromisoformat(text)
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        if moment.year < _FIRST_YEAR:
            raise ValueError
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"not a time: {text[:60]!r}; write YYYY-MM-DD, 'YYYY-MM-DD HH:MM:SS' (UTC) or 7d"
        ) from None
    if late and _DAY.fullmatch(text):
        moment += timedelta(days=1, seconds=-1)
    return moment


def first_second(text: str) -> str:
    """A moment as the pages of the spend log want it; of a day the first one."""
    return f"{_moment(text, late=False):%Y-%m-%d %H:%M:%S}"


def last_second(text: str) -> str:
    """The same; of a day the last one."""
    return f"{_moment(text, late=True):%Y-%m-%d %H:%M:%S}"


def day(text: str) -> str:
    """A UTC day."""
    return f"{_moment(text, late=False):%Y-%m-%d}"


def _instant(text: str, *, late: bool) -> str:
    return f"{_moment(text, late=late):%Y-%m-%dT%H:%M:%SZ}"


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


TEXT = Kind("TEXT", str)
ID = Kind("ID", str)
# A virtual key by its hash, its alias or its value; see `subjects`.
KEY = Kind("KEY", str)
NUMBER = Kind("N", _number)
AMOUNT = Kind("USD", _number)
WHOLE = Kind("N", _whole)
DURATION = Kind("DURATION", _duration)
WORDS = Kind("A,B", _words, _joined)
COUNTS = Kind("MODEL=N", _count, dict)
FIELDS = Kind("NAME=JSON", named, dict)
JSON_FILE = Kind("FILE", json_file)
PROMPT = Kind("TEXT", _messages)
FROM_SECOND = Kind("WHEN", first_second)
TO_SECOND = Kind("WHEN", last_second)
DAY = Kind("DAY", day)
SINCE = Kind("WHEN", lambda text: _instant(text, late=False))
UNTIL = Kind("WHEN", lambda text: _instant(text, late=True))
