"""Model access groups through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.config.gateway_config import GatewayConfig, LitellmParams, ModelEntry, ModelInfo
from shared.config.secret import Secret
from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, catalog_of, detail_of, fed, spent, user_key

FILE = GatewayConfig(
    models=(
        ModelEntry(
            model_name="of-file",
            params=LitellmParams(model="openai/gpt", api_key=Secret("sk-up")),
            info=ModelInfo(id="f1", access_groups=("file-group",)),
            source="config.yaml",
            path="model_list[0]",
        ),
    )
)


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with a model of the file and four stored deployments of three models."""
    admin = await start(models=catalog_of(FILE))
    await admin.sql(
        "insert into model (model_id, model_name, litellm_params, model_info) values "
        """('a1', 'a', '{"api_key": "sealed"}', '{"mode": "chat"}'), ('a2', 'a', '{}', '{}'), """
        """('b1', 'b', '{}', '{"access_groups": ["old"]}'), ('c1', 'c', '{}', '{}')"""
    )
    return admin


async def made(admin: Admin, group: str, **fields: Any) -> dict[str, Any]:
    """A new group."""
    status, body = await admin.call("POST", "/access_group/new", {"access_group": group, **fields})
    assert status == 200, body
    return dict(body)


async def groups_of(admin: Admin, model_id: str) -> list[str] | None:
    """The groups that stand in a stored model."""
    (row,) = await admin.sql(
        "select array(select jsonb_array_elements_text(model_info -> 'access_groups')) as found "
        "from model where model_id = $1",
        model_id,
    )
    return list(row["found"])


async def test_a_new_group_by_name_and_by_id(admin: Admin) -> None:
    """By name all deployments of a model get it, by id those named; the rest of a model stays."""
    body = await made(admin, "g", model_names=["a", "b"])
    assert body == {
        "access_group": "g",
        "model_names": ["a", "b"],
        "model_ids": None,
        "models_updated": 3,
    }
    assert await groups_of(admin, "a1") == ["g"]
    assert await groups_of(admin, "b1") == ["old", "g"]
    assert await groups_of(admin, "c1") == []
    body = await made(admin, "h", model_ids=["a2"], model_names=["c"])
    assert (body["model_ids"], body["models_updated"]) == (["a2"], 1)
    assert await groups_of(admin, "a2") == ["g", "h"]
    assert await groups_of(admin, "c1") == []
    (row,) = await admin.sql("select model_info ->> 'mode' as m from model where model_id = 'a1'")
    assert row["m"] == "chat"
    log = await audit_of(admin, "LiteLLM_ProxyModelTable")
    assert {entry["object_id"] for entry in log[:3]} == {"a1", "a2", "b1"}
    assert log[-1]["updated_values"] == {"access_groups": ["g", "h"]}
    assert await fed(admin, "model") != []


async def test_list_and_info(admin: Admin) -> None:
    """Groups of stored models and of the file, with the models of each."""
    await made(admin, "g", model_names=["a"])
    status, body = await admin.call("GET", "/access_group/list")
    assert (status, list(body)) == (200, ["access_groups"])
    assert body["access_groups"] == [
        {"access_group": "file-group", "model_names": ["of-file"], "deployment_count": 1},
        {"access_group": "g", "model_names": ["a"], "deployment_count": 2},
        {"access_group": "old", "model_names": ["b"], "deployment_count": 1},
    ]
    status, body = await admin.call("GET", "/access_group/g/info")
    assert (status, body) == (
        200,
        {
            "access_group": "g",
            "model_names": ["a"],
            "deployment_count": 2,
            "spend": 0.0,
            "budget": None,
        },
    )
    detail_of(await admin.call("GET", "/access_group/none/info"), 404)


async def test_refusals(admin: Admin) -> None:
    """Known groups are 409, unknown models and no models 400, wrong forms 422."""
    for group in ("old", "file-group"):
        body = {"access_group": group, "model_names": ["a"]}
        detail_of(await admin.call("POST", "/access_group/new", body), 409)
    for fields, word in (
        ({"model_names": ["a", "none"]}, "none"),
        ({"model_ids": ["a1", "none"]}, "none"),
        ({"model_names": []}, "model_names"),
        ({}, "model_names"),
    ):
        body = {"access_group": "g", **fields}
        assert word in detail_of(await admin.call("POST", "/access_group/new", body), 400)
        assert word in detail_of(await admin.call("PUT", "/access_group/old/update", fields), 400)
    for group, status in ((" ", 400), ("a\x00", 400), ("x" * 600, 400)):
        body = {"access_group": group, "model_names": ["a"]}
        detail_of(await admin.call("POST", "/access_group/new", body), status)
    assert issues_of(await admin.call("POST", "/access_group/new", {"model_names": "a"})) == [
        ("missing", ["body", "access_group"]),
        ("list_type", ["body", "model_names"]),
    ]
    path = "/access_group/none"
    detail_of(await admin.call("PUT", f"{path}/update", {"model_names": ["a"]}), 404)
    detail_of(await admin.call("DELETE", f"{path}/delete"), 404)
    assert await groups_of(admin, "a1") == []


