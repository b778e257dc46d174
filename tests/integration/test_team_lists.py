"""Lists of teams, what each caller sees of them, and what users have spent in teams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.team_rules import TeamRules
from tests.support.admin_api import StartAdmin, admins, issues_of
from tests.support.team_kit import TeamKit, detail_of

# Far above what it takes alone; the machine may be busy.
REASONABLE_S = 20.0
DAYS = {"start_date": "2026-01-01", "end_date": "2026-01-31"}


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin) -> TeamKit:
    """An admin that joins no team that it makes."""
    return TeamKit(await start(team_rules=TeamRules(adds_proxy_admins=False)))


def ids(answer: tuple[int, Any]) -> list[str]:
    """The teams of a list."""
    assert answer[0] == 200, answer
    teams = answer[1]["teams"] if isinstance(answer[1], dict) else answer[1]
    return [team["team_id"] for team in teams]


async def some_teams(kit: TeamKit) -> None:
    """Teams with and without an organization; `ann` is in two, `org` administers `o1`."""
    for name in ("ann", "bob", "org"):
        await kit.user(name)
    await kit.organization("o1", "org")
    ann = [{"role": "admin", "user_id": "ann"}]
    await kit.team("alpha", team_alias="First One", organization_id="o1", max_budget=1)
    await kit.team("beta", team_alias="Second", members_with_roles=ann, max_budget=3)
    await kit.team("gamma", team_alias="third one", organization_id="o1", members_with_roles=ann)


async def test_pages(kit: TeamKit) -> None:
    """Pages do not overlap, hold everything, and say how many there are."""
    made = [(await kit.team(f"t{n:02}"))["team_id"] for n in range(23)]
    seen: list[str] = []
    for number in (1, 2, 3):
        answer = await kit.get("/v2/team/list", page=number)
        body = answer[1]
        assert (body["total"], body["page"], body["page_size"]) == (23, number, 10)
        assert body["total_pages"] == 3
        seen += ids(answer)
    assert seen == made[::-1]
    status, body = await kit.get("/v2/team/list", page=9, page_size=100)
    assert (status, body["teams"], body["total"]) == (200, [], 23)
    for params in ({"page": 0}, {"page_size": 101}, {"page": "x"}, {"sort_by": "metadata"}):
        answer = await kit.get("/v2/team/list", **params)
        assert issues_of(answer)[0][1][0] == "query"


async def test_rows_count_members_and_keys(kit: TeamKit) -> None:
    """A row of a page has the numbers of members and of keys."""
    await some_teams(kit)
    await kit.admin.generate(team_id="beta")
    await kit.admin.generate(team_id="beta")
    _, body = await kit.get("/v2/team/list", team_id="beta")
    [team] = body["teams"]
    assert (team["members_count"], team["keys_count"], team["team_alias"]) == (1, 2, "Second")


async def test_filters(kit: TeamKit) -> None:
    """Each filter picks exactly what it names, in both lists."""
    await some_teams(kit)
    for params, expected in (
        ({}, "gamma beta alpha"),
        ({"team_id": "beta"}, "beta"),
        ({"team_id": "bet"}, ""),
        ({"team_alias": "ONE"}, "gamma alpha"),
        ({"search": "SEC"}, "beta"),
        ({"search": "amma"}, "gamma"),
        ({"search": "%"}, ""),
        ({"organization_id": "o1"}, "gamma alpha"),
        ({"organization_id": "default_organization"}, "beta"),
        ({"user_id": "ann"}, "gamma beta"),
        ({"user_id": "nobody"}, ""),
        ({"user_id": "ann", "organization_id": "o1"}, "gamma"),
        ({"search": "'; drop table team; --"}, ""),
    ):
        for path in ("/v2/team/list", "/team/list"):
            assert " ".join(ids(await kit.get(path, **params))) == expected, (path, params)


async def test_order(kit: TeamKit) -> None:
    """Newest first by default; a named column rises unless it is told to fall."""
    await some_teams(kit)
    await kit.spend("team", "beta", 2)
    for params, expected in (
        ({"sort_by": "team_id"}, "alpha beta gamma"),
        ({"sort_by": "team_id", "sort_order": "desc"}, "gamma beta alpha"),
        ({"sort_by": "max_budget", "sort_order": "desc"}, "beta alpha gamma"),
        ({"sort_by": "spend", "sort_order": "desc"}, "beta alpha gamma"),
        ({"sort_order": "asc"}, "alpha beta gamma"),
    ):
        assert " ".join(ids(await kit.get("/v2/team/list", **params))) == expected, params


async def test_who_sees_which(kit: TeamKit) -> None:
    """Users see their own teams, an organization's admin those of the organization too."""
    await some_teams(kit)
    for by, params, expected in (
        ("ann", {}, "gamma beta"),
        ("ann", {"user_id": "ann"}, "gamma beta"),
        ("ann", {"team_id": "alpha"}, ""),
        ("bob", {}, ""),
        ("org", {}, "gamma alpha"),
        ("org", {"user_id": "ann"}, "gamma"),
        ("org", {"organization_id": "default_organization"}, ""),
    ):
        assert " ".join(ids(await kit.get("/v2/team/list", by, **params))) == expected, (by, params)
    for path in ("/v2/team/list", "/team/list"):
        detail_of(await kit.get(path, "bob", user_id="ann"), 401)
    assert ids(await kit.get("/team/list", "ann", user_id="ann")) == ["gamma", "beta"]
    assert ids(await kit.get("/team/list", "org")) == ["gamma", "alpha"]


