"""GET /v2/model/info: what it shows to whom, filters, order, pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_models_teams import of_team, user_key
from tests.support.admin_api import Admin, admins, issues_of
from tests.support.stored_models import SECRET, body, catalog_of, make


@pytest.fixture
async def admin(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Admin]:
    async with admins(database, aiohttp_client) as start:
        started = await start(models=catalog_of(tmp_path, environ={"LITELLM_ENVIRONMENT": "eu"}))
        await started.sql("insert into team (team_id, models) values ('t1', '{b}'), ('t2', '{}')")
        yield started


async def listed(admin: Admin, key: str | None = None, **query: str) -> dict[str, Any]:
    """An answer of the list."""
    more = {} if key is None else {"key": key}
    status, answer = await admin.call("GET", "/v2/model/info", params=query, **more)
    assert status == 200, answer
    return dict(answer)


async def names(admin: Admin, key: str | None = None, **query: str) -> list[str]:
    """The names in it."""
    return [row["model_name"] for row in (await listed(admin, key, **query))["data"]]


async def test_shape(admin: Admin) -> None:
    """File and database stand side by side, without secrets."""
    await make(admin, "b", model_id="m1", rpm=3, extra_headers={"X-A": SECRET})
    answer = await listed(admin)
    assert {name: answer[name] for name in answer if name != "data"} == {
        "total_count": 3,
        "current_page": 1,
        "total_pages": 1,
        "size": 50,
    }
    assert [row["model_name"] for row in answer["data"]] == ["from-file", "wild/*", "b"]
    assert SECRET not in str(answer)
    assert "api_key" not in str(answer)
    first, _, stored = answer["data"]
    assert first["litellm_params"] == {"model": "openai/x", "api_base": "http://h/v1", "rpm": 7}
    assert stored["litellm_params"] == {"model": "openai/gpt", "api_base": "http://h/v1", "rpm": 3}
    info = stored["model_info"]
    assert (info["id"], info["db_model"], info["mode"]) == ("m1", True, "chat")
    assert (info["direct_access"], info["access_via_team_ids"]) == (True, [])
    assert info["created_by"] == "default_user_id"
    assert first["model_info"]["db_model"] is False


async def test_what_is_not_served_here(admin: Admin) -> None:
    """A blocked model, and one that this instance lacks something for, are listed all the same."""
    await make(admin, "blocked", model_id="m1")
    await admin.call("POST", "/model/block", {"model_id": "m1"})
    await make(admin, "lacking", api_key="os.environ/NOT_HERE")
    rows = {row["model_name"]: row for row in (await listed(admin))["data"]}
    assert rows["blocked"]["model_info"]["blocked"] is True
    assert "NOT_HERE" in rows["lacking"]["model_info"]["not_served_because"]
    assert await names(admin, blocked="true") == ["blocked"]
    assert "blocked" not in await names(admin, blocked="false")


async def test_filters_order_and_pages(admin: Admin) -> None:
    """Each parameter narrows; pages are cut after sorting."""
    await make(admin, "b", model_id="m-b")
    await make(admin, "a", model_id="m-a")
    assert await names(admin, model="a") == ["a"]
    assert await names(admin, search="M-B") == ["b"]
    assert await names(admin, modelId="file-1") == ["from-file"]
    assert await names(admin, access_group="beta") == ["from-file"]
    assert await names(admin, wildcard_only="true") == ["wild/*"]
    assert await names(admin, teamId="t1") == ["b"]
    assert len(await names(admin, teamId="t2")) == 4
    assert await names(admin, teamId="nobody") == []
    ordered = ["a", "b", "from-file", "wild/*"]
    assert await names(admin, sortBy="model_name") == ordered
    assert await names(admin, sortBy="model_name", sortOrder="desc") == ordered[::-1]
    for column in ("created_at", "updated_at", "costs", "status"):
        assert sorted(await names(admin, sortBy=column)) == ordered
    assert (await names(admin, sortBy="created_at"))[-2:] == ["b", "a"]
    answer = await listed(admin, sortBy="model_name", size="3", page="2")
    assert [row["model_name"] for row in answer["data"]] == ["wild/*"]
    assert (answer["total_count"], answer["total_pages"], answer["current_page"]) == (4, 2, 2)
    assert (await listed(admin, page="99"))["data"] == []


async def test_scope(admin: Admin) -> None:
    """A caller sees what its key may use and its teams' own; admins and viewers see all."""
    await make(admin, "b")
    await admin.call("POST", "/model/new", of_team("of-t1", "t1"))
    await admin.call("POST", "/model/new", of_team("of-t2", "t2"))
    every = ["from-file", "wild/*", "b", "of-t1", "of-t2"]
    assert await names(admin) == every
    assert await names(admin, await user_key(admin, "proxy_admin_viewer")) == every
    member = await user_key(admin, "internal_user", "t1")
    assert await names(admin, member) == ["from-file", "wild/*", "b", "of-t1"]
    narrow = (await admin.generate(models=["b"]))["key"]
    assert await names(admin, narrow) == ["b"]
    rows = (await listed(admin, narrow))["data"]
    assert "not_served_because" not in str(rows)
    assert await names(admin, await user_key(admin, "internal_user"), user_models_only="true") == []
    status, _ = await admin.call("GET", "/v2/model/info", key=None)
    assert status == 401


async def test_own_models(admin: Admin) -> None:
    """`user_models_only` shows what the caller has made."""
    maker = await user_key(admin, "proxy_admin")
    assert (await admin.call("POST", "/model/new", body("mine"), key=maker))[0] == 200
    await make(admin, "b")
    assert await names(admin, maker, user_models_only="true") == ["mine"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", "0"),
        ("page", "x"),
        ("size", "100000"),
        ("sortBy", "secret"),
        ("sortOrder", "up"),
        ("blocked", "perhaps"),
        ("search", "\x00"),
    ],
)
async def test_bad_queries(admin: Admin, name: str, value: str) -> None:
    """A wrong parameter is a 422 that names it."""
    answer = await admin.call("GET", "/v2/model/info", params={name: value})
    assert [loc for _, loc in issues_of(answer)] == [["query", name]]
