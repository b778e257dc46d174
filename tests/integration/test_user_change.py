"""Updates, bulk updates and deletions of users through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import Admin, Answer, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, detail_of, fed


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def new(admin: Admin, **fields: Any) -> dict[str, Any]:
    """A new user."""
    status, body = await admin.call("POST", "/user/new", fields)
    assert status == 200, body
    return dict(body)


async def update(admin: Admin, **fields: Any) -> dict[str, Any]:
    """An update that works, and the row it answers with."""
    status, body = await admin.call("POST", "/user/update", fields)
    assert status == 200, body
    assert list(body) == ["user_id", "data"]
    assert body["user_id"] == body["data"]["user_id"]
    return dict(body["data"])


async def many(admin: Admin, count: int) -> None:
    """Users `u0000` and so on, without keys."""
    await admin.sql(
        "insert into app_user (user_id, user_email, user_role) "
        "select 'u' || lpad(n::text, 4, '0'), 'u' || n || '@x.org', 'internal_user' "
        "from generate_series(0, $1::int - 1) n",
        count,
    )


def bulk(admin: Admin, body: Any) -> Any:
    """A bulk update."""
    return admin.call("POST", "/user/bulk_update", body)


async def test_only_sent_fields_change(admin: Admin) -> None:
    """Null clears a column, the rest stays; the answer is the contract's."""
    await new(
        admin, user_id="u1", user_email="a@b.c", max_budget=5, budget_duration="1d", models=["m"]
    )
    data = await update(admin, user_id="u1", max_budget=7, user_role="internal_user_viewer")
    assert (data["max_budget"], data["user_role"]) == (7.0, "internal_user_viewer")
    assert (data["models"], data["user_email"], data["budget_duration"]) == (["m"], "a@b.c", "1d")
    data = await update(admin, user_id="u1", max_budget=None, models=None, user_email=None)
    assert (data["max_budget"], data["models"], data["user_email"]) == (None, [], None)
    assert not [name for name in data if "password" in name]


async def test_by_address(admin: Admin) -> None:
    """Without an id the address says who, in any case; with one it is changed."""
    await admin.sql("insert into team (team_id) values ('t1')")
    await new(admin, user_id="u1", user_email="a@b.c", teams=["t1"])
    assert (await update(admin, user_email="A@B.C", rpm_limit=3))["user_id"] == "u1"
    data = await update(admin, user_id="u1", user_email="new@b.c")
    assert (data["user_email"], data["rpm_limit"]) == ("new@b.c", 3)
    [member] = await admin.sql("select user_email from team_member")
    assert member["user_email"] == "new@b.c"
    await new(admin, user_id="u2", user_email="a@b.c")
    answer = await admin.call(
        "POST", "/user/update", {"user_id": "u2", "user_email": "NEW@b.c", "rpm_limit": 9}
    )
    error_of(answer, 409, "invalid_request_error")
    assert (await update(admin, user_id="u2"))["rpm_limit"] is None


async def test_metadata(admin: Admin) -> None:
    """`metadata` replaces the object whole; the fields that live in it merge into it."""
    await new(admin, user_id="u1", metadata={"a": 1}, guardrails=["g"])
    data = await update(admin, user_id="u1", guardrails=["h"], model_rpm_limit={"m": 1})
    assert data["metadata"] == {"a": 1, "guardrails": ["h"], "model_rpm_limit": {"m": 1}}
    data = await update(admin, user_id="u1", metadata={"b": 2}, guardrails=None)
    assert data["metadata"] == {"b": 2}


async def test_spend_and_windows(admin: Admin) -> None:
    """Spend is that of the window which the budget counts now; setting it sets that one."""
    await new(admin, user_id="u1", spend=4)
    data = await update(admin, user_id="u1", max_budget=10, budget_duration="1d", spend=2.5)
    assert (data["spend"], data["budget_reset_at"][-10:]) == (2.5, "T00:00:00Z")
    assert (await update(admin, user_id="u1", budget_duration=None))["spend"] == 4.0
    rows = await admin.sql("select spend from spend_counter where kind = 'user' order by 1")
    assert [float(row["spend"]) for row in rows] == [2.5, 4.0]


