"""GET /team/spend/by_user: what users have spent in teams."""

from __future__ import annotations

from datetime import date
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.parameters import day_parameters, text_parameters
from services.admin.api.respond import answer
from services.admin.api.team_access import BOTH, no_team
from services.admin.api.wire_rows import wire_row
from shared.db.rows import Connection
from shared.db.team_spend import spend_by_user
from shared.db.teams import find_teams
from shared.domain.errors import InvalidRequest

_SEES_ALL_SPEND = "/team/daily/activity"
_MOST_TEAMS = 500


async def by_user(call: AdminCall) -> web.Response:
    """GET /team/spend/by_user: what each member of teams has spent."""
    first, last = _day(call, "start_date"), _day(call, "end_date")
    team_ids = [each for each in (call.query.text("team_ids") or "").split(",") if each]
    if not 0 < len(team_ids) <= _MOST_TEAMS:
        raise InvalidRequest(f"team_ids must name 1 to {_MOST_TEAMS} teams", param="team_ids")
    caller = call.caller
    async with call.services.store.connection() as connection:
        narrowed: dict[str, Any] = {}
        if not caller.sees_all:
            whole = await _seen_whole(call, connection, team_ids)
            narrowed = {"only_user": caller.user_id or "", "but_all_of": whole}
        rows = await spend_by_user(connection, team_ids, first, last, **narrowed)
    results = [wire_row(row) for row in rows]
    return answer(
        {"start_date": first.isoformat(), "end_date": last.isoformat(), "results": results}
    )


_ASKED = (
    *text_parameters("team_ids", required=True),
    *day_parameters("start_date", "end_date", required=True),
)
TEAM_SPEND_ROUTES = (
    AdminRoute("GET", "/team/spend/by_user", by_user, ANY_KEY, BOTH, Shape.DETAIL, query=_ASKED),
)


async def _seen_whole(call: AdminCall, connection: Connection, team_ids: list[str]) -> list[str]:
    """The teams whose members' spend the caller sees, and not its own alone. A team that it has
    nothing to do with is none."""
    caller = call.caller
    found = {row["team_id"]: row for row in await find_teams(connection, team_ids)}
    whole = []
    for team_id in team_ids:
        row = found.get(team_id)
        if row is None:
            raise no_team()
        if row["organization_id"] in caller.admin_organizations or team_id in caller.admin_teams:
            whole.append(team_id)
        elif team_id not in caller.teams:
            raise no_team()
        elif _SEES_ALL_SPEND in row["team_member_permissions"]:
            whole.append(team_id)
    return whole


def _day(call: AdminCall, name: str) -> date:
    given = call.query.text(name)
    try:
        return date.fromisoformat(given or "")
    except ValueError:
        raise InvalidRequest(f"{name} must be a day, YYYY-MM-DD", param=name) from None
