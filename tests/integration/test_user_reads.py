"""What the management API tells of users: one, pages of them, searches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.management import spent

PROFILE = (
    "user_id", "user_email", "user_alias", "user_role", "spend", "max_budget", "tpm_limit",
    "rpm_limit", "models", "budget_duration", "budget_reset_at", "metadata", "teams",
    "sso_user_id", "object_permission", "model_max_budget",
)  # fmt: skip


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


async def listed(admin: Admin, **query: Any) -> list[str]:
    """The ids on a page of the list."""
    status, body = await admin.call("GET", "/user/list", params=query)
    assert status == 200, body
    return [user["user_id"] for user in body["users"]]


async def test_info(admin: Admin) -> None:
    """The contract's example: the user, its keys with their teams' names, and its teams."""
    await admin.sql("insert into team (team_id, team_alias) values ('t1', 'core'), ('t2', 'x')")
    await new(admin, user_id="u1", user_email="a@b.c", max_budget=5, teams=["t1"])
    key = await admin.generate(user_id="u1", team_id="t1", key_alias="ci-bot")
    await admin.generate(user_id="u1", team_id="litellm-dashboard")
    await admin.generate(user_id="u2")
    await spent(admin, "user", "u1", 0.1)
    await spent(admin, "team", "t1", 2)
    await spent(admin, "key", key["token"], 0.5)
    status, body = await admin.call("GET", "/user/info", params={"user_id": "u1"})
    assert status == 200
    assert list(body) == ["user_id", "user_info", "keys", "teams"]
    expected = {
        "user_id": "u1",
        "user_email": "a@b.c",
        "user_role": "internal_user",
        "spend": 0.1,
        "max_budget": 5.0,
        "models": [],
        "teams": ["t1"],
        "metadata": {},
    }
    assert {name: body["user_info"][name] for name in expected} == expected
    assert "budget_limits_usage" not in body["user_info"]
    bot, own = body["keys"]
    assert (bot["token"], bot["key_alias"], bot["team_alias"], bot["spend"]) == (
        key["token"],
        "ci-bot",
        "core",
        0.5,
    )
    assert (own["team_alias"], own["user_id"]) == (None, "u1")
    assert [(team["team_id"], team["team_alias"], team["spend"]) for team in body["teams"]] == [
        ("t1", "core", 2.0)
    ]
    assert "password" not in str(body)


async def test_info_of_nobody(admin: Admin) -> None:
    """An unknown user is 404, though keys may name it."""
    await admin.generate(user_id="ghost")
    for path in ("/user/info", "/v2/user/info"):
        answer = await admin.call("GET", path, params={"user_id": "ghost"})
        error_of(answer, 404, "not_found_error")
    error_of(await admin.call("GET", "/v2/user/info"), 404, "not_found_error")


async def test_info_for_an_admin_who_names_nobody(admin: Admin) -> None:
    """A proxy admin is shown all keys and all teams."""
    await admin.sql("insert into team (team_id) values ('t1'), ('t2')")
    await new(admin, user_id="u1")
    await admin.generate()
    status, body = await admin.call("GET", "/user/info")
    assert (status, body["user_id"], body["user_info"]) == (200, "default_user_id", None)
    assert (len(body["keys"]), sorted(team["team_id"] for team in body["teams"])) == (
        2,
        ["t1", "t2"],
    )


async def test_profile(admin: Admin) -> None:
    """The flat profile holds no keys, and what each of several budgets has seen."""
    limits = [{"budget_duration": "1d", "max_budget": 1}]
    await new(admin, user_id="u1", user_email="a@b.c", budget_limits=limits, sso_user_id="s")
    status, body = await admin.call("GET", "/v2/user/info", params={"user_id": "u1"})
    assert status == 200
    assert body["budget_limits_usage"] == {"1d": {"current_spend": 0.0}}
    for name in PROFILE:
        assert name in body
    assert (body["user_email"], body["sso_user_id"], "keys" in body) == ("a@b.c", "s", False)
    await admin.sql(
        "insert into spend_counter (kind, id, window_start_s, spend) values "
        "('user', 'u1', extract(epoch from date_trunc('day', now() at time zone 'utc')), 0.75)"
    )
    _, body = await admin.call("GET", "/v2/user/info", params={"user_id": "u1"})
    assert body["budget_limits_usage"] == {"1d": {"current_spend": 0.75}}


async def test_list_shape(admin: Admin) -> None:
    """The contract's example, with how many keys each has, sessions apart."""
    await new(admin, user_id="u1", user_email="a@b.c")
    await admin.generate(user_id="u1")
    await admin.generate(user_id="u1", team_id="litellm-dashboard")
    await spent(admin, "user", "u1", 0.1)
    status, body = await admin.call("GET", "/user/list")
    assert status == 200
    [user] = body.pop("users")
    assert body == {"total": 1, "page": 1, "page_size": 25, "total_pages": 1}
    expected = {"user_id": "u1", "user_email": "a@b.c", "spend": 0.1, "key_count": 2}
    assert {name: user[name] for name in expected} == expected
    assert "password" not in str(user)


