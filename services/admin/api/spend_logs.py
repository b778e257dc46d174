"""The spend log's pages of the management API (management contract §3.12).

A page that did not look at the older calls of a long time (see `shared.db.spend_pages`) says so: by
the header `x-litellm-spend-logs-truncated`, and `searched_from` says how far it went.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from aiohttp import web

from services.admin.api.access import ANY_KEY, Relation, Role, access
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.parameters import parameter, text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.spend_dates import RECENT_DAYS, asked_day
from services.admin.api.spend_query import (
    LOG_PARAMETERS,
    SLICE_PARAMETERS,
    LogQuery,
    call_id_of,
    read_log_query,
    read_slice,
)
from services.admin.api.spend_rows import call_bodies, call_body
from services.admin.api.spend_scope import scoped
from services.admin.api.wire_rows import wire
from shared.db.spend_log import EARLIEST, CallFilter
from shared.db.spend_pages import LogPage, Slice, find_call, read_page
from shared.db.spend_totals import Days, sums_of_days
from shared.domain.errors import InvalidRequest, RequestError
from shared.keys.generate import stored_form

_MOST_RAW = 10_000
_MOST_PADDED = 366
_TRUNCATED = ("x-litellm-spend-logs-truncated", "true")
_ONE_DAY = timedelta(days=1)


def marked(response: web.Response, *, truncated: bool) -> web.Response:
    """The answer, with a header that says so if there is more than it holds."""
    if truncated:
        name, value = _TRUNCATED
        response.headers[name] = value
    return response


async def logs(call: AdminCall) -> web.Response:
    """GET /spend/logs: calls, or sums by day."""
    query = call.query
    first, end = asked_day(query, "start_date"), asked_day(query, "end_date")
    token, request_id = query.text("api_key"), query.text("request_id")
    chosen = CallFilter(
        start=EARLIEST if first is None else _midnight(first),
        # The end day itself is left out: its midnight is what is meant.
        end=call.now + _ONE_DAY if end is None else _midnight(end),
        token=None if token is None else stored_form(token) or token,
        user_id=query.text("user_id"),
        call_id=call_id_of(request_id),
    )
    summarize = query.flag("summarize", default=True)
    chosen = await scoped(call, chosen)
    if request_id is not None and chosen.call_id is None:
        return answer([])
    if first is not None and end is not None and summarize and request_id is None:
        return answer(await _summary(call, chosen, first, end))
    page = await read_page(call.services.store, chosen, Slice(limit=_MOST_RAW))
    return marked(answer(call_bodies(page.rows)), truncated=page.total > len(page.rows))


async def pages(call: AdminCall) -> web.Response:
    """GET /spend/logs/ui, GET /spend/logs/v2: a page of calls."""
    asked = read_log_query(call.query)
    chosen = await scoped(call, asked.chosen)
    if asked.nothing:
        return _page(asked, LogPage([], 0))
    return _page(asked, await read_page(call.services.store, chosen, asked.part))


async def session(call: AdminCall) -> web.Response:
    """GET /spend/logs/session/ui: the calls of a session."""
    session_id = call.query.text("session_id")
    if session_id is None:
        raise InvalidRequest("session_id is required", param="session_id")
    chosen = CallFilter(end=call.now + _ONE_DAY, session_id=session_id)
    asked = read_slice(call.query, chosen, descending=False)
    chosen = await scoped(call, chosen)
    return _page(asked, await read_page(call.services.store, chosen, asked.part))


async def one(call: AdminCall) -> web.Response:
    """GET /spend/logs/ui/{request_id}: a call."""
    call_id = call_id_of(call.named("request_id"))
    row = None if call_id is None else await _found(call, call_id)
    if row is None:
        raise RequestError(
            "There is no such call", status=404, type="not_found_error", param="request_id"
        )
    call.require(
        user_id=row["user_id"],
        token=row["key"] if row["user_id"] is None else None,
        team_id=row["team_id"],
        organization_id=row["organization_id"],
    )
    return answer(call_body(row))


SPEND_GROUPS = frozenset(
    {
        "spend_tracking_routes",
        "internal_user_routes",
        "internal_user_view_only_routes",
        "admin_viewer_routes",
        "org_admin_allowed_routes",
    }
)
_LOG_GROUPS = SPEND_GROUPS | {"management_routes", "key_management_routes"}
_OF_OWNERS = access(*Role, Relation.OWNER, Relation.TEAM_ADMIN, Relation.ORG_ADMIN)

_ASKED = (
    *RECENT_DAYS,
    *text_parameters("api_key", "user_id", "request_id"),
    parameter("summarize", type="boolean", default=True),
)
SPEND_LOG_ROUTES = (
    AdminRoute("GET", "/spend/logs", logs, ANY_KEY, _LOG_GROUPS, query=_ASKED, returns=LIST),
    AdminRoute("GET", "/spend/logs/v2", pages, ANY_KEY, _LOG_GROUPS, query=LOG_PARAMETERS),
    AdminRoute("GET", "/spend/logs/ui", pages, ANY_KEY, SPEND_GROUPS, query=LOG_PARAMETERS),
    AdminRoute(
        "GET",
        "/spend/logs/session/ui",
        session,
        ANY_KEY,
        SPEND_GROUPS,
        query=(*text_parameters("session_id", required=True), *SLICE_PARAMETERS),
    ),
    AdminRoute("GET", "/spend/logs/ui/{request_id}", one, _OF_OWNERS, SPEND_GROUPS),
)


async def _found(call: AdminCall, call_id: UUID) -> Mapping[str, Any] | None:
    async with call.services.store.connection() as connection:
        return await find_call(connection, call_id)


async def _summary(
    call: AdminCall, chosen: CallFilter, first: date, end: date
) -> list[dict[str, Any]]:
    """Spend by day, user, model and key, padded with days of nothing up to the end date."""
    rows = await sums_of_days(
        call.services.store,
        Days(first, end - _ONE_DAY),
        token=chosen.token,
        user_id=chosen.user_id,
    )
    days: dict[date, dict[str, Any]] = {}
    for row in rows:
        shown = days.get(row["day"])
        if shown is None:
            shown = days[row["day"]] = _nothing(row["day"])
        parts = dict(zip(row["names"], row["spends"], strict=True))
        if row["what"] == "keys":
            shown |= parts | {"spend": wire(row["spend"])}
        else:
            shown[row["what"]] = parts
    bodies = list(days.values())
    if days:
        last = max(days)
        padded = min((end - last).days, _MOST_PADDED)
        bodies += [_nothing(last + step * _ONE_DAY) for step in range(1, padded + 1)]
    return bodies


def _nothing(day: date) -> dict[str, Any]:
    return {"startTime": day.isoformat(), "spend": 0, "users": {}, "models": {}}


def _page(asked: LogQuery, page: LogPage) -> web.Response:
    size = asked.part.limit
    body: dict[str, Any] = {
        "data": call_bodies(page.rows),
        "total": page.total,
        "page": asked.page,
        "page_size": size,
        "total_pages": -(-page.total // size),
    }
    if page.since is not None:
        body["searched_from"] = wire(page.since)
    return marked(answer(body), truncated=page.since is not None)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)
