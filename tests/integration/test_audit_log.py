"""The audit log over HTTP: what an entry holds, lists, single entries, exports."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest

from services.admin.api.audit_log import _COLUMNS
from shared.db.audit import Action, AuditEntry, append
from shared.db.rows import prepare
from shared.domain.keys import MASTER_KEY_NAME, hash_key
from tests.support.admin_api import (
    AS_MASTER,
    MASTER,
    Admin,
    StartAdmin,
    admins,
    error_of,
    issues_of,
)

OWN = ["actor", "source_ip", "route", "seq"]
REFERENCE = [
    "id",
    "updated_at",
    "changed_by",
    "changed_by_api_key",
    "action",
    "table_name",
    "object_id",
    "before_value",
    "updated_values",
]


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as starter:
        yield starter


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    return await start()


def change(object_id: str, **fields: Any) -> AuditEntry:
    """An entry as the management API writes them."""
    values: dict[str, Any] = {
        "changed_by": "ada",
        "actor": "ada",
        "changed_by_api_key": hash_key("sk-ada"),
        "source_ip": "192.0.2.7",
        "route": "/team/update",
        "action": Action.UPDATED,
        "table": "LiteLLM_TeamTable",
        "object_id": object_id,
        "before": {"max_budget": 1.0},
        "after": {"max_budget": 2.0},
    }
    return AuditEntry(**values | fields)


async def write(admin: Admin, *entries: AuditEntry) -> None:
    """Stores entries, each in its own transaction."""
    connection = await asyncpg.connect(admin.database)
    await prepare(connection)
    for each in entries:
        await append(connection, each)
    await connection.close()


async def listed(admin: Admin, **params: str) -> list[str]:
    """The object ids of a list."""
    status, body = await admin.call("GET", "/audit", params=params)
    assert status == 200, body
    return [row["object_id"] for row in body["audit_logs"]]


async def text_of(admin: Admin, **params: str) -> tuple[aiohttp.ClientResponse, str]:
    """An export."""
    async with admin.client.get("/audit/export", params=params, headers=AS_MASTER) as response:
        return response, await response.text()


async def test_list_has_the_reference_s_shape(admin: Admin):
    """Newest first, with totals, the reference's names and what else is recorded."""
    await write(admin, change("one"), change("two", action=Action.CREATED, before=None))
    status, body = await admin.call("GET", "/audit")
    assert status == 200
    assert {name: body[name] for name in body if name != "audit_logs"} == {
        "total": 2,
        "page": 1,
        "page_size": 10,
        "total_pages": 1,
    }
    newest, oldest = body["audit_logs"]
    assert list(newest) == REFERENCE + OWN == list(_COLUMNS)
    assert newest["object_id"] == "two"
    assert newest["before_value"] is None
    assert newest["updated_values"] == {"max_budget": 2.0}
    assert oldest["before_value"] == {"max_budget": 1.0}
    assert (oldest["changed_by"], oldest["actor"], oldest["seq"]) == ("ada", "ada", 1)
    assert (oldest["source_ip"], oldest["route"]) == ("192.0.2.7", "/team/update")
    assert oldest["updated_at"].endswith("Z")


