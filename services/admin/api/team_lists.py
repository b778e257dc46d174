"""The routes that show teams (management contract §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY, ANY_KEY
from services.admin.api.budget_rows import budget_body
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.key_rows import key_body, read_spends
from services.admin.api.parameters import (
    choice_parameter,
    order_parameters,
    page_parameters,
    text_parameters,
    whole_parameter,
)
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.team_access import MANAGEMENT, NO_GROUP, no_team
from services.admin.api.team_policy import MEMBER_BUDGET, caller_edit_access
from services.admin.api.team_rows import membership_bodies, team_bodies, team_body
from shared.db.budgets import BUDGETS
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_caps import organization_caps
from shared.db.team_list import (
    SORTABLE,
    TeamFilter,
    TeamScope,
    count_teams,
    key_counts,
    keys_of_teams,
    list_teams,
)
from shared.db.team_members import memberships
from shared.db.teams import find_team, find_teams
from shared.domain.errors import AuthenticationFailed, PermissionDenied

_NO_ORGANIZATION = "default_organization"
_LARGEST_PAGE = 100
_MOST_PAGES = 10_000_000
_MOST_KEYS = 10_000


async def info(call: AdminCall) -> web.Response:
    """GET /team/info: a team with its keys and members."""
    team_id = call.query.text("team_id")
    if team_id is None:
        raise Unprocessable([Issue("missing", ("query", "team_id"), "Field required")])
    limit = call.query.whole("key_limit", default=_MOST_KEYS, low=0, high=_MOST_KEYS)
    async with call.services.store.connection() as connection:
        row = await find_team(connection, team_id)
        if row is None:
            raise no_team()
        _check_may_see(call, row)
        keys = await keys_of_teams(connection, [team_id], limit)
        body = {
            "team_id": team_id,
            "team_info": await _info_body(call, connection, row),
            "keys": await _key_bodies(call, connection, keys),
            "team_memberships": await membership_bodies(
                call, connection, await memberships(connection, [team_id]), {team_id: row}
            ),
        }
    return answer(body)


async def list_all(call: AdminCall) -> web.Response:
    """GET /team/list: the teams that the caller may see."""
    chosen = _filter(call)
    if not call.caller.sees_all and chosen.user_id is None and not _organizations(call):
        raise AuthenticationFailed("Ask for your own teams: name your user_id", param="user_id")
    async with call.services.store.connection() as connection:
        rows = await list_teams(connection, chosen)
        teams = {row["team_id"]: row for row in rows}
        bodies = await team_bodies(call, connection, rows)
        joined = await memberships(connection, list(teams))
        found = await membership_bodies(call, connection, joined, teams)
        newest = await keys_of_teams(connection, list(teams), _MOST_KEYS)
        keys = await _key_bodies(call, connection, newest)
    by_team: dict[str, dict[str, list[Any]]] = {
        team_id: {"team_memberships": [], "keys": []} for team_id in teams
    }
    for name, members in (("team_memberships", found), ("keys", keys)):
        for member in members:
            by_team[member["team_id"]][name].append(member)
    return answer([{**body, **by_team[body["team_id"]]} for body in bodies])


async def list_page(call: AdminCall) -> web.Response:
    """GET /v2/team/list: a page of the teams that the caller may see."""
    chosen = _filter(call)
    page = call.query.whole("page", default=1, low=1, high=_MOST_PAGES)
    size = call.query.whole("page_size", default=10, low=1, high=_LARGEST_PAGE)
    sort_by = call.query.choice("sort_by", tuple(SORTABLE))
    order = call.query.choice("sort_order", ("asc", "desc"))
    async with call.services.store.connection() as connection:
        total = await count_teams(connection, chosen)
        rows = await list_teams(
            connection,
            chosen,
            sort_by=sort_by or "created_at",
            descending=order == "desc" or (order is None and sort_by is None),
            limit=size,
            offset=(page - 1) * size,
        )
        bodies = await team_bodies(call, connection, rows)
        keys = await key_counts(connection, [row["team_id"] for row in rows])
    for body in bodies:
        body["members_count"] = len(body["members_with_roles"])
        body["keys_count"] = keys.get(body["team_id"], 0)
    return answer(
        {
            "teams": bodies,
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": -(-total // size),
        }
    )


async def available(call: AdminCall) -> web.Response:
    """GET /team/available: the teams that anybody may join."""
    wanted = [name for name in call.services.team_rules.available if name not in call.caller.teams]
    async with call.services.store.connection() as connection:
        rows = await find_teams(connection, wanted)
        bodies = await team_bodies(call, connection, rows)
    if not call.caller.sees_all:
        # Who is not in a team learns what it is, not who is.
        for body in bodies:
            body |= {"members_with_roles": [], "members": [], "admins": [], "metadata": {}}
    return answer(bodies)


async def filter_ui(call: AdminCall) -> web.Response:
    """GET /team/filter/ui: finds teams by a part of their id or alias."""
    page = call.query.whole("page", default=1, low=1, high=_MOST_PAGES)
    size = call.query.whole("page_size", default=50, low=1, high=_LARGEST_PAGE)
    chosen = TeamFilter(
        id_part=call.query.text("team_id"), team_alias=call.query.text("team_alias")
    )
    async with call.services.store.connection() as connection:
        rows = await list_teams(connection, chosen, limit=size, offset=(page - 1) * size)
        return answer(await team_bodies(call, connection, rows))


async def metadata_schema(call: AdminCall) -> web.Response:
    """GET /team/metadata_schema: which members the metadata of teams may have."""
    return answer({"fields": [dict(each) for each in call.services.team_rules.metadata_schema]})


_INFO = MANAGEMENT | {"info_routes"}
_ONE = (
    *text_parameters("team_id", required=True),
    whole_parameter("key_limit", default=_MOST_KEYS, low=0, high=_MOST_KEYS),
)
_LISTED = (
    *text_parameters("user_id", "organization_id", "team_id", "team_alias", "search"),
    choice_parameter("status", "deleted"),
)
_PAGE = (*page_parameters(10, _LARGEST_PAGE), *order_parameters(*SORTABLE), *_LISTED)
_NAMED = (*page_parameters(50, _LARGEST_PAGE), *text_parameters("team_id", "team_alias"))

TEAM_LIST_ROUTES = (
    AdminRoute("GET", "/team/info", info, ANY_KEY, _INFO, query=_ONE),
    AdminRoute(
        "GET", "/team/list", list_all, ANY_KEY, _INFO, Shape.DETAIL, query=_LISTED, returns=LIST
    ),
    AdminRoute("GET", "/v2/team/list", list_page, ANY_KEY, _INFO, Shape.DETAIL, query=_PAGE),
    AdminRoute("GET", "/team/available", available, ANY_KEY, _INFO, Shape.DETAIL, returns=LIST),
    AdminRoute(
        "GET",
        "/team/filter/ui",
        filter_ui,
        ADMIN_ONLY,
        NO_GROUP,
        Shape.DETAIL,
        query=_NAMED,
        returns=LIST,
    ),
    AdminRoute("GET", "/team/metadata_schema", metadata_schema, ANY_KEY, _INFO, Shape.DETAIL),
)


def _check_may_see(call: AdminCall, row: Row) -> None:
    caller = call.caller
    related = (
        row["team_id"] in caller.teams
        or row["team_id"] == caller.principal.key.team_id
        or row["organization_id"] in caller.admin_organizations
    )
    if not related and not caller.sees_all:
        raise PermissionDenied("This team is not the caller's to see", param="team_id")


def _filter(call: AdminCall) -> TeamFilter:
    """What the query asks for, narrowed to what the caller may see."""
    caller, query = call.caller, call.query
    user_id, organization_id = query.text("user_id"), query.text("organization_id")
    unorganized = organization_id == _NO_ORGANIZATION
    scope = None
    if not caller.sees_all:
        organizations = _organizations(call)
        foreign = user_id is not None and user_id != caller.user_id
        if (foreign and not organizations) or (caller.user_id is None and not organizations):
            raise AuthenticationFailed("Only one's own teams can be listed", param="user_id")
        scope = TeamScope(user_id=caller.user_id, organization_ids=organizations)
    return TeamFilter(
        scope=scope,
        deleted=query.choice("status", ("deleted",)) is not None,
        user_id=user_id,
        organization_id=None if unorganized else organization_id,
        unorganized=unorganized,
        team_id=query.text("team_id"),
        team_alias=query.text("team_alias"),
        search=query.text("search"),
    )


def _organizations(call: AdminCall) -> tuple[str, ...]:
    return tuple(sorted(call.caller.admin_organizations))


async def _info_body(call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
    body = await team_body(call, connection, row)
    budget_id = row["metadata"].get(MEMBER_BUDGET)
    budget = await BUDGETS.find(connection, budget_id) if isinstance(budget_id, str) else None
    organization_id = row["organization_id"]
    caps = None
    if organization_id is not None:
        caps = await organization_caps(connection, organization_id)
    rules, now = call.services.rules, call.now
    return {
        **body,
        "team_member_budget_table": None if budget is None else budget_body(budget, rules, now),
        "organization_models": None if caps is None else list(caps.models),
        "model_max_budget_usage": None,
        "caller_edit_access": caller_edit_access(row, call.caller, call.services.team_rules),
    }


async def _key_bodies(
    call: AdminCall, connection: Connection, rows: Sequence[Any]
) -> list[dict[str, Any]]:
    rules = call.services.rules
    spends = await read_spends(connection, rows, rules, call.now)
    return [key_body(row, spends, rules, call.now) for row in rows]
