"""Customers (end users) through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.config.gateway_config import (
    AliasTarget,
    GatewayConfig,
    LitellmParams,
    ModelEntry,
    RouterSettings,
)
from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, catalog_of, detail_of, fed, spent, user_key

BODY = {
    "alias", "allowed_model_region", "blocked", "budget_id", "default_model",
    "litellm_budget_table", "models", "object_permission", "object_permission_id", "spend",
    "user_id",
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


async def made(admin: Admin, user_id: str, **fields: Any) -> dict[str, Any]:
    """A new customer."""
    status, body = await admin.call("POST", "/customer/new", {"user_id": user_id, **fields})
    assert status == 200, body
    return dict(body)


async def info(admin: Admin, user_id: str) -> dict[str, Any]:
    """What is known of a customer."""
    status, body = await admin.call("GET", "/customer/info", params={"end_user_id": user_id})
    assert status == 200, body
    return dict(body)


async def test_a_new_customer_with_a_budget_of_its_own(admin: Admin) -> None:
    """The contract's example: the budget's fields make a budget that the answer shows."""
    body = await made(
        admin, "cust-1", alias="ACME", max_budget=3, budget_duration="30d", rpm_limit=5
    )
    assert set(body) == BODY
    assert (body["user_id"], body["alias"], body["spend"]) == ("cust-1", "ACME", 0.0)
    assert (body["blocked"], body["models"]) == (False, [])
    budget = body["litellm_budget_table"]
    assert budget["budget_id"] == body["budget_id"]
    assert (budget["max_budget"], budget["budget_duration"], budget["rpm_limit"]) == (3.0, "30d", 5)
    assert await info(admin, "cust-1") == body
    assert [entry["action"] for entry in await audit_of(admin, "LiteLLM_BudgetTable")] == [
        "created"
    ]


async def test_a_new_customer_with_all_fields(admin: Admin) -> None:
    """Rules, a permission and an initial spend are stored; nulls are as good as not sent."""
    body = await made(
        admin,
        "c",
        alias=None,
        budget_id=None,
        max_budget=None,
        blocked=True,
        allowed_model_region="eu",
        models=["m"],
        spend=1.5,
        object_permission={"mcp_servers": ["s"]},
    )
    assert (body["blocked"], body["allowed_model_region"], body["models"]) == (True, "eu", ["m"])
    assert (body["budget_id"], body["litellm_budget_table"], body["spend"]) == (None, None, 1.5)
    assert body["object_permission"]["mcp_servers"] == ["s"]
    assert body["object_permission"]["object_permission_id"] == body["object_permission_id"]


async def test_an_initial_spend_counts_in_the_budgets_window(admin: Admin) -> None:
    """With a period it is that window's, so that the next one begins at nothing."""
    body = await made(admin, "c", max_budget=5, budget_duration="1d", spend=2)
    assert body["spend"] == 2.0
    await spent(admin, "end_user", "c", 9)
    assert (await info(admin, "c"))["spend"] == 2.0


async def test_refusals_of_new_customers(admin: Admin) -> None:
    """Taken ids are 400 bad_request, two budgets and wrong types 422, ranges 400."""
    await made(admin, "c")
    again = await admin.call("POST", "/customer/new", {"user_id": "c"})
    error_of(again, 400, "bad_request", "user_id")
    two = {"user_id": "d", "max_budget": 1, "budget_id": "b"}
    assert issues_of(await admin.call("POST", "/customer/new", two)) == [("value_error", ["body"])]
    described = {"user_id": "d", "rpm_limit": 1, "budget_id": "b"}
    error_of(
        await admin.call("POST", "/customer/new", described),
        400, "invalid_request_error", "budget_id",
    )  # fmt: skip
    missing = await admin.call("POST", "/customer/new", {"user_id": "d", "budget_id": "none"})
    error_of(missing, 400, "bad_request_error", "budget_id")
    assert issues_of(await admin.call("POST", "/customer/new", {})) == [
        ("missing", ["body", "user_id"])
    ]
    wrong = {"user_id": 7, "allowed_model_region": "mars", "models": "m"}
    assert sorted(issues_of(await admin.call("POST", "/customer/new", wrong))) == [
        ("list_type", ["body", "models"]),
        ("literal_error", ["body", "allowed_model_region"]),
        ("string_type", ["body", "user_id"]),
    ]
    for name, value in (("max_budget", -1), ("spend", "inf"), ("budget_duration", "x")):
        answer = await admin.call("POST", "/customer/new", {"user_id": "d", name: value})
        error_of(answer, 400, "invalid_request_error", name)
    for odd in ("a\x00b", "x" * 600):
        answer = await admin.call("POST", "/customer/new", {"user_id": odd})
        error_of(answer, 400, "invalid_request_error", "user_id")
    count = await admin.sql("select count(*) from end_user")
    assert count[0][0] == 1
    assert (await admin.sql("select count(*) from budget"))[0][0] == 0


