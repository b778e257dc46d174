"""Teams: made, changed, shown, blocked, deleted; their fields, caps and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.team_rules import TeamRules, read_team_rules
from shared.domain.errors import ConfigError
from tests.support.admin_api import StartAdmin, admins, error_of, issues_of
from tests.support.team_kit import TeamKit, detail_of


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin) -> TeamKit:
    """An admin with default rules."""
    return TeamKit(await start())


async def test_new_team(kit: TeamKit) -> None:
    """A new team is answered as the contract's example says, and shown by /team/info."""
    await kit.user("u1", user_email="u1@example.org")
    body = await kit.team(
        "t1",
        team_alias="core",
        members_with_roles=[{"role": "admin", "user_id": "u1"}],
        models=["gpt-4o"],
        max_budget=100,
        budget_duration="30d",
        metadata={"a": 1},
    )
    assert body["members_with_roles"] == [
        {"role": "admin", "user_id": "u1", "user_email": "u1@example.org"},
        {"role": "admin", "user_id": "default_user_id", "user_email": None},
    ]
    expected = {
        "team_id": "t1",
        "team_alias": "core",
        "organization_id": None,
        "models": ["gpt-4o"],
        "max_budget": 100.0,
        "spend": 0.0,
        "budget_duration": "30d",
        "tpm_limit": None,
        "rpm_limit": None,
        "blocked": False,
        "metadata": {"a": 1},
    }
    assert {name: body[name] for name in expected} == expected
    assert body["budget_reset_at"].endswith("-01T00:00:00Z")
    assert body["created_at"].endswith("Z")
    shown = await kit.info("t1")
    assert (shown["team_id"], shown["keys"]) == ("t1", [])
    more = {
        "team_member_budget_table": None,
        "organization_models": None,
        "model_max_budget_usage": None,
        "caller_edit_access": {"kind": "unrestricted", "editable_fields": []},
    }
    assert shown["team_info"] == {**body, **more}
    assert [each["user_id"] for each in shown["team_memberships"]] == ["u1", "default_user_id"]
    [entry] = await kit.audited("created", "LiteLLM_TeamTable", "t1")
    assert entry["before"] is None
    assert (entry["after"]["team_alias"], entry["after"]["max_budget"]) == ("core", 100.0)


async def test_every_field_is_kept(kit: TeamKit) -> None:
    """Columns, metadata-backed fields, aliases and permissions come back as they were sent."""
    fields: dict[str, Any] = {
        "team_alias": "Σ-Ünïcode 🚀",
        "models": ["a", "b"],
        "max_budget": 10.5,
        "soft_budget": 5,
        "budget_duration": "1d",
        "budget_limits": [{"budget_duration": "1h", "max_budget": 1.0}],
        "tpm_limit": 10**12,
        "rpm_limit": 7,
        "tpd_limit": 8,
        "max_parallel_requests": 9,
        "model_max_budget": {"a": {"budget_limit": 1.0, "time_period": "1d"}},
        "blocked": True,
        "router_settings": {"num_retries": 2},
        "access_group_ids": ["g"],
        "team_member_permissions": ["/key/generate"],
        "default_team_member_models": ["a"],
    }
    in_metadata: dict[str, Any] = {
        "model_rpm_limit": {"a": 1},
        "model_tpm_limit": {"a": 2},
        "rpm_limit_type": "dynamic",
        "tpm_limit_type": "best_effort_throughput",
        "tags": ["t"],
        "guardrails": ["g"],
        "policies": ["p"],
        "prompts": ["q"],
        "allowed_passthrough_routes": ["/a"],
        "denied_passthrough_routes": ["/b"],
        "disable_global_guardrails": True,
        "require_trace_id": True,
        "team_member_key_duration": "30d",
    }
    permission = {"mcp_servers": ["m"], "mcp_tool_permissions": {"m": ["x"]}}
    body = await kit.team(
        "t1",
        **fields,
        **in_metadata,
        model_aliases={"fast": "a"},
        object_permission=permission,
        metadata={"own": [1, {"deep": None}]},
    )
    assert {name: body[name] for name in fields} == fields
    assert body["metadata"] == {**in_metadata, "own": [1, {"deep": None}]}
    assert body["litellm_model_table"] == {"model_aliases": {"fast": "a"}}
    for name, value in permission.items():
        assert body["object_permission"][name] == value


