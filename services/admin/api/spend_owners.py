"""What keys, users and tags have spent, and who was ever called for (management contract §3.12)."""

from __future__ import annotations

from datetime import timedelta

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.key_list import narrowed
from services.admin.api.key_writes import bodies
from services.admin.api.parameters import page_parameters, text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.spend_dates import RECENT_DAYS, asked_day, days_or_last, last_days
from services.admin.api.spend_logs import SPEND_GROUPS, marked
from services.admin.api.spend_scope import own_keys
from services.admin.api.user_rows import user_bodies, windows_of
from services.admin.api.wire_rows import wire
from shared.db.key_list import KeyFilter, list_keys
from shared.db.spend_names import end_users_of, names_seen
from shared.db.spend_totals import Days, top_owners
from shared.db.user_list import UserFilter, list_users
from shared.domain.errors import PermissionDenied

_MOST = 2000
_LARGEST_PAGE = 100
_MOST_PAGES = 10_000_000


async def keys(call: AdminCall) -> web.Response:
    """GET /spend/keys: keys by what they have spent."""
    async with call.services.store.connection() as connection:
        chosen = await narrowed(connection, KeyFilter(now=call.now), call.caller)
        rows, total = await list_keys(
            connection, chosen, sort_by="spend", descending=True, limit=_MOST, offset=0
        )
        shown = await bodies(connection, call, rows)
    return marked(answer(shown), truncated=total > len(shown))


async def users(call: AdminCall) -> web.Response:
    """GET /spend/users: users by what they have spent."""
    asked, own = call.query.text("user_id"), call.caller.user_id
    if not call.caller.sees_all:
        if asked not in {None, own}:
            raise PermissionDenied("This key may see only its own user", param="user_id")
        asked = own or ""
    chosen = UserFilter(user_ids=None if asked is None else (asked,))
    async with call.services.store.connection() as connection:
        rows, total = await list_users(
            connection, chosen, sort_by="spend", descending=True, limit=_MOST, offset=0
        )
        by_id = {row["user_id"]: row for row in rows}
        shown = await user_bodies(connection, by_id, windows_of(call))
    return marked(answer([shown[user_id] for user_id in by_id]), truncated=total > len(shown))


async def tags(call: AdminCall) -> web.Response:
    """GET /spend/tags: tags by what was spent with them.

    Without dates: of all time; for those who see only their own calls, of the last thirty days.
    """
    query, mine = call.query, await own_keys(call)
    days = days_or_last(query, call.now)
    if mine is None and asked_day(query, "start_date") is None:
        days = Days(days.first.min, days.last)
    rows = await top_owners(call.services.store, "tag", days, _MOST, keys=mine)
    return answer(
        [
            {
                "individual_request_tag": row["id"],
                "log_count": row["calls"],
                "total_spend": wire(row["spend"]),
            }
            for row in rows
        ]
    )


async def seen_users(call: AdminCall) -> web.Response:
    """GET /management/v1/spend_logs/users: a page of the users in the spend log."""
    if call.caller.sees_all:
        return await _names(call, "user", "users")
    own, search = call.caller.user_id, call.query.text("search") or ""
    found = [own] if own is not None and search.lower() in own.lower() else []
    return _name_page(call, "users", found, len(found))


async def seen_end_users(call: AdminCall) -> web.Response:
    """GET /management/v1/spend_logs/end_users: a page of the end users in it.

    Those who see only their own calls are told of the last thirty days' end users.
    """
    if call.caller.sees_all:
        return await _names(call, "end_user", "end_users")
    page, size = _paging(call)
    found, total = await end_users_of(
        call.services.store,
        call.caller.user_id,
        call.caller.token,
        call.now - timedelta(days=(call.now.date() - last_days(call.now).first).days),
        search=call.query.text("search"),
        limit=size,
        offset=(page - 1) * size,
    )
    return _name_page(call, "end_users", found, total)


_NAMES = (*page_parameters(50, _LARGEST_PAGE), *text_parameters("search"))
SPEND_OWNER_ROUTES = (
    AdminRoute("GET", "/spend/keys", keys, ANY_KEY, SPEND_GROUPS, returns=LIST),
    AdminRoute(
        "GET",
        "/spend/users",
        users,
        ANY_KEY,
        SPEND_GROUPS,
        query=text_parameters("user_id"),
        returns=LIST,
    ),
    AdminRoute("GET", "/spend/tags", tags, ANY_KEY, SPEND_GROUPS, query=RECENT_DAYS, returns=LIST),
    AdminRoute(
        "GET", "/management/v1/spend_logs/users", seen_users, ANY_KEY, SPEND_GROUPS, query=_NAMES
    ),
    AdminRoute(
        "GET",
        "/management/v1/spend_logs/end_users",
        seen_end_users,
        ANY_KEY,
        SPEND_GROUPS,
        query=_NAMES,
    ),
)


async def _names(call: AdminCall, kind: str, member: str) -> web.Response:
    page, size = _paging(call)
    found, total = await names_seen(
        call.services.store,
        kind,
        search=call.query.text("search"),
        limit=size,
        offset=(page - 1) * size,
    )
    return _name_page(call, member, found, total)


def _name_page(call: AdminCall, member: str, found: list[str], total: int) -> web.Response:
    page, size = _paging(call)
    return answer(
        {
            member: found,
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": -(-total // size),
        }
    )


def _paging(call: AdminCall) -> tuple[int, int]:
    page = call.query.whole("page", default=1, low=1, high=_MOST_PAGES)
    return page, call.query.whole("page_size", default=50, low=1, high=_LARGEST_PAGE)
