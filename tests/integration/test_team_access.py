"""Who may call the team routes: every role and relation, and what each may not raise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.team_rules import TeamRules
from tests.support.admin_api import StartAdmin, admins, error_of
from tests.support.team_kit import TeamKit, detail_of

PEOPLE = ("admin", "viewer", "org", "lead", "member", "stranger", "watcher")
EDITABLE = frozenset({"max_budget", "tpm_limit", "rpm_limit"})


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


async def people(start: StartAdmin, **rules: Any) -> TeamKit:
    """Team `t1` of organization `o1` with an admin and a member, and everybody else."""
    kit = TeamKit(await start(team_rules=TeamRules(**rules)))
    await kit.user("admin", "proxy_admin")
    await kit.user("viewer", "proxy_admin_viewer")
    await kit.user("watcher", "internal_user_viewer")
    for name in ("org", "lead", "member", "stranger"):
        await kit.user(name)
    await kit.organization("o1", "org", max_budget=100, tpm_limit=1000)
    await kit.organization("o2")
    members = [{"role": "admin", "user_id": "lead"}, {"role": "user", "user_id": "member"}]
    await kit.team(
        "t1", organization_id="o1", members_with_roles=members, models=["a"], max_budget=50,
        tpm_limit=10,
    )  # fmt: skip
    await kit.team("other")
    return kit


# Path and body, and the status for each of PEOPLE.
WRITES = [
    ("/team/update", {"team_id": "t1"}, (200, 403, 200, 403, 403, 403, 403)),
    ("/team/block", {"team_id": "t1"}, (200, 403, 200, 401, 401, 401, 401)),
    ("/team/unblock", {"team_id": "t1"}, (200, 403, 200, 401, 401, 401, 401)),
    ("/team/model/add", {"team_id": "t1", "models": ["a"]}, (200, 403, 200, 401, 401, 401, 401)),
    ("/team/model/delete", {"team_id": "t1", "models": []}, (200, 403, 200, 401, 401, 401, 401)),
    (
        "/team/member_update",
        {"team_id": "t1", "user_id": "member", "rpm_limit": 1},
        (200, 403, 200, 200, 403, 403, 403),
    ),
    (
        "/team/bulk_member_add",
        {"team_id": "t1", "members": [{"role": "user", "user_id": "member"}]},
        (200, 403, 200, 401, 401, 401, 401),
    ),
    (
        "/team/permissions_update",
        {"team_id": "t1", "team_member_permissions": []},
        (200, 403, 200, 200, 403, 403, 403),
    ),
    (
        "/team/permissions_bulk_update",
        {"team_ids": ["t1"], "permissions": ["/key/update"]},
        (200, 403, 401, 401, 401, 401, 401),
    ),
    ("/team/t1/member/member/reset_spend", {"reset_to": 0}, (200, 403, 200, 200, 403, 403, 403)),
    ("/team/t1/member/member/reset_budget", {}, (200, 403, 200, 200, 403, 403, 403)),
    ("/team/t1/disable_logging", {}, (200, 403, 401, 401, 401, 401, 401)),
    (
        "/management/v1/teams/t1/members/bulk_update",
        {"members": [{"user_id": "member"}]},
        (200, 403, 200, 200, None, None, None),
    ),
    ("/team/delete", {"team_ids": ["t1"]}, (None, 403, None, 401, 401, 401, 401)),
]
READS = [
    ("/team/info", {"team_id": "t1"}, (200, 200, 200, 200, 200, 403, 403)),
    ("/team/info", {"team_id": "other"}, (200, 200, 403, 403, 403, 403, 403)),
    ("/team/permissions_list", {"team_id": "t1"}, (200, 200, 200, 200, 403, 403, 403)),
    ("/team/t1/callback", {}, (200, 200, 200, 200, 403, 403, 403)),
    ("/team/filter/ui", {}, (200, 200, 401, 401, 401, 401, 401)),
    ("/team/available", {}, (200,) * 7),
    ("/team/metadata_schema", {}, (200,) * 7),
    ("/team/list", {}, (200, 200, 200, 401, 401, 401, 401)),
    ("/v2/team/list", {}, (200,) * 7),
    ("/team/t1/members/me", {}, (404, 404, 404, 200, 200, 404, 404)),
    (
        "/team/spend/by_user",
        {"team_ids": "t1", "start_date": "2026-01-01", "end_date": "2026-12-31"},
        (200, 200, 200, 200, 200, 404, 404),
    ),
]


async def test_who_may_write(start: StartAdmin) -> None:
    """Each write for each role and relation; `None` is not asked."""
    kit = await people(start)
    for path, body, statuses in WRITES:
        for name, expected in zip(PEOPLE, statuses, strict=True):
            if expected is not None:
                status, answer = await kit.post(path, name, **body)
                assert status == expected, (path, name, answer)
    assert (await kit.info("t1"))["team_info"]["blocked"] is False


async def test_who_may_read(start: StartAdmin) -> None:
    """Each read for each role and relation."""
    kit = await people(start)
    for path, params, statuses in READS:
        for name, expected in zip(PEOPLE, statuses, strict=True):
            status, answer = await kit.get(path, name, **params)
            assert status == expected, (path, name, answer)


async def test_gate_and_handler_shapes(start: StartAdmin) -> None:
    """The gate refuses in the common shape, a handler in its route's."""
    kit = await people(start)
    error_of(await kit.post("/team/block", "lead", team_id="t1"), 401, "auth_error")
    answer = await kit.post("/team/member_delete", "stranger", team_id="t1", user_id="member")
    detail_of(answer, 403)
    error_of(await kit.get("/team/info", "stranger", team_id="t1"), 403, "auth_error", "team_id")
    detail_of(await kit.get("/team/list", "stranger"), 401)


