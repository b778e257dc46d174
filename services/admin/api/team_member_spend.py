"""The routes about what one member of a team may spend and has spent (management contract §3.3)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.body import Field
from services.admin.api.budget_windows import BudgetWindows
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.respond import answer
from services.admin.api.team_access import (
    MANAGED,
    MEMBER_TABLE,
    SELF_MANAGED,
    managed_team,
    no_team,
)
from services.admin.api.team_limits import share_limits
from services.admin.api.team_membership import named_member, not_oneself, note_changed
from services.admin.api.team_rows import budget_source, counter_id, membership_bodies
from services.admin.api.values import money
from services.admin.api.wire_rows import wire
from shared.db.audit import Action
from shared.db.budgets import BUDGETS
from shared.db.rows import Connection
from shared.db.team_members import memberships
from shared.db.team_spend import lock_member_spend
from shared.db.teams import find_team
from shared.domain.errors import InvalidRequest, RequestError

_RESET_FIELDS = (Field("reset_to", money, required=True),)


async def reset_spend(call: AdminCall) -> web.Response:
    """POST /team/{team_id}/member/{user_id}/reset_spend: sets what a member has spent in a team."""
    reset_to = (await call.fields())["reset_to"]

    async def work(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, call.named("team_id"))
        member = await named_member(connection, team, {"user_id": call.named("user_id")})
        not_oneself(call, team, member)
        budget = await BUDGETS.find(connection, member["budget_id"] or "")
        row = budget or {"max_budget": None, "budget_duration": None}
        windows = BudgetWindows("team_member", call.services.rules, call.now)
        owner = counter_id(member)
        spent = await lock_member_spend(connection, owner, windows.start_s(row))
        most = spent if row["max_budget"] is None else min(spent, row["max_budget"])
        if reset_to > most:
            message = "reset_to must not be above what was spent, nor above the budget"
            raise InvalidRequest(message, param="reset_to")
        await windows.set_spend(connection, owner, row, reset_to)
        before, after = {"spend": spent}, {"spend": reset_to}
        await call.note(connection, Action.RESET, MEMBER_TABLE, owner, before=before, after=after)
        return {
            "team_id": member["team_id"],
            "user_id": member["user_id"],
            "spend": wire(reset_to),
            "previous_spend": wire(spent),
            "max_budget": wire(row["max_budget"]),
            "budget_reset_at": wire(windows.reset_at(row)),
        }

    return await call.write(work)


async def reset_budget(call: AdminCall) -> web.Response:
    """POST /team/{team_id}/member/{user_id}/reset_budget: starts a member's budget anew."""

    async def work(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, call.named("team_id"))
        member = await named_member(connection, team, {"user_id": call.named("user_id")})
        not_oneself(call, team, member)
        limited = await share_limits(connection, team, member)
        await note_changed(call, connection, team, [(member, limited)])
        return {
            "team_id": member["team_id"],
            "user_id": member["user_id"],
            "budget_id": limited.budget_id,
            "previous_budget_id": member["budget_id"],
            "budget_source": budget_source(limited.budget_id, team) or "none",
        }

    return await call.write(work)


async def me(call: AdminCall) -> web.Response:
    """GET /team/{team_id}/members/me: the caller's own membership in a team."""
    team_id = call.named("team_id")
    async with call.services.store.connection() as connection:
        team = await find_team(connection, team_id)
        if team is None:
            raise no_team()
        user_id = call.caller.user_id
        rows = [] if user_id is None else await memberships(connection, [team_id], user_id)
        if not rows:
            raise RequestError("The caller is not in this team", status=404, param="team_id")
        [body] = await membership_bodies(call, connection, rows, {team_id: team})
    names = {name: rows[0][name] for name in ("role", "user_email")}
    return answer({**body, **names, "team_alias": team["team_alias"]})


_MEMBER = "/team/{team_id}/member/{user_id}"
MEMBER_SPEND_ROUTES = (
    AdminRoute(
        "POST",
        f"{_MEMBER}/reset_spend",
        reset_spend,
        MANAGED,
        SELF_MANAGED,
        Shape.DETAIL,
        body=_RESET_FIELDS,
    ),
    AdminRoute(
        "POST", f"{_MEMBER}/reset_budget", reset_budget, MANAGED, SELF_MANAGED, Shape.DETAIL
    ),
    AdminRoute("GET", "/team/{team_id}/members/me", me, ANY_KEY, SELF_MANAGED, Shape.DETAIL),
)
