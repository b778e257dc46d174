"""Members of teams: added, changed, removed; their budgets, keys and spend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import StartAdmin, admins, error_of, issues_of
from tests.support.team_kit import TeamKit, detail_of

WELL_UNDER_5_S = 4.0


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin) -> TeamKit:
    """An admin with team `t1`, whose creator is its only member."""
    kit = TeamKit(await start())
    await kit.team("t1", models=["a", "b"])
    return kit


def named(user_id: str, role: str = "user") -> dict[str, str]:
    """A member by id."""
    return {"role": role, "user_id": user_id}


async def membership(kit: TeamKit, user_id: str, team_id: str = "t1") -> dict[str, Any]:
    """A member as /team/info shows it."""
    rows = (await kit.info(team_id))["team_memberships"]
    [found] = [row for row in rows if row["user_id"] == user_id]
    return dict(found)


async def test_add(kit: TeamKit) -> None:
    """The answer is the team's row, the users and their memberships, with the budget given."""
    await kit.user("u2", user_email="U2@example.org")
    status, body = await kit.post(
        "/team/member_add", team_id="t1", member=named("u2"), max_budget_in_team=2,
        budget_duration="30d", allowed_models=["a"],
    )  # fmt: skip
    assert (status, body["team_id"]) == (200, "t1")
    assert body["members_with_roles"][1] == {
        "role": "user", "user_id": "u2", "user_email": "U2@example.org",
    }  # fmt: skip
    [user] = body["updated_users"]
    assert (user["user_id"], user["user_email"]) == ("u2", "U2@example.org")
    assert "password_hash" not in user
    [member] = body["updated_team_memberships"]
    assert (member["user_id"], member["team_id"], member["spend"]) == ("u2", "t1", 0.0)
    table = member["litellm_budget_table"]
    assert (table["max_budget"], table["budget_duration"]) == (2.0, "30d")
    assert (table["allowed_models"], member["budget_source"]) == (["a"], "custom")
    [entry] = await kit.audited("created", "LiteLLM_TeamMembership", "u2:t1")
    assert (entry["before"], entry["after"]["role"]) == (None, "user")


async def test_add_makes_users(kit: TeamKit) -> None:
    """Somebody unknown becomes a user; an email in any case finds who has it."""
    await kit.user("known", user_email="Known@Example.org")
    members = [
        {"role": "user", "user_email": "kNOWN@example.org"},
        {"role": "admin", "user_email": "New@example.org"},
        {"role": "user", "user_email": "ÉTÉ@example.org"},
        named("by-id"),
        {"role": "user", "user_id": "both", "user_email": "both@example.org"},
    ]
    status, body = await kit.post("/team/member_add", team_id="t1", member=members)
    assert status == 200, body
    known, new, unicode, by_id, both = body["updated_users"]
    assert (known["user_id"], by_id["user_id"]) == ("known", "by-id")
    assert (new["user_email"], len(new["user_id"])) == ("New@example.org", 36)
    assert (both["user_id"], both["user_email"]) == ("both", "both@example.org")
    assert unicode["user_email"] == "ÉTÉ@example.org"
    assert new["user_role"] == "internal_user"
    members = [{"role": "user", "user_id": "x", "user_email": "BOTH@example.org"}]
    answer = await kit.post("/team/member_add", team_id="t1", member=members)
    detail_of(answer, 400)


async def test_already_in_team(kit: TeamKit) -> None:
    """One who is in the team is refused; of a list the others are added."""
    await kit.post("/team/member_add", team_id="t1", member=named("a"))
    answer = await kit.post("/team/member_add", team_id="t1", member=named("a"))
    error_of(answer, 400, "team_member_already_in_team", "member")
    answer = await kit.post("/team/member_add", team_id="t1", member=[named("a"), named("a")])
    error_of(answer, 400, "team_member_already_in_team", "member")
    both = [named("a"), named("b"), named("b")]
    status, body = await kit.post("/team/member_add", team_id="t1", member=both)
    assert status == 200
    assert [each["user_id"] for each in body["updated_team_memberships"]] == ["b"]
    assert list(await kit.members("t1")) == ["default_user_id", "a", "b"]