async def test_pages_and_order(admin: Admin):
    """Pages do not overlap; every sortable column sorts both ways."""
    await write(admin, *(change(f"team-{number:02}") for number in range(25)))
    pages = [await listed(admin, page=str(page)) for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    found = [object_id for page in pages for object_id in page]
    assert found == [f"team-{number:02}" for number in reversed(range(25))]
    for name in ("updated_at", "changed_by", "action", "table_name", "object_id"):
        up = await listed(admin, sort_by=name, sort_order="asc", page_size="100")
        down = await listed(admin, sort_by=name, sort_order="desc", page_size="100")
        assert up == down[::-1], name
    assert await listed(admin, sort_by="object_id", sort_order="asc", page_size="1") == ["team-00"]


async def test_filters(admin: Admin):
    """Each filter narrows to what it names, and they combine."""
    token = hash_key("sk-of-the-team-key-01234567")
    keys = "LiteLLM_VerificationToken"
    created = {"token": token, "team_id": "red"}
    await write(
        admin,
        change("red"),
        change("blue", changed_by="bob", changed_by_api_key="k", action=Action.BLOCKED),
        change(token, table=keys, action=Action.CREATED, before=None, after=created),
        change(token, table=keys, before={"blocked": False}, after={"blocked": True}),
    )
    assert await listed(admin, changed_by="bob") == ["blue"]
    assert await listed(admin, changed_by_api_key="k") == ["blue"]
    assert await listed(admin, action="blocked") == ["blue"]
    assert await listed(admin, table_name=keys) == [token, token]
    assert await listed(admin, object_id="red") == ["red"]
    assert await listed(admin, object_team_id="red") == [token, "red"]
    assert await listed(admin, object_key_hash=token) == [token, token]
    assert await listed(admin, search="BO") == ["blue"]
    assert await listed(admin, search="%") == []
    assert await listed(admin, table_name=keys, action="created") == [token]
    assert await listed(admin, action="no such action") == []


async def test_team_filter_finds_later_changes_of_the_team_s_keys(admin: Admin):
    """An entry that names no team counts for the team of its key."""
    key = await admin.generate(team_id="red")
    entry = change(key["token"], table="LiteLLM_VerificationToken")
    await write(admin, entry)
    assert key["token"] in await listed(admin, object_team_id="red")
    assert await listed(admin, object_team_id="blue") == []


async def test_date_filters(admin: Admin):
    """Both ends count, in any offset; a bare day is its midnight."""
    await write(admin, change("one"))
    for params, count in (
        ({"start_date": "2020-01-01"}, 1),
        ({"end_date": "2020-01-01"}, 0),
        ({"start_date": "2020-01-01T00:00:00+05:00", "end_date": "2999-12-31T23:59:59Z"}, 1),
        ({"start_date": "2999-01-01"}, 0),
    ):
        assert len(await listed(admin, **params)) == count, params


@pytest.mark.parametrize(
    ("params", "kind", "place"),
    [
        ({"page": "0"}, "value_error", "page"),
        ({"page": "x"}, "int_parsing", "page"),
        ({"page_size": "101"}, "value_error", "page_size"),
        ({"sort_by": "digest"}, "literal_error", "sort_by"),
        ({"sort_order": "up"}, "literal_error", "sort_order"),
        ({"start_date": "yesterday"}, "datetime_parsing", "start_date"),
        ({"end_date": "2024-13-01"}, "datetime_parsing", "end_date"),
        ({"search": "\x00"}, "string_type", "search"),
        ({"format": "xml"}, "literal_error", "format"),
    ],
)
async def test_wrong_queries_are_422_and_name_the_parameter(
    admin: Admin, params: dict[str, str], kind: str, place: str
):
    """Every parameter is checked before the store is asked."""
    path = "/audit/export" if "format" in params else "/audit"
    assert issues_of(await admin.call("GET", path, params=params)) == [(kind, ["query", place])]


async def test_single_entry_and_its_404(admin: Admin):
    """An entry by id, and the reference's shape for one that is not there."""
    await write(admin, change("one"))
    _, body = await admin.call("GET", "/audit")
    found = body["audit_logs"][0]
    assert await admin.call("GET", f"/audit/{found['id']}") == (200, found)
    error_of(await admin.call("GET", "/audit/%00"), 400, "invalid_request_error", "id")
    for unknown in ("nobody", "Ü%F0%9F%92%A9", "a" * 5000):
        status, body = await admin.call("GET", f"/audit/{unknown}")
        assert status == 404
        assert list(body) == ["detail"]
        assert list(body["detail"]) == ["message"]


async def test_who_may_read(admin: Admin):
    """Proxy admins and their viewers; everybody else is stopped at the gate."""
    await admin.sql(
        "insert into app_user (user_id, user_role) values ('pa', 'proxy_admin'), "
        "('pav', 'proxy_admin_viewer'), ('iu', 'internal_user'), ('iuv', 'internal_user_viewer')"
    )
    users = ("pa", "pav", "iu", "iuv")
    keys = {user: (await admin.generate(user_id=user))["key"] for user in users}
    for path in ("/audit", "/audit/x", "/audit/verify", "/audit/export?format=csv"):
        for user in ("iu", "iuv"):
            error_of(await admin.call("GET", path, key=keys[user]), 401, "auth_error")
        for user in ("pa", "pav"):
            headers = {"authorization": f"Bearer {keys[user]}"}
            async with admin.client.get(path, headers=headers) as response:
                assert response.status == (404 if path == "/audit/x" else 200)
    error_of(await admin.call("GET", "/audit", key=None), 401, "auth_error")


async def test_ndjson_export_is_the_whole_log_oldest_first(admin: Admin):
    """One line an entry over several pages, equal to what the list says."""
    await write(admin, *(change(f"team-{number:03}") for number in range(450)))
    response, text = await text_of(admin)
    assert response.status == 200
    assert response.content_type == "application/x-ndjson"
    assert response.headers["content-disposition"] == 'attachment; filename="audit.ndjson"'
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 451))
    _, body = await admin.call("GET", "/audit", params={"page_size": "1"})
    assert rows[-1] == body["audit_logs"][0]