async def test_ids(kit: TeamKit) -> None:
    """An id is made if none is sent; one that exists or is reserved is refused."""
    status, body = await kit.post("/team/new")
    assert (status, len(body["team_id"])) == (200, 36)
    await kit.team("t1")
    answer = await kit.post("/team/new", team_id="t1")
    error_of(answer, 400, "invalid_request_error", "team_id")
    answer = await kit.post("/team/new", team_id="litellm-dashboard")
    error_of(answer, 400, "invalid_request_error", "team_id")
    answers = await asyncio.gather(*(kit.post("/team/new", team_id="once") for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 400, 400, 400]
    for status, body in answers:
        if status == 400:
            assert body["error"]["param"] == "team_id"


async def test_creator_is_added(start: StartAdmin) -> None:
    """Who makes a team is its admin, unless it is listed already or the operator opts out."""
    kit = TeamKit(await start())
    members = [{"role": "user", "user_id": "default_user_id"}]
    await kit.team("listed", members_with_roles=members)
    assert await kit.members("listed") == {"default_user_id": "user"}
    kit = TeamKit(await start(team_rules=TeamRules(adds_proxy_admins=False)))
    await kit.team("none", admins=["a"], members=["b", "a"])
    assert await kit.members("none") == {"a": "admin", "b": "user"}


async def test_defaults(start: StartAdmin) -> None:
    """The operator's defaults fill what a new team leaves open."""
    defaults = {"max_budget": 5, "models": ["m"], "tpm_limit": 3, "team_member_budget": 1}
    kit = TeamKit(await start(team_rules=read_team_rules(defaults=defaults)))
    body = await kit.team("t1", tpm_limit=9)
    assert (body["max_budget"], body["models"], body["tpm_limit"]) == (5.0, ["m"], 9)
    info = (await kit.info("t1"))["team_info"]
    assert info["team_member_budget_table"]["max_budget"] == 1.0


def test_settings() -> None:
    """Settings are read clean; what is wrong is named."""
    rules = read_team_rules(
        user_defaults={"available_teams": ["t1"], "max_budget": 5},
        editable=["tpm_limit", "projects", "models"],
        disable_auto_add=True,
        metadata_schema=[{"key": "a"}],
    )
    assert rules == TeamRules(
        available=("t1",),
        editable=frozenset({"tpm_limit"}),
        adds_proxy_admins=False,
        metadata_schema=({"key": "a"},),
    )
    for wrong, name in (
        ({"defaults": {"team_id": "x"}}, "default_team_params.team_id"),
        ({"defaults": {"max_budget": "x"}}, "default_team_params"),
        ({"user_defaults": {"available_teams": "t1"}}, "available_teams"),
        ({"editable": "tpm_limit"}, "team_admin_editable_team_fields"),
        ({"metadata_schema": ["a"]}, "team_metadata_schema"),
    ):
        with pytest.raises(ConfigError, match=name):
            read_team_rules(**wrong)


async def test_update(kit: TeamKit) -> None:
    """Only sent fields change; null clears a column; metadata is replaced whole and its fields are
    merged; both spellings of the route do the same."""
    await kit.team("t1", team_alias="a", max_budget=10, tpm_limit=5, metadata={"x": 1}, tags=["t"])
    status, body = await kit.post("/team/update", team_id="t1", max_budget=20, tpm_limit=None)
    assert (status, sorted(body), body["team_id"]) == (200, ["data", "team_id"], "t1")
    data = body["data"]
    assert (data["team_alias"], data["max_budget"], data["tpm_limit"]) == ("a", 20.0, None)
    assert data["metadata"] == {"x": 1, "tags": ["t"]}
    patched = {"metadata": {"y": 2}, "guardrails": ["g"], "tags": None, "team_id": "other"}
    status, body = await kit.call("PATCH", "/team/t1", body=patched)
    assert (status, body["team_id"]) == (200, "t1")
    assert body["data"]["metadata"] == {"y": 2, "guardrails": ["g"]}
    entries = await kit.audited("updated", "LiteLLM_TeamTable", "t1")
    assert (entries[0]["before"]["max_budget"], entries[0]["after"]["max_budget"]) == (10.0, 20.0)
    assert "team_alias" not in entries[0]["before"]
    for answer in (
        await kit.post("/team/update", team_id="none"),
        await kit.call("PATCH", "/team/none", body={}),
    ):
        error_of(answer, 404, "not_found_error", "team_id")
    assert issues_of(await kit.post("/team/update")) == [("missing", ["body", "team_id"])]


async def test_soft_budget_is_below_the_budget(kit: TeamKit) -> None:
    """On creation and against what is stored."""
    answer = await kit.post("/team/new", max_budget=5, soft_budget=5)
    error_of(answer, 400, "invalid_request_error", "soft_budget")
    await kit.team("t1", max_budget=10, soft_budget=5)
    answer = await kit.post("/team/update", team_id="t1", max_budget=4)
    error_of(answer, 400, "invalid_request_error", "soft_budget")
    answer = await kit.post("/team/update", team_id="t1", max_budget=4, soft_budget=3)
    assert answer[0] == 200


async def test_concurrent_updates_both_count(kit: TeamKit) -> None:
    """Changes of different fields, metadata among them, lose nothing to each other."""
    await kit.team("t1")
    answers = await asyncio.gather(
        *(kit.post("/team/update", team_id="t1", model_rpm_limit={f"m{n}": n}) for n in range(4)),
        kit.post("/team/update", team_id="t1", tags=["t"]),
        kit.post("/team/update", team_id="t1", max_budget=3),
        kit.post("/team/update", team_id="t1", guardrails=["g"]),
    )
    assert {status for status, _ in answers} == {200}
    info = (await kit.info("t1"))["team_info"]
    assert (info["max_budget"], info["metadata"]["tags"]) == (3.0, ["t"])
    assert info["metadata"]["guardrails"] == ["g"]


async def test_organization_caps(kit: TeamKit) -> None:
    """Budget, rates and models of a team are within its organization's, now and later."""
    await kit.organization("o1", max_budget=100, tpm_limit=10, rpm_limit=5, models=["gpt-*", "c"])
    for name, value in (
        ("max_budget", 101), ("tpm_limit", 11), ("rpm_limit", 6),
        ("models", ["c", "d"]), ("models", ["*"]), ("models", ["all-proxy-models"]),
    ):  # fmt: skip
        answer = await kit.post("/team/new", organization_id="o1", **{name: value})
        error_of(answer, 400, "invalid_request_error", name)
    fine = {"max_budget": 100, "tpm_limit": 10, "rpm_limit": 5, "models": ["gpt-4o", "c"]}
    body = await kit.team("t1", organization_id="o1", **fine)
    assert body["organization_id"] == "o1"
    assert (await kit.info("t1"))["team_info"]["organization_models"] == ["gpt-*", "c"]
    answer = await kit.post("/team/update", team_id="t1", max_budget=101)
    error_of(answer, 400, "invalid_request_error", "max_budget")
    detail_of(await kit.post("/team/model/add", team_id="t1", models=["d"]), 400)
    answer = await kit.post("/team/new", organization_id="none")
    error_of(answer, 400, "invalid_request_error", "organization_id")
    await kit.team("t2", max_budget=500)
    answer = await kit.post("/team/update", team_id="t2", organization_id="o1")
    error_of(answer, 400, "invalid_request_error", "max_budget")


async def test_member_models_are_the_teams(kit: TeamKit) -> None:
    """Models of members by default are among the team's."""
    answer = await kit.post("/team/new", models=["a"], default_team_member_models=["b"])
    error_of(answer, 400, "invalid_request_error", "default_team_member_models")


async def test_member_budget_of_the_team(kit: TeamKit) -> None:
    """`team_member_*` make one budget row, which members without their own have."""
    body = await kit.team("t1", team_member_budget=2, team_member_rpm_limit=3)
    budget_id = body["metadata"]["team_member_budget_id"]
    shown = await kit.info("t1")
    table = shown["team_info"]["team_member_budget_table"]
    assert (table["budget_id"], table["max_budget"], table["rpm_limit"]) == (budget_id, 2.0, 3)
    [member] = shown["team_memberships"]
    assert (member["budget_id"], member["budget_source"]) == (budget_id, "team_default")
    await kit.post("/team/update", team_id="t1", team_member_budget=4, metadata={})
    shown = await kit.info("t1")
    assert shown["team_info"]["metadata"] == {"team_member_budget_id": budget_id}
    table = shown["team_info"]["team_member_budget_table"]
    assert (table["max_budget"], table["rpm_limit"]) == (4.0, 3)
    await kit.team("t2")
    await kit.post("/team/update", team_id="t2", team_member_tpm_limit=9)
    [member] = (await kit.info("t2"))["team_memberships"]
    assert (member["budget_source"], member["litellm_budget_table"]["tpm_limit"]) == (
        "team_default", 9,
    )  # fmt: skip


async def test_member_budget_cannot_be_aimed_elsewhere(kit: TeamKit) -> None:
    """Metadata cannot name another's budget as the members' one."""
    await kit.admin.sql("insert into budget (budget_id, max_budget) values ('other', 1)")
    aimed = {"team_member_budget_id": "other"}
    body = await kit.team("t1", metadata=aimed, team_member_budget=5)
    assert body["metadata"]["team_member_budget_id"] != "other"
    await kit.post("/team/update", team_id="t1", metadata=aimed, team_member_budget=6)
    await kit.post("/team/delete", team_ids=["t1"])
    rows = await kit.admin.sql("select budget_id, max_budget from budget")
    assert [tuple(row) for row in rows] == [("other", 1)]


async def test_block(kit: TeamKit) -> None:
    """Blocking is answered with the row, refuses the team's keys, and is noted as such."""
    await kit.team("t1")
    key = (await kit.admin.generate(team_id="t1"))["key"]
    status, body = await kit.post("/team/block", team_id="t1")
    assert (status, body["team_id"], body["blocked"]) == (200, "t1", True)
    error_of(await kit.get("/team/info", key, team_id="t1"), 401, "auth_error")
    status, body = await kit.post("/team/unblock", team_id="t1")
    assert (status, body["blocked"]) == (200, False)
    assert (await kit.get("/team/info", key, team_id="t1"))[0] == 200
    detail_of(await kit.post("/team/block", team_id="none"), 404)
    [entry] = await kit.audited("blocked", "LiteLLM_TeamTable", "t1")
    assert (entry["before"]["blocked"], entry["after"]["blocked"]) == (False, True)
    assert len(await kit.audited("unblocked", "LiteLLM_TeamTable", "t1")) == 1


async def test_delete(kit: TeamKit) -> None:
    """A deleted team is archived with its members, keys and models; nothing of it stays."""
    await kit.team("t1", team_alias="gone", team_member_budget=1)
    await kit.team("t2")
    await kit.post(
        "/team/member_add", team_id="t1", member={"role": "user", "user_id": "u"},
        max_budget_in_team=3,
    )  # fmt: skip
    key = await kit.admin.generate(team_id="t1")
    other = await kit.admin.generate(team_id="t2")
    await kit.admin.sql(
        "insert into model (model_id, model_name, litellm_params, model_info) values "
        """('m1', 'a', '{}', '{"team_id": "t1"}'), ('m2', 'b', '{}', '{"team_id": "t2"}')"""
    )
    await kit.spend("team", "t1", 1.5)
    detail_of(await kit.post("/team/delete", team_ids=["t1", "none"]), 404)
    answer = await kit.post("/team/delete", team_ids=["t1"])
    assert answer == (200, {"deleted_teams": ["t1"]})
    error_of(await kit.get("/team/info", team_id="t1"), 404, "not_found_error", "team_id")
    [row] = await kit.admin.sql(
        "select team_alias, spend, deleted_by, jsonb_array_length(members) as n from deleted_team"
    )
    assert tuple(row) == ("gone", 1.5, "default_user_id", 2)
    assert (await kit.admin.info(key["key"]))["status"] == "deleted"
    assert (await kit.admin.info(other["key"]))["status"] == "active"
    for table, left in (("model", 1), ("budget", 0), ("team_member", 1), ("team", 1)):
        [count] = await kit.admin.sql(f"select count(*) from {table}")
        assert (table, count[0]) == (table, left)
    assert len(await kit.audited("deleted", "LiteLLM_TeamTable", "t1")) == 1
    assert len(await kit.audited("deleted", "LiteLLM_VerificationToken", key["token"])) == 1
    status, body = await kit.get("/v2/team/list", status="deleted")
    assert (status, body["total"]) == (200, 1)
    [team] = body["teams"]
    assert (team["team_id"], team["spend"], team["members_count"]) == ("t1", 1.5, 2)
    assert team["deleted_at"].endswith("Z")


async def test_models(kit: TeamKit) -> None:
    """Models are added once and taken away; a team is never left with all by taking the last."""
    await kit.team("t1", models=["a"])
    status, body = await kit.post("/team/model/add", team_id="t1", models=["b", "a", "b"])
    assert (status, body["models"]) == (200, ["a", "b"])
    status, body = await kit.post("/team/model/delete", team_id="t1", models=["a", "x"])
    assert (status, body["models"]) == (200, ["b"])
    _, body = await kit.post("/team/model/delete", team_id="t1", models=["b"])
    assert body["models"] == ["no-default-models"]
    _, body = await kit.post("/team/model/add", team_id="t1", models=["b"])
    assert body["models"] == ["b"]
    await kit.team("all")
    _, body = await kit.post("/team/model/add", team_id="all", models=["b"])
    assert body["models"] == ["all-proxy-models", "b"]
    detail_of(await kit.post("/team/model/add", team_id="none", models=["b"]), 404)
    both = await asyncio.gather(
        *(kit.post("/team/model/add", team_id="t1", models=[f"m{n}"]) for n in range(5))
    )
    assert {status for status, _ in both} == {200}
    models = (await kit.info("t1"))["team_info"]["models"]
    assert sorted(models) == ["b", "m0", "m1", "m2", "m3", "m4"]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("team_alias", 5, "string_type"),
        ("models", "a", "list_type"),
        ("models", [1], "string_type"),
        ("max_budget", True, "float_type"),
        ("max_budget", "x", "float_type"),
        ("tpm_limit", 1.5, "int_from_float"),
        ("blocked", "maybe", "bool_type"),
        ("metadata", [], "dict_type"),
        ("budget_limits", [{}], "missing"),
        ("members_with_roles", [{"role": "king", "user_id": "a"}], "literal_error"),
        ("members_with_roles", [{"user_id": "a"}], "missing"),
        ("members_with_roles", [{"role": "user"}], "value_error"),
        ("admins", [None], "string_type"),
        ("rpm_limit_type", "x", "literal_error"),
        ("object_permission", {"mcp_servers": 1}, "list_type"),
    ],
)
async def test_wrong_types(kit: TeamKit, name: str, value: Any, kind: str) -> None:
    """A value of the wrong type is a 422 that names its place."""
    issues = issues_of(await kit.post("/team/new", **{name: value}))
    assert [(issue, loc[:2]) for issue, loc in issues] == [(kind, ["body", name])]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("team_id", "a\x00b"),
        ("team_id", "a\x1fb"),
        ("team_id", "x" * 513),
        ("team_alias", "\x00"),
        ("max_budget", -1),
        ("max_budget", 1e300),
        ("max_budget", "NaN"),
        ("tpm_limit", -1),
        ("tpm_limit", 10**30),
        ("max_parallel_requests", 2**40),
        ("budget_duration", "never"),
        ("budget_duration", "0d"),
        ("metadata", {"a": "\x00"}),
        ("team_member_budget", -0.5),
        ("members", ["a\x1fb"]),
    ],
)
async def test_values_out_of_range(kit: TeamKit, name: str, value: Any) -> None:
    """A value out of range is a 400 that names the field, on creation and on update."""
    await kit.team("t1")
    for path, body in (
        ("/team/new", {name: value}),
        ("/team/update", {"team_id": "t1", name: value}),
    ):
        if path == "/team/update" and name == "members":
            continue
        status, answer = await kit.post(path, **body)
        assert status == 400, (path, answer)
        assert str(answer["error"]["param"]).split(".")[0] == name


