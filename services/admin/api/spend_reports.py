"""Reports of spend by team, end user, user, organization or key (management contract §3.12).

By day where owners are reported, each with its models; by key with the models of the whole time.
Over all owners models are not told apart by key (`api_key` is null), and all users and all end
users have no models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY
from services.admin.api.calls import AdminCall, AdminHandler, AdminRoute
from services.admin.api.parameters import choice_parameter, text_parameters
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.spend_dates import DAYS, asked_days
from services.admin.api.spend_logs import SPEND_GROUPS
from services.admin.api.spend_scope import own_keys, teams_of_own
from services.admin.api.wire_rows import wire
from shared.db import spend_reports
from shared.db.spend_names import owner_aliases
from shared.db.spend_reports import ReportFilter
from shared.db.table import Row
from shared.domain.errors import PermissionDenied
from shared.keys.generate import stored_form

# Kind of owner → the members of a day, and of one owner in it.
_MEMBERS: Mapping[str, tuple[str, str]] = {
    "team": ("teams", "team_name"),
    "end_user": ("customers", "customer"),
    "user": ("users", "user_id"),
    "organization": ("organizations", "organization_name"),
}


async def of_everybody(call: AdminCall) -> web.Response:
    """GET /global/spend/report: what was spent, by day and owner."""
    query = call.query
    group = query.choice("group_by", ("team", "customer", "api_key")) or "team"
    token, user_id = _token(call), query.text("internal_user_id")
    if user_id is not None:
        return await _by_model(call, "user", (user_id,), token)
    if group == "api_key" or (token is not None and group == "team"):
        return await _by_model(call, "key", None if token is None else (token,), None)
    kind, name = ("team", "team_id") if group == "team" else ("end_user", "customer_id")
    owner = query.text(name)
    return await _by_day(call, kind, None if owner is None else (owner,), token)


async def of_keys(call: AdminCall) -> web.Response:
    """GET /key/spend/report: what keys have spent, by model."""
    token, mine = _token(call), await own_keys(call)
    ids = mine if token is None else (token,)
    if mine is not None and token is not None and token not in mine:
        raise PermissionDenied("This key may see only its own user's keys", param="api_key")
    return await _by_model(call, "key", ids, None)


async def of_users(call: AdminCall) -> web.Response:
    """GET /user/spend/report: what users have spent, by day."""
    asked, own = call.query.text("user_id"), call.caller.user_id
    if not call.caller.sees_all:
        if asked not in {None, own}:
            raise PermissionDenied("This key may see only its own user", param="user_id")
        asked = own or ""
    return await _by_day(call, "user", None if asked is None else (asked,), _token(call))


async def of_teams(call: AdminCall) -> web.Response:
    """GET /team/spend/report: what teams have spent, by day."""
    allowed = None
    if not call.caller.sees_all:
        allowed = call.caller.admin_teams | {*await teams_of_own(call)}
    return await _by_day(call, "team", _allowed(call, "team_id", allowed), _token(call))


async def of_organizations(call: AdminCall) -> web.Response:
    """GET /organization/spend/report: what organizations have spent, by day."""
    allowed = None if call.caller.sees_all else call.caller.admin_organizations
    ids = _allowed(call, "organization_id", allowed)
    return await _by_day(call, "organization", ids, _token(call))


# Of the report about everybody, which stands with the routes of `/global/spend`.
REPORT_PARAMETERS = (
    *DAYS,
    choice_parameter("group_by", "team", "customer", "api_key"),
    *text_parameters("api_key", "internal_user_id", "team_id", "customer_id"),
)


def _route(path: str, handler: AdminHandler, *names: str) -> AdminRoute:
    query = (*DAYS, *text_parameters("api_key", *names))
    return AdminRoute("GET", path, handler, ANY_KEY, SPEND_GROUPS, query=query, returns=LIST)


SPEND_REPORT_ROUTES = (
    _route("/key/spend/report", of_keys),
    _route("/user/spend/report", of_users, "user_id"),
    _route("/team/spend/report", of_teams, "team_id"),
    _route("/organization/spend/report", of_organizations, "organization_id"),
)


def _token(call: AdminCall) -> str | None:
    given = call.query.text("api_key")
    return None if given is None else stored_form(given) or given


def _allowed(call: AdminCall, name: str, allowed: frozenset[str] | None) -> tuple[str, ...] | None:
    """The owner that is asked for, else all that the caller sees the whole spend of."""
    asked = call.query.text(name)
    if asked is not None and allowed is not None and asked not in allowed:
        raise PermissionDenied("Only its admin may see this report", param=name)
    if asked is not None:
        return (asked,)
    return None if allowed is None else tuple(sorted(allowed))


async def _by_day(
    call: AdminCall, kind: str, ids: tuple[str, ...] | None, token: str | None
) -> web.Response:
    asked = ReportFilter(kind=kind, days=asked_days(call.query), ids=ids, token=token)
    many, name = _MEMBERS[kind]
    store = call.services.store
    rows = await spend_reports.by_day(store, asked)
    names = sorted({row["id"] for row in rows}) if name.endswith("_name") else []
    aliases = await owner_aliases(store, kind, names)
    return answer(
        [
            {
                "group_by_day": day.isoformat(),
                many: [
                    {
                        name: aliases.get(owner, owner),
                        "total_spend": _total(models := list(of_owner), "spend"),
                        "metadata": [_model_of_day(row) for row in models if row["model"]],
                    }
                    for owner, of_owner in groupby(of_day, _by("id"))
                ],
            }
            for day, of_day in groupby(rows, _by("day"))
        ]
    )


async def _by_model(
    call: AdminCall, kind: str, ids: tuple[str, ...] | None, token: str | None
) -> web.Response:
    asked = ReportFilter(kind=kind, days=asked_days(call.query), ids=ids, token=token)
    rows = await spend_reports.by_model(call.services.store, asked)
    name = "api_key" if kind == "key" else "internal_user_id"
    return answer(
        [
            {
                name: owner,
                "total_cost": _total(models := list(of_owner), "spend"),
                "total_input_tokens": _total(models, "prompt_tokens"),
                "total_output_tokens": _total(models, "completion_tokens"),
                "model_details": [_model(row) for row in models],
            }
            for owner, of_owner in groupby(rows, _by("id"))
        ]
    )


def _model_of_day(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "spend": wire(row["spend"]),
        "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "api_key": row["key"] or None,
    }


def _model(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "total_cost": wire(row["spend"]),
        "total_input_tokens": row["prompt_tokens"],
        "total_output_tokens": row["completion_tokens"],
    }


def _total(rows: Iterable[Row], name: str) -> Any:
    return wire(sum(row[name] for row in rows))


def _by(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]