async def test_export_obeys_the_filters(admin: Admin):
    """The filters of the list hold for the export; nothing found is an empty body."""
    await write(admin, change("one"), change("two"))
    _, text = await text_of(admin, object_id="two")
    assert [json.loads(line)["object_id"] for line in text.splitlines()] == ["two"]
    assert (await text_of(admin, object_id="three"))[1] == ""


async def test_csv_export_reads_back_and_runs_no_formula(admin: Admin):
    """Quotes, line breaks and odd characters survive; a cell is never a formula."""
    evil = '=HYPERLINK("http://example.test","x")'
    await write(admin, change('a "b",\n💩', changed_by=evil, after={"x": "=1\n,"}))
    response, text = await text_of(admin, format="csv")
    assert response.content_type == "text/csv"
    head, row = csv.reader(io.StringIO(text, newline=""))
    assert head == REFERENCE + OWN
    cells = dict(zip(head, row, strict=True))
    assert cells["object_id"] == 'a "b",\n💩'
    assert cells["changed_by"] == "'" + evil
    assert json.loads(cells["updated_values"]) == {"x": "=1\n,"}
    assert (await text_of(admin, format="csv", object_id="none"))[1].splitlines() == [
        ",".join(REFERENCE + OWN)
    ]


async def test_export_holds_only_a_page_in_memory(admin: Admin):
    """Some 40 MB of entries pass through without being held."""
    await admin.sql(
        "insert into audit_log (id, changed_by, route, action, table_name, object_id, "
        "updated_values) select n::text, 'ada', '/x', 'updated', 't', n::text, "
        "jsonb_build_object('x', repeat('x', 20000)) from generate_series(1, 2000) n"
    )
    tracemalloc.start()
    try:
        size = 0
        async with admin.client.get("/audit/export", headers=AS_MASTER) as response:
            async for chunk in response.content.iter_any():
                size += len(chunk)
        assert size > 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


async def test_broken_export_does_not_look_whole(admin: Admin):
    """When the store fails on the way, the client's read fails too."""
    await admin.sql(
        "insert into audit_log (id, changed_by, route, action, table_name, object_id, "
        "updated_values) select n::text, 'ada', '/x', 'updated', 't', n::text, "
        "jsonb_build_object('x', repeat('x', 100000)) from generate_series(1, 1000) n"
    )
    async with admin.client.get("/audit/export", headers=AS_MASTER) as response:
        assert await response.content.readany()
        await admin.sql("alter table audit_log rename to audit_log_away")
        with pytest.raises(aiohttp.ClientPayloadError):
            async for _ in response.content.iter_any():
                pass
    await admin.sql("alter table audit_log_away rename to audit_log")


async def test_entry_names_the_real_caller_whatever_the_header_says(admin: Admin):
    """`litellm-changed-by` is recorded beside the caller, its address and its route."""
    await admin.sql("insert into app_user (user_id, user_role) values ('eve', 'proxy_admin')")
    eve = await admin.generate(user_id="eve")
    body = {"budget_id": "b", "max_budget": 1}
    named = {"litellm-changed-by": "alice, who lost sk-secret-of-alice-0123456789"}
    status, _ = await admin.call("POST", "/budget/new", body, key=eve["key"], headers=named)
    assert status == 200
    _, found = await admin.call("GET", "/audit", params={"object_id": "b"})
    (row,) = found["audit_logs"]
    assert (row["changed_by"], row["actor"]) == ("alice, who lost [redacted]", "eve")
    assert row["changed_by_api_key"] == eve["token"]
    assert (row["source_ip"], row["route"]) == ("127.0.0.1", "/budget/new")


async def test_master_key_appears_by_its_name(admin: Admin):
    """Neither the master key nor its hash is in the log."""
    await admin.generate()
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 1})
    rows = await admin.sql("select * from audit_log where object_id = 'b'")
    assert [row["actor"] for row in rows] == ["default_user_id"]
    for row in await admin.sql("select * from audit_log"):
        assert row["changed_by_api_key"] == MASTER_KEY_NAME
        assert MASTER not in str(dict(row))
        assert hash_key(MASTER) not in str(dict(row))