async def test_deleted_teams_are_seen_by_the_same(kit: TeamKit) -> None:
    """Archived teams are listed with the same scopes."""
    await some_teams(kit)
    await kit.post("/team/delete", team_ids=["beta", "alpha"])
    for by, expected in (
        (None, ["alpha", "beta"]),
        ("ann", ["beta"]),
        ("org", ["alpha"]),
        ("bob", []),
    ):
        answer = await kit.get("/v2/team/list", by, status="deleted", sort_by="team_id")
        assert ids(answer) == expected, by
    assert issues_of(await kit.get("/v2/team/list", status="gone"))


async def test_whole_list(kit: TeamKit) -> None:
    """The unpaginated list has each team's memberships and keys."""
    await some_teams(kit)
    key = await kit.admin.generate(team_id="beta", user_id="ann")
    _, teams = await kit.get("/team/list")
    found = {team["team_id"]: team for team in teams}
    assert [each["token"] for each in found["beta"]["keys"]] == [key["token"]]
    assert [each["user_id"] for each in found["gamma"]["team_memberships"]] == ["ann"]
    assert (found["alpha"]["keys"], found["alpha"]["team_memberships"]) == ([], [])


async def test_info_keys(kit: TeamKit) -> None:
    """Keys of a team hold their hash, and are as many as asked for."""
    await kit.team("t1")
    keys = [await kit.admin.generate(team_id="t1") for _ in range(3)]
    body = await kit.info("t1")
    assert {each["token"] for each in body["keys"]} == {each["token"] for each in keys}
    assert all(each["key"] not in str(body) for each in keys)
    _, body = await kit.get("/team/info", team_id="t1", key_limit=2)
    assert len(body["keys"]) == 2
    assert issues_of(await kit.get("/team/info")) == [("missing", ["query", "team_id"])]
    assert issues_of(await kit.get("/team/info", team_id="t1", key_limit=-1))


async def test_spend_is_the_windows(kit: TeamKit) -> None:
    """A team's spend is its counter's, of the period its budget counts."""
    await kit.team("t1", max_budget=5, budget_duration="1mo")
    [[start_s]] = await kit.admin.sql(
        "select extract(epoch from date_trunc('month', now() at time zone 'utc'))::bigint"
    )
    await kit.spend("team", "t1", 7)
    await kit.spend("team", "t1", 2, start_s)
    assert (await kit.info("t1"))["team_info"]["spend"] == 2.0
    await kit.post("/team/update", team_id="t1", budget_duration=None)
    assert (await kit.info("t1"))["team_info"]["spend"] == 7.0


async def test_filter_ui(kit: TeamKit) -> None:
    """Parts of ids and aliases find teams, in pages."""
    await some_teams(kit)
    assert ids(await kit.get("/team/filter/ui", team_id="A", team_alias="one")) == [
        "gamma",
        "alpha",
    ]
    assert ids(await kit.get("/team/filter/ui", page_size=1, page=2)) == ["beta"]


async def test_metadata_schema(start: StartAdmin) -> None:
    """The operator's list, empty by default."""
    kit = TeamKit(await start())
    assert await kit.get("/team/metadata_schema") == (200, {"fields": []})
    schema = ({"key": "cost_center", "label": "Cost centre"},)
    kit = TeamKit(await start(team_rules=TeamRules(metadata_schema=schema)))
    assert await kit.get("/team/metadata_schema") == (200, {"fields": list(schema)})


