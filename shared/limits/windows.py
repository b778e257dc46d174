"""Periods of budgets and keys: how they are written, and the calendar window an instant lies in.

Windows are computed, never stored: every process gets the same one from the same instant, so that
no job resets anything (management contract §4.2, §4.3). They partition time: each instant lies in
exactly one window of a duration, over changes of the clocks too.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from types import MappingProxyType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import frozen

from shared.domain.errors import InvalidRequest

_WORDS = MappingProxyType({"hourly": "1h", "daily": "24h", "weekly": "7d", "monthly": "30d"})
_FORM = re.compile(r"(\d{1,9})(mo|[smhdw])", re.ASCII)
_SECONDS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800})
_COARSER = MappingProxyType({"s": ("m", 60), "m": ("h", 60), "h": ("d", 24)})
# A Monday, so that periods of whole weeks begin on Mondays.
_FIRST_DAY = date(1970, 1, 5)
_LONGEST_DAYS = 36500


@frozen
class Duration:
    """`count` of one `unit`: s, m, h, d, w or mo."""

    count: int
    unit: str

    def after(self, instant: datetime) -> datetime:
        """Exactly this much later; months are calendar months, clamped to the month's end."""
        if self.unit != "mo":
            return instant + timedelta(seconds=self.count * _SECONDS[self.unit])
        month = instant.month - 1 + self.count
        year, month = instant.year + month // 12, month % 12 + 1
        day = min(instant.day, calendar.monthrange(year, month)[1])
        return instant.replace(year=year, month=month, day=day)


@frozen
class Window:
    """Seconds since the epoch; `start_s` belongs to the window, `end_s` does not."""

    start_s: int
    end_s: int


def parse_duration(text: str, *, param: str = "duration") -> Duration:
    """`30s`, `5m`, `12h`, `7d`, `2w`, `1mo` or a word; text after a valid prefix is ignored.

    Raises `InvalidRequest` naming `param`.
    """
    found = _FORM.match(_WORDS.get(text, text))
    if found is None or int(found[1]) == 0:
        raise InvalidRequest(
            f"{param} is not a duration: {text[:40]!r}; write a whole number above 0 and one of "
            "s, m, h, d, w, mo, for example 30d",
            param=param,
        )
    duration = Duration(int(found[1]), found[2])
    days = 31 * duration.count if duration.unit == "mo" else _length_s(duration) / 86400
    if days > _LONGEST_DAYS:
        raise InvalidRequest(f"{param} is longer than {_LONGEST_DAYS} days", param=param)
    return duration


def parse_budget_duration(text: str, *, param: str = "budget_duration") -> Duration:
    """A duration that can be a budget's period: of months only one is supported."""
    duration = parse_duration(text, param=param)
    if duration.unit == "mo" and duration.count != 1:
        raise InvalidRequest(
            f"{param}: of calendar months only 1mo is supported; {text[:40]!r} is not", param=param
        )
    return duration


def zone(name: str | None) -> tzinfo:
    """An IANA time zone; UTC when the name is empty or unknown."""
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def parse_reset_time(text: str) -> time:
    """`HH:MM` or `HH:MM:SS`; raises `ValueError`."""
    if not re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text, re.ASCII):
        raise ValueError(f"{text!r} is not a time of day; write HH:MM or HH:MM:SS")
    hour, minute, *second = (int(part) for part in text.split(":"))
    return time(hour, minute, second[0] if second else 0)


def window(
    duration: Duration, now_s: float, tz: tzinfo = UTC, reset_time: time = time(0)
) -> Window:
    """The budget window that `now_s` lies in.

    Days, weeks and months begin at `reset_time` in `tz`: 1d (and 24h) daily, 7d and 1w on Mondays,
    30d and 1mo on the 1st; other numbers of days are counted from a fixed Monday. Hours, minutes
    and seconds begin at multiples within the day, hour and minute; `reset_time` is not for them.
    """
    duration = _coarsest(duration)
    by_day = duration.unit in ("d", "mo")
    starts = _day_starts if by_day else _clock_starts
    boundaries: set[int] = set()
    length_s = _length_s(duration)
    for probe_s in (now_s - length_s, now_s, now_s + length_s):
        local = datetime.fromtimestamp(probe_s, tz).replace(tzinfo=None)
        for wall in starts(duration, local, reset_time):
            boundaries.update(_instants(wall, tz, twice=not by_day))
    return Window(
        max(instant for instant in boundaries if instant <= now_s),
        min(instant for instant in boundaries if instant > now_s),
    )


def next_reset(
    duration: Duration, now_s: float, tz: tzinfo = UTC, reset_time: time = time(0)
) -> datetime:
    """When the window of `now_s` ends, in UTC: the contract's `budget_reset_at`."""
    return datetime.fromtimestamp(window(duration, now_s, tz, reset_time).end_s, UTC)


def _length_s(duration: Duration) -> int:
    if duration.unit == "mo":
        return 31 * 86400 * duration.count
    return duration.count * _SECONDS[duration.unit]


def _coarsest(duration: Duration) -> Duration:
    """The same period in the largest unit that holds it whole; weeks are days."""
    count, unit = duration.count, duration.unit
    if unit == "w":
        count, unit = 7 * count, "d"
    while unit in _COARSER:
        coarser, size = _COARSER[unit]
        if count % size:
            break
        count, unit = count // size, coarser
    return Duration(1, "mo") if (count, unit) == (30, "d") else Duration(count, unit)


def _day_starts(duration: Duration, local: datetime, reset_time: time) -> list[datetime]:
    """Wall times at which the period around `local` and its neighbours begin."""
    shift = timedelta(hours=reset_time.hour, minutes=reset_time.minute, seconds=reset_time.second)
    day = (local - shift).date()
    if duration.unit == "mo":
        first = day.replace(day=1)
        before = (first - timedelta(days=1)).replace(day=1)
        days = [before, first, (first + timedelta(days=32)).replace(day=1)]
    else:
        behind = (day - _FIRST_DAY).days % duration.count
        first = day - timedelta(days=behind)
        days = [first + timedelta(days=step * duration.count) for step in (-1, 0, 1)]
    return [datetime.combine(each, time(0)) + shift for each in days]


def _clock_starts(duration: Duration, local: datetime, _reset_time: time) -> list[datetime]:
    """Wall times at multiples within the larger unit; longer ones count from a fixed Monday."""
    step = timedelta(seconds=_length_s(duration))
    frame = {
        "s": local.replace(second=0, microsecond=0),
        "m": local.replace(minute=0, second=0, microsecond=0),
        "h": local.replace(hour=0, minute=0, second=0, microsecond=0),
    }[duration.unit]
    size = timedelta(seconds={"s": 60, "m": 3600, "h": 86400}[duration.unit])
    if step > size:
        frame, size = datetime.combine(_FIRST_DAY, time(0)), timedelta.max
    first = frame + (local - frame) // step * step
    following = first + step
    if size != timedelta.max:
        following = min(following, frame + size)
    return [first, following]


def _instants(wall: datetime, tz: tzinfo, *, twice: bool) -> list[int]:
    """Instants of a wall time; with `twice` both when the clocks are put back over it.

    A wall time that is skipped is the instant at which it would have been without the change.
    """
    early = wall.replace(tzinfo=tz, fold=0)
    late = wall.replace(tzinfo=tz, fold=1)
    instants = [int(early.timestamp())]
    if twice and late.timestamp() > early.timestamp():
        instants.append(int(late.timestamp()))
    return instants