async def test_add_refusals(kit: TeamKit) -> None:
    """Unknown teams, models that the team lacks, empty and too long lists, wrong members."""
    detail_of(await kit.post("/team/member_add", team_id="x", member=named("a")), 404)
    body = {"team_id": "t1", "member": named("a"), "allowed_models": ["c"]}
    detail_of(await kit.post("/team/member_add", **body), 400)
    detail_of(await kit.post("/team/member_add", team_id="t1", member=[]), 400)
    many = [named(str(n)) for n in range(1001)]
    detail_of(await kit.post("/team/member_add", team_id="t1", member=many), 400)
    detail_of(await kit.post("/team/member_add", team_id="t1", member=named("a\x1f")), 400)
    for member, kind, place in (
        ({"role": "user"}, "value_error", 0),
        ([named("a"), {"user_id": "b"}], "missing", 1),
        ("a", "dict_type", None),
        (None, "missing", None),
    ):
        issues = issues_of(await kit.post("/team/member_add", team_id="t1", member=member))
        assert issues[0][0] == kind
        if place == 1:
            assert issues[0][1] == ["body", "member", 1, "role"]
    assert await kit.members("t1") == {"default_user_id": "admin"}


async def test_thousand_members_at_once(kit: TeamKit) -> None:
    """A thousand unknown members with budgets are one quick transaction, each audited."""
    members = [named(f"user-{n:04}") for n in range(1000)]
    began = time.monotonic()
    status, body = await kit.post(
        "/team/member_add", team_id="t1", member=members, max_budget_in_team=1
    )
    assert time.monotonic() - began < WELL_UNDER_5_S
    assert (status, len(body["updated_team_memberships"])) == (200, 1000)
    assert [each["user_id"] for each in body["members_with_roles"]] == [
        "default_user_id",
        *(each["user_id"] for each in members),
    ]
    counts = await kit.admin.sql(
        "select (select count(distinct budget_id) from team_member) as budgets, "
        "(select count(*) from audit_log where table_name = 'LiteLLM_TeamMembership') as entries, "
        "(select count(distinct version) from change_feed where kind = 'team_member') as versions"
    )
    assert tuple(counts[0]) == (1000, 1000, 2)


async def test_concurrent_adds_all_count(kit: TeamKit) -> None:
    """Different users added at once are all in; the same user is added once."""
    answers = await asyncio.gather(
        *(kit.post("/team/member_add", team_id="t1", member=named(f"u{n}")) for n in range(6)),
        *(kit.post("/team/member_add", team_id="t1", member=named("same")) for _ in range(3)),
    )
    assert sorted(status for status, _ in answers) == [200] * 7 + [400, 400]
    assert len(await kit.members("t1")) == 8


async def test_delete_and_add_at_once(kit: TeamKit) -> None:
    """A team deleted while members are added leaves neither members nor budgets behind."""
    for n in range(4):
        team_id = f"d{n}"
        await kit.team(team_id)
        answers = await asyncio.gather(
            kit.post("/team/member_add", team_id=team_id, member=named("a"), max_budget_in_team=1),
            kit.post("/team/delete", team_ids=[team_id]),
            kit.post("/team/member_add", team_id=team_id, member=named("b"), max_budget_in_team=1),
        )
        assert answers[1][0] == 200
        assert {answers[0][0], answers[2][0]} <= {200, 404}
    for query in ("team_member where team_id <> 't1'", "budget"):
        assert (await kit.admin.sql(f"select count(*) from {query}"))[0][0] == 0


