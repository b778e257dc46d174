"""Whose calls, sums and reports each caller sees: nobody sees another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import frozen

from tests.support.admin_api import Admin, admins, error_of
from tests.support.spend_calls import Posted, opened_book

START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
DATES = {
    "start_date": START.date().isoformat(),
    "end_date": (START + timedelta(days=3)).date().isoformat(),
}


@frozen
class World:
    """Callers by name, with the calls of ann (teams red and none), bob (red) and cid (blue).

    ann administers red, of the organization acme, whose admin is olga; bob is a member of red; vic
    views only; sam sees everything; the key `robot` has no user and belongs to red.
    """

    admin: Admin
    keys: dict[str, str]
    calls: dict[str, Posted]

    async def ask(self, who: str, path: str, **params: str) -> tuple[int, Any]:
        """An answer to a caller."""
        key = self.keys.get(who, None)
        more = {} if key is None else {"key": key}
        return await self.admin.call("GET", path, params=params, **more)

    async def seen(self, who: str, path: str, **params: str) -> str:
        """The names of the calls in a list of calls, in order of the alphabet."""
        status, body = await self.ask(who, path, **params)
        assert status == 200, (who, path, params, body)
        rows = body["data"] if isinstance(body, dict) else body
        names = {call.request_id: name for name, call in self.calls.items()}
        return " ".join(sorted(names[row["request_id"]] for row in rows))


@pytest.fixture
async def world(database: str, aiohttp_client: Any) -> AsyncIterator[World]:
    """Users, teams, keys and calls."""
    async with admins(database, aiohttp_client) as start, opened_book(database) as book:
        admin = await start()
        for statement in _PEOPLE:
            await admin.sql(statement)
        keys, tokens = {}, {}
        for name, owner in _KEYS.items():
            made = await admin.generate(**owner)
            keys[name], tokens[name] = made["key"], made["token"]
        calls = {}
        for minute, (name, who, fields) in enumerate(_CALLS):
            owner = {"user_id": None, "team_id": None, "organization_id": None} | _KEYS[who]
            at = START + timedelta(hours=1, minutes=minute)
            calls[name] = await book.add(at, key=tokens[who], **(owner | fields))
        yield World(admin, keys, calls)


_PEOPLE = (
    "insert into organization (organization_id, organization_alias) values ('acme', 'Acme')",
    (
        "insert into team (team_id, team_alias, organization_id) "
        "values ('red', 'Red', 'acme'), ('blue', 'Blue', null)"
    ),
    (
        "insert into app_user (user_id, user_role) values ('ann', 'internal_user'), "
        "('bob', 'internal_user'), ('cid', 'internal_user'), ('olga', 'internal_user'), "
        "('vic', 'internal_user_viewer'), ('sam', 'proxy_admin_viewer')"
    ),
    (
        "insert into team_member (team_id, user_id, role) "
        "values ('red', 'ann', 'admin'), ('red', 'bob', 'user'), ('blue', 'cid', 'user')"
    ),
    (
        "insert into organization_member (organization_id, user_id, user_role) "
        "values ('acme', 'olga', 'org_admin')"
    ),
)
_KEYS: dict[str, dict[str, str]] = {
    "ann": {"user_id": "ann"},
    "bob": {"user_id": "bob", "team_id": "red", "organization_id": "acme"},
    "cid": {"user_id": "cid", "team_id": "blue"},
    "olga": {"user_id": "olga"},
    "vic": {"user_id": "vic"},
    "sam": {"user_id": "sam"},
    "robot": {"team_id": "red", "organization_id": "acme"},
}
_CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("a1", "ann", {"session_id": "s", "tags": ("t1",), "end_user": "e1"}),
    ("b1", "bob", {"session_id": "s", "tags": ("t1", "t2"), "end_user": "e2"}),
    ("b2", "bob", {"end_user": "e2"}),
    ("c1", "cid", {"session_id": "s", "tags": ("t2",), "end_user": "e3"}),
    ("r1", "robot", {"tags": ("t1",)}),
    ("v1", "vic", {}),
)
ALL = "a1 b1 b2 c1 r1 v1"


async def test_lists_of_calls(world: World) -> None:
    """Users see their own calls, admins of a team or its organization the team's, viewers all."""
    times = {"start_date": DATES["start_date"], "end_date": DATES["end_date"]}
    for path, dates in (("/spend/logs", {}), ("/spend/logs/v2", times), ("/spend/logs/ui", times)):
        for who, params, expected in (
            ("master", {}, ALL),
            ("sam", {}, ALL),
            ("ann", {}, "a1"),
            ("bob", {}, "b1 b2"),
            ("cid", {}, "c1"),
            ("vic", {}, "v1"),
            ("olga", {}, ""),
            ("robot", {}, "r1"),
            ("bob", {"user_id": "bob"}, "b1 b2"),
        ):
            assert await world.seen(who, path, **dates, **params) == expected, (who, path)
    for who, params, expected in (
        ("ann", {"team_id": "red"}, "b1 b2 r1"),
        ("olga", {"team_id": "red"}, "b1 b2 r1"),
        ("bob", {"team_id": "red"}, "b1 b2"),
        ("cid", {"team_id": "red"}, ""),
        ("ann", {"team_id": "blue"}, ""),
        ("robot", {"team_id": "red"}, "r1"),
        ("ann", {"team_id": "red", "user_id": "bob"}, "b1 b2"),
        ("cid", {"search": "red"}, ""),
        ("cid", {"end_user": "e2"}, ""),
        ("cid", {"session_id": "s"}, "c1"),
        ("bob", {"request_id": world.calls["a1"].request_id}, ""),
        ("bob", {"api_key": world.keys["ann"]}, ""),
    ):
        assert await world.seen(who, "/spend/logs/v2", **times, **params) == expected, (who, params)


