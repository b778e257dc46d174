"""Durations and calendar windows of budgets."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.errors import InvalidRequest
from shared.limits.windows import (
    Duration,
    next_reset,
    parse_budget_duration,
    parse_duration,
    parse_reset_time,
    window,
    zone,
)

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def at(text: str, tz: ZoneInfo | None = None) -> float:
    """An instant from a local ISO time."""
    return datetime.fromisoformat(text).replace(tzinfo=tz or UTC).timestamp()


def span(
    text: str, now: str, tz: ZoneInfo | None = None, reset_time: time = time(0)
) -> tuple[str, str]:
    """The window as local ISO times with offsets."""
    found = window(parse_budget_duration(text), at(now, tz), tz or UTC, reset_time)
    return tuple(  # type: ignore[return-value]
        datetime.fromtimestamp(each, tz or UTC).isoformat() for each in (found.start_s, found.end_s)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", Duration(30, "s")),
        ("5m", Duration(5, "m")),
        ("12h", Duration(12, "h")),
        ("7d", Duration(7, "d")),
        ("2w", Duration(2, "w")),
        ("3mo", Duration(3, "mo")),
        ("hourly", Duration(1, "h")),
        ("daily", Duration(24, "h")),
        ("weekly", Duration(7, "d")),
        ("monthly", Duration(30, "d")),
        ("30days", Duration(30, "d")),
        ("1month", Duration(1, "mo")),
    ],
)
def test_written_forms(text: str, expected: Duration) -> None:
    """Each unit and word of the contract is read, and text after a valid prefix is ignored."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "d", "0d", "-1d", " 5d", "5D", "5 d", "1.5h", "x5d", "٣d", "99999999999d"]
)
def test_unreadable_forms_name_the_field(text: str) -> None:
    """What is no duration is refused with the parameter's name."""
    with pytest.raises(InvalidRequest) as refused:
        parse_budget_duration(text)
    assert refused.value.param == "budget_duration"
    assert refused.value.status == 400


def test_budgets_know_one_month_only() -> None:
    """A budget of several calendar months is refused; a key may live that long."""
    with pytest.raises(InvalidRequest, match="only 1mo"):
        parse_budget_duration("2mo")
    assert parse_duration("2mo") == Duration(2, "mo")


def test_expiry_is_exact_and_months_are_clamped() -> None:
    """A key's life is counted from now, in calendar months clamped to the month's end."""
    start = datetime(2024, 1, 31, 10, 11, 12, tzinfo=UTC)
    assert parse_duration("1mo").after(start) == datetime(2024, 2, 29, 10, 11, 12, tzinfo=UTC)
    assert parse_duration("13mo").after(start) == datetime(2025, 2, 28, 10, 11, 12, tzinfo=UTC)
    assert parse_duration("90m").after(start) == start + timedelta(minutes=90)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("1d", "2024-03-14T00:00:00+00:00", "2024-03-15T00:00:00+00:00"),
        ("24h", "2024-03-14T00:00:00+00:00", "2024-03-15T00:00:00+00:00"),
        ("1440m", "2024-03-14T00:00:00+00:00", "2024-03-15T00:00:00+00:00"),
        ("7d", "2024-03-11T00:00:00+00:00", "2024-03-18T00:00:00+00:00"),
        ("1w", "2024-03-11T00:00:00+00:00", "2024-03-18T00:00:00+00:00"),
        ("30d", "2024-03-01T00:00:00+00:00", "2024-04-01T00:00:00+00:00"),
        ("1mo", "2024-03-01T00:00:00+00:00", "2024-04-01T00:00:00+00:00"),
        ("8h", "2024-03-14T08:00:00+00:00", "2024-03-14T16:00:00+00:00"),
        ("5h", "2024-03-14T15:00:00+00:00", "2024-03-14T20:00:00+00:00"),
        ("15m", "2024-03-14T15:45:00+00:00", "2024-03-14T16:00:00+00:00"),
        ("20s", "2024-03-14T15:55:20+00:00", "2024-03-14T15:55:40+00:00"),
    ],
)
def test_alignments(text: str, start: str, end: str) -> None:
    """Days end at midnight, weeks on Monday, months on the 1st, the rest at multiples."""
    assert span(text, "2024-03-14T15:55:26") == (start, end)


def test_last_part_of_a_day_is_short() -> None:
    """Hours that do not divide the day are cut at midnight."""
    assert span("5h", "2024-03-14T23:00:00") == (
        "2024-03-14T20:00:00+00:00",
        "2024-03-15T00:00:00+00:00",
    )


def test_other_days_are_whole_days() -> None:
    """Periods of N days begin at midnight, last N days and follow one another."""
    first = window(Duration(3, "d"), at("2024-03-14T15:00:00"))
    second = window(Duration(3, "d"), first.end_s)
    assert first.end_s - first.start_s == 3 * 86400
    assert second.start_s == first.end_s
    assert first.start_s % 86400 == 0


def test_month_ends_and_leap_years() -> None:
    """The month before March is February, of 29 days in a leap year, and years roll over."""
    assert span("1mo", "2024-02-29T23:59:59") == (
        "2024-02-01T00:00:00+00:00",
        "2024-03-01T00:00:00+00:00",
    )
    assert span("30d", "2023-12-31T12:00:00") == (
        "2023-12-01T00:00:00+00:00",
        "2024-01-01T00:00:00+00:00",
    )