async def test_bulk_add(kit: TeamKit) -> None:
    """Each one asked for is a result; who is in already is one that failed."""
    await kit.user("c", user_email="c@example.org")
    members = [
        named("a"),
        named("default_user_id"),
        {"role": "admin", "user_email": "C@example.org"},
    ]
    status, body = await kit.post(
        "/team/bulk_member_add", team_id="t1", members=members, max_budget_in_team=4
    )
    assert status == 200, body
    numbers = ("total_requested", "successful_additions", "failed_additions")
    assert [body[name] for name in numbers] == [3, 2, 1]
    assert [(each["user_id"], each["success"]) for each in body["results"]] == [
        ("a", True), ("default_user_id", False), ("c", True),
    ]  # fmt: skip
    assert body["results"][1]["error"]
    assert len(body["updated_team"]["members_with_roles"]) == 3
    assert (await membership(kit, "c"))["litellm_budget_table"]["max_budget"] == 4.0
    status, body = await kit.post("/team/bulk_member_add", team_id="t1", all_users=True)
    assert (status, body["successful_additions"]) == (200, 0)
    detail_of(await kit.post("/team/bulk_member_add", team_id="t1"), 400)
    many = [named(str(n)) for n in range(501)]
    detail_of(await kit.post("/team/bulk_member_add", team_id="t1", members=many), 400)


async def test_bulk_add_everybody(kit: TeamKit) -> None:
    """Every user of the gateway joins."""
    await kit.admin.sql(
        "insert into app_user (user_id) select 'u' || n from generate_series(1,700) n"
    )
    status, body = await kit.post("/team/bulk_member_add", team_id="t1", all_users=True)
    assert (status, body["successful_additions"], body["failed_additions"]) == (200, 700, 0)
    assert len(await kit.members("t1")) == 701


async def test_update(kit: TeamKit) -> None:
    """Limits and role change; what is not sent stays; the answer says what is in force."""
    await kit.post("/team/member_add", team_id="t1", member=named("u2"))
    status, body = await kit.post(
        "/team/member_update", team_id="t1", user_id="u2", max_budget_in_team=2, rpm_limit=10
    )
    assert (status, body) == (
        200,
        {
            "team_id": "t1", "user_id": "u2", "user_email": None, "max_budget_in_team": 2.0,
            "tpm_limit": None, "rpm_limit": 10,
        },
    )  # fmt: skip
    expiry = "2099-01-01T00:00:00Z"
    status, body = await kit.post(
        "/team/member_update", team_id="t1", user_id="u2", role="admin", tpm_limit=5,
        allowed_models=["a"], temp_budget_increase=3, temp_budget_expiry=expiry,
    )  # fmt: skip
    assert (body["max_budget_in_team"], body["rpm_limit"], body["tpm_limit"]) == (2.0, 10, 5)
    member = await membership(kit, "u2")
    table = member["litellm_budget_table"]
    assert (table["allowed_models"], table["temp_budget_increase"]) == (["a"], 3.0)
    assert table["temp_budget_expiry"] == expiry
    assert (await kit.members("t1"))["u2"] == "admin"
    await kit.post("/team/member_update", team_id="t1", user_id="u2", max_budget_in_team=None)
    table = (await membership(kit, "u2"))["litellm_budget_table"]
    assert (table["max_budget"], table["rpm_limit"]) == (None, 10)
    entries = await kit.audited("updated", "LiteLLM_TeamMembership", "u2:t1")
    assert (entries[0]["before"]["max_budget"], entries[0]["after"]["max_budget"]) == (None, 2.0)
    assert (entries[1]["before"]["role"], entries[1]["after"]["role"]) == ("user", "admin")


async def test_update_by_email_and_refusals(kit: TeamKit) -> None:
    """An email in any case finds the member; strangers, unknown teams and halves are refused."""
    await kit.user("u2", user_email="u2@example.org")
    await kit.post("/team/member_add", team_id="t1", member=named("u2"))
    status, body = await kit.post(
        "/team/member_update", team_id="t1", user_email="U2@EXAMPLE.org", rpm_limit=1
    )
    assert (status, body["user_id"]) == (200, "u2")
    detail_of(await kit.post("/team/member_update", team_id="t1", user_id="x", rpm_limit=1), 400)
    detail_of(await kit.post("/team/member_update", team_id="x", user_id="u2", rpm_limit=1), 404)
    body = {"team_id": "t1", "user_id": "u2"}
    detail_of(await kit.post("/team/member_update", **body, allowed_models=["z"]), 400)
    issues = issues_of(await kit.post("/team/member_update", **body, temp_budget_increase=1))
    assert issues == [("value_error", ["body"])]
    assert issues_of(await kit.post("/team/member_update", team_id="t1")) == [
        ("value_error", ["body"])
    ]
    issues = issues_of(await kit.post("/team/member_update", **body, role="king"))
    assert issues == [("literal_error", ["body", "role"])]


