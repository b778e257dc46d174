"""Whose daily activity is asked for, and what of it a caller sees (management contract §3.12, §5).

Users see their own. A team's or an organization's whole activity is for its admins; members of a
team see what their own keys did in it, unless the team lets them see all. Tags are everybody's
names: of their activity users see what their own keys did. End users and agents are for proxy
admins and viewers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

from attrs import evolve, frozen

from services.admin.api.calls import AdminCall
from services.admin.api.parameters import (
    Parameter,
    flag_parameters,
    text_parameters,
    whole_parameter,
)
from services.admin.api.query import Query
from services.admin.api.spend_dates import DAYS, asked_days
from services.admin.api.spend_scope import own_keys, teams_of_own
from shared.db.activity_sources import ActivityFilter
from shared.db.teams import find_teams
from shared.domain.errors import InvalidRequest, PermissionDenied
from shared.keys.generate import stored_form

_MOST_IDS = 1000
_FURTHEST_MINUTES = 24 * 60
_SEES_ALL = "/team/daily/activity"
_ONE_DAY = timedelta(days=1)


@frozen
class Subject:
    """A kind of owner and the query parameter that names some."""

    kind: str
    param: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All that `read_activity_filter` looks at."""
        furthest = _FURTHEST_MINUTES
        return (
            *DAYS,
            *text_parameters(self.param, f"exclude_{self.param}", "api_key", "model"),
            whole_parameter("timezone", default=0, low=-furthest, high=furthest),
            *flag_parameters("include_current_utc_day"),
        )


SUBJECTS: Mapping[str, Subject] = {
    "user": Subject("user", "user_id"),
    "team": Subject("team", "team_ids"),
    "tag": Subject("tag", "tags"),
    "organization": Subject("organization", "organization_ids"),
    "customer": Subject("end_user", "end_user_ids"),
    "end_user": Subject("end_user", "end_user_ids"),
    "agent": Subject("agent", "agent_ids"),
}
"""By the first segment of the paths."""


async def read_activity_filter(call: AdminCall, subject: Subject) -> ActivityFilter:
    """The activity that the query asks for, narrowed to what the caller sees."""
    query = call.query
    first, last = _days(query, call.now.date())
    token = query.text("api_key")
    chosen = ActivityFilter(
        kind=subject.kind,
        first=first,
        last=last,
        ids=_several(query, subject.param),
        excluded=_several(query, f"exclude_{subject.param}") or (),
        keys=None if token is None else (stored_form(token) or token,),
        model=query.text("model"),
    )
    return chosen if call.caller.sees_all else await _narrowed(call, subject, chosen)


async def _narrowed(call: AdminCall, subject: Subject, chosen: ActivityFilter) -> ActivityFilter:
    match subject.kind:
        case "user" if call.caller.user_id is not None:
            return _within(chosen, subject, frozenset({call.caller.user_id}))
        case "organization":
            return _within(chosen, subject, call.caller.admin_organizations)
        case "team":
            return await _of_teams(call, subject, chosen)
        case _:
            return await _with_own_keys(call, chosen)


async def _of_teams(call: AdminCall, subject: Subject, chosen: ActivityFilter) -> ActivityFilter:
    """Whole teams if the caller may see all of those asked for, else its own part in them."""
    member_of = frozenset(call.caller.teams)
    async with call.services.store.connection() as connection:
        rows = await find_teams(connection, sorted(member_of))
    permit = {row["team_id"] for row in rows if _SEES_ALL in row["team_member_permissions"]}
    whole = call.caller.admin_teams | permit | {*await teams_of_own(call)}
    if whole and (chosen.ids is None or whole.issuperset(chosen.ids)):
        return _within(chosen, subject, frozenset(whole))
    return await _with_own_keys(call, _within(chosen, subject, member_of | whole))


async def _with_own_keys(call: AdminCall, chosen: ActivityFilter) -> ActivityFilter:
    mine = frozenset(await own_keys(call) or ())
    keys = mine if chosen.keys is None else mine.intersection(chosen.keys)
    return evolve(chosen, keys=tuple(sorted(keys)))


def _within(chosen: ActivityFilter, subject: Subject, allowed: frozenset[str]) -> ActivityFilter:
    if chosen.ids is None:
        return evolve(chosen, ids=tuple(sorted(allowed)))
    if not allowed.issuperset(chosen.ids):
        raise PermissionDenied("This is not the caller's to see", param=subject.param)
    return chosen


def _days(query: Query, today: date) -> tuple[date, date]:
    """The UTC days that cover the days asked for, of a clock that is `timezone` minutes behind
    UTC."""
    days = asked_days(query)
    first, last = days.first, days.last
    behind = query.whole("timezone", default=0, low=-_FURTHEST_MINUTES, high=_FURTHEST_MINUTES)
    if behind > 0:
        last += _ONE_DAY
    elif behind < 0 and first > date.min + _ONE_DAY:
        first -= _ONE_DAY
    if query.flag("include_current_utc_day") and last + _ONE_DAY == today:
        last = today
    return first, last


def _several(query: Query, name: str) -> tuple[str, ...] | None:
    """The ids of a list with commas; none named is no list."""
    text = query.text(name)
    ids = tuple(dict.fromkeys(each.strip() for each in (text or "").split(",") if each.strip()))
    if len(ids) > _MOST_IDS:
        raise InvalidRequest(f"{name} may name at most {_MOST_IDS}", param=name)
    return ids or None
