"""Budgets made, changed, listed and deleted through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.admin_api import (
    AS_MASTER,
    Admin,
    StartAdmin,
    admins,
    error_of,
    issues_of,
)
from tests.support.management import detail_of, user_key

ROW = {
    "allowed_models", "budget_duration", "budget_id", "budget_reset_at", "created_at",
    "created_by", "max_budget", "max_parallel_requests", "model_max_budget", "rpm_limit",
    "soft_budget", "temp_budget_expiry", "temp_budget_increase", "tpd_limit", "tpm_limit",
    "updated_at", "updated_by",
}  # fmt: skip


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def made(admin: Admin, **fields: Any) -> dict[str, Any]:
    """A new budget."""
    status, body = await admin.call("POST", "/budget/new", fields)
    assert status == 200, body
    return dict(body)


async def test_a_new_budget_is_its_row(admin: Admin) -> None:
    """Every field comes back, with when it starts anew; an id is made where none is sent."""
    body = await made(
        admin,
        budget_id="b1",
        max_budget=3,
        soft_budget=2,
        budget_duration="30d",
        rpm_limit=5,
        tpm_limit=6,
        tpd_limit=7,
        max_parallel_requests=8,
        model_max_budget={"m": {"max_budget": 1, "budget_duration": "1d"}},
        allowed_models=["m"],
    )
    assert set(body) == ROW
    assert (body["budget_id"], body["max_budget"], body["soft_budget"]) == ("b1", 3.0, 2.0)
    assert (body["rpm_limit"], body["tpm_limit"], body["tpd_limit"]) == (5, 6, 7)
    assert body["model_max_budget"] == {"m": {"max_budget": 1.0, "budget_duration": "1d"}}
    assert body["created_by"] == body["updated_by"] == "default_user_id"
    assert datetime.fromisoformat(body["budget_reset_at"]).day == 1
    bare = await made(admin)
    assert len(bare["budget_id"]) == 36
    assert bare["model_max_budget"] is None
    assert bare["budget_reset_at"] is None


async def test_refusals_of_new_budgets(admin: Admin) -> None:
    """What is taken, negative, infinite or no period is 400 and named; a wrong type is 422."""
    await made(admin, budget_id="b1")
    assert "budget_id" in detail_of(
        await admin.call("POST", "/budget/new", {"budget_id": "b1"}), 400
    )
    for name, value in (
        ("max_budget", -1),
        ("soft_budget", -0.5),
        ("max_budget", "1e400"),
        ("max_budget", "nan"),
        ("tpm_limit", -1),
        ("rpm_limit", 2**70),
        ("max_parallel_requests", 2**40),
        ("budget_duration", "soon"),
        ("budget_duration", "0d"),
        ("budget_duration", "2mo"),
        ("budget_id", "a\x00"),
        ("budget_id", "x" * 600),
    ):
        assert name in detail_of(await admin.call("POST", "/budget/new", {name: value}), 400)
    wrong = await admin.call("POST", "/budget/new", {"max_budget": "much", "budget_reset_at": "x"})
    assert sorted(issues_of(wrong)) == [
        ("datetime_parsing", ["body", "budget_reset_at"]),
        ("float_type", ["body", "max_budget"]),
    ]


async def test_update_changes_only_what_is_sent(admin: Admin) -> None:
    """Sent fields change, null clears; without an id it is 400, for an unknown one null."""
    await made(admin, budget_id="b1", max_budget=3, rpm_limit=5, budget_duration="1d")
    change = {"budget_id": "b1", "max_budget": 4, "budget_duration": None}
    status, body = await admin.call("POST", "/budget/update", change)
    assert status == 200
    assert (body["max_budget"], body["rpm_limit"]) == (4.0, 5)
    assert (body["budget_duration"], body["budget_reset_at"]) == (None, None)
    assert body["updated_at"] > body["created_at"]
    cleared = {"budget_id": "b1", "model_max_budget": None, "allowed_models": None}
    _, body = await admin.call("POST", "/budget/update", cleared)
    assert (body["model_max_budget"], body["allowed_models"]) == (None, [])
    assert "budget_id" in detail_of(await admin.call("POST", "/budget/update", {}), 400)
    assert await admin.call("POST", "/budget/update", {"budget_id": "none"}) == (200, None)


async def test_info_and_list(admin: Admin) -> None:
    """Both answer arrays of rows; no ids at all is 400."""
    for name in ("b", "a", "c"):
        await made(admin, budget_id=name)
    status, body = await admin.call("POST", "/budget/info", {"budgets": ["c", "a", "none", "a"]})
    assert (status, [row["budget_id"] for row in body]) == (200, ["a", "c"])
    status, body = await admin.call("GET", "/budget/list")
    assert (status, [row["budget_id"] for row in body]) == (200, ["a", "b", "c"])
    assert all(set(row) == ROW for row in body)
    detail_of(await admin.call("POST", "/budget/info", {"budgets": []}), 400)
    assert issues_of(await admin.call("POST", "/budget/info", {})) == [
        ("missing", ["body", "budgets"])
    ]


async def test_settings_describe_the_fields(admin: Admin) -> None:
    """Each field has a description and its current value; an unknown budget is 404."""
    await made(admin, budget_id="b1", max_budget=3)
    status, body = await admin.call("GET", "/budget/settings", params={"budget_id": "b1"})
    assert status == 200
    fields = {field["field_name"]: field for field in body}
    assert fields["max_budget"]["field_value"] == 3.0
    assert fields["max_budget"]["field_type"] == "Float"
    assert fields["max_budget"]["stored_in_db"] is True
    assert fields["rpm_limit"]["field_value"] is None
    detail_of(await admin.call("GET", "/budget/settings", params={"budget_id": "x"}), 404)
    assert issues_of(await admin.call("GET", "/budget/settings")) == [
        ("missing", ["query", "budget_id"])
    ]


async def test_delete_takes_the_links_away(admin: Admin) -> None:
    """The row is answered once more, what linked to it stays, an unknown id is null."""
    await made(admin, budget_id="b1", max_budget=3)
    key = await admin.generate(budget_id="b1")
    status, body = await admin.call("POST", "/budget/delete", {"id": "b1"})
    assert (status, body["budget_id"], body["max_budget"]) == (200, "b1", 3.0)
    assert (await admin.info(key["key"]))["budget_id"] is None
    assert await admin.call("POST", "/budget/delete", {"id": "b1"}) == (200, None)
    assert issues_of(await admin.call("POST", "/budget/delete", {})) == [
        ("missing", ["body", "id"])
    ]


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Updates of different fields that run at once all count, deletes of others beside them."""
    await made(admin, budget_id="b1")
    for number in range(4):
        await made(admin, budget_id=f"gone-{number}")
    fields = {"max_budget": 3.0, "soft_budget": 1.0, "rpm_limit": 4, "tpm_limit": 5, "tpd_limit": 6}
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/budget/update", {"budget_id": "b1", name: value})
            for name, value in fields.items()
        ),
        *(admin.call("POST", "/budget/delete", {"id": f"gone-{number}"}) for number in range(4)),
    )
    assert [status for status, _ in answers] == [200] * 9
    _, (body,) = await admin.call("GET", "/budget/list")
    assert {name: body[name] for name in fields} == fields