async def test_shared_budget_is_copied(kit: TeamKit) -> None:
    """A change for one member leaves the team's budget to the others, and clearing it gives the
    team's back without leaving a row."""
    await kit.post("/team/update", team_id="t1", team_member_budget=5, team_member_rpm_limit=6)
    for user_id in ("a", "b"):
        await kit.post("/team/member_add", team_id="t1", member=named(user_id))
    await kit.post("/team/member_update", team_id="t1", user_id="a", max_budget_in_team=1)
    own, shared = await membership(kit, "a"), await membership(kit, "b")
    assert (own["budget_source"], shared["budget_source"]) == ("custom", "team_default")
    table = own["litellm_budget_table"]
    assert (table["max_budget"], table["rpm_limit"]) == (1.0, 6)
    assert shared["litellm_budget_table"]["max_budget"] == 5.0
    nothing = {"max_budget_in_team": None, "rpm_limit": None}
    _, body = await kit.post("/team/member_update", team_id="t1", user_id="a", **nothing)
    assert (body["max_budget_in_team"], body["rpm_limit"]) == (5.0, 6)
    assert (await membership(kit, "a"))["budget_id"] == shared["budget_id"]
    assert (await kit.admin.sql("select count(*) from budget"))[0][0] == 1


async def test_concurrent_member_updates_both_count(kit: TeamKit) -> None:
    """Two limits of one member set at once are both there."""
    await kit.post("/team/member_add", team_id="t1", member=named("a"))
    await asyncio.gather(
        *(
            kit.post("/team/member_update", team_id="t1", user_id="a", **{name: 3})
            for name in ("max_budget_in_team", "tpm_limit", "rpm_limit")
        )
    )
    table = (await membership(kit, "a"))["litellm_budget_table"]
    assert (table["max_budget"], table["tpm_limit"], table["rpm_limit"]) == (3.0, 3, 3)


async def test_member_delete(kit: TeamKit) -> None:
    """A member goes with its budget and its keys of the team; other keys stay."""
    await kit.user("u2", user_email="u2@example.org")
    await kit.post("/team/member_add", team_id="t1", member=named("u2"), max_budget_in_team=1)
    gone = await kit.admin.generate(team_id="t1", user_id="u2")
    other_team = await kit.admin.generate(user_id="u2")
    other_user = await kit.admin.generate(team_id="t1", user_id="u3")
    status, body = await kit.post("/team/member_delete", team_id="t1", user_email="U2@example.org")
    assert (status, len(body["members_with_roles"])) == (200, 1)
    assert (await kit.admin.info(gone["key"]))["status"] == "deleted"
    for key in (other_team, other_user):
        assert (await kit.admin.info(key["key"]))["status"] == "active"
    assert (await kit.admin.sql("select count(*) from budget"))[0][0] == 0
    assert len(await kit.audited("deleted", "LiteLLM_TeamMembership", "u2:t1")) == 1
    assert len(await kit.audited("deleted", "LiteLLM_VerificationToken", gone["token"])) == 1
    detail_of(await kit.post("/team/member_delete", team_id="t1", user_id="u2"), 400)
    detail_of(await kit.post("/team/member_delete", team_id="x", user_id="u2"), 404)


async def test_management_bulk_delete(kit: TeamKit) -> None:
    """One result per member named, in order; keys and memberships go in one transaction."""
    await kit.user("b", user_email="b@example.org")
    await kit.post("/team/member_add", team_id="t1", member=[named("a"), named("b"), named("c")])
    key = await kit.admin.generate(team_id="t1", user_id="a")
    status, body = await kit.post(
        "/management/v1/teams/t1/members/bulk_delete",
        members=[
            {"user_id": "a"}, {"user_email": "B@example.org"}, {"user_id": "a"}, {"user_id": "x"},
        ],
    )  # fmt: skip
    assert (status, list(body)) == (200, ["data"])
    assert [each["success"] for each in body["data"]] == [True, True, False, False]
    assert body["data"][1]["user_email"] == "B@example.org"
    assert body["data"][2]["error"] == "Duplicate member in request"
    assert list(await kit.members("t1")) == ["default_user_id", "c"]
    assert (await kit.admin.info(key["key"]))["status"] == "deleted"