async def test_ids_of_any_text(admin: Admin) -> None:
    """Ids with odd characters are kept as they are."""
    for odd in ("a b", "ü/é", "🦀", "50%", "' or 1=1", "a\nb", ""):
        body = await made(admin, odd)
        assert body["user_id"] == odd
    _, listed = await admin.call("GET", "/end_user/list")
    assert len(listed) == 7


async def test_a_default_model_must_exist(start: StartAdmin) -> None:
    """One of the file, an alias, a stored model or what fits a wildcard; else it is 422."""
    entries = ("gpt", "openai/*")
    models = tuple(
        ModelEntry(model_name=name, params=LitellmParams(model="openai/gpt")) for name in entries
    )
    router = RouterSettings(model_group_alias={"best": AliasTarget(model="gpt")})
    admin = await start(models=catalog_of(GatewayConfig(models=models, router=router)))
    await admin.sql(
        "insert into model (model_id, model_name, litellm_params) values ('1', 'own', '{}')"
    )
    for name in ("gpt", "openai/o3", "best", "own"):
        assert (await made(admin, f"of-{name}", default_model=name))["default_model"] == name
    unknown = {"user_id": "of-gpt", "default_model": "none"}
    for path in ("/customer/new", "/customer/update"):
        assert issues_of(await admin.call("POST", path, unknown)) == [
            ("value_error", ["body", "default_model"])
        ]


async def test_unknown_customers(admin: Admin) -> None:
    """Nobody of that id is 404 not_found; a missing parameter is 422."""
    answer = await admin.call("GET", "/customer/info", params={"end_user_id": "x"})
    error_of(answer, 404, "not_found", "end_user_id")
    answer = await admin.call("POST", "/customer/update", {"user_id": "x", "alias": "a"})
    error_of(answer, 404, "not_found", "user_id")
    answer = await admin.call("POST", "/customer/delete", {"user_ids": ["x"]})
    error_of(answer, 404, "not_found", "user_ids")
    assert issues_of(await admin.call("GET", "/customer/info")) == [
        ("missing", ["query", "end_user_id"])
    ]


async def test_update_ignores_what_says_nothing(admin: Admin) -> None:
    """Nulls, zeros and empty strings change nothing; a false block and empty models do."""
    await made(admin, "c", alias="a", blocked=True, models=["m"], max_budget=3)
    change = {
        "user_id": "c", "alias": "", "max_budget": 0, "allowed_model_region": None,
        "budget_id": "", "budget_duration": "1d",
    }  # fmt: skip
    status, body = await admin.call("POST", "/customer/update", change)
    assert (status, body["alias"], body["litellm_budget_table"]["max_budget"]) == (200, "a", 3.0)
    assert body["litellm_budget_table"]["budget_duration"] is None
    assert (body["blocked"], body["models"]) == (True, ["m"])
    change = {"user_id": "c", "blocked": False, "models": []}
    _, body = await admin.call("POST", "/customer/update", change)
    assert (body["blocked"], body["models"]) == (False, [])
    _, body = await admin.call("POST", "/customer/update", {"user_id": "c", "models": None})
    assert body["alias"] == "a"