async def test_asking_for_another_user(world: World) -> None:
    """Another user's calls are refused, also to a key without a user."""
    for who in ("bob", "vic", "robot", "ann"):
        for path in ("/spend/logs", "/spend/logs/v2"):
            answer = await world.ask(who, path, user_id="cid", **DATES)
            error_of(answer, 403, "auth_error", "user_id")
    answer = await world.ask("robot", "/spend/logs", api_key=world.keys["bob"])
    error_of(answer, 403, "auth_error", "api_key")
    for path in ("/spend/users", "/user/spend/report"):
        answer = await world.ask("bob", path, user_id="cid", **DATES)
        error_of(answer, 403, "auth_error", "user_id")


async def test_summaries(world: World) -> None:
    """A summary has the caller's own users, models and keys, and nothing else."""
    for who, users in (
        ("bob", {"bob"}),
        ("robot", set()),
        ("master", {"ann", "bob", "cid", "vic"}),
    ):
        status, body = await world.ask(who, "/spend/logs", **DATES)
        assert status == 200
        assert set(body[0]["users"]) == users
        own = {call.opened.key for call in world.calls.values()} & set(body[0])
        assert len(own) == (5 if who == "master" else 1)


async def test_single_calls(world: World) -> None:
    """One call is shown to its user, the admins of its team and organization, and viewers."""
    allowed = {
        "a1": {"ann"},
        "b1": {"bob", "ann", "olga"},
        "c1": {"cid"},
        "r1": {"robot", "ann", "olga"},
    }
    for name, callers in allowed.items():
        for who in world.keys:
            path = f"/spend/logs/ui/{world.calls[name].request_id}"
            status, _ = await world.ask(who, path)
            assert status == (200 if who in callers | {"sam"} else 403), (name, who)


async def test_sessions(world: World) -> None:
    """A session that several users share shows each its own calls."""
    for who, expected in (("master", "a1 b1 c1"), ("bob", "b1"), ("vic", ""), ("sam", "a1 b1 c1")):
        assert await world.seen(who, "/spend/logs/session/ui", session_id="s") == expected


async def test_owners(world: World) -> None:
    """Lists of keys, users, tags and names are scoped alike."""
    for who, path, member, expected in (
        ("sam", "/spend/users", "user_id", {"ann", "bob", "cid", "olga", "vic", "sam"}),
        ("bob", "/spend/users", "user_id", {"bob"}),
        ("robot", "/spend/users", "user_id", set()),
        ("bob", "/spend/keys", "user_id", {"bob"}),
        ("vic", "/spend/keys", "user_id", {"vic"}),
        ("sam", "/spend/tags", "individual_request_tag", {"t1", "t2"}),
        ("ann", "/spend/tags", "individual_request_tag", {"t1"}),
        ("robot", "/spend/tags", "individual_request_tag", {"t1"}),
        ("vic", "/spend/tags", "individual_request_tag", set()),
    ):
        status, body = await world.ask(who, path)
        assert status == 200, (who, path, body)
        assert {row[member] for row in body} == expected, (who, path)
    for who, users, end_users in (
        ("sam", ["ann", "bob", "cid", "vic"], ["e1", "e2", "e3"]),
        ("bob", ["bob"], ["e2"]),
        ("robot", [], []),
    ):
        _, body = await world.ask(who, "/management/v1/spend_logs/users")
        assert (body["users"], body["total"]) == (users, len(users)), who
        _, body = await world.ask(who, "/management/v1/spend_logs/end_users")
        assert (body["end_users"], body["total"]) == (end_users, len(end_users)), who


