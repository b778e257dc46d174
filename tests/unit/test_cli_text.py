"""How `meridian` lays out values, sums activity and reads words."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Any

import pytest

from services.cli import kinds
from services.cli.activity import BREAKDOWNS, by_day, in_all
from services.cli.command import Command, Option, Place
from services.cli.options import FIELD, FROM, METADATA
from services.cli.request import body_of, build
from services.cli.status import Misused
from services.cli.table import clean, cut, fitted, rows_of_text, text_of, width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        ({}, "-"),
        (0, "0"),
        (0.0, "0"),
        (False, "no"),
        (True, "yes"),
        (1e-07, "0.0000001"),
        (1.5, "1.5"),
        (1e22, "10000000000000000000000"),
        (["a", "b"], "a,b"),
        (["a", 1], '["a", 1]'),
        ({"ä": None}, '{"ä": null}'),
        ("2026-11-01T10:00:00.123456Z", "2026-11-01T10:00:00Z"),
        ("a\x1b[31m\nb\u202e", "a\\x1b[31m\\nb\\u202e"),
    ],
)
def test_values_as_texts(value: Any, text: str) -> None:
    """Every value is one line that steers no terminal; numbers are written out."""
    assert text_of(value) == text


def test_widths() -> None:
    """Wide characters take two columns, combining ones none; a cut never goes over."""
    assert [width(each) for each in ("abc", "日本", "e\u0301")] == [3, 4, 1]
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"
    assert cut("abc", 3) == "abc"
    assert clean("plain") == "plain"


@pytest.mark.parametrize(
    ("widths", "room", "fitting"),
    [
        ([5, 5], None, [5, 5]),
        ([5, 5], 12, [5, 5]),
        ([5, 64], 40, [5, 33]),
        ([30, 64], 60, [29, 29]),
        ([5, 64], 18, [5]),
        ([64], 20, [64]),
        ([40, 40, 40], 44, [13, 13, 14]),
    ],
)
def test_columns_that_fit(widths: list[int], room: int | None, fitting: list[int]) -> None:
    """The widest give way, then the last go; what is left fits the room, if it is not one."""
    found = fitted(widths, room)
    assert found == fitting
    if room is not None and len(found) > 1:
        assert sum(found) + 2 * (len(found) - 1) <= room


def test_numbers_are_flush_right() -> None:
    """Digits of a column stand below each other, texts begin there; nothing trails."""
    cells = [["NAME", "SPEND"], ["a", "1.5"], ["bcd", "-"], ["é", "10"]]
    assert list(rows_of_text(cells, [4, 5])) == [
        "NAME  SPEND",
        "a       1.5",
        "bcd       -",
        "é        10",
    ]


def day(date: str, spend: float, calls: int, **entities: tuple[float, int]) -> dict[str, Any]:
    """A day of activity."""
    return {
        "date": date,
        "metrics": {"spend": spend, "api_requests": calls, "total_tokens": 10 * calls},
        "breakdown": {
            "entities": {
                name: {
                    "metrics": {"spend": each, "api_requests": count, "total_tokens": 10 * count},
                    "metadata": {"team_alias": name.upper()},
                }
                for name, (each, count) in entities.items()
            }
        },
    }


def test_activity_is_summed_over_pages_and_days() -> None:
    """A day that comes on two pages is one; what no name has spent is a row of its own."""
    body = {
        "results": [
            day("2026-11-02", 0.3, 3, t1=(0.1, 1), t2=(0.2, 2)),
            day("2026-11-01", 0.5, 5, t1=(0.1, 1)),
            day("2026-11-02", 0.1, 1, t1=(0.1, 1)),
        ]
    }
    given = {"path:by": BREAKDOWNS["team"]}
    rows = [(r["id"], r["name"], r["spend"], r["requests"]) for r in in_all(body, given)]
    assert rows == [
        ("t1", "T1", pytest.approx(0.3), 3),
        ("t2", "T2", pytest.approx(0.2), 2),
        ("(others)", "(others)", pytest.approx(0.4), 4),
    ]
    days = [(r["date"], r["id"], r["tokens"]) for r in by_day(body, given)]
    assert days == [
        ("2026-11-02", "t1", 20),
        ("2026-11-02", "t2", 20),
        ("2026-11-01", "t1", 10),
        ("2026-11-01", "(others)", 40),
    ]
    # Calls may have several tags or none, so that there is no rest to speak of.
    assert "(others)" not in {r["id"] for r in in_all(body, {"path:by": BREAKDOWNS["tag"]})}
    (whole,) = in_all(body, {"path:by": BREAKDOWNS["nothing"]})
    assert (whole["requests"], whole["spend"]) == (9, pytest.approx(0.9))
    assert in_all({}, given) == []


@pytest.mark.parametrize(
    ("read", "text", "pattern"),
    [
        (kinds.first_second, "2026-11-01", "2026-11-01 00:00:00"),
        (kinds.last_second, "2026-11-01", "2026-11-01 23:59:59"),
        (kinds.last_second, "2026-11-01 10:00:00", "2026-11-01 10:00:00"),
        (kinds.first_second, "2026-11-01T10:00:00+02:00", "2026-11-01 08:00:00"),
        (kinds.day, "7d", r"\d{4}-\d\d-\d\d"),
        (kinds.UNTIL.read, "2026-11-01", "2026-11-01T23:59:59Z"),
        (kinds.SINCE.read, "36h", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    ],
)
def test_times(read: Any, text: str, pattern: str) -> None:
    """Days, moments and how long ago; an end that is a day includes it."""
    assert re.fullmatch(pattern, read(text))


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "99999w", "1y", "0001-01-01T00:00+10:00"]
)
def test_no_times(text: str) -> None:
    """What is no time is refused, whatever it is."""
    with pytest.raises(ArgumentTypeError):
        kinds.first_second(text)


def test_body_of_a_command() -> None:
    """A file's fields, over them the flags, over them `--field`; members are put together."""
    command = Command(
        words=("a", "b"),
        help="",
        method="POST",
        path="/a/{id}",
        options=(
            Option("ID", "id", "", place=Place.PATH),
            Option("--deep", "member.name", ""),
            Option("--q", "q", "", place=Place.QUERY),
            METADATA,
        ),
        fixed={"kept": False},
    )
    given = {
        "path:id": "ü/?",
        "query:q": ["a", "b"],
        "body:member.name": "x",
        METADATA.slot: {"a.b": 1},
        FROM.slot: {"member": {"id": 1, "name": "lost"}, "metadata": {"c": 2}},
        FIELD.slot: {"metadata.d": None, "kept": True},
    }
    request = build(command, given)
    assert (request.path, request.query) == ("/a/%C3%BC%2F%3F", {"q": "a,b"})
    assert request.body == {
        "member": {"id": 1, "name": "x"},
        "metadata": {"c": 2, "a.b": 1, "d": None},
        "kept": True,
    }
    for wrong in ({FROM.slot: [1]}, {FROM.slot: {"member": 1}, "body:member.name": "x"}):
        with pytest.raises(Misused):
            body_of(command, {"path:id": "a"} | wrong)
