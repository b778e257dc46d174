"""Unified access groups through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import AS_MASTER, Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, detail_of, fed, user_key

BODY = {
    "access_agent_ids", "access_group_id", "access_group_name", "access_mcp_server_ids",
    "access_model_names", "access_skill_names", "assigned_key_ids", "assigned_team_ids",
    "created_at", "created_by", "description", "mcp_tool_permissions", "updated_at", "updated_by",
}  # fmt: skip


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with two teams."""
    admin = await start()
    await admin.sql("insert into team (team_id) values ('t1'), ('t2')")
    return admin


async def made(admin: Admin, name: str, **fields: Any) -> dict[str, Any]:
    """A new group."""
    body = {"access_group_name": name, **fields}
    status, body = await admin.call("POST", "/v1/access_group", body)
    assert status == 201, body
    return dict(body)


async def gone(admin: Admin, group_id: str) -> None:
    """Deletes a group."""
    path = f"/v1/access_group/{group_id}"
    async with admin.client.delete(path, headers=AS_MASTER) as response:
        assert response.status == 204
        assert await response.read() == b""


async def test_a_new_group(admin: Admin) -> None:
    """Its fields come back with 201; teams and keys that it is assigned to have it."""
    key = await admin.generate()
    other = await admin.generate()
    body = await made(
        admin,
        "g",
        description="for all",
        access_model_names=["m"],
        access_mcp_server_ids=["s"],
        access_agent_ids=["a"],
        access_skill_names=["k"],
        mcp_tool_permissions={"s": ["tool"]},
        assigned_team_ids=["t1"],
        assigned_key_ids=[key["key"], other["token"]],
    )
    assert set(body) == BODY
    assert (body["access_group_name"], body["access_model_names"]) == ("g", ["m"])
    assert (body["access_skill_names"], body["mcp_tool_permissions"]) == (["k"], {"s": ["tool"]})
    assert body["assigned_team_ids"] == ["t1"]
    assert body["assigned_key_ids"] == sorted([key["token"], other["token"]])
    group_id = body["access_group_id"]
    assert (await admin.info(key["key"]))["access_group_ids"] == [group_id]
    (team,) = await admin.sql("select access_group_ids from team where team_id = 't1'")
    assert team["access_group_ids"] == [group_id]
    for prefix in ("/v1/access_group", "/v1/unified_access_group"):
        assert await admin.call("GET", f"{prefix}/{group_id}") == (200, body)
        assert await admin.call("GET", prefix) == (200, [body])


async def test_assignments_made_elsewhere_show(admin: Admin) -> None:
    """A key that is given a group is among its keys, and one that is deleted is not."""
    group_id = (await made(admin, "g"))["access_group_id"]
    key = await admin.generate(access_group_ids=[group_id])
    _, body = await admin.call("GET", f"/v1/access_group/{group_id}")
    assert body["assigned_key_ids"] == [key["token"]]
    await admin.call("POST", "/key/delete", {"keys": [key["key"]]})
    _, (body,) = await admin.call("GET", "/v1/access_group")
    assert body["assigned_key_ids"] == []


async def test_refusals(admin: Admin) -> None:
    """Taken names are 409, unknown groups 404, unknown owners 400, wrong forms 422."""
    group = await made(admin, "g")
    await made(admin, "h")
    path = f"/v1/access_group/{group['access_group_id']}"
    taken = {"access_group_name": "h"}
    detail_of(await admin.call("POST", "/v1/access_group", taken), 409)
    detail_of(await admin.call("PUT", path, taken), 409)
    for method in ("GET", "PUT", "DELETE"):
        body = {} if method == "PUT" else None
        detail_of(await admin.call(method, "/v1/access_group/none", body), 404)
    for fields, word in (
        ({"assigned_team_ids": ["t1", "none"]}, "assigned_team_ids"),
        ({"assigned_key_ids": ["sk-none"]}, "assigned_key_ids"),
        ({"description": "a\x00"}, "description"),
        ({"access_model_names": ["a" * 600]}, "access_model_names"),
    ):
        body = {"access_group_name": "i", **fields}
        assert word in detail_of(await admin.call("POST", "/v1/access_group", body), 400)
        assert word in detail_of(await admin.call("PUT", path, fields), 400)
    wrong = {"access_model_names": "m", "mcp_tool_permissions": {"s": "t"}}
    assert issues_of(await admin.call("POST", "/v1/access_group", wrong)) == [
        ("missing", ["body", "access_group_name"]),
        ("list_type", ["body", "access_model_names"]),
        ("list_type", ["body", "mcp_tool_permissions", "s"]),
    ]
    assert (await admin.sql("select count(*) from access_group"))[0][0] == 2
    (team,) = await admin.sql("select access_group_ids from team where team_id = 't1'")
    assert team["access_group_ids"] == []