async def test_management_bulk_update(kit: TeamKit) -> None:
    """Each row patches one member; the answer holds the limits in force."""
    await kit.post("/team/update", team_id="t1", team_member_budget=5)
    await kit.post("/team/member_add", team_id="t1", member=[named("a"), named("b")])
    rows = [
        {"user_id": "a", "max_budget_in_team": 10, "rpm_limit": 1},
        {"user_id": "b"},
        {"user_id": "b", "rpm_limit": 1},
        {"user_id": "default_user_id", "allowed_models": ["zzz"]},
    ]
    status, body = await kit.post("/management/v1/teams/t1/members/bulk_update", members=rows)
    assert status == 200
    first, second, third, fourth = body["data"]
    assert (first["success"], first["max_budget"], first["max_budget_source"]) == (
        True, 10.0, "member",
    )  # fmt: skip
    assert (first["rpm_limit"], first["tpm_limit"], first["allowed_models"]) == (1, None, None)
    assert (second["max_budget"], second["max_budget_source"]) == (5.0, "team_default")
    assert (third["success"], fourth["success"]) == (False, False)
    cleared = [{"user_id": "a", "max_budget_in_team": None, "rpm_limit": None}]
    _, body = await kit.post("/management/v1/teams/t1/members/bulk_update", members=cleared)
    assert body["data"][0]["max_budget_source"] == "team_default"


async def test_management_bodies_are_strict(kit: TeamKit) -> None:
    """Unknown members, both or no names, none or too many are 422; the rest are problems."""
    path = "/management/v1/teams/t1/members/bulk_delete"
    for body, kind in (
        ({}, "missing"),
        ({"members": []}, "list_type"),
        ({"members": [{"user_id": str(n)} for n in range(501)]}, "list_type"),
        ({"members": [{"user_id": "a", "user_email": "b"}]}, "value_error"),
        ({"members": [{}]}, "value_error"),
        ({"members": ["a"]}, "dict_type"),
        ({"members": [{"user_id": "a", "role": "admin"}]}, "extra_forbidden"),
        ({"members": [{"user_id": "a"}], "more": 1}, "extra_forbidden"),
        ({"members": [{"user_id": 5}]}, "string_type"),
    ):
        assert [issue[0] for issue in issues_of(await kit.post(path, **body))] == [kind]
    headers = {"authorization": f"Bearer {await kit.user('stranger')}"}
    for target, status in (("none", 404), ("t1", 403)):
        by = {} if status == 404 else {"headers": headers}
        async with kit.admin.client.post(
            f"/management/v1/teams/{target}/members/bulk_delete",
            json={"members": [{"user_id": "a"}]},
            **({"headers": {"authorization": "Bearer sk-master-of-this-test-0123456789"}} | by),
        ) as response:
            assert (response.status, response.content_type) == (status, "application/problem+json")
            assert (await response.json())["status"] == status


async def test_five_hundred_in_bulk(kit: TeamKit) -> None:
    """Five hundred members get limits, and go, in reasonable time."""
    members = [named(f"u{n}") for n in range(500)]
    await kit.post("/team/member_add", team_id="t1", member=members)
    began = time.monotonic()
    patches = [{"user_id": each["user_id"], "max_budget_in_team": 1} for each in members]
    status, body = await kit.post("/management/v1/teams/t1/members/bulk_update", members=patches)
    assert (status, sum(each["success"] for each in body["data"])) == (200, 500)
    names = [{"user_id": each["user_id"]} for each in members]
    status, body = await kit.post("/management/v1/teams/t1/members/bulk_delete", members=names)
    assert (status, sum(each["success"] for each in body["data"])) == (200, 500)
    assert time.monotonic() - began < 2 * WELL_UNDER_5_S
    assert (await kit.admin.sql("select count(*) from budget"))[0][0] == 0


