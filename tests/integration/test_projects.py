"""Projects through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, fed, spent, user_key

BODY = {
    "blocked", "budget_id", "created_at", "created_by", "description", "litellm_budget_table",
    "metadata", "model_rpm_limit", "model_spend", "model_tpm_limit", "models",
    "object_permission", "object_permission_id", "project_alias", "project_id", "spend",
    "team_id", "updated_at", "updated_by",
}  # fmt: skip


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with a team `t` that has limits, and `u` that has none."""
    admin = await start()
    await admin.sql(
        "insert into team (team_id, models, max_budget, rpm_limit, tpm_limit) values "
        "('t', '{a,b,openai/*}', 100, 10, 1000), ('u', '{}', null, null, null)"
    )
    return admin


async def made(admin: Admin, project_id: str, team_id: str = "t", **fields: Any) -> dict[str, Any]:
    """A new project."""
    body = {"project_id": project_id, "team_id": team_id, **fields}
    status, body = await admin.call("POST", "/project/new", body)
    assert status == 200, body
    return dict(body)


async def info(admin: Admin, project_id: str) -> dict[str, Any]:
    """What is known of a project."""
    status, body = await admin.call("GET", "/project/info", params={"project_id": project_id})
    assert status == 200, body
    return dict(body)


async def test_a_new_project(admin: Admin) -> None:
    """Its fields, limits per model and a budget of its own come back."""
    status, body = await admin.call(
        "POST",
        "/project/new",
        {
            "project_alias": "flight search",
            "description": "d" * 2000,
            "team_id": "t",
            "models": ["a", "openai/gpt"],
            "max_budget": 50,
            "rpm_limit": 5,
            "budget_duration": "30d",
            "model_rpm_limit": {"a": 3},
            "model_tpm_limit": {"a": 30},
            "metadata": {"use_case": "x"},
            "tags": ["prod"],
            "blocked": True,
            "object_permission": {"vector_stores": ["v"]},
        },
    )
    assert status == 200, body
    assert set(body) == BODY
    assert (len(body["project_id"]), body["team_id"], body["blocked"]) == (36, "t", True)
    assert body["models"] == ["a", "openai/gpt"]
    assert (body["model_rpm_limit"], body["model_tpm_limit"]) == ({"a": 3}, {"a": 30})
    assert body["metadata"] == {
        "use_case": "x",
        "model_rpm_limit": {"a": 3},
        "model_tpm_limit": {"a": 30},
        "tags": ["prod"],
    }
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (50.0, 5)
    assert body["object_permission"]["vector_stores"] == ["v"]
    assert await info(admin, body["project_id"]) == body
    bare = await made(admin, "p")
    assert (bare["budget_id"], bare["models"], bare["model_rpm_limit"]) == (None, [], None)


async def test_refusals_of_new_projects(admin: Admin) -> None:
    """No team is 422, an unknown one 404; what is taken or above the team's limits 400."""
    assert issues_of(await admin.call("POST", "/project/new", {"models": "a"})) == [
        ("missing", ["body", "team_id"]),
        ("list_type", ["body", "models"]),
    ]
    unknown = await admin.call("POST", "/project/new", {"team_id": "none"})
    error_of(unknown, 404, "not_found_error", "team_id")
    await made(admin, "p")
    await admin.call("POST", "/budget/new", {"budget_id": "big", "max_budget": 101})
    for fields, param in (
        ({"project_id": "p"}, "project_id"),
        ({"project_id": "a\nb"}, "project_id"),
        ({"max_budget": 101}, "max_budget"),
        ({"soft_budget": 101}, "soft_budget"),
        ({"rpm_limit": 11}, "rpm_limit"),
        ({"tpm_limit": 1001}, "tpm_limit"),
        ({"models": ["a", "c"]}, "models"),
        ({"models": ["*"]}, "models"),
        ({"budget_id": "none"}, "budget_id"),
        ({"budget_id": "big"}, "max_budget"),
        ({"budget_id": "big", "rpm_limit": 1}, "budget_id"),
        ({"budget_duration": "x"}, "budget_duration"),
        ({"metadata": {"a": "\x00"}}, "metadata.a"),
    ):
        status, body = await admin.call("POST", "/project/new", {"team_id": "t", **fields})
        assert (status, body["error"]["param"]) == (400, param)
    assert (await admin.sql("select count(*) from project"))[0][0] == 1
    assert (await admin.sql("select count(*) from budget"))[0][0] == 1


