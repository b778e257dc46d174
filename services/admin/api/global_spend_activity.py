"""Requests, tokens and faults per day (management contract §3.12).

Proxy admins and viewers see everybody's, internal users their own. Days are UTC days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY, Role, access
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.parameters import text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.spend_dates import DAYS, asked_days
from services.admin.api.spend_endpoints import call_type
from services.admin.api.spend_scope import own_owner
from shared.db import spend_totals
from shared.db.table import Row

_RATE_LIMITED = 429


async def activity(call: AdminCall) -> web.Response:
    """GET /global/activity: calls and tokens by day."""
    rows = await spend_totals.by_day(call.services.store, asked_days(call.query), own_owner(call))
    return answer(_requests(rows))


async def by_model(call: AdminCall) -> web.Response:
    """GET /global/activity/model: calls and tokens by model and day."""
    rows = await spend_totals.by_model_and_day(
        call.services.store, asked_days(call.query), own_owner(call)
    )
    return answer(
        [
            {"model": name, **_requests(list(days))}
            for name, days in groupby(rows, _by("model_group"))
        ]
    )


async def exceptions(call: AdminCall) -> web.Response:
    """GET /global/activity/exceptions: calls that met a rate limit, by day."""
    rows = await _faults(call)
    rows.sort(key=_by("day"))
    return answer(_exceptions(rows))


async def exceptions_by_deployment(call: AdminCall) -> web.Response:
    """GET /global/activity/exceptions/deployment: calls that met a rate limit, by deployment."""
    rows = await _faults(call)
    rows.sort(key=lambda row: (row["api_base"], row["day"]))
    return answer(
        [
            {"api_base": name, **_exceptions(list(days))}
            for name, days in groupby(rows, _by("api_base"))
        ]
    )


async def cache_hits(call: AdminCall) -> web.Response:
    """GET /global/activity/cache_hits: calls that a cache has answered.

    No reply comes from a cache in this release, so all tokens were generated.
    """
    rows = await spend_totals.by_key_and_model(
        call.services.store, asked_days(call.query), own_owner(call)
    )
    return answer(
        [
            {
                "api_key": row["key"],
                "call_type": call_type(row["route"]),
                "model": row["model"],
                "total_rows": row["calls"],
                "cache_hit_true_rows": 0,
                "cached_completion_tokens": 0,
                "generated_completion_tokens": row["completion_tokens"],
            }
            for row in rows
        ]
    )


_OF_USERS = access(Role.INTERNAL_USER)
_GROUPS = frozenset({"internal_user_routes"})
_NONE: frozenset[str] = frozenset()

GLOBAL_ACTIVITY_ROUTES = (
    AdminRoute("GET", "/global/activity", activity, _OF_USERS, _GROUPS, Shape.DETAIL, query=DAYS),
    AdminRoute(
        "GET",
        "/global/activity/model",
        by_model,
        _OF_USERS,
        _GROUPS,
        Shape.DETAIL,
        query=DAYS,
        returns=LIST,
    ),
    AdminRoute(
        "GET",
        "/global/activity/cache_hits",
        cache_hits,
        _OF_USERS,
        _GROUPS,
        Shape.DETAIL,
        query=DAYS,
        returns=LIST,
    ),
    AdminRoute(
        "GET",
        "/global/activity/exceptions",
        exceptions,
        ADMIN_ONLY,
        _NONE,
        Shape.DETAIL,
        query=(*DAYS, *text_parameters("model_group")),
    ),
    AdminRoute(
        "GET",
        "/global/activity/exceptions/deployment",
        exceptions_by_deployment,
        ADMIN_ONLY,
        _NONE,
        Shape.DETAIL,
        query=(*DAYS, *text_parameters("model_group")),
        returns=LIST,
    ),
)


async def _faults(call: AdminCall) -> list[Row]:
    return await spend_totals.faults(
        call.services.store, asked_days(call.query), _RATE_LIMITED, call.query.text("model_group")
    )


def _requests(rows: list[Row]) -> dict[str, Any]:
    return {
        "daily_data": [
            {
                "date": row["day"].isoformat(),
                "api_requests": row["calls"],
                "total_tokens": row["tokens"],
            }
            for row in rows
        ],
        "sum_api_requests": _total(rows, "calls"),
        "sum_total_tokens": _total(rows, "tokens"),
    }


def _exceptions(rows: list[Row]) -> dict[str, Any]:
    """Calls that ended with 429, by day."""
    return {
        "daily_data": [
            {"date": day.isoformat(), "num_rate_limit_exceptions": _total(of_day, "faults")}
            for day, of_day in groupby(rows, _by("day"))
        ],
        "sum_num_rate_limit_exceptions": _total(rows, "faults"),
    }


def _total(rows: Iterable[Row], name: str) -> int:
    return sum(row[name] for row in rows)


def _by(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]
