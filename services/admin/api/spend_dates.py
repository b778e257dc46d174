"""Days and instants of the spend pages, as query strings and bodies write them.

A date is `YYYY-MM-DD`, an instant that or `YYYY-MM-DD HH:MM:SS` or ISO 8601; without an offset it
is UTC. What cannot be read is 400 and names the field.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from services.admin.api.parameters import day_parameters
from services.admin.api.query import Query
from shared.db.spend_totals import Days
from shared.domain.errors import InvalidRequest

DAYS = day_parameters("start_date", "end_date", required=True)
RECENT_DAYS = day_parameters("start_date", "end_date")

_LAST_DAYS = 30
_ONE_DAY = timedelta(days=1)
_LATEST = datetime.max.replace(tzinfo=UTC) - 2 * _ONE_DAY


def day(text: str, name: str) -> date:
    """A day; of an instant the one that it lies in."""
    return instant(text, name).date()


def instant(text: str, name: str) -> datetime:
    """An aware instant in UTC, far enough from the ends of the calendar to be reckoned with."""
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} is not a date: {text[:40]!r}; write YYYY-MM-DD", param=name
        ) from None
    return min(max(moment, datetime.fromtimestamp(0, UTC)), _LATEST)


def asked_day(query: Query, name: str) -> date | None:
    """A day, if one is given."""
    text = query.text(name)
    return None if text is None else day(text, name)


def asked_instant(query: Query, name: str) -> datetime:
    """An instant that must be given."""
    return instant(_required(query, name), name)


def asked_days(query: Query) -> Days:
    """`start_date` to `end_date`, which must be given."""
    first, last = _required(query, "start_date"), _required(query, "end_date")
    return Days(day(first, "start_date"), day(last, "end_date"))


def days_or_last(query: Query, now: datetime) -> Days:
    """The same where they may be left out: then the last thirty days, or up to or from the one
    that is given."""
    first, last = asked_day(query, "start_date"), asked_day(query, "end_date")
    recent = last_days(now)
    return Days(first or recent.first, last or max(recent.last, first or recent.last))


def last_days(now: datetime) -> Days:
    """The thirty days before today, and today."""
    today = now.date()
    return Days(today - timedelta(days=_LAST_DAYS), today)


def _required(query: Query, name: str) -> str:
    text = query.text(name)
    if text is None:
        raise InvalidRequest("Please give start_date and end_date", param=name)
    return text
