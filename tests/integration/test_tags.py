"""Tags through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.config.gateway_config import GatewayConfig, LitellmParams, ModelEntry, ModelInfo
from shared.config.secret import Secret
from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, catalog_of, fed, plain_detail_of, spent, user_key

BODY = {
    "budget_id", "created_at", "created_by", "description", "litellm_budget_table",
    "model_info", "models", "name", "spend", "updated_at",
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


async def made(admin: Admin, name: str, **fields: Any) -> dict[str, Any]:
    """A new tag."""
    status, body = await admin.call("POST", "/tag/new", {"name": name, **fields})
    assert (status, sorted(body)) == (200, ["message", "tag"]), body
    return dict(body["tag"])


async def called(admin: Admin, tag: str, day: str, key: str = "k") -> None:
    """A day on which calls of a key have named a tag."""
    await admin.sql(
        "insert into daily_spend values "
        "('tag', $1, $2::text::date, $3, 'g', 'm', 'p', 'r', '', 1, 0, 0, 0, 0, 0, 1, 1, 0, 0)",
        tag,
        day,
        key,
    )


async def test_a_new_tag(admin: Admin) -> None:
    """Its fields come back with the names of its models and the budget made for it."""
    await admin.sql(
        "insert into model (model_id, model_name, litellm_params) values ('m1', 'gpt', '{}')"
    )
    body = await made(
        admin, "prod", description="d" * 5000, models=["m1", "m2"], max_budget=5, rpm_limit=2,
        budget_duration="1d", budget_id=None,
    )  # fmt: skip
    assert set(body) == BODY
    assert (body["name"], body["models"]) == ("prod", ["m1", "m2"])
    assert body["model_info"] == {"m1": "gpt", "m2": None}
    assert (body["created_by"], len(body["description"])) == ("default_user_id", 5000)
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (5.0, 2)
    status, infos = await admin.call("POST", "/tag/info", {"names": ["prod"]})
    assert (status, infos) == (200, {"prod": body})


async def test_models_of_the_file_have_names(start: StartAdmin) -> None:
    """An id of a deployment in the configuration file is shown with its model's name."""
    params = LitellmParams(model="openai/gpt", api_key=Secret("sk-up"))
    entry = ModelEntry(model_name="best", params=params, info=ModelInfo(id="f1"))
    admin = await start(models=catalog_of(GatewayConfig(models=(entry,))))
    assert (await made(admin, "a", models=["f1"]))["model_info"] == {"f1": "best"}


async def test_refusals(admin: Admin) -> None:
    """Taken names are 400, unknown ones 404, both as plain text; wrong forms are 422."""
    await made(admin, "a")
    assert "name" in plain_detail_of(await admin.call("POST", "/tag/new", {"name": "a"}), 400)
    for path, body in (
        ("/tag/update", {"name": "x"}),
        ("/tag/delete", {"name": "x"}),
        ("/tag/info", {"names": ["a", "x"]}),
    ):
        assert "x" in plain_detail_of(await admin.call("POST", path, body), 404)
    for more, word in (
        ({"max_budget": -1}, "max_budget"),
        ({"budget_id": "none"}, "budget_id"),
        ({"budget_id": "b", "rpm_limit": 1}, "budget_id"),
        ({"description": "a\x00"}, "description"),
        ({"description": "a" * 20_000}, "description"),
        ({"name": "a" * 600}, "name"),
    ):
        answer = await admin.call("POST", "/tag/new", {"name": "b", **more})
        assert word in plain_detail_of(answer, 400)
    assert issues_of(await admin.call("POST", "/tag/new", {"models": "m"})) == [
        ("missing", ["body", "name"]),
        ("list_type", ["body", "models"]),
    ]
    assert issues_of(await admin.call("POST", "/tag/info", {})) == [("missing", ["body", "names"])]