async def test_deleting_and_relinking_at_once(admin: Admin) -> None:
    """Keys that change their budget while it is deleted end without it or keep the new one."""
    await made(admin, budget_id="old")
    await made(admin, budget_id="new")
    keys = [(await admin.generate(budget_id="old"))["key"] for _ in range(8)]
    answers = await asyncio.gather(
        *(admin.call("POST", "/key/update", {"key": key, "budget_id": "new"}) for key in keys),
        admin.call("POST", "/budget/delete", {"id": "old"}),
    )
    assert {status for status, _ in answers} == {200}
    assert {(await admin.info(key))["budget_id"] for key in keys} == {"new"}


async def test_every_change_is_in_the_feed_and_the_audit_log(admin: Admin) -> None:
    """A write bumps the feed and leaves one entry with what changed; a null answer leaves none."""
    await made(admin, budget_id="b1", max_budget=3)
    change = {"budget_id": "b1", "max_budget": 4}
    await admin.call("POST", "/budget/update", change, headers={"litellm-changed-by": "ann"})
    await admin.call("POST", "/budget/delete", {"id": "b1"})
    await admin.call("POST", "/budget/delete", {"id": "b1"})
    feed = await admin.sql("select ids from change_feed where kind = 'budget'")
    assert [row["ids"] for row in feed] == [["b1"]] * 3
    log = await admin.sql(
        "select action, changed_by, table_name, object_id, before_value, updated_values "
        "from audit_log order by seq"
    )
    assert [row["action"] for row in log] == ["created", "updated", "deleted"]
    assert {(row["table_name"], row["object_id"]) for row in log} == {("LiteLLM_BudgetTable", "b1")}
    assert log[1]["changed_by"] == "ann"
    assert '"max_budget": 3.0' in log[1]["before_value"]
    assert '"max_budget": 4.0' in log[1]["updated_values"]
    assert "created_at" not in log[1]["updated_values"]


async def test_waiting_for_workers(admin: Admin) -> None:
    """Without a worker nobody has to apply the change; an answer that is null has the header."""
    path = "/budget/new?wait=applied"
    status, body = await admin.call("POST", path, {"budget_id": "b1"})
    assert (status, body["propagation"]["applied"], body["propagation"]["unreachable"]) == (
        200,
        0,
        0,
    )
    request = admin.client.post(
        "/budget/delete?wait=applied", json={"id": "none"}, headers=AS_MASTER
    )
    async with request as response:
        assert await response.json() is None