async def test_object_permission_is_replaced(admin: Admin) -> None:
    """The row that is replaced does not stay behind."""
    await new(admin, user_id="u1", auto_create_key=False, object_permission={"agents": ["a"]})
    data = await update(admin, user_id="u1", object_permission={"agents": ["b"]})
    assert data["object_permission"]["agents"] == ["b"]
    [row] = await admin.sql("select object_permission_id from object_permission")
    assert row["object_permission_id"] == data["object_permission_id"]


async def test_an_unknown_user_is_made(admin: Admin) -> None:
    """A proxy admin's update of an unknown id or address makes the user, without a key."""
    data = await update(admin, user_id="u1", max_budget=1)
    assert (data["user_id"], data["max_budget"]) == ("u1", 1.0)
    data = await update(admin, user_email="a@b.c")
    assert data["user_email"] == "a@b.c"
    assert await admin.sql("select * from virtual_key") == []
    entries = await audit_of(admin, "LiteLLM_UserTable")
    assert [entry["action"] for entry in entries] == ["created", "created"]


async def test_bad_updates(admin: Admin) -> None:
    """Nobody named, a password, wrong types: 422; out of range: 400 naming the field."""
    await new(admin, user_id="u1")
    call = ("POST", "/user/update")
    assert issues_of(await admin.call(*call, {})) == [("missing", ["body", "user_id"])]
    body = {"user_id": "u1", "password": "12345678"}
    assert issues_of(await admin.call(*call, body)) == [("value_error", ["body", "password"])]
    body = {"user_id": "u1", "user_role": "x", "tpm_limit": []}
    assert len(issues_of(await admin.call(*call, body))) == 2
    answer = await admin.call(*call, {"user_id": "u1", "max_budget": -1})
    error_of(answer, 400, "invalid_request_error", "max_budget")


async def test_updates_at_once_all_count(admin: Admin) -> None:
    """Edits of one user at the same time lose nothing of each other."""
    await new(admin, user_id="u1")
    fields = [{"tpm_limit": 1}, {"rpm_limit": 2}, {"tpd_limit": 3}, {"user_alias": "x"}]
    fields += [{f"{kind}_rpm_limit": {"m": 1}} for kind in ("model", "mcp", "tag")]
    await asyncio.gather(*(update(admin, user_id="u1", **each) for each in fields))
    data = await update(admin, user_id="u1")
    for each in fields[:4]:
        assert data | each == data
    assert sorted(data["metadata"]) == ["mcp_rpm_limit", "model_rpm_limit", "tag_rpm_limit"]


async def test_update_is_audited_and_fed(admin: Admin) -> None:
    """The entry holds the members that differ; `?wait=applied` works."""
    await new(admin, user_id="u1", auto_create_key=False, max_budget=1)
    before = len(await fed(admin, "user"))
    status, body = await admin.call(
        "POST", "/user/update", {"user_id": "u1", "max_budget": 2}, params={"wait": "applied"}
    )
    assert (status, body["propagation"]["applied"]) == (200, 0)
    entry = (await audit_of(admin, "LiteLLM_UserTable"))[-1]
    assert (entry["action"], entry["before_value"]["max_budget"]) == ("updated", 1.0)
    assert entry["updated_values"]["max_budget"] == 2.0
    assert set(entry["updated_values"]) <= {"max_budget", "updated_at", "updated_by"}
    assert len(await fed(admin, "user")) == before + 1


async def test_bulk_update(admin: Admin) -> None:
    """Each item stands for itself: what is reported failed is unchanged, the rest is changed."""
    await new(admin, user_id="u1", user_email="a@b.c", auto_create_key=False)
    await new(admin, user_id="u2", user_email="d@e.f", auto_create_key=False)
    status, body = await bulk(
        admin,
        {
            "users": [
                {"user_id": "u1", "max_budget": 3},
                {"user_email": "D@E.F", "rpm_limit": 4},
                {"user_id": "u2", "user_email": "a@b.c", "rpm_limit": 99},
                {"user_id": "u1", "max_budget": -1, "rpm_limit": 99},
                {"user_id": "none", "rpm_limit": 1},
                {"user_email": "no@no.no"},
                {"rpm_limit": 1},
                {"user_id": 7},
                {"user_id": "u1", "password": "12345678"},
            ]
        },
    )
    assert status == 200
    counts = ("total_requested", "successful_updates", "failed_updates")
    assert [body[name] for name in counts] == [9, 2, 7]
    first, second, *failed = body["results"]
    assert (first["user_id"], first["success"], first["error"]) == ("u1", True, None)
    assert (first["user_email"], first["updated_user"]["max_budget"]) == ("a@b.c", 3.0)
    assert (second["user_id"], second["updated_user"]["rpm_limit"]) == ("u2", 4)
    for result in failed:
        assert result["error"]
        assert (result["success"], result["updated_user"]) == (False, None)
    u1, u2 = await update(admin, user_id="u1"), await update(admin, user_id="u2")
    assert (u1["rpm_limit"], u2["rpm_limit"], u2["user_email"]) == (None, 4, "d@e.f")
    entries = await audit_of(admin, "LiteLLM_UserTable")
    assert [entry["object_id"] for entry in entries[2:4]] == ["u1", "u2"]


