"""Organizations through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, detail_of, fed, spent, user_key

BODY = {
    "budget_id", "created_at", "created_by", "litellm_budget_table", "members", "metadata",
    "model_spend", "models", "object_permission", "object_permission_id", "organization_alias",
    "organization_id", "spend", "teams", "updated_at", "updated_by",
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


async def made(admin: Admin, organization_id: str, **fields: Any) -> dict[str, Any]:
    """A new organization."""
    body = {"organization_id": organization_id, "organization_alias": organization_id, **fields}
    status, body = await admin.call("POST", "/organization/new", body)
    assert status == 200, body
    return dict(body)


async def info(admin: Admin, organization_id: str) -> dict[str, Any]:
    """What is known of an organization."""
    params = {"organization_id": organization_id}
    status, body = await admin.call("GET", "/organization/info", params=params)
    assert status == 200, body
    return dict(body)


async def test_a_new_organization(admin: Admin) -> None:
    """Its own fields, limits per model in its metadata, and a budget of its own come back."""
    body = await made(
        admin,
        "o",
        models=["m"],
        metadata={"a": 1},
        model_rpm_limit={"m": 3},
        max_budget=100,
        budget_duration="30d",
        rpm_limit=5,
        object_permission={"vector_stores": ["v"]},
    )
    assert set(body) == BODY
    assert (body["organization_id"], body["models"], body["spend"]) == ("o", ["m"], 0.0)
    assert body["metadata"] == {"a": 1, "model_rpm_limit": {"m": 3}}
    budget = body["litellm_budget_table"]
    assert (budget["budget_id"], budget["max_budget"]) == (body["budget_id"], 100.0)
    assert (budget["rpm_limit"], budget["created_by"]) == (5, "default_user_id")
    assert body["object_permission"]["vector_stores"] == ["v"]
    assert (body["members"], body["teams"]) == ([], [])
    assert await info(admin, "o") == body
    assert [entry["object_id"] for entry in await audit_of(admin, "LiteLLM_OrganizationTable")] == [
        "o"
    ]


async def test_every_organization_has_a_budget_row(admin: Admin) -> None:
    """Without limits it is an empty one; a named one is linked."""
    status, body = await admin.call("POST", "/organization/new", {"organization_alias": "x"})
    assert (status, len(body["organization_id"]), len(body["budget_id"])) == (200, 36, 36)
    assert body["litellm_budget_table"]["max_budget"] is None
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 7})
    body = await made(admin, "o", budget_id="b", max_budget=None)
    assert body["litellm_budget_table"]["max_budget"] == 7.0


async def test_refusals_of_new_organizations(admin: Admin) -> None:
    """Missing and mistyped fields are 422, taken ids, two budgets and unknown ones 400."""
    assert issues_of(await admin.call("POST", "/organization/new", {})) == [
        ("missing", ["body", "organization_alias"])
    ]
    await made(admin, "o")
    named = {"organization_alias": "o", "organization_id": "o"}
    assert "organization_id" in detail_of(await admin.call("POST", "/organization/new", named), 400)
    for more, word in (
        ({"budget_id": "b", "max_budget": 1}, "budget_id"),
        ({"budget_id": "none"}, "budget_id"),
        ({"budget_duration": "x"}, "budget_duration"),
        ({"max_budget": -1}, "max_budget"),
        ({"organization_id": "a\x1fb"}, "organization_id"),
        ({"organization_alias": "a\x00"}, "organization_alias"),
        ({"model_rpm_limit": {"m": -1}}, "model_rpm_limit"),
    ):
        body = {"organization_alias": "p", **more}
        assert word in detail_of(await admin.call("POST", "/organization/new", body), 400)
    wrong = {"organization_alias": 1, "models": "m", "metadata": [], "model_tpm_limit": {"m": "x"}}
    assert len(issues_of(await admin.call("POST", "/organization/new", wrong))) == 4
    assert (await admin.sql("select count(*) from organization"))[0][0] == 1


async def test_update_changes_only_what_is_sent(admin: Admin) -> None:
    """Sent values change the row, its metadata and its budget; nulls say nothing."""
    await made(admin, "o", models=["m"], metadata={"a": 1}, max_budget=5)
    change = {
        "organization_id": "o", "organization_alias": "new", "models": None, "max_budget": 6,
        "model_tpm_limit": {"m": 9}, "budget_duration": "1d",
    }  # fmt: skip
    status, body = await admin.call("PATCH", "/organization/update", change)
    assert status == 200
    assert (body["organization_alias"], body["models"]) == ("new", ["m"])
    assert body["metadata"] == {"a": 1, "model_tpm_limit": {"m": 9}}
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["budget_duration"]) == (6.0, "1d")
    replaced = {"organization_id": "o", "metadata": {"b": 2}}
    _, body = await admin.call("PATCH", "/organization/update", replaced)
    assert body["metadata"] == {"b": 2}
    missing = {"organization_id": "none", "organization_alias": "x"}
    detail_of(await admin.call("PATCH", "/organization/update", missing), 404)
    assert issues_of(await admin.call("PATCH", "/organization/update", {})) == [
        ("missing", ["body", "organization_id"])
    ]


async def test_the_strict_update(admin: Admin) -> None:
    """Null clears, unknown fields and unusable periods are 422, an unknown id 404."""
    await made(
        admin, "o/1", models=["m"], max_budget=5, rpm_limit=3, model_rpm_limit={"m": 1},
        metadata={"a": 1}, object_permission={"agents": ["x"]},
    )  # fmt: skip
    path = "/v2/organization/o%2F1"
    cleared = {
        "models": None, "max_budget": None, "model_rpm_limit": None, "object_permission": None,
    }  # fmt: skip
    status, body = await admin.call("PATCH", path, cleared)
    assert status == 200, body
    assert (body["models"], body["metadata"], body["object_permission"]) == ([], {"a": 1}, None)
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"]) == (None, 3)
    _, body = await admin.call("PATCH", path, {"metadata": None, "budget_id": None})
    assert (body["metadata"], body["budget_id"], body["litellm_budget_table"]) == ({}, None, None)
    unknown = await admin.call("PATCH", path, {"organization_aliass": "x", "spend": 1})
    assert sorted(issues_of(unknown)) == [
        ("extra_forbidden", ["body", "organization_aliass"]),
        ("extra_forbidden", ["body", "spend"]),
    ]
    assert issues_of(await admin.call("PATCH", path, {"organization_alias": None})) == [
        ("string_type", ["body", "organization_alias"])
    ]
    assert issues_of(await admin.call("PATCH", path, {"budget_duration": "soon"})) == [
        ("value_error", ["body", "budget_duration"])
    ]
    detail_of(await admin.call("PATCH", "/v2/organization/none", {"models": []}), 404)


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Changes of one organization and its budget at once all count."""
    await made(admin, "o", metadata={"a": 1})
    changes: list[dict[str, Any]] = [
        {"organization_alias": "new"}, {"models": ["m"]}, {"max_budget": 1}, {"rpm_limit": 2},
        {"model_rpm_limit": {"m": 1}}, {"model_tpm_limit": {"m": 2}}, {"soft_budget": 0.5},
    ]  # fmt: skip
    answers = await asyncio.gather(
        *(admin.call("PATCH", "/v2/organization/o", change) for change in changes)
    )
    assert {status for status, _ in answers} == {200}
    body = await info(admin, "o")
    assert (body["organization_alias"], body["models"]) == ("new", ["m"])
    assert body["metadata"] == {"a": 1, "model_rpm_limit": {"m": 1}, "model_tpm_limit": {"m": 2}}
    budget = body["litellm_budget_table"]
    assert (budget["max_budget"], budget["rpm_limit"], budget["soft_budget"]) == (1.0, 2, 0.5)