async def test_named_routes_widen_the_gate(start: StartAdmin) -> None:
    """A team's admin and an internal user pass with a key whose allowed_routes name the route, for
    their own team alone."""
    kit = await people(start)
    routes = ["/team/block", "/team/unblock", "/team/new"]
    lead = (await kit.admin.generate(user_id="lead", allowed_routes=routes))["key"]
    stranger = (await kit.admin.generate(user_id="stranger", allowed_routes=routes))["key"]
    for path in ("/team/block", "/team/unblock"):
        assert (await kit.post(path, lead, team_id="t1"))[0] == 200
        detail_of(await kit.post(path, lead, team_id="other"), 403)
        error_of(await kit.post(path, stranger, team_id="t1"), 403, "auth_error")
    status, body = await kit.post("/team/new", stranger, team_id="mine")
    assert status == 200, body
    assert await kit.members("mine") == {"stranger": "admin"}
    watcher = (await kit.admin.generate(user_id="watcher", allowed_routes=routes))["key"]
    error_of(await kit.post("/team/new", watcher, team_id="x"), 403, "auth_error")


async def test_new_team_of_an_organization(start: StartAdmin) -> None:
    """An organization's admin names its organization; others have no say."""
    kit = await people(start)
    answer = await kit.post("/team/new", "org", team_id="n1")
    error_of(answer, 401, "auth_error", "organization_id")
    answer = await kit.post("/team/new", "org", team_id="n1", organization_id="o2")
    error_of(answer, 403, "auth_error")
    answer = await kit.post("/team/new", "org", organization_id="o1", max_budget=101)
    error_of(answer, 400, "invalid_request_error", "max_budget")
    status, body = await kit.post("/team/new", "org", team_id="n1", organization_id="o1")
    assert (status, body["organization_id"]) == (200, "o1")
    assert await kit.members("n1") == {"org": "admin"}
    for name, expected in (("lead", 401), ("stranger", 401), ("watcher", 401), ("viewer", 403)):
        answer = await kit.post("/team/new", name, organization_id="o1")
        error_of(answer, expected, "auth_error")