async def test_models_of_the_file_are_read_only(admin: Admin) -> None:
    """What would change one is refused and says where it is defined; others may be named."""
    for fields in ({"model_names": ["a", "of-file"]}, {"model_ids": ["f1"]}):
        body = {"access_group": "g", **fields}
        text = detail_of(await admin.call("POST", "/access_group/new", body), 400)
        assert "config.yaml" in text
        assert "model_list[0]" in text
    path = "/access_group/file-group"
    body = {"model_names": ["of-file", "c"]}
    status, answer = await admin.call("PUT", f"{path}/update", body)
    assert (status, answer["models_updated"]) == (200, 1)
    _, answer = await admin.call("GET", f"{path}/info")
    assert answer["model_names"] == ["c", "of-file"]
    for method, name, sent in (
        ("PUT", "update", {"model_names": ["c"]}),
        ("DELETE", "delete", None),
    ):
        text = detail_of(await admin.call(method, f"{path}/{name}", sent), 400)
        assert "config.yaml" in text
    assert await groups_of(admin, "c1") == ["file-group"]


async def test_update_and_delete(admin: Admin) -> None:
    """An update makes the group exactly the named models, a delete leaves none in it."""
    await made(admin, "g", model_names=["a"])
    status, body = await admin.call("PUT", "/access_group/g/update", {"model_names": ["b"]})
    assert (status, body["models_updated"]) == (200, 3)
    assert [await groups_of(admin, each) for each in ("a1", "a2", "b1")] == [[], [], ["old", "g"]]
    await admin.call("PUT", "/access_group/g/budget", {"max_budget": 5})
    status, body = await admin.call("DELETE", "/access_group/g/delete")
    assert (status, body["access_group"], body["models_updated"]) == (200, "g", 1)
    assert await groups_of(admin, "b1") == ["old"]
    assert (await admin.sql("select count(*) from model_access_group"))[0][0] == 0
    detail_of(await admin.call("GET", "/access_group/g/info"), 404)


async def test_the_budget_of_a_group(admin: Admin) -> None:
    """It is made, changed, linked, shown with the spend, and taken away."""
    path = "/access_group/old/budget"
    status, body = await admin.call("GET", path)
    assert (status, body) == (
        200,
        {"access_group": "old", "budget_id": None, "spend": 0.0, "budget": None},
    )
    detail_of(await admin.call("DELETE", path), 404)
    fields = {"max_budget": 5, "soft_budget": 4, "budget_duration": "30d"}
    status, body = await admin.call("PUT", path, fields)
    assert status == 200
    made_id = body["budget_id"]
    assert (body["budget"]["max_budget"], body["budget"]["budget_duration"]) == (5.0, "30d")
    _, body = await admin.call("PUT", path, {"max_budget": 6, "budget_duration": None})
    assert (body["budget_id"], body["budget"]["max_budget"]) == (made_id, 6.0)
    assert body["budget"]["budget_duration"] is None
    await spent(admin, "model_access_group", "old", 1.5)
    assert (await admin.call("GET", path))[1]["spend"] == 1.5
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 9})
    _, body = await admin.call("PUT", path, {"budget_id": "b"})
    assert (body["budget_id"], body["budget"]["max_budget"]) == ("b", 9.0)
    assert (await admin.call("GET", "/access_group/old/info"))[1]["budget"]["max_budget"] == 9.0
    assert (await admin.call("DELETE", path))[0] == 200
    assert (await admin.call("GET", path))[1]["budget"] is None
    log = await audit_of(admin, "LiteLLM_ModelAccessGroupBudgetTable")
    assert [entry["action"] for entry in log] == ["created", "updated", "updated", "deleted"]


async def test_refusals_of_budgets(admin: Admin) -> None:
    """Nothing to set, two budgets and unknown ones are 400, unknown groups 404."""
    path = "/access_group/old/budget"
    for fields in (
        {},
        {"max_budget": None},
        {"budget_id": "none"},
        {"budget_id": "b", "max_budget": 1},
        {"max_budget": -1},
    ):
        detail_of(await admin.call("PUT", path, fields), 400)
    detail_of(await admin.call("PUT", "/access_group/none/budget", {"max_budget": 1}), 404)
    detail_of(await admin.call("GET", "/access_group/none/budget"), 404)


async def test_concurrent_groups_lose_nothing(admin: Admin) -> None:
    """Groups made for the same models at once are all in them."""
    names = [f"g{number}" for number in range(6)]
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/access_group/new", {"access_group": name, "model_names": ["a"]})
            for name in names
        )
    )
    assert {status for status, _ in answers} == {200}
    for model_id in ("a1", "a2"):
        assert sorted(await groups_of(admin, model_id) or []) == names


async def test_who_may_do_what(admin: Admin) -> None:
    """Admins all, viewers read, others nothing."""
    viewer = await user_key(admin, "proxy_admin_viewer")
    user = await user_key(admin, "internal_user")
    calls: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/access_group/new", {"access_group": "g", "model_names": ["a"]}),
        ("PUT", "/access_group/old/update", {"model_names": ["a"]}),
        ("PUT", "/access_group/old/budget", {"max_budget": 1}),
        ("DELETE", "/access_group/old/budget", None),
        ("DELETE", "/access_group/old/delete", None),
    )
    for method, path, body in calls:
        error_of(await admin.call(method, path, body, key=viewer), 403, "auth_error")
        error_of(await admin.call(method, path, body, key=user), 401, "auth_error")
    for path in ("/access_group/list", "/access_group/old/info", "/access_group/old/budget"):
        assert (await admin.call("GET", path, key=viewer))[0] == 200
        error_of(await admin.call("GET", path, key=user), 401, "auth_error")
    assert await groups_of(admin, "a1") == []
