"""Daily activity of users, teams, tags, organizations, end users and agents (§3.12).

A page holds whole days, `page_size` of them, so that a day is never on two pages. Models, routes
and owners that are asked for by name are complete; of everybody's owners and of keys those stand
in the breakdown that spent most in the days of the answer; `/aggregated/keys` lists all keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date
from functools import wraps

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY, ANY_KEY, Access, Relation, Role, access
from services.admin.api.activity_body import activity_body, key_body, metrics_body
from services.admin.api.activity_scope import SUBJECTS, Subject, read_activity_filter
from services.admin.api.calls import AdminCall, AdminHandler, AdminRoute, Shape
from services.admin.api.csv_lines import csv_lines
from services.admin.api.parameters import Parameter, page_parameters, text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import OBJECT, Returns
from services.admin.api.spend_endpoints import endpoint
from shared.db.activity import Most, Slot, active_days, each_day, rank_keys, read_activity
from shared.db.activity_sources import KEYLESS, ActivityFilter
from shared.db.spend_names import known_keys
from shared.db.spend_reading import reading
from shared.domain.errors import InvalidRequest

_MOST_DAYS, _LARGEST_PAGE, _MOST_AT_ONCE = 31, 1000, 366
_MOST_PAGES = 10_000_000
_SIZES: Mapping[str, int] = {"user": 50}
_DEFAULT_SIZE = 10
_OF_PAGE, _OF_ALL = Most(owners=100, keys=50), Most(owners=50, keys=10)
_ALIASES: Mapping[str, str] = {
    "user": "user_email",
    "team": "team_alias",
    "organization": "organization_alias",
    "end_user": "alias",
}
_NAME_COLUMNS = ("date", "entity", "api_key", "model_group", "model", "provider", "endpoint")
_METRIC_COLUMNS = (
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "api_requests",
    "successful_requests",
    "failed_requests",
)


async def by_pages(call: AdminCall, subject: Subject) -> web.Response:
    """GET …/daily/activity: what owners used, a page of days."""
    chosen = await read_activity_filter(call, subject)
    page, size = _paging(call, _SIZES.get(subject.kind, _DEFAULT_SIZE))
    size = min(size, _MOST_DAYS)
    async with reading(call.services.store) as connection:
        days = await active_days(connection, chosen)
        shown = days[(page - 1) * size : page * size]
        activity = await read_activity(connection, chosen, shown, most=_OF_PAGE)
    pages = max(1, -(-len(days) // size))
    return answer(activity_body(activity, _alias(subject), page=page, total_pages=pages))


async def aggregated(call: AdminCall, subject: Subject) -> web.Response:
    """GET …/daily/activity/aggregated: what owners used, in one answer."""
    chosen = await read_activity_filter(call, subject)
    async with reading(call.services.store) as connection:
        days = await active_days(connection, chosen)
        if len(days) > _MOST_AT_ONCE:
            what = f"At most {_MOST_AT_ONCE} days are answered at once; ask for them by pages"
            raise InvalidRequest(what, param="start_date")
        activity = await read_activity(connection, chosen, days, most=_OF_ALL)
    return answer(activity_body(activity, _alias(subject), page=1, total_pages=1))


async def keys(call: AdminCall, subject: Subject) -> web.Response:
    """GET …/daily/activity/aggregated/keys, …/search: what owners used by key."""
    return await _ranking(call, subject, await read_activity_filter(call, subject))


async def model_top_keys(call: AdminCall, subject: Subject) -> web.Response:
    """GET …/daily/activity/aggregated/model_top_keys: the keys that used a model most."""
    chosen = await read_activity_filter(call, subject)
    if chosen.model is None:
        raise InvalidRequest("model is required", param="model")
    return await _ranking(call, subject, chosen)


async def export(call: AdminCall, subject: Subject) -> web.Response:
    """GET …/daily/activity/export: what owners used as a table."""
    chosen = await read_activity_filter(call, subject)
    async with reading(call.services.store) as connection:
        days = await active_days(connection, chosen)
    # An error on the way ends the connection, so that what has come does not look whole.
    return web.Response(
        body=_exported(call, chosen, days),
        headers={
            "content-type": "text/csv; charset=utf-8",
            "content-disposition": f'attachment; filename="{subject.kind}_activity.csv"',
            "cache-control": "no-store",
        },
    )


_OWN = frozenset({"management_routes", "self_managed_routes", "admin_viewer_routes"})
_TAGS = frozenset({"internal_user_routes", "internal_user_view_only_routes", "admin_viewer_routes"})
_ADMINS = frozenset({"admin_viewer_routes"})
_USERS = access(Role.INTERNAL_USER, Role.INTERNAL_USER_VIEWER, Role.PROXY_ADMIN_VIEWER)
_ACCESS: Mapping[str, tuple[Access, frozenset[str]]] = {
    "user": (ANY_KEY, _OWN),
    "team": (ANY_KEY, _OWN),
    "organization": (access(Role.PROXY_ADMIN_VIEWER, Relation.ORG_ADMIN), _OWN),
    "tag": (_USERS, _TAGS),
    "customer": (ADMIN_ONLY, _ADMINS),
    "end_user": (ADMIN_ONLY, _ADMINS),
    "agent": (ADMIN_ONLY, _ADMINS),
}

SubjectHandler = Callable[[AdminCall, Subject], Awaitable[web.Response]]


def _about(handle: SubjectHandler, subject: Subject) -> AdminHandler:
    @wraps(handle)
    async def handler(call: AdminCall) -> web.Response:
        return await handle(call, subject)

    return handler


_PAGE = page_parameters(_DEFAULT_SIZE, _LARGEST_PAGE)
_RANKED = (*_PAGE, *text_parameters("search"))
_PATHS: tuple[tuple[str, SubjectHandler, tuple[Parameter, ...], Returns], ...] = (
    ("", by_pages, _PAGE, OBJECT),
    ("/aggregated", aggregated, (), OBJECT),
    ("/aggregated/keys", keys, _RANKED, OBJECT),
    ("/aggregated/search", keys, _RANKED, OBJECT),
    ("/aggregated/model_top_keys", model_top_keys, _RANKED, OBJECT),
    ("/export", export, (), Returns(media=("text/csv",))),
)

ACTIVITY_ROUTES = tuple(
    AdminRoute(
        "GET",
        f"/{name}/daily/activity{path}",
        _about(handle, subject),
        _ACCESS[name][0],
        _ACCESS[name][1],
        Shape.DETAIL,
        query=(*subject.parameters, *query),
        returns=returns,
    )
    for name, subject in SUBJECTS.items()
    for path, handle, query, returns in _PATHS
)


async def _ranking(call: AdminCall, subject: Subject, chosen: ActivityFilter) -> web.Response:
    if chosen.everybody and subject.kind in KEYLESS:
        raise InvalidRequest(f"Name some {subject.param} to rank keys by", param=subject.param)
    page, size = _paging(call, _DEFAULT_SIZE)
    async with reading(call.services.store) as connection:
        ranked, total = await rank_keys(
            connection,
            chosen,
            search=call.query.text("search"),
            limit=size,
            offset=(page - 1) * size,
        )
        known = await known_keys(connection, [token for token, _ in ranked])
    return answer(
        {
            "keys": [key_body(token, metrics, known) for token, metrics in ranked],
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": -(-total // size),
        }
    )


async def _exported(
    call: AdminCall, chosen: ActivityFilter, days: Sequence[date]
) -> AsyncIterator[bytes]:
    yield csv_lines([(*_NAME_COLUMNS, *_METRIC_COLUMNS)])
    async for slots in each_day(call.services.store, chosen, days):
        yield csv_lines(_cells(slot) for slot in slots)


def _cells(slot: Slot) -> list[object]:
    metrics = metrics_body(slot.metrics)
    names = (slot.day.isoformat(), slot.owner, slot.key, slot.model_group, slot.model)
    return [
        *names,
        slot.provider,
        endpoint(slot.route),
        *(metrics[name] for name in _METRIC_COLUMNS),
    ]


def _paging(call: AdminCall, size: int) -> tuple[int, int]:
    page = call.query.whole("page", default=1, low=1, high=_MOST_PAGES)
    return page, call.query.whole("page_size", default=size, low=1, high=_LARGEST_PAGE)


def _alias(subject: Subject) -> str:
    return _ALIASES.get(subject.kind, "alias")