async def test_update_changes_only_what_is_sent(admin: Admin) -> None:
    """Sent fields change, null clears limits and texts, but neither team nor block."""
    await made(
        admin, "p", description="d", models=["a"], max_budget=5, rpm_limit=2, tags=["x"],
        metadata={"k": 1}, blocked=True, model_rpm_limit={"a": 1},
    )  # fmt: skip

    async def change(**fields: Any) -> dict[str, Any]:
        body = {"project_id": "p", **fields}
        status, body = await admin.call("POST", "/project/update", body)
        assert status == 200, body
        return dict(body)

    body = await change(max_budget=6, rpm_limit=None, project_alias="new", model_tpm_limit={"a": 2})
    assert (body["project_alias"], body["description"], body["models"]) == ("new", "d", ["a"])
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (6.0, None)
    assert body["metadata"] == {
        "k": 1, "tags": ["x"], "model_rpm_limit": {"a": 1}, "model_tpm_limit": {"a": 2},
    }  # fmt: skip
    body = await change(
        description=None, models=None, team_id=None, blocked=None, model_rpm_limit=None
    )
    assert (body["description"], body["models"], body["team_id"]) == (None, [], "t")
    assert (body["blocked"], body["model_rpm_limit"]) == (True, None)
    body = await change(metadata={"n": 2}, blocked=False)
    assert (body["metadata"], body["blocked"]) == ({"n": 2}, False)