async def test_bulk_bounds(admin: Admin) -> None:
    """500 at most, one at least, and something to change; all in the shape of the contract."""
    detail_of(await bulk(admin, {"users": [{"user_id": "u"}] * 501}), 400)
    assert issues_of(await bulk(admin, {"users": []})) == [("missing", ["body", "users"])]
    assert issues_of(await bulk(admin, {})) == [("missing", ["body", "users"])]
    assert issues_of(await bulk(admin, {"users": ["u1"]})) == [("dict_type", ["body", "users", 0])]
    detail_of(await bulk(admin, {"all_users": True}), 400)
    for name in ("user_id", "user_email", "sso_user_id", "object_permission"):
        detail_of(await bulk(admin, {"all_users": True, "user_updates": {name: None}}), 400)
    updates = {"max_budget": "x"}
    answer = await bulk(admin, {"all_users": True, "user_updates": updates})
    assert issues_of(answer) == [("float_type", ["body", "max_budget"])]


async def test_bulk_of_five_hundred(admin: Admin) -> None:
    """The most that can be named at once is done in one go, an entry each."""
    await many(admin, 500)
    users = [{"user_id": f"u{number:04}", "rpm_limit": number} for number in range(500)]
    status, body = await bulk(admin, {"users": list(reversed(users))})
    assert (status, body["successful_updates"], body["failed_updates"]) == (200, 500, 0)
    assert body["results"][0]["updated_user"]["rpm_limit"] == 499
    assert len(await audit_of(admin, "LiteLLM_UserTable")) == 500


async def test_all_users(admin: Admin) -> None:
    """Everybody gets the same; the metadata-backed fields merge with what each has."""
    await many(admin, 1500)
    await update(admin, user_id="u0007", metadata={"own": 1})
    updates = {"max_budget": 2, "guardrails": ["g"], "spend": 1}
    status, body = await bulk(admin, {"all_users": True, "user_updates": updates})
    assert (status, body["total_requested"], body["successful_updates"]) == (200, 1500, 1500)
    seventh = body["results"][7]["updated_user"]
    assert seventh["metadata"] == {"own": 1, "guardrails": ["g"]}
    assert (seventh["max_budget"], seventh["spend"]) == (2.0, 1.0)
    [count] = await admin.sql("select count(*) from app_user where max_budget = 2")
    assert count["count"] == 1500
    assert len(await audit_of(admin, "LiteLLM_UserTable")) == 1501


async def test_bulk_updates_at_once(admin: Admin) -> None:
    """Overlapping bulk updates in opposite orders all succeed."""
    await many(admin, 40)
    ids = [f"u{number:04}" for number in range(40)]

    async def change(name: str, order: list[str]) -> Answer:
        answer: Answer = await bulk(
            admin, {"users": [{"user_id": each, name: 1} for each in order]}
        )
        return answer

    names = ("rpm_limit", "tpm_limit", "tpd_limit", "max_parallel_requests")
    answers = await asyncio.gather(
        *(change(name, ids if place % 2 else ids[::-1]) for place, name in enumerate(names))
    )
    assert [body["successful_updates"] for _, body in answers] == [40] * 4
    [row] = await admin.sql(
        "select sum(rpm_limit + tpm_limit + tpd_limit + max_parallel_requests) from app_user"
    )
    assert row["sum"] == 160


