"""What everybody has spent: totals, rankings, and setting them back (management contract §3.12).

Rankings are of the last thirty days where no dates are asked for.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aiohttp import web

from services.admin.api.access import ADMIN_ONLY, ANY_KEY, MASTER_ONLY
from services.admin.api.body import Field, read_fields
from services.admin.api.calls import AdminCall, AdminHandler, AdminRoute
from services.admin.api.parameters import text_parameters, whole_parameter
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.spend_dates import RECENT_DAYS, day, days_or_last, last_days
from services.admin.api.spend_reports import REPORT_PARAMETERS, of_everybody
from services.admin.api.spend_scope import for_spend_readers
from services.admin.api.values import text
from services.admin.api.wire_rows import wire
from shared.db import spend_totals
from shared.db.audit import Action
from shared.db.rows import Connection
from shared.db.spend_names import names_seen
from shared.db.spend_reset import reset_spend
from shared.db.spend_totals import Days, Owner
from shared.db.table import Row
from shared.keys.generate import stored_form

_TOP, _MOST_TOP, _TOP_END_USERS = 10, 10_000, 100
_MOST_NAMES = 100_000
_TABLES = {"key": "LiteLLM_VerificationToken", "team": "LiteLLM_TeamTable"}
_END_USER_FIELDS = (Field("api_key", text), Field("startTime", text), Field("endTime", text))


async def total(call: AdminCall) -> web.Response:
    """GET /global/spend: what has been spent in all."""
    spent = await spend_totals.total_spend(call.services.store)
    # No budget holds for all together; the reference says zero then.
    return answer({"spend": wire(spent), "max_budget": 0.0})


async def by_day(call: AdminCall) -> web.Response:
    """GET /global/spend/logs: what was spent on each of the last days."""
    given = call.query.text("api_key")
    owner = None if given is None else Owner("key", stored_form(given) or given)
    rows = await spend_totals.by_day(call.services.store, last_days(call.now), owner)
    return answer([{"date": wire_day(row), "spend": wire(row["spend"])} for row in rows])


async def keys(call: AdminCall) -> web.Response:
    """GET /global/spend/keys: the keys that have spent most."""
    rows = await spend_totals.top_keys(call.services.store, last_days(call.now), _limit(call))
    return answer(
        [
            {
                "api_key": row["key"],
                "key_alias": row["key_alias"],
                "key_name": row["key_name"],
                "total_spend": wire(row["spend"]),
            }
            for row in rows
        ]
    )


async def teams(call: AdminCall) -> web.Response:
    """GET /global/spend/teams: what each team has spent, by day."""
    rows = await spend_totals.teams_by_day(call.services.store, last_days(call.now))
    days: dict[str, dict[str, Any]] = {}
    totals: dict[str, Decimal] = {}
    for row in rows:
        name = row["name"]
        days.setdefault(wire_day(row), {"date": wire_day(row)})[name] = wire(row["spend"])
        totals[name] = totals.get(name, Decimal(0)) + row["spend"]
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    return answer(
        {
            "daily_spend": list(days.values()),
            "teams": ranked,
            "total_spend_per_team": [
                {"team_id": name, "total_spend": wire(totals[name])} for name in ranked
            ],
        }
    )


async def models(call: AdminCall) -> web.Response:
    """GET /global/spend/models: the models on which most was spent."""
    rows = await spend_totals.top_models(call.services.store, last_days(call.now), _limit(call))
    return answer([{"model": row["model"], "total_spend": wire(row["spend"])} for row in rows])


async def providers(call: AdminCall) -> web.Response:
    """GET /global/spend/provider: what was spent with each provider."""
    days = days_or_last(call.query, call.now)
    rows = await spend_totals.by_provider(call.services.store, days)
    return answer([{"provider": row["provider"], "spend": wire(row["spend"])} for row in rows])


async def tags(call: AdminCall) -> web.Response:
    """GET /global/spend/tags: what was spent with each tag."""
    given = call.query.text("tags")
    named = None if given is None else [each.strip() for each in given.split(",")]
    days = days_or_last(call.query, call.now)
    rows = await spend_totals.top_owners(call.services.store, "tag", days, _MOST_TOP, ids=named)
    return answer(
        {
            "spend_per_tag": [
                {"name": row["id"], "spend": wire(row["spend"]), "log_count": row["calls"]}
                for row in rows
            ]
        }
    )


async def tag_names(call: AdminCall) -> web.Response:
    """GET /global/spend/all_tag_names: every tag that traffic has shown."""
    names, _ = await names_seen(call.services.store, "tag", limit=_MOST_NAMES)
    return answer({"tag_names": names})


async def end_users(call: AdminCall) -> web.Response:
    """POST /global/spend/end_users: the end users that have spent most."""
    values = read_fields(await call.body(), _END_USER_FIELDS) if call.request.can_read_body else {}
    first, last, key = values.get("startTime"), values.get("endTime"), values.get("api_key")
    recent = last_days(call.now)
    days = Days(
        recent.first if first is None else day(first, "startTime"),
        recent.last if last is None else day(last, "endTime"),
    )
    rows = await spend_totals.top_owners(
        call.services.store,
        "end_user",
        days,
        _TOP_END_USERS,
        keys=None if key is None else (stored_form(key) or key,),
    )
    return answer(
        [
            {
                "end_user": row["id"],
                "total_count": row["calls"],
                "total_spend": wire(row["spend"]),
            }
            for row in rows
        ]
    )


async def end_user_names(call: AdminCall) -> web.Response:
    """GET /global/all_end_users: every end user that traffic has shown."""
    names, _ = await names_seen(call.services.store, "end_user", limit=_MOST_NAMES)
    return answer({"end_users": names})


async def reset(call: AdminCall) -> web.Response:
    """POST /global/spend/reset: sets the spend of all keys and teams to zero."""

    async def work(connection: Connection) -> dict[str, Any]:
        found = await reset_spend(connection, *_TABLES)
        for kind, table in _TABLES.items():
            before = {"spend": found[kind].spend, "owners": found[kind].owners}
            after = {"spend": Decimal(0), "owners": 0}
            await call.note(connection, Action.RESET, table, "*", before=before, after=after)
        return {
            "message": "Spend of all keys and teams is zero again; the spend logs are kept",
            "status": "success",
        }

    return await call.write(work)


async def refresh(call: AdminCall) -> web.Response:
    """POST /global/spend/refresh: does nothing, since pages are always up to date."""
    del call
    return answer({"message": "Spend pages are always up to date", "status": "success"})


async def provider_budgets(call: AdminCall) -> web.Response:
    """GET /provider/budgets: the budgets of providers.

    This release has no budgets of providers.
    """
    del call
    return answer({"providers": {}})


def wire_day(row: Row) -> str:
    """The day of a row."""
    return str(row["day"].isoformat())


def _limit(call: AdminCall) -> int:
    return call.query.whole("limit", default=_TOP, low=1, high=_MOST_TOP)


_GROUPS = frozenset({"global_spend_tracking_routes"})


def _open(method: str, path: str, handler: AdminHandler, **more: Any) -> AdminRoute:
    return AdminRoute(method, path, for_spend_readers(handler), ANY_KEY, _GROUPS, **more)


_TOP_ONES = (whole_parameter("limit", default=_TOP, low=1, high=_MOST_TOP),)
GLOBAL_SPEND_ROUTES = (
    _open("GET", "/global/spend", total),
    _open("GET", "/global/spend/logs", by_day, query=text_parameters("api_key"), returns=LIST),
    _open("GET", "/global/spend/keys", keys, query=_TOP_ONES, returns=LIST),
    _open("GET", "/global/spend/teams", teams),
    _open("GET", "/global/spend/models", models, query=_TOP_ONES, returns=LIST),
    _open("GET", "/global/spend/provider", providers, query=RECENT_DAYS, returns=LIST),
    _open("GET", "/global/spend/tags", tags, query=(*RECENT_DAYS, *text_parameters("tags"))),
    _open("GET", "/global/spend/all_tag_names", tag_names),
    _open("GET", "/global/spend/report", of_everybody, query=REPORT_PARAMETERS, returns=LIST),
    _open(
        "POST",
        "/global/spend/end_users",
        end_users,
        body=_END_USER_FIELDS,
        returns=LIST,
        reads=True,
    ),
    _open("GET", "/global/all_end_users", end_user_names),
    AdminRoute("POST", "/global/spend/reset", reset, MASTER_ONLY, frozenset()),
    AdminRoute("POST", "/global/spend/refresh", refresh, ADMIN_ONLY, frozenset(), reads=True),
    AdminRoute("GET", "/provider/budgets", provider_budgets, ADMIN_ONLY, frozenset()),
)