async def test_keys_without_a_user_are_strangers(world: World) -> None:
    """A key that is nobody's is not told whom another such key has called for."""
    token = world.calls["b1"].opened.key
    await world.admin.sql("update call_payer set user_id = '' where key = $1", token)
    _, body = await world.ask("robot", "/management/v1/spend_logs/end_users")
    assert (body["end_users"], body["total"]) == ([], 0)


async def test_a_key_that_changed_hands(world: World) -> None:
    """What others did with a key before it was somebody's stays theirs."""
    token = world.calls["b1"].opened.key
    await world.admin.sql("update virtual_key set user_id = 'cid' where token = $1", token)
    assert await world.seen("bob", "/spend/logs", user_id="cid") == "c1"
    assert await world.seen("bob", "/spend/logs", api_key=world.keys["bob"]) == ""
    _, body = await world.ask("bob", "/spend/tags")
    assert {row["individual_request_tag"] for row in body} == {"t2"}
    _, body = await world.ask("bob", "/tag/daily/activity", **DATES)
    assert set(body["results"][0]["breakdown"]["entities"]) == {"t2"}


async def test_reports(world: World) -> None:
    """Reports of teams and organizations are for their admins, of users and keys for themselves."""
    for who, path, params, expected in (
        ("sam", "/team/spend/report", {}, {"Red", "Blue"}),
        ("ann", "/team/spend/report", {}, {"Red"}),
        ("olga", "/team/spend/report", {"team_id": "red"}, {"Red"}),
        ("bob", "/team/spend/report", {}, set()),
        ("olga", "/organization/spend/report", {}, {"Acme"}),
        ("ann", "/organization/spend/report", {}, set()),
        ("bob", "/user/spend/report", {}, {"bob"}),
        ("robot", "/user/spend/report", {}, set()),
    ):
        status, body = await world.ask(who, path, **DATES, **params)
        assert status == 200, (who, path, body)
        shown = {
            name
            for day in body
            for many in ("teams", "users", "organizations")
            for owner in day.get(many, ())
            for name in (
                owner.get("team_name"),
                owner.get("user_id"),
                owner.get("organization_name"),
            )
            if name
        }
        assert shown == expected, (who, path)
    for who, path, params, name in (
        ("bob", "/team/spend/report", {"team_id": "red"}, "team_id"),
        ("ann", "/team/spend/report", {"team_id": "blue"}, "team_id"),
        ("ann", "/organization/spend/report", {"organization_id": "acme"}, "organization_id"),
        ("bob", "/key/spend/report", {"api_key": world.keys["cid"]}, "api_key"),
    ):
        error_of(await world.ask(who, path, **DATES, **params), 403, "auth_error", name)
    _, body = await world.ask("bob", "/key/spend/report", **DATES)
    assert [row["api_key"] for row in body] == [world.calls["b1"].opened.key]


GLOBAL_PATHS = (
    "/global/spend",
    "/global/spend/logs",
    "/global/spend/keys",
    "/global/spend/teams",
    "/global/spend/models",
    "/global/spend/provider",
    "/global/spend/tags",
    "/global/spend/all_tag_names",
    "/global/spend/report",
    "/global/all_end_users",
)


async def test_global_pages(world: World) -> None:
    """What everybody spends is for proxy admins, viewers, and keys that may read it."""
    reader = await world.admin.generate(user_id="bob", permissions={"get_spend_routes": True})
    barred = await world.admin.generate(user_id="bob", permissions={"get_spend_routes": False})
    named = await world.admin.generate(
        user_id="bob", allowed_routes=["global_spend_tracking_routes", "/global/all_end_users"]
    )
    for path in GLOBAL_PATHS:
        for who in ("master", "sam"):
            assert (await world.ask(who, path, **DATES))[0] == 200, (who, path)
        status, body = await world.admin.call("GET", path, params=DATES, key=reader["key"])
        assert status == 200, body
        for who in ("ann", "olga", "vic", "robot"):
            error_of(await world.ask(who, path, **DATES), 401, "auth_error")
        answer = await world.admin.call("GET", path, params=DATES, key=barred["key"])
        error_of(answer, 401, "auth_error")
        answer = await world.admin.call("GET", path, params=DATES, key=named["key"])
        error_of(answer, 403, "auth_error")
    for key, status in ((world.keys["sam"], 200), (reader["key"], 200), (world.keys["bob"], 401)):
        assert (await world.admin.call("POST", "/global/spend/end_users", {}, key=key))[0] == status