async def test_update_of_the_budget(admin: Admin) -> None:
    """`max_budget` makes a budget, then changes it; `budget_id` links another one."""
    await made(admin, "c")
    _, body = await admin.call("POST", "/customer/update", {"user_id": "c", "max_budget": 3})
    first = body["budget_id"]
    assert body["litellm_budget_table"]["max_budget"] == 3.0
    _, body = await admin.call("POST", "/customer/update", {"user_id": "c", "max_budget": 4})
    assert (body["budget_id"], body["litellm_budget_table"]["max_budget"]) == (first, 4.0)
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 9})
    _, body = await admin.call("POST", "/customer/update", {"user_id": "c", "budget_id": "b"})
    assert (body["budget_id"], body["litellm_budget_table"]["max_budget"]) == ("b", 9.0)
    answer = await admin.call("POST", "/customer/update", {"user_id": "c", "budget_id": "none"})
    error_of(answer, 400, "bad_request_error", "budget_id")


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Changes of one customer at once all count, and only one budget is made for it."""
    await made(admin, "c")
    fields = {"alias": "a", "models": ["m"], "blocked": True, "allowed_model_region": "us"}
    changes = [{name: value} for name, value in fields.items()] + [{"max_budget": 5}] * 4
    answers = await asyncio.gather(
        *(admin.call("POST", "/customer/update", {"user_id": "c", **each}) for each in changes)
    )
    assert {status for status, _ in answers} == {200}
    body = await info(admin, "c")
    assert {name: body[name] for name in fields} == fields
    assert (await admin.sql("select count(*) from budget"))[0][0] == 1


async def test_block_and_unblock(admin: Admin) -> None:
    """Blocking registers whom nobody knew; unblocking lifts it, and is 404 for the unknown."""
    await made(admin, "a", alias="A")
    status, body = await admin.call("POST", "/customer/block", {"user_ids": ["b", "a", "b"]})
    assert (status, list(body)) == (200, ["blocked_users"])
    assert [(row["user_id"], row["blocked"]) for row in body["blocked_users"]] == [
        ("a", True),
        ("b", True),
    ]
    assert (await info(admin, "a"))["alias"] == "A"
    status, body = await admin.call("POST", "/end_user/unblock", {"user_ids": ["a"]})
    assert (status, body["blocked_users"]) == (200, [])
    assert [(row["user_id"], row["blocked"]) for row in body["unblocked_users"]] == [("a", False)]
    assert (await info(admin, "b"))["blocked"] is True
    detail_of(await admin.call("POST", "/customer/unblock", {"user_ids": ["b", "x"]}), 404)
    assert (await info(admin, "b"))["blocked"] is True
    detail_of(await admin.call("POST", "/customer/block", {"user_ids": []}), 400)
    log = await audit_of(admin, "LiteLLM_EndUserTable")
    assert [(entry["action"], entry["object_id"]) for entry in log] == [
        ("created", "a"),
        ("blocked", "a"),
        ("blocked", "b"),
        ("unblocked", "a"),
    ]
    assert log[3]["updated_values"]["blocked"] is False


async def test_delete(admin: Admin) -> None:
    """All or none go: one that is missing keeps the others."""
    for name in ("a", "b", "c"):
        await made(admin, name)
    answer = await admin.call("POST", "/customer/delete", {"user_ids": ["a", "x"]})
    error_of(answer, 404, "not_found", "user_ids")
    status, body = await admin.call("POST", "/customer/delete", {"user_ids": ["a", "b", "a"]})
    assert (status, body["deleted_customers"], type(body["message"])) == (200, 2, str)
    _, listed = await admin.call("GET", "/customer/list")
    assert [row["user_id"] for row in listed] == ["c"]


async def test_customers_whom_only_traffic_has_shown(admin: Admin) -> None:
    """They are listed and looked up with their spend, and the first rule registers them."""
    await made(admin, "b", alias="Acme")
    await spent(admin, "end_user", "a", 1.25)
    await spent(admin, "end_user", "b", 2.5)
    await spent(admin, "key", "not-a-customer", 7)
    status, listed = await admin.call("GET", "/customer/list")
    assert status == 200
    assert [(row["user_id"], row["spend"]) for row in listed] == [("a", 1.25), ("b", 2.5)]
    assert all(set(row) == BODY for row in listed)
    assert (await info(admin, "a"))["spend"] == 1.25
    assert (await admin.sql("select count(*) from end_user"))[0][0] == 1
    _, body = await admin.call("POST", "/customer/update", {"user_id": "a", "alias": "x"})
    assert (body["alias"], body["spend"]) == ("x", 1.25)


async def test_pages_and_searches(admin: Admin) -> None:
    """Pages are by id; a search is for a part of the id or the alias, in any case."""
    for number in range(5):
        await made(admin, f"c{number}", alias=f"Alias-{number}")
        await spent(admin, "end_user", f"t{number}", 1)

    async def ids(**params: Any) -> list[str]:
        status, listed = await admin.call("GET", "/customer/list", params=params)
        assert status == 200
        return [row["user_id"] for row in listed]

    everybody = [f"{kind}{number}" for kind in "ct" for number in range(5)]
    assert await ids() == everybody
    assert [await ids(page=page, page_size=3) for page in (1, 2, 3, 4, 5)] == [
        everybody[0:3], everybody[3:6], everybody[6:9], everybody[9:], [],
    ]  # fmt: skip
    assert await ids(search="ALIAS-3") == ["c3"]
    assert await ids(search="T4") == ["t4"]
    assert await ids(search="%") == []
    for params in ({"page": 0}, {"page_size": 101}, {"page_size": "x"}, {"search": "a\x00"}):
        assert (await admin.call("GET", "/customer/list", params=params))[0] == 422


async def test_many_at_once(admin: Admin) -> None:
    """A thousand customers are blocked, unblocked and deleted in one call each."""
    names = [f"c{number}" for number in range(1000)]
    status, body = await admin.call("POST", "/customer/block", {"user_ids": names})
    assert (status, len(body["blocked_users"])) == (200, 1000)
    assert (await admin.call("POST", "/customer/unblock", {"user_ids": names}))[0] == 200
    status, body = await admin.call("POST", "/customer/delete", {"user_ids": names})
    assert (status, body["deleted_customers"]) == (200, 1000)
    assert len(await audit_of(admin, "LiteLLM_EndUserTable")) == 3000


async def test_blocks_at_once_in_any_order(admin: Admin) -> None:
    """Calls that name the same customers in different orders do not lock each other out."""
    names = [f"c{number}" for number in range(30)]
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/customer/block", {"user_ids": names[:: (1, -1)[turn % 2]]})
            for turn in range(6)
        )
    )
    assert {status for status, _ in answers} == {200}


async def test_changes_are_fed_and_can_be_waited_for(admin: Admin) -> None:
    """Every write bumps the feed of end users; without workers none has to apply it."""
    path = "/customer/new?wait=applied"
    status, body = await admin.call("POST", path, {"user_id": "c"})
    assert (status, body["propagation"]["applied"]) == (200, 0)
    await admin.call("POST", "/customer/block", {"user_ids": ["c", "d"]})
    feed = await fed(admin, "end_user")
    assert feed == [["c"], ["c"], ["d"]]


async def test_who_may_do_what(admin: Admin) -> None:
    """Admins all, viewers info and list; anybody else is 401 at the gate."""
    await made(admin, "c")
    viewer = await user_key(admin, "proxy_admin_viewer")
    boss = await user_key(admin, "proxy_admin")
    names = {"user_ids": ["c"]}
    writes = (("new", {"user_id": "d"}), ("update", {"user_id": "c"}), ("block", names))
    for prefix in ("/customer", "/end_user"):
        for name, body in (*writes, ("unblock", names), ("delete", names)):
            answer = await admin.call("POST", f"{prefix}/{name}", body, key=viewer)
            error_of(answer, 403, "auth_error")
        for path in (f"{prefix}/list", f"{prefix}/info?end_user_id=c"):
            assert (await admin.call("GET", path, key=viewer))[0] == 200
            assert (await admin.call("GET", path, key=boss))[0] == 200
    for role in ("internal_user", "internal_user_viewer"):
        key = await user_key(admin, role)
        for name, body in (*writes, ("unblock", names), ("delete", names)):
            error_of(
                await admin.call("POST", f"/customer/{name}", body, key=key), 401, "auth_error"
            )
        for path in ("/customer/list", "/customer/info?end_user_id=c"):
            error_of(await admin.call("GET", path, key=key), 401, "auth_error")
    assert (await admin.call("POST", "/customer/block", names, key=boss))[0] == 200