async def test_many_teams(kit: TeamKit) -> None:
    """Five thousand teams with members and keys are listed whole in reasonable time."""
    await kit.admin.sql(
        "insert into team (team_id) select 't' || n from generate_series(1, 5000) n"
    )
    await kit.admin.sql(
        "insert into team_member (team_id, user_id) select 't' || n, 'u' || n % 50 "
        "from generate_series(1, 5000) n"
    )
    await kit.admin.sql(
        "insert into virtual_key (token, team_id) select encode(sha256(n::text::bytea), 'hex'), "
        "'t' || n from generate_series(1, 5000) n"
    )
    began = time.monotonic()
    assert len(ids(await kit.get("/team/list"))) == 5000
    assert time.monotonic() - began < REASONABLE_S
    began = time.monotonic()
    answer = await kit.get("/v2/team/list", user_id="u7", page_size=100)
    assert (answer[1]["total"], len(ids(answer))) == (100, 100)
    assert time.monotonic() - began < REASONABLE_S


async def spent(kit: TeamKit, key: str, user_id: str, team_id: str, day: str, usd: float) -> None:
    """A roll-up of two calls, as the ledger writes them."""
    await kit.admin.sql(
        "insert into call_payer (key, key_alias, user_id, team_id, organization_id) "
        "values ($1, '', $2, $3, '') on conflict do nothing",
        key,
        user_id,
        team_id,
    )
    await kit.admin.sql(
        "insert into daily_spend values ('team', $1, $2::text::date, $3, 'g', 'm', 'p', 'r', '', "
        "$4, 10, 5, 0, 0, 0, 2, 1, 1, 100)",
        team_id,
        day,
        key,
        usd,
    )


async def test_spend_by_user(kit: TeamKit) -> None:
    """Sums of a period by user and team, the biggest first; a member sees its own alone."""
    await kit.user("ann", user_email="ann@example.org")
    await kit.user("bob")
    await kit.user("lead")
    members = [
        {"role": "user", "user_id": "ann"}, {"role": "user", "user_id": "bob"},
        {"role": "admin", "user_id": "lead"},
    ]  # fmt: skip
    await kit.team("t1", team_alias="core", members_with_roles=members)
    await kit.team("t2")
    await spent(kit, "k1", "ann", "t1", "2026-01-01", 1)
    await spent(kit, "k2", "ann", "t1", "2026-01-31", 2)
    await spent(kit, "k3", "bob", "t1", "2026-01-15", 5)
    await spent(kit, "k3", "bob", "t1", "2026-02-01", 100)
    await spent(kit, "k4", "", "t2", "2026-01-15", 4)
    status, body = await kit.get("/team/spend/by_user", team_ids="t1,t2", **DAYS)
    assert (status, body["start_date"], body["end_date"]) == (200, "2026-01-01", "2026-01-31")
    assert [(row["user_id"], row["team_id"], row["spend"]) for row in body["results"]] == [
        ("bob", "t1", 5.0), ("", "t2", 4.0), ("ann", "t1", 3.0),
    ]  # fmt: skip
    assert body["results"][2] == {
        "team_id": "t1", "team_alias": "core", "user_id": "ann", "user_email": "ann@example.org",
        "user_alias": None, "spend": 3.0, "prompt_tokens": 20, "completion_tokens": 10,
        "total_tokens": 30, "api_requests": 4, "successful_requests": 2, "failed_requests": 2,
    }  # fmt: skip
    for by, users in (("lead", ["bob", "ann"]), ("ann", ["ann"]), ("bob", ["bob"])):
        _, body = await kit.get("/team/spend/by_user", by, team_ids="t1", **DAYS)
        assert [row["user_id"] for row in body["results"]] == users, by
    permissions = ["/team/daily/activity"]
    await kit.post("/team/permissions_update", team_id="t1", team_member_permissions=permissions)
    _, body = await kit.get("/team/spend/by_user", "ann", team_ids="t1", **DAYS)
    assert len(body["results"]) == 2


async def test_spend_by_user_refusals(kit: TeamKit) -> None:
    """Teams and days are needed; teams of others are not found."""
    await some_teams(kit)
    for params in (
        DAYS,
        {"team_ids": "beta"},
        {"team_ids": "beta", **DAYS, "end_date": "x"},
        {"team_ids": ",", **DAYS},
    ):
        detail_of(await kit.get("/team/spend/by_user", **params), 400)
    for team_ids in ("alpha", "beta,alpha", "none"):
        detail_of(await kit.get("/team/spend/by_user", "ann", team_ids=team_ids, **DAYS), 404)