async def test_own_limits_cap_own_teams(start: StartAdmin) -> None:
    """A user's team without an organization is within the user's limits, and has them where its
    body says nothing."""
    kit = await people(start)
    await kit.user("capped", max_budget=10, tpm_limit=5, models=["a", "b"])
    routes = ["/team/new"]
    key = (await kit.admin.generate(user_id="capped", allowed_routes=routes))["key"]
    for name, value in (("max_budget", 11), ("tpm_limit", 6), ("models", ["a", "c"])):
        answer = await kit.post("/team/new", key, **{name: value})
        error_of(answer, 400, "invalid_request_error", name)
    status, body = await kit.post("/team/new", key, max_budget=0)
    assert (status, body["max_budget"]) == (200, 0.0)
    assert (body["tpm_limit"], body["models"]) == (5, ["a", "b"])


@pytest.mark.parametrize(
    "fields",
    [
        {"disable_global_guardrails": True},
        {"allowed_passthrough_routes": ["/x"]},
        {"metadata": {"disable_global_guardrails": True}},
        {"metadata": {"allow_client_mock_response": True}},
    ],
)
async def test_what_only_proxy_admins_set(start: StartAdmin, fields: dict[str, Any]) -> None:
    """An organization's admin cannot set it, in metadata neither, on creation or later."""
    kit = await people(start)
    for path, body in (
        ("/team/new", {"organization_id": "o1"}),
        ("/team/update", {"team_id": "t1"}),
    ):
        status, answer = await kit.post(path, "org", **body, **fields)
        assert (status, answer["error"]["type"]) == (403, "auth_error")
    assert (await kit.post("/team/update", "admin", team_id="t1", **fields))[0] == 200
    # What is set already does not keep others from sending it back.
    metadata = (await kit.info("t1"))["team_info"]["metadata"]
    assert (await kit.post("/team/update", "org", team_id="t1", metadata=metadata))[0] == 200


async def test_moving_between_organizations(start: StartAdmin) -> None:
    """Only who is admin of both moves a team; nobody takes it out of the caps alone."""
    kit = await people(start)
    for target in ("o2", None):
        answer = await kit.post("/team/update", "org", team_id="t1", organization_id=target)
        error_of(answer, 403, "auth_error", "organization_id")
    status, _ = await kit.post("/team/update", "admin", team_id="t1", organization_id="o2")
    assert status == 200


async def test_team_admin_edits_nothing_by_default(start: StartAdmin) -> None:
    """Without the operator's list a team's admin changes no settings."""
    kit = await people(start)
    answer = await kit.post("/team/update", "lead", team_id="t1", tpm_limit=5)
    error_of(answer, 403, "auth_error")
    status, body = await kit.get("/team/info", "lead", team_id="t1")
    access = body["team_info"]["caller_edit_access"]
    assert (status, access) == (200, {"kind": "team_admin_disabled", "editable_fields": []})
    _, body = await kit.get("/team/info", "member", team_id="t1")
    assert body["team_info"]["caller_edit_access"]["kind"] == "none"


async def test_team_admin_edits_what_is_allowed(start: StartAdmin) -> None:
    """With it, these fields alone; max_budget goes down only; what is sent unchanged is fine."""
    kit = await people(start, editable=EDITABLE)
    for fields in (
        {"tpm_limit": 20},
        {"max_budget": 40},
        {"max_budget": 40, "models": ["a"], "metadata": {}, "team_alias": None},
    ):
        assert (await kit.post("/team/update", "lead", team_id="t1", **fields))[0] == 200
    for fields, param in (
        ({"max_budget": 41}, "max_budget"),
        ({"max_budget": None}, "max_budget"),
        ({"models": ["b"]}, "models"),
        ({"blocked": True}, "blocked"),
        ({"tags": ["x"]}, "metadata"),
        ({"metadata": {"x": 1}}, "metadata"),
        ({"organization_id": None}, "organization_id"),
        ({"team_member_budget": 5}, "team_member_budget"),
        ({"team_member_rpm_limit": 1}, "team_member_rpm_limit"),
        ({"object_permission": {}}, "object_permission"),
    ):
        answer = await kit.call("PATCH", "/team/t1", "lead", fields)
        error_of(answer, 403, "auth_error", param)
    answer = await kit.post("/team/update", "lead", team_id="t1", tpm_limit=1001)
    error_of(answer, 400, "invalid_request_error", "tpm_limit")