async def test_spend_is_that_of_the_budgets_window(admin: Admin) -> None:
    """A lifetime budget counts all that was ever spent."""
    await made(admin, "o", max_budget=100)
    await spent(admin, "organization", "o", 2.5)
    assert (await info(admin, "o"))["spend"] == 2.5


async def test_delete_takes_what_is_the_organizations(admin: Admin) -> None:
    """Teams and keys go to their archives, memberships and teams' models go, users stay."""
    await made(admin, "o")
    await made(admin, "other")
    await admin.sql("insert into team (team_id, organization_id) values ('t', 'o'), ('u', 'other')")
    await user_key(admin, "internal_user", "ann", organization="o", team="t")
    of_team = await admin.generate(team_id="t", key_alias="of-team")
    of_org = await admin.generate(organization_id="o")
    stays = await admin.generate(team_id="u", organization_id="other")
    await spent(admin, "team", "t", 4)
    await admin.sql(
        "insert into model (model_id, model_name, litellm_params, model_info) "
        """values ('m', 'm', '{}', '{"team_id": "t"}')"""
    )
    both = {"organization_ids": ["o", "none"]}
    detail_of(await admin.call("DELETE", "/organization/delete", both), 404)
    assert (await info(admin, "o"))["teams"][0]["team_id"] == "t"
    status, body = await admin.call(
        "DELETE", "/organization/delete", {"organization_ids": ["o", "o"]}
    )
    assert (status, [row["organization_id"] for row in body]) == (200, ["o"])
    assert [row["team_id"] for row in body[0]["teams"]] == ["t"]
    params = {"organization_id": "o"}
    detail_of(await admin.call("GET", "/organization/info", params=params), 404)
    (archived,) = await admin.sql("select * from deleted_team")
    assert (archived["team_id"], archived["spend"]) == ("t", 4)
    assert archived["deleted_by"] == "default_user_id"
    for key in (of_team, of_org):
        assert (await admin.info(key["token"]))["status"] == "deleted"
    assert (await admin.info(stays["token"]))["status"] == "active"
    left = await admin.sql(
        "select (select count(*) from team) as teams, (select count(*) from model) as models, "
        "(select count(*) from organization_member) as members, "
        "(select count(*) from app_user) as users"
    )
    assert dict(left[0]) == {"teams": 1, "models": 0, "members": 0, "users": 1}
    for table, count in (
        ("LiteLLM_OrganizationTable", 1),
        ("LiteLLM_TeamTable", 1),
        ("LiteLLM_OrganizationMembership", 1),
        ("LiteLLM_ProxyModelTable", 1),
    ):
        log = [entry for entry in await audit_of(admin, table) if entry["action"] == "deleted"]
        assert len(log) == count, table
    kinds = {row["kind"] for row in await admin.sql("select distinct kind from change_feed")}
    assert {"organization", "organization_member", "team", "team_member", "key", "model"} <= kinds