async def test_what_is_for_admins_alone(world: World) -> None:
    """Resetting is the master key's, refreshing a proxy admin's; a viewer reads the rest."""
    for who in ("sam", "ann", "vic"):
        answer = await world.admin.call("POST", "/global/spend/reset", {}, key=world.keys[who])
        error_of(answer, 401, "auth_error")
    await world.admin.sql("update app_user set user_role = 'proxy_admin' where user_id = 'cid'")
    for path, status in (("/global/spend/reset", 401), ("/global/spend/refresh", 200)):
        assert (await world.admin.call("POST", path, {}, key=world.keys["cid"]))[0] == status
    answer = await world.admin.call("POST", "/global/spend/refresh", {}, key=world.keys["sam"])
    assert answer[0] == 403
    assert (await world.ask("sam", "/provider/budgets"))[0] == 200
    assert (await world.ask("ann", "/provider/budgets"))[0] == 401


async def test_global_activity_of_users(world: World) -> None:
    """Internal users see their own requests there; viewers of their own kind nothing."""
    for who, requests in (("sam", 6), ("ann", 1), ("bob", 2), ("robot", 1)):
        for path in ("/global/activity", "/global/activity/model", "/global/activity/cache_hits"):
            status, body = await world.ask(who, path, **DATES)
            assert status == 200, body
            rows = [body] if isinstance(body, dict) else body
            name = "total_rows" if path.endswith("hits") else "sum_api_requests"
            assert sum(row[name] for row in rows) == requests, (who, path)
    for path in ("/global/activity", "/global/activity/exceptions"):
        error_of(await world.ask("vic", path, **DATES), 401, "auth_error")
    error_of(await world.ask("ann", "/global/activity/exceptions", **DATES), 401, "auth_error")


async def test_activity(world: World) -> None:
    """Daily activity shows callers their users, teams, organizations and own parts of tags."""
    for who, kind, params, requests in (
        ("master", "user", {}, 6),
        ("sam", "user", {"user_id": "bob"}, 2),
        ("bob", "user", {}, 2),
        ("bob", "user", {"user_id": "bob"}, 2),
        ("robot", "user", {}, 1),
        ("olga", "user", {}, 0),
        ("ann", "team", {}, 3),
        ("ann", "team", {"team_ids": "red"}, 3),
        ("olga", "team", {"team_ids": "red"}, 3),
        ("bob", "team", {}, 2),
        ("bob", "team", {"team_ids": "red"}, 2),
        ("robot", "team", {}, 0),
        ("olga", "organization", {}, 3),
        ("ann", "tag", {}, 1),
        ("bob", "tag", {"tags": "t1"}, 1),
        ("vic", "tag", {}, 0),
        ("sam", "customer", {}, 4),
        ("sam", "end_user", {"end_user_ids": "e2"}, 2),
        ("sam", "agent", {}, 0),
    ):
        for path in ("", "/aggregated"):
            path = f"/{kind}/daily/activity{path}"
            status, body = await world.ask(who, path, **DATES, **params)
            assert status == 200, (who, path, body)
            assert body["metadata"]["total_api_requests"] == requests, (who, path, params)


@pytest.mark.parametrize("part", ["", "/aggregated", "/aggregated/keys", "/export"])
async def test_activity_that_is_not_the_caller_s(world: World, part: str) -> None:
    """Another user, team or organization is refused, end users and agents are for admins."""
    for who, kind, params in (
        ("bob", "user", {"user_id": "ann"}),
        ("vic", "user", {"user_id": "ann"}),
        ("cid", "team", {"team_ids": "red"}),
        ("bob", "team", {"team_ids": "red,blue"}),
        ("olga", "organization", {"organization_ids": "other"}),
    ):
        status, body = await world.ask(who, f"/{kind}/daily/activity{part}", **DATES, **params)
        assert (status, list(body["detail"])) == (403, ["error"]), (who, kind)
    for who, kind in (
        ("ann", "customer"), ("olga", "end_user"), ("bob", "agent"), ("ann", "organization"),
    ):  # fmt: skip
        answer = await world.ask(who, f"/{kind}/daily/activity{part}", **DATES)
        error_of(answer, 401, "auth_error")


async def test_a_team_that_lets_its_members_see(world: World) -> None:
    """A member of a team with that permission sees all of its activity."""
    await world.admin.sql(
        "update team set team_member_permissions = '{/team/daily/activity}' where team_id = 'red'"
    )
    _, body = await world.ask("bob", "/team/daily/activity", **DATES)
    assert body["metadata"]["total_api_requests"] == 3