async def test_who_may_do_what(admin: Admin) -> None:
    """Admins all, viewers the lists, others nothing; nobody else learns of a budget."""
    await made(admin, budget_id="b1")
    writes = (("new", {}), ("update", {"budget_id": "b1"}), ("info", {"budgets": ["b1"]}))
    reads = ("/budget/list", "/budget/settings?budget_id=b1", "/management/v1/budgets")
    boss = await user_key(admin, "proxy_admin")
    viewer = await user_key(admin, "proxy_admin_viewer")
    for name, body in writes:
        path = f"/budget/{name}"
        assert (await admin.call("POST", path, body, key=boss))[0] == 200
        error_of(await admin.call("POST", path, body, key=viewer), 403, "auth_error")
    for path in reads:
        assert (await admin.call("GET", path, key=viewer))[0] == 200
    for role in ("internal_user", "internal_user_viewer"):
        key = await user_key(admin, role)
        for name, body in (*writes, ("delete", {"id": "b1"})):
            error_of(await admin.call("POST", f"/budget/{name}", body, key=key), 401, "auth_error")
        for path in reads:
            error_of(await admin.call("GET", path, key=key), 401, "auth_error")
    assert (await admin.call("GET", "/budget/list"))[0] == 200


async def page_of(admin: Admin, query: str, status: int = 200) -> dict[str, Any]:
    """A page, or a problem if the status says so."""
    path = f"/management/v1/budgets{query}"
    async with admin.client.get(path, headers=AS_MASTER) as response:
        body = await response.json(content_type=None)
        assert response.status == status, body
        kind = "application/json" if status == 200 else "application/problem+json"
        assert response.content_type == kind
        return dict(body)


async def test_pages(admin: Admin) -> None:
    """A page holds its rows, the counts and links that keep the rest of the query."""
    for number in range(7):
        await made(admin, budget_id=f"b{number}", **({} if number == 3 else {"max_budget": number}))
    body = await page_of(admin, "?page=2&page_size=3&sort=-max_budget")
    assert [row["budget_id"] for row in body["data"]] == ["b2", "b1", "b0"]
    assert body["meta"] == {"total_count": 7, "page": 2, "page_size": 3, "total_pages": 3}
    kept = "/management/v1/budgets?page=%s&page_size=3&sort=-max_budget"
    assert body["links"] == {
        "self": kept % 2, "first": kept % 1, "prev": kept % 1, "next": kept % 3, "last": kept % 3,
    }  # fmt: skip
    body = await page_of(admin, "?page=3&page_size=3&sort=-max_budget")
    assert [row["budget_id"] for row in body["data"]] == ["b3"]
    assert body["links"]["next"] is None
    body = await page_of(admin, "?q=B5")
    assert [row["budget_id"] for row in body["data"]] == ["b5"]
    body = await page_of(admin, "?q=nobody%25")
    assert (body["data"], body["meta"]["total_pages"]) == ([], 0)
    assert body["links"]["prev"] is body["links"]["next"] is None
    body = await page_of(admin, "?page_size=100000")
    assert body["meta"]["page_size"] == 100
    assert [row["budget_id"] for row in body["data"]] == [f"b{n}" for n in range(6, -1, -1)]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("?page=0", "invalid-query-parameter"),
        ("?page=-1", "invalid-query-parameter"),
        ("?page=%C2%B2", "invalid-query-parameter"),
        ("?page=99999999999999999999", "invalid-query-parameter"),
        ("?page_size=0", "invalid-query-parameter"),
        ("?page_size=many", "invalid-query-parameter"),
        ("?q=a%00", "invalid-query-parameter"),
        ("?sort=token", "invalid-sort-field"),
        ("?sort=--created_at", "invalid-sort-field"),
        ("?sort=created_at,", "invalid-sort-field"),
        ("?page_sizee=1", "unknown-query-parameter"),
        ("?filter[x]=1", "unknown-query-parameter"),
    ],
)
async def test_problems_of_pages(admin: Admin, query: str, kind: str) -> None:
    """What cannot be answered is a problem of its kind, which says what would have been right."""
    body = await page_of(admin, query, 400)
    assert body["type"] == f"urn:problem-type:{kind}"
    assert (body["title"], body["status"]) == ("Bad Request", 400)
    assert ("allowed" in body) == (kind != "invalid-query-parameter")


async def test_odd_searches_are_answered(admin: Admin) -> None:
    """Bytes that are no UTF-8 and signs of patterns are looked for as they are."""
    for text in ("%ED%A0%80", "%ff", "%25", "_", "%F0%9F%94%91", "'"):
        assert (await page_of(admin, f"?q={text}"))["data"] == []


async def test_a_key_shows_the_window_of_its_new_budget(admin: Admin) -> None:
    """A budget that starts anew every day does so at the next midnight."""
    body = await made(admin, budget_duration="1d")
    reset = datetime.fromisoformat(body["budget_reset_at"])
    assert (reset.hour, reset.minute, reset.second) == (0, 0, 0)
    assert 0 < (reset - datetime.now(UTC)).total_seconds() <= 86400