async def test_list_filters(admin: Admin) -> None:
    """By exact id and by a part of the alias in any case."""
    for name in ("one", "two", "three"):
        await made(admin, name, organization_alias=f"Alias-{name}")

    async def ids(**params: str) -> list[str]:
        status, rows = await admin.call("GET", "/organization/list", params=params)
        assert status == 200
        assert all(set(row) == BODY for row in rows)
        return [row["organization_id"] for row in rows]

    assert await ids() == ["three", "two", "one"]
    assert await ids(org_id="two") == ["two"]
    assert await ids(org_alias="alias-T") == ["three", "two"]
    assert await ids(org_alias="%") == []
    assert (await admin.call("GET", "/organization/list?org_id=a%00"))[0] == 422


async def test_what_members_see(admin: Admin) -> None:
    """Org admins see their organizations whole, members themselves and their teams in it."""
    for name in ("o", "p"):
        await made(admin, name)
    await admin.sql(
        "insert into team (team_id, organization_id) values ('t1', 'o'), ('t2', 'o'), ('t3', 'p')"
    )
    boss = await user_key(admin, "internal_user", "boss", organization="o")
    member = await user_key(
        admin, "internal_user", "ann", organization="o", org_role="internal_user", team="t1"
    )
    stranger = await user_key(admin, "internal_user", "bob")

    async def seen(key: str) -> list[tuple[str, list[str], list[str]]]:
        status, rows = await admin.call("GET", "/organization/list", key=key)
        assert status == 200
        return [
            (
                row["organization_id"],
                sorted(each["user_id"] for each in row["members"]),
                [each["team_id"] for each in row["teams"]],
            )
            for row in rows
        ]

    assert await seen(boss) == [("o", ["ann", "boss"], ["t1", "t2"])]
    assert await seen(member) == [("o", ["ann"], ["t1"])]
    assert await seen(stranger) == []
    assert (await admin.call("GET", "/organization/info?organization_id=o", key=boss))[0] == 200
    detail_of(await admin.call("GET", "/organization/info?organization_id=p", key=boss), 403)
    detail_of(await admin.call("GET", "/organization/info?organization_id=none", key=boss), 403)
    several = {"organizations": ["o"]}
    assert (await admin.call("POST", "/organization/info", several, key=boss))[0] == 200
    several = {"organizations": ["o", "p"]}
    detail_of(await admin.call("POST", "/organization/info", several, key=boss), 403)
    for key in (member, stranger):
        answer = await admin.call("GET", "/organization/info?organization_id=o", key=key)
        error_of(answer, 401, "auth_error")