async def test_update(admin: Admin) -> None:
    """Sent fields change, null empties a list, assignments become exactly those sent."""
    group = await made(admin, "g", access_model_names=["m"], assigned_team_ids=["t1"])
    path = f"/v1/access_group/{group['access_group_id']}"
    change = {"description": "d", "assigned_team_ids": ["t2"], "access_group_name": None}
    status, body = await admin.call("PUT", path, change)
    assert (status, body["access_group_name"], body["description"]) == (200, "g", "d")
    assert (body["assigned_team_ids"], body["access_model_names"]) == (["t2"], ["m"])
    change = {"access_model_names": None, "assigned_team_ids": None, "access_group_name": "new"}
    _, body = await admin.call("PUT", path, change)
    assert (body["access_model_names"], body["assigned_team_ids"]) == ([], ["t2"])
    assert body["access_group_name"] == "new"
    teams = await audit_of(admin, "LiteLLM_TeamTable")
    assert [(entry["object_id"], entry["updated_values"]) for entry in teams] == [
        ("t1", {"access_group_ids": [group["access_group_id"]]}),
        ("t1", {"access_group_ids": []}),
        ("t2", {"access_group_ids": [group["access_group_id"]]}),
    ]


async def test_delete_takes_it_from_everybody(admin: Admin) -> None:
    """No team and no key is left with a group that is gone."""
    key = await admin.generate()
    kept = await made(admin, "kept", assigned_key_ids=[key["token"]])
    group = await made(admin, "g", assigned_team_ids=["t1"], assigned_key_ids=[key["token"]])
    await gone(admin, group["access_group_id"])
    assert (await admin.info(key["key"]))["access_group_ids"] == [kept["access_group_id"]]
    (team,) = await admin.sql("select access_group_ids from team where team_id = 't1'")
    assert team["access_group_ids"] == []
    log = await audit_of(admin, "LiteLLM_AccessGroupTable")
    assert [entry["action"] for entry in log] == ["created", "created", "deleted"]
    assert len(await fed(admin, "access_group")) == 3


async def test_concurrent_changes_lose_nothing(admin: Admin) -> None:
    """Changes of one group, and assignments of several groups to one team, all count."""
    groups = [(await made(admin, f"g{number}"))["access_group_id"] for number in range(6)]
    changes: list[tuple[str, dict[str, Any]]] = [
        (groups[0], {"description": "d"}),
        (groups[0], {"access_model_names": ["m"]}),
        (groups[0], {"access_agent_ids": ["a"]}),
        *((group, {"assigned_team_ids": ["t1", "t2"]}) for group in groups),
    ]
    answers = await asyncio.gather(
        *(admin.call("PUT", f"/v1/access_group/{group}", change) for group, change in changes)
    )
    assert {status for status, _ in answers} == {200}
    _, body = await admin.call("GET", f"/v1/access_group/{groups[0]}")
    assert (body["description"], body["access_model_names"]) == ("d", ["m"])
    assert body["access_agent_ids"] == ["a"]
    for team in await admin.sql("select access_group_ids from team"):
        assert sorted(team["access_group_ids"]) == sorted(groups)


async def test_who_may_do_what(admin: Admin) -> None:
    """Admins all, viewers read, others nothing."""
    group = await made(admin, "g")
    path = f"/v1/access_group/{group['access_group_id']}"
    calls: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/v1/access_group", {"access_group_name": "h"}),
        ("PUT", path, {"access_model_names": []}),
        ("DELETE", path, None),
    )
    viewer = await user_key(admin, "proxy_admin_viewer")
    user = await user_key(admin, "internal_user", team="t1")
    for method, each, body in calls:
        error_of(await admin.call(method, each, body, key=viewer), 403, "auth_error")
        error_of(await admin.call(method, each, body, key=user), 401, "auth_error")
    for each in ("/v1/access_group", path):
        assert (await admin.call("GET", each, key=viewer))[0] == 200
        error_of(await admin.call("GET", each, key=user), 401, "auth_error")
    status, body = await admin.call("PUT", f"{path}?wait=applied", {"description": "x"})
    assert (status, body["propagation"]["applied"]) == (200, 0)
    await gone(admin, f"{group['access_group_id']}?wait=applied")


async def test_many_keys(admin: Admin) -> None:
    """A group is assigned to a thousand keys and taken from them again."""
    await admin.sql(
        "insert into virtual_key (token) "
        "select encode(sha256(n::text::bytea), 'hex') from generate_series(1, 1000) n"
    )
    tokens = [row["token"] for row in await admin.sql("select token from virtual_key")]
    group = await made(admin, "g", assigned_key_ids=tokens)
    assert len(group["assigned_key_ids"]) == 1000
    await gone(admin, group["access_group_id"])
    left = await admin.sql("select count(*) from virtual_key where access_group_ids <> '{}'")
    assert left[0][0] == 0