async def test_update_changes_only_what_is_sent(admin: Admin) -> None:
    """Sent fields change the tag and its budget, null clears."""
    await made(admin, "a", description="d", models=["m"], max_budget=5, rpm_limit=2)
    change = {"name": "a", "max_budget": 6, "rpm_limit": None, "description": None}
    status, body = await admin.call("POST", "/tag/update", change)
    assert (status, sorted(body)) == (200, ["message", "tag"])
    tag = body["tag"]
    assert (tag["description"], tag["models"]) == (None, ["m"])
    budget = tag["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (6.0, None)
    _, body = await admin.call("POST", "/tag/update", {"name": "a", "models": None})
    assert body["tag"]["models"] == []


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Changes of one tag and its budget at once all count."""
    await made(admin, "a")
    changes: list[dict[str, Any]] = [
        {"description": "d"}, {"models": ["m"]}, {"max_budget": 1}, {"rpm_limit": 2},
    ]  # fmt: skip
    answers = await asyncio.gather(
        *(admin.call("POST", "/tag/update", {"name": "a", **change}) for change in changes)
    )
    assert {status for status, _ in answers} == {200}
    _, infos = await admin.call("POST", "/tag/info", {"names": ["a"]})
    tag = infos["a"]
    budget = tag["litellm_budget_table"]
    assert (tag["description"], tag["models"]) == ("d", ["m"])
    assert (budget["max_budget"], budget["rpm_limit"]) == (1.0, 2)
    assert (await admin.sql("select count(*) from budget"))[0][0] == 1


async def test_names_of_any_text(admin: Admin) -> None:
    """Names with odd characters are kept as they are."""
    for name in ("a b", "User-Agent: x/1.0", "🦀", "%", "' or 1=1"):
        await made(admin, name)
        status, infos = await admin.call("POST", "/tag/info", {"names": [name]})
        assert (status, list(infos)) == (200, [name])


async def test_delete(admin: Admin) -> None:
    """The tag goes, its spend stays, and a second time is 404."""
    await made(admin, "a", max_budget=1)
    await spent(admin, "tag", "a", 0.5)
    status, body = await admin.call("POST", "/tag/delete", {"name": "a"})
    assert (status, list(body)) == (200, ["message"])
    plain_detail_of(await admin.call("POST", "/tag/delete", {"name": "a"}), 404)
    log = await audit_of(admin, "LiteLLM_TagTable")
    assert [(entry["action"], entry["object_id"]) for entry in log] == [
        ("created", "a"),
        ("deleted", "a"),
    ]
    assert await fed(admin, "tag") == [["a"], ["a"]]
    _, listed = await admin.call("GET", "/tag/list")
    assert [(tag["name"], tag["created_by"]) for tag in listed] == [("a", None)]


async def test_list_of_stored_and_seen_tags(admin: Admin) -> None:
    """Stored tags come first with their spend, then those of calls, of some days if asked."""
    await made(admin, "stored", max_budget=5)
    for tag in ("stored", "seen", "old"):
        await spent(admin, "tag", tag, 1.5)
    await spent(admin, "key", "not-a-tag", 1)
    await called(admin, "stored", "2026-03-02")
    await called(admin, "seen", "2026-03-01")
    await called(admin, "seen", "2026-03-04")
    await called(admin, "old", "2025-01-01")

    async def names(**params: str) -> list[str]:
        status, listed = await admin.call("GET", "/tag/list", params=params)
        assert status == 200
        assert all(set(tag) == BODY for tag in listed)
        return [tag["name"] for tag in listed]

    assert await names() == ["stored", "old", "seen"]
    assert await names(start_date="2026-01-01", end_date="2026-12-31") == ["stored", "seen"]
    assert await names(start_date="2026-03-04", end_date="2026-03-04") == ["stored", "seen"]
    assert await names(end_date="2025-12-31") == ["stored", "old"]
    assert await names(start_date="2026-03-05") == ["stored"]
    _, listed = await admin.call("GET", "/tag/list?start_date=2026-01-01")
    assert listed[0]["spend"] == 1.5
    assert (listed[1]["created_at"], listed[1]["updated_at"]) == (
        "2026-03-01T00:00:00Z",
        "2026-03-04T00:00:00Z",
    )
    for wrong in ("yesterday", "2026-13-01", "2026-02-30"):
        answer = await admin.call("GET", "/tag/list", params={"start_date": wrong})
        assert "start_date" in plain_detail_of(answer, 400)


async def test_users_see_the_tags_of_their_own_calls(admin: Admin) -> None:
    """Users see stored tags without their budgets, and what their own keys have named."""
    await made(admin, "stored", max_budget=5)
    user = await user_key(admin, "internal_user", "ann")
    viewer = await user_key(admin, "internal_user_viewer", "bob")
    sibling = (await admin.generate(user_id="ann"))["token"]
    await called(admin, "mine", "2026-03-01", sibling)
    await called(admin, "others", "2026-03-01")
    for key, expected in ((user, ["stored", "mine"]), (viewer, ["stored"])):
        status, listed = await admin.call("GET", "/tag/list?start_date=2026-01-01", key=key)
        assert (status, [tag["name"] for tag in listed]) == (200, expected)
        assert listed[0]["litellm_budget_table"] is None
    _, listed = await admin.call("GET", "/tag/list", key=user)
    assert [tag["name"] for tag in listed] == ["stored"]


async def test_only_admins_write(admin: Admin) -> None:
    """Users are 401 and viewers 403 everywhere but on the list."""
    await made(admin, "a")
    for role, status in (
        ("internal_user", 401),
        ("internal_user_viewer", 401),
        ("proxy_admin_viewer", 403),
    ):
        key = await user_key(admin, role)
        for name in ("new", "update", "delete", "info"):
            body = {"name": "a", "names": ["a"], "max_budget": 1}
            answer = await admin.call("POST", f"/tag/{name}", body, key=key)
            error_of(answer, status, "auth_error")
        assert (await admin.call("GET", "/tag/list", key=key))[0] == 200
    boss = await user_key(admin, "proxy_admin")
    status, body = await admin.call("POST", "/tag/update?wait=applied", {"name": "a"}, key=boss)
    assert (status, body["propagation"]["applied"]) == (200, 0)