async def test_team_admin_does_not_loosen_its_own_limits(start: StartAdmin) -> None:
    """Neither its spend nor its limits in the team, by no route; an organization's admin may."""
    kit = await people(start)
    await kit.post("/team/member_update", team_id="t1", user_id="lead", max_budget_in_team=1)
    answer = await kit.post(
        "/team/member_update", "lead", team_id="t1", user_id="lead", max_budget_in_team=9
    )
    detail_of(answer, 403)
    detail_of(await kit.post("/team/t1/member/lead/reset_spend", "lead", reset_to=0), 403)
    detail_of(await kit.post("/team/t1/member/lead/reset_budget", "lead"), 403)
    members = [{"user_id": "lead", "max_budget_in_team": 9}]
    path = "/management/v1/teams/t1/members/bulk_update"
    status, body = await kit.post(path, "lead", members=members)
    assert (status, body["data"][0]["success"]) == (200, False)
    status, body = await kit.post(path, "org", members=members)
    assert (status, body["data"][0]["max_budget"]) == (200, 9.0)


async def test_only_proxy_admins_make_users(start: StartAdmin) -> None:
    """Others add those who are users already."""
    kit = await people(start)
    for name in ("lead", "org"):
        member = {"role": "user", "user_id": f"nobody-{name}"}
        detail_of(await kit.post("/team/member_add", name, team_id="t1", member=member), 403)
        email = {"role": "user", "user_email": "nobody@example.org"}
        detail_of(await kit.post("/team/member_add", name, team_id="t1", member=email), 403)
    member = {"role": "user", "user_id": "stranger"}
    assert (await kit.post("/team/member_add", "lead", team_id="t1", member=member))[0] == 200
    answer = await kit.post(
        "/team/new", "org", organization_id="o1",
        members_with_roles=[{"role": "user", "user_id": "nobody"}],
    )  # fmt: skip
    error_of(answer, 403, "auth_error", "members_with_roles")
    assert (await kit.admin.sql("select count(*) from app_user"))[0][0] == 7


async def test_available_teams(start: StartAdmin) -> None:
    """Anybody joins an available team as a user without limits, and nobody else, and sees it
    listed until then."""
    kit = await people(start, available=("other", "t1"))
    _, teams = await kit.get("/team/available", "stranger")
    assert {team["team_id"] for team in teams} == {"t1", "other"}
    assert all(team["members_with_roles"] == [] for team in teams)
    me = {"role": "user", "user_id": "stranger"}
    for body in (
        {"member": {**me, "role": "admin"}},
        {"member": {"role": "user", "user_id": "watcher"}},
        {"member": [me, {"role": "user", "user_id": "watcher"}]},
        {"member": me, "max_budget_in_team": 5},
        {"member": me, "allowed_models": ["a"]},
    ):
        detail_of(await kit.post("/team/member_add", "stranger", team_id="other", **body), 403)
    status, body = await kit.post("/team/member_add", "stranger", team_id="other", member=me)
    assert (status, body["updated_team_memberships"][0]["user_id"]) == (200, "stranger")
    _, teams = await kit.get("/team/available", "stranger")
    assert [team["team_id"] for team in teams] == ["t1"]
    await kit.team("closed")
    answer = await kit.post("/team/member_add", "stranger", team_id="closed", member=me)
    detail_of(answer, 403)


async def test_team_key_sees_its_team(start: StartAdmin) -> None:
    """A key of a team without a user may ask about that team."""
    kit = await people(start)
    key = (await kit.admin.generate(team_id="t1"))["key"]
    assert (await kit.get("/team/info", key, team_id="t1"))[0] == 200
    error_of(await kit.get("/team/info", key, team_id="other"), 403, "auth_error", "team_id")
    detail_of(await kit.get("/v2/team/list", key), 401)
