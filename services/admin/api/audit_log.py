"""The audit log's routes of the management API (management contract §3.11).

`GET /audit/verify` and `GET /audit/export` are this gateway's own. A check answers::

    {"intact": false, "entries": 812, "dropped_seq": 4000, "last_seq": 5100,
     "broken": {"seq": 4812, "id": "…", "reason": "changed"}}

`reason` is `changed` for a row that is not what was written, `missing` where rows before `seq`
are gone, or at the end of the log where `id` is null. Entries up to `dropped_seq` went by
retention and are no part of the check.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from attrs import asdict

from services.admin.api.access import Role, access
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.parameters import (
    choice_parameter,
    order_parameters,
    page_parameters,
    read_parameters,
    text_parameters,
)
from services.admin.api.query import Query
from services.admin.api.refusals import Detail, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import Returns
from services.admin.api.values import Wrong, instant
from services.admin.api.wire_rows import wire
from shared.db.audit_log import (
    SORTABLE,
    AuditFilter,
    LoggedChange,
    check_chain,
    find_change,
    list_changes,
    pages_of_changes,
)

_LARGEST_PAGE = 100
_MOST_PAGES = 10_000_000

# A cell that begins so is a formula to spreadsheets, and what is in it may come from anybody.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


async def list_entries(call: AdminCall) -> web.Response:
    """GET /audit: a page of the audit log."""
    query = call.query
    chosen = _chosen(query)
    page = query.whole("page", default=1, low=1, high=_MOST_PAGES)
    size = query.whole("page_size", default=10, low=1, high=_LARGEST_PAGE)
    async with call.services.store.connection() as connection:
        changes, total = await list_changes(
            connection,
            chosen,
            sort_by=query.choice("sort_by", tuple(SORTABLE)) or "updated_at",
            descending=query.choice("sort_order", ("asc", "desc")) != "asc",
            limit=size,
            offset=(page - 1) * size,
        )
    return answer(
        {
            "audit_logs": [_body(change) for change in changes],
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": -(-total // size),
        }
    )


async def entry(call: AdminCall) -> web.Response:
    """GET /audit/{id}: one entry of the audit log."""
    found = await find_change(call.services.store, call.named("id"))
    if found is None:
        raise Detail(404, {"message": "There is no audit log entry with this id"})
    return answer(_body(found))


async def export(call: AdminCall) -> web.Response:
    """GET /audit/export: the audit log as a file."""
    form = call.query.choice("format", ("ndjson", "csv")) or "ndjson"
    kind, lines = _FORMS[form]
    pages = pages_of_changes(call.services.store, _chosen(call.query))
    # An error on the way ends the connection, so that what has come does not look whole.
    return web.Response(
        body=_written(pages, lines, head=form == "csv"),
        headers={
            "content-type": kind,
            "content-disposition": f'attachment; filename="audit.{form}"',
            "cache-control": "no-store",
        },
    )


async def verify(call: AdminCall) -> web.Response:
    """GET /audit/verify: whether the audit log is as it was written."""
    report = await check_chain(call.services.store)
    return answer({"intact": report.broken is None, **asdict(report)})


_CHOSEN = (
    *text_parameters("changed_by", "changed_by_api_key", "action", "table_name", "object_id"),
    *text_parameters("object_team_id", "object_key_hash", "search"),
    *read_parameters(instant, "start_date", "end_date"),
)
_VIEWERS = access(Role.PROXY_ADMIN_VIEWER)
_GROUPS = frozenset({"admin_viewer_routes"})

AUDIT_ROUTES = (
    AdminRoute(
        "GET",
        "/audit",
        list_entries,
        _VIEWERS,
        _GROUPS,
        query=(*page_parameters(10, _LARGEST_PAGE), *order_parameters(*SORTABLE), *_CHOSEN),
    ),
    AdminRoute(
        "GET",
        "/audit/export",
        export,
        _VIEWERS,
        _GROUPS,
        query=(choice_parameter("format", "ndjson", "csv"), *_CHOSEN),
        returns=Returns(media=("application/x-ndjson", "text/csv")),
    ),
    AdminRoute("GET", "/audit/verify", verify, _VIEWERS, _GROUPS),
    AdminRoute("GET", "/audit/{id}", entry, _VIEWERS, _GROUPS),
)


def _chosen(query: Query) -> AuditFilter:
    return AuditFilter(
        changed_by=query.text("changed_by"),
        changed_by_api_key=query.text("changed_by_api_key"),
        action=query.text("action"),
        table_name=query.text("table_name"),
        object_id=query.text("object_id"),
        start=_instant(query, "start_date"),
        end=_instant(query, "end_date"),
        object_team_id=query.text("object_team_id"),
        object_key_hash=query.text("object_key_hash"),
        search=query.text("search"),
    )


def _instant(query: Query, name: str) -> datetime | None:
    value = query.text(name)
    if value is None:
        return None
    try:
        return instant(value, ("query", name))
    except Wrong as wrong:
        raise Unprocessable([wrong.issue]) from None


def _body(change: LoggedChange) -> dict[str, Any]:
    """An entry under the reference's names, and beside them what it does not record."""
    return {
        "id": change.id,
        "updated_at": wire(change.changed_at),
        "changed_by": change.changed_by,
        "changed_by_api_key": change.changed_by_api_key or "",
        "action": change.action,
        "table_name": change.table_name,
        "object_id": change.object_id,
        "before_value": change.before,
        "updated_values": change.after,
        "actor": change.actor,
        "source_ip": change.source_ip,
        "route": change.route,
        "seq": change.seq,
    }


async def _written(
    pages: AsyncIterator[tuple[LoggedChange, ...]],
    lines: Callable[[tuple[LoggedChange, ...]], bytes],
    *,
    head: bool,
) -> AsyncIterator[bytes]:
    if head:
        yield _cells([_COLUMNS])
    async for page in pages:
        yield lines(page)


def _ndjson(page: tuple[LoggedChange, ...]) -> bytes:
    return b"".join(msgspec.json.encode(_body(change)) + b"\n" for change in page)


def _csv(page: tuple[LoggedChange, ...]) -> bytes:
    return _cells([[_cell(value) for value in _body(change).values()] for change in page])


def _cells(rows: list[Any]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


_COLUMNS = (
    "id",
    "updated_at",
    "changed_by",
    "changed_by_api_key",
    "action",
    "table_name",
    "object_id",
    "before_value",
    "updated_values",
    "actor",
    "source_ip",
    "route",
    "seq",
)
_FORMS: Mapping[str, tuple[str, Callable[[tuple[LoggedChange, ...]], bytes]]] = {
    "ndjson": ("application/x-ndjson", _ndjson),
    "csv": ("text/csv; charset=utf-8", _csv),
}
