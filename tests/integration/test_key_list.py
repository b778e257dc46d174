"""/key/list: pages, filters, order, and what a virtual key may see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
    error_of,
    issues_of,
)


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def test_list_pages(admin: Admin) -> None:
    """Pages do not overlap, hold everything, and say how many there are."""
    made = {(await admin.generate())["token"] for _ in range(25)}
    seen: list[str] = []
    for number in (1, 2, 3):
        status, body = await admin.call("GET", "/key/list", params={"page": number})
        assert (status, body["total_count"], body["total_pages"]) == (200, 25, 3)
        assert body["current_page"] == number
        seen += body["keys"]
    assert len(seen) == 25
    assert set(seen) == made
    _, body = await admin.call("GET", "/key/list", params={"page": 9})
    assert (body["keys"], body["total_count"]) == ([], 25)
    _, body = await admin.call("GET", "/key/list", params={"size": 100})
    assert len(body["keys"]) == 25


async def test_list_of_nothing(admin: Admin) -> None:
    """An empty list is a list."""
    assert await admin.call("GET", "/key/list") == (
        200,
        {"keys": [], "total_count": 0, "current_page": 1, "total_pages": 0},
    )


async def test_list_filters(admin: Admin) -> None:
    """Each filter picks exactly what it names."""
    a = await admin.generate(
        user_id="ann", team_id="t1", organization_id="o1", project_id="p1", agent_id="g1",
        access_group_ids=["ag"], key_alias="Alpha-one", max_budget=1,
    )  # fmt: skip
    b = await admin.generate(user_id="bob", team_id="t1", key_alias="Beta-two", duration="1h")
    c = await admin.generate(user_id="bobby", key_alias="Gamma", max_budget=5)
    await admin.generate(team_id="litellm-dashboard")
    await admin.call("POST", "/key/block", {"key": c["key"]})
    await admin.sql(
        "update virtual_key set expires = now() - interval '1 s' where token = $1", b["token"]
    )
    await admin.sql("insert into team (team_id) values ('t1')")
    await admin.sql("insert into team_member (team_id, user_id, role) values ('t1','zed','admin')")
    names = {a["token"]: "a", b["token"]: "b", c["token"]: "c"}
    for params, expected in (
        ({}, "abc"),
        ({"user_id": "bob"}, "b"),
        ({"user_id": "BOB", "substring_matching": "true"}, "bc"),
        ({"team_id": "t1"}, "ab"),
        ({"organization_id": "o1"}, "a"),
        ({"project_id": "p1"}, "a"),
        ({"agent_id": "g1"}, "a"),
        ({"access_group_id": "ag"}, "a"),
        ({"key_hash": a["token"]}, "a"),
        ({"key_hash": b["key"]}, "b"),
        ({"key_alias": "Gamma"}, "c"),
        ({"key_alias": "gam"}, ""),
        ({"key_alias": "gam", "substring_matching": "1"}, "c"),
        ({"search": "beta"}, "b"),
        ({"search": "bob"}, "bc"),
        ({"search": c["token"]}, "c"),
        ({"status": "active"}, "a"),
        ({"status": "expired"}, "b"),
        ({"status": "revoked"}, "c"),
        ({"status": "deleted"}, ""),
        ({"expires": "expired"}, "b"),
        ({"expires": "active"}, "ac"),
        ({"user_id": "zed"}, ""),
        ({"user_id": "zed", "include_team_keys": "true"}, "ab"),
        ({"user_id": "default_user_id", "include_created_by_keys": "true"}, "abc"),
        ({"search": "100%_'; drop table virtual_key; --"}, ""),
    ):
        status, body = await admin.call("GET", "/key/list", params=params)
        assert status == 200, (params, body)
        assert "".join(sorted(names[token] for token in body["keys"])) == expected, params


async def test_list_order(admin: Admin) -> None:
    """Any sortable column in both directions; newest first by default."""
    made = [await admin.generate(key_alias=name, max_budget=n) for n, name in enumerate("bca")]
    tokens = [each["token"] for each in made]
    _, body = await admin.call("GET", "/key/list")
    assert body["keys"] == tokens[::-1]
    params = {"sort_by": "key_alias", "sort_order": "asc"}
    _, body = await admin.call("GET", "/key/list", params=params)
    assert body["keys"] == [tokens[2], tokens[0], tokens[1]]
    for name in ("spend", "max_budget", "expires", "created_at", "token", "rpm_limit"):
        status, body = await admin.call("GET", "/key/list", params={"sort_by": name})
        assert (status, len(body["keys"])) == (200, 3)


async def test_list_whole_rows(admin: Admin) -> None:
    """Whole rows carry the hash, never a plain key; `expand=user` asks for them too."""
    made = await admin.generate(key_alias="whole", user_id="u1")
    for params in ({"return_full_object": "true"}, {"expand": "user"}):
        _, body = await admin.call("GET", "/key/list", params=params)
        [row] = body["keys"]
        assert (row["token"], row["key_alias"], row["spend"]) == (made["token"], "whole", 0.0)
        assert made["key"] not in json.dumps(body)


async def test_list_of_deleted_keys(admin: Admin) -> None:
    """The archive is listed with the same filters."""
    made = await admin.generate(user_id="gone")
    await admin.call("POST", "/key/delete", {"keys": [made["key"]]})
    params = {"status": "deleted", "user_id": "gone", "return_full_object": "true"}
    _, body = await admin.call("GET", "/key/list", params=params)
    assert [row["token"] for row in body["keys"]] == [made["token"]]
    assert body["keys"][0]["status"] == "deleted"


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"page": "0"}, "page"),
        ({"page": "x"}, "page"),
        ({"page": "9" * 30}, "page"),
        ({"size": "101"}, "size"),
        ({"size": "-1"}, "size"),
        ({"sort_by": "metadata"}, "sort_by"),
        ({"sort_by": "token; drop"}, "sort_by"),
        ({"sort_order": "up"}, "sort_order"),
        ({"status": "odd"}, "status"),
        ({"expires": "never"}, "expires"),
        ({"return_full_object": "perhaps"}, "return_full_object"),
        ({"user_id": "a\x00"}, "user_id"),
    ],
)
async def test_list_bad_queries(admin: Admin, params: dict[str, str], name: str) -> None:
    """A bad parameter is 422 and named."""
    [(_, place)] = issues_of(await admin.call("GET", "/key/list", params=params))
    assert place == ["query", name]


async def test_list_of_a_virtual_key(admin: Admin) -> None:
    """A key lists its user's keys or only itself; asking for anyone else's is 403."""
    mine = await admin.generate(user_id="u1")
    sibling = await admin.generate(user_id="u1")
    alone = await admin.generate()
    _, body = await admin.call("GET", "/key/list", key=mine["key"])
    assert set(body["keys"]) == {mine["token"], sibling["token"]}
    _, body = await admin.call("GET", "/key/list", key=alone["key"])
    assert body["keys"] == [alone["token"]]
    params = {"user_id": "u", "substring_matching": "true"}
    for bad in ({"user_id": "u2"}, params, {"team_id": "t"}, {"organization_id": "o"}):
        error_of(
            await admin.call("GET", "/key/list", params=bad, key=mine["key"]), 403, "auth_error"
        )
    created = {"user_id": "u1", "include_created_by_keys": "true", "include_team_keys": "true"}
    _, body = await admin.call("GET", "/key/list", params=created, key=mine["key"])
    assert set(body["keys"]) == {mine["token"], sibling["token"]}
    other = {"key_hash": mine["token"]}
    error_of(
        await admin.call("GET", "/key/list", params=other, key=alone["key"]), 403, "auth_error"
    )


async def test_the_count_of_all_is_exact(admin: Admin) -> None:
    """It is kept beside the keys: made, deleted, rotated, in transactions that fail, by hand and
    after rows of it were made one."""

    async def total() -> int:
        return int((await admin.call("GET", "/key/list"))[1]["total_count"])

    made = await asyncio.gather(*(admin.generate() for _ in range(30)))
    await admin.generate(team_id="litellm-dashboard")
    await admin.call("POST", "/key/generate", {"budget_id": "none"})
    await admin.call("POST", "/key/regenerate", {"key": made[0]["key"]})
    assert await total() == 30
    await admin.call("POST", "/key/delete", {"keys": [each["key"] for each in made[1:8]]})
    assert await total() == 23
    await admin.sql(
        "insert into virtual_key (token) select lpad(n::text, 64, '0') from generate_series(1, 9) n"
    )
    assert await total() == 32
    await admin.sql(
        "do 'begin for n in 10..499 loop "
        "insert into virtual_key (token) values (lpad(n::text, 64, ''0'')); end loop; end'"
    )
    assert await total() == 32 + 490
    [rows] = await admin.sql("select count(*) from key_tally")
    assert rows["count"] < 490
    await admin.sql("truncate virtual_key cascade")
    assert await total() == 0