async def test_spend_and_reset(kit: TeamKit) -> None:
    """A member's spend is its counter's; it is set lower, never higher, and the change noted."""
    await kit.post("/team/member_add", team_id="t1", member=named("a"), max_budget_in_team=9)
    await kit.spend("team_member", "a:t1", 4)
    member = await membership(kit, "a")
    assert (member["spend"], member["total_spend"]) == (4.0, 4.0)
    path = "/team/t1/member/a/reset_spend"
    status, body = await kit.post(path, reset_to=1.5)
    assert (status, body) == (
        200,
        {
            "team_id": "t1", "user_id": "a", "spend": 1.5, "previous_spend": 4.0,
            "max_budget": 9.0, "budget_reset_at": None,
        },
    )  # fmt: skip
    assert (await membership(kit, "a"))["spend"] == 1.5
    detail_of(await kit.post(path, reset_to=2), 400)
    detail_of(await kit.post(path, reset_to=-1), 400)
    for value, kind in ((True, "float_type"), (None, "missing"), ("x", "float_type")):
        assert [issue[0] for issue in issues_of(await kit.post(path, reset_to=value))] == [kind]
    detail_of(await kit.post("/team/t1/member/x/reset_spend", reset_to=0), 400)
    detail_of(await kit.post("/team/x/member/a/reset_spend", reset_to=0), 404)
    [entry] = await kit.audited("reset", "LiteLLM_TeamMembership", "a:t1")
    assert (entry["before"]["spend"], entry["after"]["spend"]) == (4.0, 1.5)


async def test_spend_of_a_window(kit: TeamKit) -> None:
    """With a period the spend is the window's, and the reset leaves the lifetime total."""
    await kit.post(
        "/team/member_add", team_id="t1", member=named("a"), max_budget_in_team=9,
        budget_duration="30d",
    )  # fmt: skip
    [[start_s]] = await kit.admin.sql(
        "select extract(epoch from date_trunc('month', now() at time zone 'utc'))::bigint"
    )
    await kit.spend("team_member", "a:t1", 4)
    await kit.spend("team_member", "a:t1", 3, start_s)
    member = await membership(kit, "a")
    assert (member["spend"], member["total_spend"]) == (3.0, 4.0)
    status, body = await kit.post("/team/t1/member/a/reset_spend", reset_to=0)
    assert (status, body["previous_spend"]) == (200, 3.0)
    assert body["budget_reset_at"].endswith("-01T00:00:00Z")
    member = await membership(kit, "a")
    assert (member["spend"], member["total_spend"]) == (0.0, 4.0)


async def test_reset_budget(kit: TeamKit) -> None:
    """A member is put back on the team's budget, or on none."""
    await kit.post("/team/member_add", team_id="t1", member=named("a"), max_budget_in_team=1)
    own = (await membership(kit, "a"))["budget_id"]
    path = "/team/t1/member/a/reset_budget"
    status, body = await kit.call("POST", path)
    assert (status, body) == (
        200,
        {
            "team_id": "t1", "user_id": "a", "budget_id": None, "previous_budget_id": own,
            "budget_source": "none",
        },
    )  # fmt: skip
    await kit.post("/team/member_update", team_id="t1", user_id="a", max_budget_in_team=1)
    await kit.post("/team/update", team_id="t1", team_member_budget=5)
    status, body = await kit.post(path, reset_to=0)
    assert (status, body["budget_source"]) == (200, "team_default")
    assert (await kit.admin.sql("select count(*) from budget"))[0][0] == 1


async def test_me(kit: TeamKit) -> None:
    """A member sees its own membership; others and unknown teams are 404."""
    await kit.user("a", user_email="a@example.org")
    await kit.post("/team/member_add", team_id="t1", member=named("a"), max_budget_in_team=1)
    await kit.post("/team/update", team_id="t1", team_alias="core")
    status, body = await kit.get("/team/t1/members/me", "a")
    assert status == 200
    names = ("user_id", "team_id", "role", "user_email", "team_alias")
    assert [body[name] for name in names] == ["a", "t1", "user", "a@example.org", "core"]
    assert body["litellm_budget_table"]["max_budget"] == 1.0
    await kit.user("b")
    detail_of(await kit.get("/team/t1/members/me", "b"), 404)
    detail_of(await kit.get("/team/none/members/me", "a"), 404)