async def test_odd_ids_do_no_harm(kit: TeamKit) -> None:
    """Ids of any script, lone surrogates and look-alikes of SQL are ids or 4xx, never a fault."""
    for team_id in ("名前/チーム", "a'; drop table team; --", "%", "ß" * 500, "a b"):
        assert (await kit.team(team_id))["team_id"] == team_id
        assert (await kit.info(team_id))["team_id"] == team_id
    data = b'{"team_id": "\\ud800"}'
    answer = await kit.admin.call("POST", "/team/new", data=data)
    assert 400 <= answer[0] < 500, answer
    answer = await kit.call(
        "PATCH", "/team/%E5%90%8D%E5%89%8D%2F%E3%83%81%E3%83%BC%E3%83%A0", body={}
    )
    assert answer[0] == 200, answer


async def test_feed_and_wait(kit: TeamKit) -> None:
    """A change is in the feed under its kind, and can be waited for."""
    status, body = await kit.call("POST", "/team/new?wait=applied", body={"team_id": "t1"})
    assert (status, body["propagation"]["applied"]) == (200, 0)
    rows = await kit.admin.sql("select kind, ids from change_feed where kind like 'team%'")
    kinds = {(row["kind"], tuple(row["ids"])) for row in rows}
    assert kinds == {("team", ("t1",)), ("team_member", ("t1\x1fdefault_user_id",))}
    answer = await kit.call("POST", "/team/block?wait=nothing", body={"team_id": "t1"})
    assert answer[0] == 422