async def test_info_of_several(admin: Admin) -> None:
    """The older form takes a list and answers one; an empty one is 400."""
    await made(admin, "o")
    await made(admin, "p")
    status, body = await admin.call("POST", "/organization/info", {"organizations": ["o", "none"]})
    assert (status, [row["organization_id"] for row in body]) == (200, ["o"])
    detail_of(await admin.call("POST", "/organization/info", {"organizations": []}), 400)


async def test_only_admins_write(admin: Admin) -> None:
    """An org admin, a viewer and users are refused; nothing changes."""
    await made(admin, "o")
    keys = {
        "boss": await user_key(admin, "internal_user", "boss", organization="o"),
        "user": await user_key(admin, "internal_user", "ann"),
        "viewer": await user_key(admin, "proxy_admin_viewer"),
    }
    for name, key in keys.items():
        status = 403 if name == "viewer" else 401
        for method, path, body in (
            ("POST", "/organization/new", {"organization_alias": "x"}),
            ("PATCH", "/organization/update", {"organization_id": "o", "max_budget": 1}),
            ("PATCH", "/v2/organization/o", {"max_budget": 1}),
            ("DELETE", "/organization/delete", {"organization_ids": ["o"]}),
        ):
            error_of(await admin.call(method, path, body, key=key), status, "auth_error")
    assert (await info(admin, "o"))["litellm_budget_table"]["max_budget"] is None
    viewed = await admin.call("GET", "/organization/info?organization_id=o", key=keys["viewer"])
    assert viewed[0] == 200


async def test_changes_are_fed_and_can_be_waited_for(admin: Admin) -> None:
    """Every write bumps the feed; without workers none has to apply it."""
    body = {"organization_id": "o", "organization_alias": "o"}
    _, answered = await admin.call("POST", "/organization/new?wait=applied", body)
    assert answered["propagation"]["applied"] == 0
    await admin.call("PATCH", "/v2/organization/o?wait=applied", {"models": ["m"]})
    assert await fed(admin, "organization") == [["o"], ["o"]]


async def test_removals_beside_changes_of_what_goes(admin: Admin) -> None:
    """Organizations that go while their keys, members and shared budget change lock nobody out."""
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 1})
    for number in range(4):
        await made(admin, f"o{number}", budget_id="b")
        await user_key(admin, "internal_user", f"u{number}", organization=f"o{number}")
        await admin.generate(organization_id=f"o{number}", budget_id="b", key_alias=f"k{number}")
    await admin.sql("update organization_member set budget_id = 'b'")
    named = [{"organization_id": f"o{number}", "user_id": f"u{number}"} for number in range(4)]
    answers = await asyncio.gather(
        *(
            admin.call("DELETE", "/organization/delete", {"organization_ids": [f"o{number}"]})
            for number in range(4)
        ),
        *(
            admin.call(
                "PATCH", "/organization/member_update", {**each, "max_budget_in_organization": 1}
            )
            for each in named
        ),
        *(
            admin.call("POST", "/key/update", {"key_alias": f"k{number}", "rpm_limit": 1})
            for number in range(4)
        ),
        admin.call("POST", "/budget/delete", {"id": "b"}),
    )
    assert [status for status, _ in answers[:4]] == [200] * 4
    assert {status for status, _ in answers} <= {200, 404}


async def test_many_organizations(admin: Admin) -> None:
    """A list of five hundred with members is answered at once."""
    await admin.sql(
        "insert into organization (organization_id, organization_alias) "
        "select 'o' || n, 'o' from generate_series(1, 500) n"
    )
    await admin.sql(
        "insert into organization_member (organization_id, user_id) "
        "select 'o' || n, 'u' || n % 7 from generate_series(1, 500) n"
    )
    status, rows = await admin.call("GET", "/organization/list")
    assert (status, len(rows), {len(row["members"]) for row in rows}) == (200, 500, {1})
