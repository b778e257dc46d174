"""Changing and removing many members of a team at once, under `/management/v1`.

A body is checked strictly; then each member named is one result, in the order of the request.
Errors are problem details.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from attrs import frozen

from services.admin.api.body import Field, fields_schema, read_fields
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.problems import Problem
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.team_access import MANAGED, SELF_MANAGED, managed_team
from services.admin.api.team_fields import PATCH_FIELDS
from services.admin.api.team_limits import Limited, change_limits
from services.admin.api.team_members import empty_limits, member_limits
from services.admin.api.team_membership import (
    not_oneself,
    note_changed,
    note_gone,
    take_out,
)
from services.admin.api.team_rows import budget_source
from services.admin.api.values import Loc, Wrong, reader
from services.admin.api.wire_rows import wire
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.team_members import members_by_email, memberships
from shared.domain.errors import RequestError

_MOST = 500
_QUERY = frozenset({"wait", "timeout"})
_SHOWN = ("tpm_limit", "rpm_limit", "budget_duration", "allowed_models")
_NAMES = frozenset({"user_id", "user_email"})


@frozen
class _Named:
    """One of the request's members: who is in the team by that name, or what is wrong."""

    values: Mapping[str, Any]
    member: Row | None
    error: str | None

    def result(self, **more: Any) -> dict[str, Any]:
        """The answer about it."""
        return {
            "user_id": self.values.get("user_id"),
            "user_email": self.values.get("user_email"),
            "success": self.error is None,
            "error": self.error,
            **more,
        }


async def bulk_delete(call: AdminCall) -> web.Response:
    """POST /management/v1/teams/{team_id}/members/bulk_delete: takes many members out."""

    async def work(connection: Connection, team: Row, named: Sequence[_Named]) -> list[Any]:
        members = [each.member for each in named if each.member is not None]
        tokens = await take_out(call, connection, team, members)
        await note_gone(call, connection, members, tokens)
        return [each.result() for each in named]

    return await _answered(call, work)


async def bulk_update(call: AdminCall) -> web.Response:
    """POST /management/v1/teams/{team_id}/members/bulk_update: changes many members."""

    async def work(connection: Connection, team: Row, named: Sequence[_Named]) -> list[Any]:
        results, changed = [], []
        for asked in named:
            each, limited = await _changed(call, connection, team, asked)
            if limited is not None and each.member is not None:
                changed.append((each.member, limited))
            results.append(each.result(**_in_force(team, limited)))
        await note_changed(call, connection, team, changed)
        return results

    return await _answered(call, work)


def _members_of(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields of a body: members, each of whom has these."""
    names = {field.name for field in fields}

    def read(value: Any, loc: Loc) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("dict_type", loc, "Input should be a valid dictionary")
        for name in value:
            if name not in names:
                raise Wrong("extra_forbidden", (*loc, name), "Extra inputs are not permitted")
        found = {
            field.name: None
            if value[field.name] is None
            else field.read(value[field.name], (*loc, field.name))
            for field in fields
            if field.name in value
        }
        if sum(found.get(name) is not None for name in _NAMES) != 1:
            raise Wrong("value_error", loc, "Exactly one of user_id and user_email is needed")
        return found

    @reader(type="array", minItems=1, maxItems=_MOST, items=fields_schema(fields))
    def listed(value: Any, loc: Loc) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not 0 < len(value) <= _MOST:
            raise Wrong("list_type", loc, f"Input should be a list of 1 to {_MOST}")
        return [read(item, (*loc, place)) for place, item in enumerate(value)]

    return (Field("members", listed, required=True),)


_UPDATE_FIELDS, _DELETE_FIELDS = _members_of(PATCH_FIELDS), _members_of(PATCH_FIELDS[:2])
_MEMBERS = "/management/v1/teams/{team_id}/members"
BULK_MEMBER_ROUTES = (
    AdminRoute(
        "POST",
        f"{_MEMBERS}/bulk_update",
        bulk_update,
        MANAGED,
        SELF_MANAGED,
        Shape.PROBLEM,
        body=_UPDATE_FIELDS,
    ),
    AdminRoute(
        "POST",
        f"{_MEMBERS}/bulk_delete",
        bulk_delete,
        MANAGED,
        SELF_MANAGED,
        Shape.PROBLEM,
        body=_DELETE_FIELDS,
    ),
)

_Work = Callable[[Connection, Row, Sequence[_Named]], Awaitable[list[Any]]]


async def _answered(call: AdminCall, work: _Work) -> web.Response:
    unknown = sorted({*call.request.query} - _QUERY)
    if unknown:
        detail = f"Unknown query parameters: {', '.join(unknown)}"
        raise Problem(400, "unknown-query-parameter", detail, sorted(_QUERY))
    asked = _members(await call.body(), call.route.body or ())

    async def whole(connection: Connection) -> dict[str, Any]:
        team = await managed_team(call, connection, call.named("team_id"))
        named = await _named(connection, team, asked)
        return {"data": await work(connection, team, named)}

    return await call.write(whole)


def _members(body: Mapping[str, Any], fields: tuple[Field, ...]) -> list[dict[str, Any]]:
    extra = [
        Issue("extra_forbidden", ("body", name), "Extra inputs are not permitted")
        for name in body
        if name != "members"
    ]
    if extra:
        raise Unprocessable(extra)
    members: list[dict[str, Any]] = read_fields(body, fields)["members"]
    return members


async def _named(
    connection: Connection, team: Row, asked: Sequence[Mapping[str, Any]]
) -> list[_Named]:
    team_id = team["team_id"]
    emails = {each["user_email"] for each in asked if each.get("user_email") is not None}
    by_email = await members_by_email(connection, team_id, emails)
    rows = {row["user_id"]: row for row in await memberships(connection, [team_id])}
    seen: set[str] = set()
    found = []
    for values in asked:
        user_id = values.get("user_id") or by_email.get(values.get("user_email") or "")
        member = rows.get(user_id or "")
        if member is None:
            found.append(_Named(values, None, "This is not a member of the team"))
        elif member["user_id"] in seen:
            found.append(_Named(values, None, "Duplicate member in request"))
        else:
            seen.add(member["user_id"])
            found.append(_Named(values, member, None))
    return found


async def _changed(
    call: AdminCall, connection: Connection, team: Row, named: _Named
) -> tuple[_Named, Limited | None]:
    member = named.member
    if member is None:
        return named, None
    limits = {name: value for name, value in named.values.items() if name not in _NAMES}
    try:
        if limits:
            not_oneself(call, team, member)
        columns = member_limits(limits, team)
    except RequestError as error:
        return _Named(named.values, None, error.message), None
    return named, await change_limits(call, connection, team, member, columns)


def _in_force(team: Row, limited: Limited | None) -> dict[str, Any]:
    limits = empty_limits() if limited is None else limited.limits
    source = None
    if limited is not None and limits["max_budget"] is not None:
        own = budget_source(limited.budget_id, team) == "custom"
        source = "member" if own else "team_default"
    return {
        "budget_id": limited and limited.budget_id,
        "max_budget": wire(limits["max_budget"]),
        "max_budget_source": source,
        **{name: limits[name] or None for name in _SHOWN},
    }