async def test_refusals_of_updates(admin: Admin) -> None:
    """Unknown projects are 404; caps of the team, also of a new one, 400."""
    error_of(
        await admin.call("POST", "/project/update", {"project_id": "none"}),
        404, "not_found_error", "project_id",
    )  # fmt: skip
    assert issues_of(await admin.call("POST", "/project/update", {})) == [
        ("missing", ["body", "project_id"])
    ]
    await made(admin, "p", "u", models=["c"], max_budget=500)
    for fields, status, param in (
        ({"team_id": "none"}, 404, "team_id"),
        ({"team_id": "t"}, 400, "max_budget"),
        ({"team_id": "t", "max_budget": 5}, 400, "models"),
        ({"team_id": "t", "max_budget": 5, "models": ["a"]}, 200, None),
        ({"max_budget": 101}, 400, "max_budget"),
    ):
        answer = await admin.call("POST", "/project/update", {"project_id": "p", **fields})
        assert answer[0] == status, answer
        if param is not None:
            assert answer[1]["error"]["param"] == param
    assert (await info(admin, "p"))["litellm_budget_table"]["max_budget"] == 5.0


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Changes of one project and its budget at once all count."""
    await made(admin, "p", metadata={"k": 1})
    changes: list[dict[str, Any]] = [
        {"description": "d"}, {"models": ["a"]}, {"max_budget": 1}, {"rpm_limit": 2},
        {"model_rpm_limit": {"a": 1}}, {"model_tpm_limit": {"a": 2}}, {"blocked": True},
    ]  # fmt: skip
    answers = await asyncio.gather(
        *(admin.call("POST", "/project/update", {"project_id": "p", **each}) for each in changes)
    )
    assert {status for status, _ in answers} == {200}
    body = await info(admin, "p")
    assert (body["description"], body["models"], body["blocked"]) == ("d", ["a"], True)
    assert body["metadata"] == {"k": 1, "model_rpm_limit": {"a": 1}, "model_tpm_limit": {"a": 2}}
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (1.0, 2)
    assert (await admin.sql("select count(*) from budget"))[0][0] == 1


async def test_budgets_deleted_while_projects_change(admin: Admin) -> None:
    """Deleting budgets while their projects change and are linked anew locks nobody out."""
    for number in range(6):
        await admin.call("POST", "/budget/new", {"budget_id": f"b{number}", "max_budget": 1})
        await made(admin, f"p{number}", budget_id=f"b{number}")
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/project/update", {"project_id": f"p{number}", "max_budget": 2})
            for number in range(6)
        ),
        *(admin.call("POST", "/budget/delete", {"id": f"b{number}"}) for number in range(6)),
    )
    assert {status for status, _ in answers} == {200}


async def test_delete(admin: Admin) -> None:
    """All or none go, and none that keys still belong to."""
    for name in ("p", "q"):
        await made(admin, name)
    key = await admin.generate(project_id="q", team_id="t")

    async def delete(*ids: str) -> Any:
        return await admin.call("DELETE", "/project/delete", {"project_ids": list(ids)})

    error_of(await delete("p", "none"), 404, "not_found_error", "project_ids")
    error_of(await delete("p", "q"), 400, "invalid_request_error", "project_ids")
    error_of(await delete(), 400, "invalid_request_error", "project_ids")
    await admin.call("POST", "/key/delete", {"keys": [key["key"]]})
    status, body = await delete("q", "p", "p")
    assert (status, [row["project_id"] for row in body]) == (200, ["p", "q"])
    assert await admin.call("GET", "/project/list") == (200, [])
    log = await audit_of(admin, "LiteLLM_ProjectTable")
    assert [(entry["action"], entry["object_id"]) for entry in log] == [
        ("created", "p"), ("created", "q"), ("deleted", "p"), ("deleted", "q"),
    ]  # fmt: skip
    assert await fed(admin, "project") == [["p"], ["q"], ["p", "q"]]


async def test_spend(admin: Admin) -> None:
    """A project shows what its counter says."""
    await made(admin, "p", max_budget=5)
    await spent(admin, "project", "p", 1.5)
    assert (await info(admin, "p"))["spend"] == 1.5


async def test_team_admins(admin: Admin) -> None:
    """They make and change projects of their own teams, within limits, and name no budgets."""
    boss = await user_key(admin, "internal_user", "boss", team="t")
    member = await user_key(admin, "internal_user", "ann", team="t", team_role="user")
    stranger = await user_key(admin, "internal_user", "bob")
    new = {"project_id": "p", "team_id": "t", "max_budget": 50}
    for key in (member, stranger):
        error_of(await admin.call("POST", "/project/new", new, key=key), 403, "auth_error")
    assert (await admin.call("POST", "/project/new", new, key=boss))[0] == 200
    elsewhere = {"team_id": "u"}
    error_of(await admin.call("POST", "/project/new", elsewhere, key=boss), 403, "auth_error")
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 1})
    for fields, param in (
        ({"budget_id": "b"}, "budget_id"),
        ({"object_permission": {"models": ["x"]}}, "object_permission"),
        ({"team_id": "u"}, None),
    ):
        change = {"project_id": "p", **fields}
        answer = await admin.call("POST", "/project/update", change, key=boss)
        error_of(answer, 403, "auth_error", param)
    above = {"project_id": "p", "max_budget": 101}
    answer = await admin.call("POST", "/project/update", above, key=boss)
    error_of(answer, 400, "invalid_request_error", "max_budget")
    change = {"project_id": "p", "max_budget": 60, "models": ["a"]}
    assert (await admin.call("POST", "/project/update", change, key=boss))[0] == 200
    for key in (member, stranger):
        error_of(await admin.call("POST", "/project/update", change, key=key), 403, "auth_error")
    gone = {"project_ids": ["p"]}
    for key in (boss, member):
        error_of(await admin.call("DELETE", "/project/delete", gone, key=key), 401, "auth_error")
    assert (await admin.call("DELETE", "/project/delete", gone))[0] == 200


async def test_a_budget_of_others_is_not_a_team_admins_to_change(admin: Admin) -> None:
    """A row that a proxy admin has linked to more than the project stays as it is."""
    boss = await user_key(admin, "internal_user", "boss", team="t")
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 1})
    await made(admin, "p", budget_id="b")
    await made(admin, "q", "u", budget_id="b")
    change = {"project_id": "p", "max_budget": 99}
    answer = await admin.call("POST", "/project/update", change, key=boss)
    error_of(answer, 403, "auth_error")
    assert (await info(admin, "q"))["litellm_budget_table"]["max_budget"] == 1.0


async def test_who_sees_what(admin: Admin) -> None:
    """Members see their teams' projects, keys those of their team and their own, others none."""
    await made(admin, "p")
    await made(admin, "q", "u")
    member = await user_key(admin, "internal_user", "ann", team="t", team_role="user")
    stranger = await user_key(admin, "internal_user_viewer", "bob")
    of_team = (await admin.generate(team_id="u"))["key"]
    of_project = (await admin.generate(project_id="p"))["key"]
    viewer = await user_key(admin, "proxy_admin_viewer")

    async def seen(key: str) -> tuple[list[str], list[int]]:
        _, rows = await admin.call("GET", "/project/list", key=key)
        infos = [
            (await admin.call("GET", f"/project/info?project_id={each}", key=key))[0]
            for each in ("p", "q")
        ]
        return [row["project_id"] for row in rows], infos

    assert await seen(member) == (["p"], [200, 403])
    assert await seen(stranger) == ([], [403, 403])
    assert await seen(of_team) == (["q"], [403, 200])
    assert await seen(of_project) == ([], [200, 403])
    assert await seen(viewer) == (["q", "p"], [200, 200])
    error_of(
        await admin.call("GET", "/project/info?project_id=none", key=member),
        404, "not_found_error", "project_id",
    )  # fmt: skip
    assert issues_of(await admin.call("GET", "/project/info")) == [
        ("missing", ["query", "project_id"])
    ]
    for path, body in (("new", {"team_id": "t"}), ("update", {"project_id": "p"})):
        answer = await admin.call("POST", f"/project/{path}", body, key=viewer)
        error_of(answer, 403, "auth_error")


async def test_changes_can_be_waited_for(admin: Admin) -> None:
    """Without workers nobody has to apply a change."""
    _, body = await admin.call("POST", "/project/new?wait=applied", {"team_id": "t"})
    assert body["propagation"]["applied"] == 0
