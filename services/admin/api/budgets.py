"""The budget routes of the management API (management contract §3.6)."""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place
from services.admin.api.budget_page import PAGE_PARAMETERS, budget_page_body, read_budget_page
from services.admin.api.budget_rows import budget_body
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.common_fields import texts
from services.admin.api.linked_budgets import (
    BUDGET_FIELDS,
    BUDGET_ID,
    BUDGET_TABLE,
    budget_columns,
    create_budget,
)
from services.admin.api.parameters import text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST, Returns
from services.admin.api.values import instant, text
from shared.db.audit import Action
from shared.db.budgets import BUDGETS, all_budgets, delete_budget, find_budgets, page_of_budgets
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError

# When a budget starts anew follows from the calendar, so the instant itself is not stored.
_RESET_AT = Field("budget_reset_at", instant, Place.CONTROL)
_FIELDS = (BUDGET_ID, _RESET_AT, *BUDGET_FIELDS)
_INFO_FIELDS = (Field("budgets", texts, required=True),)
_DELETE_FIELDS = (Field("id", text, required=True),)

_SETTINGS = (
    ("max_parallel_requests", "Integer", "Calls that may run at once."),
    ("tpm_limit", "Integer", "Tokens per minute."),
    ("rpm_limit", "Integer", "Requests per minute."),
    ("budget_duration", "String", "The period after which the budget starts anew, e.g. 30d."),
    ("max_budget", "Float", "USD that may be spent in a period."),
    ("soft_budget", "Float", "USD from which on alerts are sent."),
)


async def new(call: AdminCall) -> web.Response:
    """POST /budget/new: makes a budget."""
    values = await call.fields()
    budget_id = values.get("budget_id") or str(uuid.uuid4())
    columns = {name: value for name, value in budget_columns(values).items() if value is not None}

    async def work(connection: Connection) -> dict[str, Any]:
        made = await create_budget(call, connection, budget_id, columns)
        assert made.after is not None, "it has just been made"
        await made.note(call, connection)
        return _shown(call, made.after)

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """POST /budget/update: changes a budget."""
    values = await call.fields()
    budget_id = values.get("budget_id")
    if budget_id is None:
        raise InvalidRequest("budget_id is needed to say which budget", param="budget_id")

    async def work(connection: Connection) -> dict[str, Any] | None:
        before = await BUDGETS.find(connection, budget_id, lock=True)
        if before is None:
            return None
        columns = budget_columns(values)
        after = await BUDGETS.update(connection, (budget_id,), columns, call.caller.actor)
        assert after is not None, "its row is locked"
        await call.note(
            connection, Action.UPDATED, BUDGET_TABLE, budget_id, before=before, after=after
        )
        return _shown(call, after)

    return await call.write(work)


async def info(call: AdminCall) -> web.Response:
    """POST /budget/info: several budgets."""
    wanted = (await call.fields())["budgets"]
    if not wanted:
        raise InvalidRequest("budgets names no budget", param="budgets")
    async with call.services.store.connection() as connection:
        rows = await find_budgets(connection, wanted)
    return answer([_shown(call, row) for row in rows.values()])


async def list_budgets(call: AdminCall) -> web.Response:
    """GET /budget/list: every budget."""
    async with call.services.store.connection() as connection:
        rows = await all_budgets(connection)
    return answer([_shown(call, row) for row in rows])


async def settings(call: AdminCall) -> web.Response:
    """GET /budget/settings: a budget, member by member."""
    budget_id = call.query.text("budget_id")
    if budget_id is None:
        raise Unprocessable([Issue("missing", ("query", "budget_id"), "Field required")])
    async with call.services.store.connection() as connection:
        row = await BUDGETS.find(connection, budget_id)
    if row is None:
        raise RequestError("There is no such budget", status=404, param="budget_id")
    shown = _shown(call, row)
    return answer(
        [
            {
                "field_name": name,
                "field_type": kind,
                "field_description": description,
                "field_value": shown[name],
                "stored_in_db": shown[name] is not None,
                "field_default_value": None,
                "nested_fields": None,
            }
            for name, kind, description in _SETTINGS
        ]
    )


async def delete(call: AdminCall) -> web.Response:
    """POST /budget/delete: deletes a budget."""
    budget_id = (await call.fields())["id"]

    async def work(connection: Connection) -> dict[str, Any] | None:
        gone = await delete_budget(connection, budget_id)
        if gone is None:
            return None
        await call.note(connection, Action.DELETED, BUDGET_TABLE, budget_id, before=gone)
        return _shown(call, gone)

    return await call.write(work)


async def page(call: AdminCall) -> web.Response:
    """GET /management/v1/budgets: a page of the budgets."""
    asked = read_budget_page(call.request.query)
    async with call.services.store.connection() as connection:
        rows, total = await page_of_budgets(
            connection, asked.search, asked.order, asked.size, asked.offset
        )
    shown = [_shown(call, row) for row in rows]
    return answer(budget_page_body(call.request, asked, shown, total))


_NONE: frozenset[str] = frozenset()
_VIEWED = frozenset({"admin_viewer_routes", "org_admin_allowed_routes"})

BUDGET_ROUTES = (
    AdminRoute(
        "POST",
        "/budget/new",
        new,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=_FIELDS,
        returns=Returns(BUDGET_FIELDS),
    ),
    AdminRoute(
        "POST",
        "/budget/update",
        update,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=_FIELDS,
        returns=Returns(BUDGET_FIELDS, nullable=True),
    ),
    AdminRoute(
        "POST",
        "/budget/info",
        info,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=_INFO_FIELDS,
        returns=Returns(BUDGET_FIELDS, many=True),
        reads=True,
    ),
    AdminRoute(
        "GET",
        "/budget/list",
        list_budgets,
        groups=_VIEWED,
        errors=Shape.DETAIL,
        returns=Returns(BUDGET_FIELDS, many=True),
    ),
    AdminRoute(
        "GET",
        "/budget/settings",
        settings,
        groups=_VIEWED,
        errors=Shape.DETAIL,
        query=text_parameters("budget_id", required=True),
        returns=LIST,
    ),
    AdminRoute(
        "POST",
        "/budget/delete",
        delete,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=_DELETE_FIELDS,
        returns=Returns(BUDGET_FIELDS, nullable=True),
    ),
    AdminRoute(
        "GET",
        "/management/v1/budgets",
        page,
        groups=_VIEWED,
        errors=Shape.PROBLEM,
        query=PAGE_PARAMETERS,
    ),
)


def _shown(call: AdminCall, row: Row) -> dict[str, Any]:
    return budget_body(row, call.services.rules, call.now)