def test_zone_and_reset_time_shift_the_day() -> None:
    """Midnight is the zone's, and the reset time moves it for days, weeks and months only."""
    assert span("1d", "2024-07-01T01:00:00", NEW_YORK) == (
        "2024-07-01T00:00:00-04:00",
        "2024-07-02T00:00:00-04:00",
    )
    assert span("1d", "2024-07-01T05:59:59", NEW_YORK, time(6)) == (
        "2024-06-30T06:00:00-04:00",
        "2024-07-01T06:00:00-04:00",
    )
    assert span("1mo", "2024-07-01T05:59:59", NEW_YORK, time(6)) == (
        "2024-06-01T06:00:00-04:00",
        "2024-07-01T06:00:00-04:00",
    )
    assert span("6h", "2024-07-01T05:59:59", NEW_YORK, time(1)) == (
        "2024-07-01T00:00:00-04:00",
        "2024-07-01T06:00:00-04:00",
    )


def test_days_over_clock_changes() -> None:
    """A day has 23 hours when the clocks go forward and 25 when they go back."""
    spring = window(Duration(1, "d"), at("2024-03-31T12:00:00", BERLIN), BERLIN)
    autumn = window(Duration(1, "d"), at("2024-10-27T12:00:00", BERLIN), BERLIN)
    assert spring.end_s - spring.start_s == 23 * 3600
    assert autumn.end_s - autumn.start_s == 25 * 3600


def test_a_reset_time_that_is_skipped_or_doubled() -> None:
    """A reset in the skipped hour happens after it; one in the doubled hour happens once."""
    skipped = window(Duration(1, "d"), at("2024-03-31T12:00:00", BERLIN), BERLIN, time(2, 30))
    assert datetime.fromtimestamp(skipped.start_s, BERLIN).isoformat() == (
        "2024-03-31T03:30:00+02:00"
    )
    doubled = window(Duration(1, "d"), at("2024-10-27T02:45:00", BERLIN), BERLIN, time(2, 30))
    assert doubled.end_s - doubled.start_s == 25 * 3600


def test_hours_over_clock_changes() -> None:
    """The doubled hour is two windows of an hour each, the skipped one is none."""
    first = window(Duration(1, "h"), at("2024-10-27T02:30:00", BERLIN), BERLIN)
    second = window(Duration(1, "h"), first.end_s, BERLIN)
    assert first.end_s - first.start_s == second.end_s - second.start_s == 3600
    before = window(Duration(1, "h"), at("2024-03-31T01:30:00", BERLIN), BERLIN)
    assert datetime.fromtimestamp(before.end_s, BERLIN).hour == 3


@given(
    st.sampled_from([UTC, BERLIN, NEW_YORK, LORD_HOWE]),
    st.sampled_from(
        ["1s", "7s", "90s", "1m", "15m", "45m", "1h", "5h", "24h", "36h", "1d", "3d", "2w", "1mo"]
    ),
    st.one_of(
        st.integers(0, 2**32),
        # Around the changes of the clocks in the three zones, 2024.
        st.sampled_from(
            [1711846800, 1729990800, 1710054000, 1730613600, 1712415600, 1728142200]
        ).flatmap(lambda at_s: st.integers(at_s - 8000, at_s + 8000)),
    ),
    st.sampled_from([time(0), time(2, 30), time(23, 59, 59)]),
)
@settings(max_examples=600, deadline=None)
def test_windows_partition_time(tz: ZoneInfo, text: str, now_s: int, reset_time: time) -> None:
    """An instant lies in its window, all instants of it agree, and the next one follows at once."""
    duration = parse_budget_duration(text)
    found = window(duration, now_s, tz, reset_time)
    assert found.start_s <= now_s < found.end_s
    for inside in (found.start_s, (found.start_s + found.end_s) // 2, found.end_s - 0.001):
        assert window(duration, inside, tz, reset_time) == found
    assert window(duration, found.end_s, tz, reset_time).start_s == found.end_s
    assert window(duration, found.start_s - 0.001, tz, reset_time).end_s == found.start_s


def test_next_reset_is_the_end_in_utc() -> None:
    """The reset instant is the window's end as an aware UTC time."""
    assert next_reset(Duration(1, "d"), at("2024-07-01T12:00:00"), NEW_YORK) == datetime(
        2024, 7, 2, 4, tzinfo=UTC
    )


def test_unknown_zones_are_utc() -> None:
    """A zone that does not exist, or tries to be a path, is UTC."""
    assert zone("Europe/Berlin") == BERLIN
    assert zone(None) is zone("") is zone("Mars/Olympus") is zone("../etc/passwd") is UTC


def test_reset_times() -> None:
    """HH:MM and HH:MM:SS are read, anything else is refused."""
    assert parse_reset_time("06:30") == time(6, 30)
    assert parse_reset_time("06:30:15") == time(6, 30, 15)
    for text in ("25:00", "6", "6:3", "noon", ""):
        with pytest.raises(ValueError, match=r"time of day|hour"):
            parse_reset_time(text)