async def test_pages(admin: Admin) -> None:
    """Pages do not overlap and hold everybody; beyond the last is nothing."""
    await admin.sql("insert into app_user (user_id) select 'u' || n from generate_series(1, 60) n")
    seen = [each for page in (1, 2, 3) for each in await listed(admin, page=page)]
    assert len(seen) == len(set(seen)) == 60
    assert await listed(admin, page=4) == []
    _, body = await admin.call("GET", "/user/list", params={"page_size": 100, "page": 1})
    assert (len(body["users"]), body["total"], body["total_pages"]) == (60, 60, 1)
    assert len(await listed(admin, user_ids="u1, u2 ,,u3,nobody")) == 3


async def test_filters(admin: Admin) -> None:
    """Each filter picks exactly what it names."""
    await admin.sql("insert into team (team_id) values ('t1')")
    await admin.sql(
        "insert into organization (organization_id, organization_alias) values "
        "('o1', 'a'), ('o2', 'b')"
    )
    await new(admin, user_id="ann", user_email="Ann@x.org", user_alias="Annie", teams=["t1"])
    await new(admin, user_id="bob", user_email="bob@y.org", organizations=["o1"])
    await new(admin, user_id="cat", sso_user_id="sso|1", organizations=["o2"])
    await new(admin, user_id="dan", user_role="proxy_admin_viewer")
    await admin.sql("insert into app_user (user_id) values ('old')")
    for query, wanted in (
        ({"role": "proxy_admin_viewer"}, {"dan"}),
        ({"role": "internal_user"}, {"ann", "bob", "cat", "old"}),
        ({"user_email": "@X"}, {"ann"}),
        ({"search": "NNI"}, {"ann"}),
        ({"search": "y.org"}, {"bob"}),
        ({"search": "%"}, set()),
        ({"sso_user_ids": "sso|1,other"}, {"cat"}),
        ({"team": "t1"}, {"ann"}),
        ({"organization_ids": "o1,o2"}, {"bob", "cat"}),
        ({"user_ids": "bob,cat", "organization_ids": "o2"}, {"cat"}),
        ({"user_ids": ","}, set()),
    ):
        assert set(await listed(admin, **query)) == wanted, query


async def test_order(admin: Admin) -> None:
    """The newest first unless the query says by what and which way; nulls last."""
    for user_id, email in (("b", "1@x"), ("a", "3@x"), ("c", "2@x")):
        await new(admin, user_id=user_id, user_email=email, auto_create_key=False)
    await spent(admin, "user", "a", 5)
    assert await listed(admin) == ["c", "a", "b"]
    assert await listed(admin, sort_by="user_id") == ["a", "b", "c"]
    assert await listed(admin, sort_by="user_id", sort_order="desc") == ["c", "b", "a"]
    assert await listed(admin, sort_by="user_email") == ["b", "c", "a"]
    assert (await listed(admin, sort_by="spend", sort_order="desc"))[0] == "a"
    assert await listed(admin, sort_order="asc") == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"page": "0"}, "page"),
        ({"page": "x"}, "page"),
        ({"page": "9" * 30}, "page"),
        ({"page_size": "101"}, "page_size"),
        ({"role": "king"}, "role"),
        ({"sort_by": "password_hash"}, "sort_by"),
        ({"sort_by": "user_id; drop table app_user"}, "sort_by"),
        ({"sort_order": "up"}, "sort_order"),
        ({"search": "a\x00"}, "search"),
        ({"user_ids": "u" * 3000}, "user_ids"),
    ],
)
async def test_bad_queries(admin: Admin, query: dict[str, str], name: str) -> None:
    """A query that cannot be is a 422 that names the parameter."""
    [(_, where)] = issues_of(await admin.call("GET", "/user/list", params=query))
    assert where == ["query", name]


async def test_search(admin: Admin) -> None:
    """The search answers with ids and addresses alone."""
    await new(admin, user_id="ann", user_email="ann@x.org")
    await new(admin, user_id="bob", user_email="bob@x.org")
    status, body = await admin.call("GET", "/user/filter/ui", params={"user_email": "ANN"})
    assert (status, body) == (200, [{"user_id": "ann", "user_email": "ann@x.org"}])
    _, body = await admin.call("GET", "/user/filter/ui", params={"user_id": "o"})
    assert [each["user_id"] for each in body] == ["bob"]
    _, body = await admin.call("GET", "/user/filter/ui")
    assert len(body) == 2


async def test_roles_and_seats(admin: Admin) -> None:
    """The roles with their names, and counts of users without an upper bound."""
    status, body = await admin.call("GET", "/user/available_roles")
    assert status == 200
    assert sorted(body) == [
        "internal_user",
        "internal_user_viewer",
        "proxy_admin",
        "proxy_admin_viewer",
    ]
    for role in body.values():
        assert sorted(role) == ["description", "ui_label"]
    await new(admin)
    status, body = await admin.call("GET", "/user/available_users")
    assert (status, body["total_users_used"], body["total_users"]) == (200, 1, None)


async def test_five_thousand_users(admin: Admin) -> None:
    """A page of many users is quick, and so is a search among them."""
    await admin.sql(
        "insert into app_user (user_id, user_email, created_at) "
        "select 'u' || n, 'u' || n || '@x.org', now() + n * interval '1 ms' "
        "from generate_series(1, 5000) n"
    )
    assert (await listed(admin, page_size=100))[0] == "u5000"
    assert await listed(admin, search="u4999@") == ["u4999"]
    assert len(await listed(admin, sort_by="spend", page=50, page_size=100)) == 100
