"""The customer (end user) routes of the management API (management contract §3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.customer_fields import (
    IDS_FIELDS,
    NEW_FIELDS,
    UPDATE_FIELDS,
    read_new,
    read_update,
)
from services.admin.api.linked_budgets import changed_link, new_link
from services.admin.api.linked_columns import own_columns
from services.admin.api.linked_rows import LinkedRows
from services.admin.api.model_names import is_model
from services.admin.api.parameters import page_parameters, text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST, OBJECT
from services.admin.api.team_writes import store_permission
from shared.db.audit import Action
from shared.db.customers import (
    CUSTOMERS,
    block_customers,
    delete_customers,
    is_seen,
    lock_customers,
    page_of_customers,
    unblock_customers,
    unregistered,
)
from shared.db.rows import Connection
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, RequestError

_TABLE = "LiteLLM_EndUserTable"
_CUSTOMERS = LinkedRows("end_user", ("end_user_id",))
_SHOWN = (
    "alias",
    "spend",
    "blocked",
    "allowed_model_region",
    "default_model",
    "models",
    "budget_id",
    "litellm_budget_table",
    "object_permission_id",
    "object_permission",
)
_LARGEST_PAGE, _MOST_PAGES = 100, 10_000_000


async def new(call: AdminCall) -> web.Response:
    """POST /customer/new: makes a customer, an end user with rules."""
    values = read_new(await call.body())
    customer_id = values["user_id"]

    async def work(connection: Connection) -> dict[str, Any]:
        await _check_model(call, connection, values)
        link = await new_link(call, connection, values)
        columns = {
            **own_columns(values, NEW_FIELDS),
            "end_user_id": customer_id,
            "budget_id": link.budget_id,
            "object_permission_id": await store_permission(
                connection, values.get("object_permission")
            ),
        }
        row = await _insert(connection, columns)
        if "spend" in values:
            await _CUSTOMERS.set_spend(call, connection, row, values["spend"])
        body = await _shown_one(call, connection, row)
        await link.note(call, connection)
        await call.note(connection, Action.CREATED, _TABLE, customer_id, after=row)
        return body

    return await call.write(work)


async def info(call: AdminCall) -> web.Response:
    """GET /customer/info: a customer."""
    customer_id = call.query.text("end_user_id")
    if customer_id is None:
        raise Unprocessable([Issue("missing", ("query", "end_user_id"), "Field required")])
    async with call.services.store.connection() as connection:
        row = await CUSTOMERS.find(connection, customer_id)
        if row is None and await is_seen(connection, customer_id):
            row = unregistered(customer_id)
        if row is None:
            raise _not_found("end_user_id", customer_id)
        body = await _shown_one(call, connection, row)
    return answer(body)


async def update(call: AdminCall) -> web.Response:
    """POST /customer/update: changes a customer."""
    values = read_update(await call.body())
    customer_id = values.get("user_id", "")

    async def work(connection: Connection) -> dict[str, Any]:
        await _check_model(call, connection, values)
        before = await CUSTOMERS.find(connection, customer_id, lock=True)
        if before is None:
            if not await is_seen(connection, customer_id):
                raise _not_found("user_id", customer_id)
            # Whom traffic has shown is a customer; the first rule registers it.
            before = await _insert(connection, {"end_user_id": customer_id})
        link = await changed_link(call, connection, before["budget_id"], values)
        columns = own_columns(values, UPDATE_FIELDS)
        columns["budget_id"] = link.budget_id
        if "object_permission" in values:
            columns["object_permission_id"] = await store_permission(
                connection, values["object_permission"]
            )
        after = await CUSTOMERS.update(connection, (customer_id,), columns, call.caller.actor)
        assert after is not None, "its row is locked"
        body = await _shown_one(call, connection, after)
        await link.note(call, connection)
        await call.note(connection, Action.UPDATED, _TABLE, customer_id, before=before, after=after)
        return body

    return await call.write(work)


async def delete(call: AdminCall) -> web.Response:
    """POST /customer/delete: deletes customers."""
    wanted = await _ids(call)

    async def work(connection: Connection) -> dict[str, Any]:
        rows = await _lock_all(connection, wanted)
        await delete_customers(connection, wanted)
        gone = [(customer_id, row, None) for customer_id, row in rows.items()]
        await call.note_all(connection, Action.DELETED, _TABLE, gone)
        message = f"Deleted {len(rows)} customers: {', '.join(rows)}"
        return {"deleted_customers": len(rows), "message": message}

    return await call.write(work)


async def block(call: AdminCall) -> web.Response:
    """POST /customer/block: blocks customers, known or not."""
    wanted = await _ids(call)

    async def work(connection: Connection) -> dict[str, Any]:
        before = await lock_customers(connection, wanted)
        after = await block_customers(connection, wanted)
        rows = await _noted(call, connection, Action.BLOCKED, before, after)
        return {"blocked_users": rows}

    return await call.write(work)


async def unblock(call: AdminCall) -> web.Response:
    """POST /customer/unblock: lets blocked customers call again."""
    wanted = await _ids(call)

    async def work(connection: Connection) -> dict[str, Any]:
        before = await _lock_all(connection, wanted)
        after = await unblock_customers(connection, wanted)
        rows = await _noted(call, connection, Action.UNBLOCKED, before, after)
        # Of those named, nobody is left blocked.
        return {"blocked_users": [], "unblocked_users": rows}

    return await call.write(work)


async def list_customers(call: AdminCall) -> web.Response:
    """GET /customer/list: a page of the customers."""
    query = call.query
    size = query.whole("page_size", default=50, low=1, high=_LARGEST_PAGE)
    page = query.whole("page", default=1, low=1, high=_MOST_PAGES)
    async with call.services.store.connection() as connection:
        rows = await page_of_customers(connection, query.text("search"), size, (page - 1) * size)
        bodies = await _shown(call, connection, rows)
    return answer(bodies)


_NONE: frozenset[str] = frozenset()
_VIEWED = frozenset({"admin_viewer_routes", "org_admin_allowed_routes"})
_ONE = text_parameters("end_user_id", required=True)
_PAGE = (*page_parameters(50, _LARGEST_PAGE), *text_parameters("search"))

CUSTOMER_ROUTES = tuple(
    AdminRoute(
        method,
        f"{prefix}/{name}",
        handler,
        groups=groups,
        errors=errors,
        body=body,
        query=query,
        returns=returns,
    )
    for prefix in ("/customer", "/end_user")
    for method, name, handler, groups, errors, body, query, returns in (
        ("POST", "new", new, _NONE, Shape.PROXY, NEW_FIELDS, (), OBJECT),
        ("GET", "info", info, _VIEWED, Shape.PROXY, None, _ONE, OBJECT),
        ("POST", "update", update, _NONE, Shape.PROXY, UPDATE_FIELDS, (), OBJECT),
        ("POST", "delete", delete, _NONE, Shape.PROXY, IDS_FIELDS, (), OBJECT),
        ("POST", "block", block, _NONE, Shape.DETAIL, IDS_FIELDS, (), OBJECT),
        ("POST", "unblock", unblock, _NONE, Shape.DETAIL, IDS_FIELDS, (), OBJECT),
        ("GET", "list", list_customers, _VIEWED, Shape.PROXY, None, _PAGE, LIST),
    )
)


async def _ids(call: AdminCall) -> list[str]:
    wanted = (await call.fields())["user_ids"]
    if not wanted:
        raise InvalidRequest("user_ids names nobody", param="user_ids")
    return sorted(set(wanted))


async def _check_model(call: AdminCall, connection: Connection, values: Mapping[str, Any]) -> None:
    name = values.get("default_model")
    if name is not None and not await is_model(call, connection, name):
        message = f"There is no model {name[:80]!r}"
        raise Unprocessable([Issue("value_error", ("body", "default_model"), message)])


async def _insert(connection: Connection, columns: Mapping[str, Any]) -> Row:
    try:
        return await CUSTOMERS.insert(connection, columns)
    except InvalidRequest as error:
        if error.param != "user_id":
            raise
        raise InvalidRequest(error.message, param="user_id", type="bad_request") from error


async def _lock_all(connection: Connection, wanted: Sequence[str]) -> dict[str, Row]:
    rows = await lock_customers(connection, wanted)
    missing = [customer_id for customer_id in wanted if customer_id not in rows]
    if missing:
        raise _not_found("user_ids", missing[0])
    return rows


async def _noted(
    call: AdminCall,
    connection: Connection,
    action: Action,
    before: Mapping[str, Row],
    after: Mapping[str, Row],
) -> list[dict[str, Any]]:
    rows = await _shown(call, connection, [after[customer_id] for customer_id in sorted(after)])
    changes = [(each, before.get(each), after[each]) for each in sorted(after)]
    await call.note_all(connection, action, _TABLE, changes)
    return rows


async def _shown(
    call: AdminCall, connection: Connection, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    bodies = await _CUSTOMERS.shown(call, connection, rows)
    return [
        {"user_id": body["end_user_id"], **{name: body[name] for name in _SHOWN}} for body in bodies
    ]


async def _shown_one(call: AdminCall, connection: Connection, row: Row) -> dict[str, Any]:
    (body,) = await _shown(call, connection, [row])
    return body


def _not_found(param: str, customer_id: str) -> RequestError:
    message = f"There is no customer {customer_id[:80]!r}"
    return RequestError(message, status=404, type="not_found", param=param)