async def test_delete(admin: Admin) -> None:
    """The answer is the bare count; keys go to the archive, memberships, invitations and sessions
    go too; service accounts stay."""
    await admin.sql("insert into team (team_id) values ('t1')")
    await admin.sql(
        "insert into organization (organization_id, organization_alias) values ('o1', 'O')"
    )
    made = await new(
        admin, user_id="u1", teams=["t1"], organizations=["o1"], object_permission={"agents": []}
    )
    other = await new(admin, user_id="u2", teams=["t1"])
    service = await admin.generate(team_id="t1", metadata={"service_account_id": "s"})
    await admin.call("POST", "/invitation/new", {"user_id": "u1"})
    await admin.sql(
        "insert into ui_session (session_id, user_id, user_role, login_method, expires_at) "
        "values ('s1', 'u1', 'internal_user', 'password', now() + interval '1 day')"
    )
    answer = await admin.call("POST", "/user/delete", {"user_ids": ["u1", "u1"]})
    assert answer == (200, 1)
    assert [row["user_id"] for row in await admin.sql("select user_id from app_user")] == ["u2"]
    assert (await admin.info(made["key"]))["status"] == "deleted"
    assert (await admin.info(other["key"]))["status"] == "active"
    assert (await admin.info(service["key"]))["status"] == "active"
    for table in ("invitation", "organization_member"):
        assert await admin.sql(f"select * from {table}") == []
    members = await admin.sql("select user_id from team_member")
    assert [row["user_id"] for row in members] == ["u2"]
    [session] = await admin.sql("select revoked_at from ui_session")
    assert session["revoked_at"] is not None
    rows = await admin.sql("select deleted_by from deleted_virtual_key")
    assert [row["deleted_by"] for row in rows] == ["default_user_id"]
    entry = (await audit_of(admin, "LiteLLM_UserTable"))[-1]
    assert (entry["action"], entry["object_id"]) == ("deleted", "u1")
    assert entry["updated_values"] is None
    keys = await audit_of(admin, "LiteLLM_VerificationToken")
    assert (keys[-1]["action"], keys[-1]["object_id"]) == ("deleted", made["token"])


async def test_delete_needs_all(admin: Admin) -> None:
    """The first user that is missing is 404, and nobody is deleted."""
    await new(admin, user_id="u1")
    answer = await admin.call("POST", "/user/delete", {"user_ids": ["u1", "no", "none"]})
    assert "'no'" in detail_of(answer, 404)
    assert len(await admin.sql("select * from app_user")) == 1
    assert len(await admin.sql("select * from virtual_key")) == 1
    call = ("POST", "/user/delete")
    assert issues_of(await admin.call(*call, {})) == [("missing", ["body", "user_ids"])]
    answer = await admin.call(*call, {"user_ids": []})
    assert issues_of(answer) == [("too_short", ["body", "user_ids"])]
    answer = await admin.call(*call, {"user_ids": "u1"})
    assert issues_of(answer) == [("list_type", ["body", "user_ids"])]
    detail_of(await admin.call(*call, {"user_ids": ["a\x00"]}), 400)


async def test_deletions_at_once(admin: Admin) -> None:
    """Of two that want the same users gone one succeeds and the other finds them missing."""
    await many(admin, 100)
    ids = [f"u{number:04}" for number in range(100)]
    await asyncio.gather(*(admin.generate(user_id=each) for each in ids[:20]))
    answers = await asyncio.gather(
        admin.call("POST", "/user/delete", {"user_ids": ids}),
        admin.call("POST", "/user/delete", {"user_ids": ids[::-1]}),
    )
    assert sorted(status for status, _ in answers) == [200, 404]
    assert await admin.sql("select * from app_user") == []
    [count] = await admin.sql("select count(*) from deleted_virtual_key")
    assert count["count"] == 20


async def test_delete_a_thousand(admin: Admin) -> None:
    """A thousand users go in one call."""
    await many(admin, 1000)
    ids = [f"u{number:04}" for number in range(1000)]
    assert await admin.call("POST", "/user/delete", {"user_ids": ids}) == (200, 1000)


async def test_delete_says_propagation_in_a_header(admin: Admin) -> None:
    """The body is a number, so `?wait=applied` is answered beside it."""
    await new(admin, user_id="u1")
    headers = {"authorization": "Bearer sk-master-of-this-test-0123456789"}
    async with admin.client.post(
        "/user/delete?wait=applied", json={"user_ids": ["u1"]}, headers=headers
    ) as response:
        assert await response.json() == 1
        assert '"applied":0' in response.headers["x-meridian-propagation"]
