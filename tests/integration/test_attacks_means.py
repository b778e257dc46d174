"""Ways in which callers could have given themselves more than they have, each closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.admin.api.deps import ADMIN
from services.admin.api.key_policy import KeyRules, read_caps
from shared.db.rows import Connection
from tests.support.admin_api import MASTER, StartAdmin, admins, error_of
from tests.support.stored_models import body, catalog_of
from tests.support.team_kit import TeamKit, detail_of

BAD = "invalid_request_error"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin, tmp_path: Path) -> TeamKit:
    """Team `t` with 10 USD and the model `cheap`, its admin `lead` and the member `bob`;
    organization `o` with the model `cheap`, its admin `chief`; team `other`."""
    kit = TeamKit(await start(models=catalog_of(tmp_path)))
    for name in ("lead", "bob", "chief"):
        await kit.user(name)
    await kit.organization("o", "chief", models=["cheap"], max_budget=100)
    members = [{"role": "admin", "user_id": "lead"}, {"role": "user", "user_id": "bob"}]
    await kit.team("t", members_with_roles=members, models=["cheap"], max_budget=10)
    await kit.team("other")
    return kit


ACCOUNT = {"team_id": "t", "max_budget": 1, "rpm_limit": 2, "models": ["cheap"], "duration": "1h"}


async def test_a_service_account_lifts_its_limits(kit: TeamKit) -> None:
    """A service account took away its own limits with null, or began its budget anew every
    second."""
    made = (await kit.post("/key/service-account/generate", **ACCOUNT, budget_duration="30d"))[1]
    key = made["key"]
    for name, value in (("max_budget", None), ("rpm_limit", None), ("models", [])):
        answer = await kit.post("/key/update", key, key=key, **{name: value})
        error_of(answer, 400, BAD, name)
    for value in (None, "-1", "2h"):
        answer = await kit.post("/key/update", key, key=key, duration=value)
        error_of(answer, 400, BAD, "expires" if value != "2h" else "duration")
    for name, value in (
        ("budget_duration", "1s"),
        ("budget_duration", None),
        ("model_max_budget", {"cheap": {"max_budget": 9}}),
    ):
        answer = await kit.post("/key/update", key, key=key, **{name: value})
        error_of(answer, 403, "auth_error", name)
    assert (await kit.post("/key/update", key, key=key, max_budget=0.5, duration="1m"))[0] == 200


async def test_a_service_account_makes_freer_keys(kit: TeamKit) -> None:
    """Its keys had no limits at all where it named none, and outlived it."""
    key = (await kit.post("/key/service-account/generate", **ACCOUNT))[1]["key"]
    for name in ("max_budget", "rpm_limit", "models", "duration"):
        less = {each: value for each, value in ACCOUNT.items() if each != name}
        answer = await kit.post(
            "/key/generate",
            key,
            **{**less, "duration": "1m"} | ({"duration": None} if name == "duration" else {}),
        )
        error_of(answer, 400, BAD, "expires" if name == "duration" else name)
    answer = await kit.post("/key/generate", key, **{**ACCOUNT, "duration": "2h"})
    error_of(answer, 400, BAD, "duration")
    assert (await kit.post("/key/generate", key, **{**ACCOUNT, "duration": "30m"}))[0] == 200


async def test_a_key_in_a_foreign_project(kit: TeamKit) -> None:
    """A key named any project: it read it, and what it spent counted against its budget."""
    for project_id, team_id in (("theirs", "other"), ("ours", "t")):
        made = await kit.post("/project/new", project_id=project_id, team_id=team_id)
        assert made[0] == 200
    for fields in ({}, {"team_id": "t"}):
        answer = await kit.post("/key/generate", "lead", **fields, project_id="theirs")
        error_of(answer, 403, "auth_error", "project_id")
    answer = await kit.post("/key/generate", "lead", project_id="ours")
    error_of(answer, 403, "auth_error", "project_id")
    status, made = await kit.post("/key/generate", "lead", team_id="t", project_id="ours")
    assert status == 200
    for change in ({"project_id": "theirs"}, {"team_id": None}):
        answer = await kit.post("/key/update", "lead", key=made["key"], **change)
        error_of(answer, 403, "auth_error", "project_id")


async def test_a_member_takes_its_key_out_of_a_project(kit: TeamKit) -> None:
    """A member that may change keys left the project that limits its key."""
    await kit.post("/project/new", project_id="ours", team_id="t")
    await kit.post("/team/permissions_update", team_id="t", team_member_permissions=["/key/update"])
    made = await kit.admin.generate(team_id="t", user_id="bob", project_id="ours")
    answer = await kit.post("/key/update", "bob", key=made["key"], project_id=None)
    error_of(answer, 403, "auth_error", "project_id")
    assert (await kit.post("/key/update", "lead", key=made["key"], project_id=None))[0] == 200


async def test_a_key_with_a_foreign_access_group(kit: TeamKit) -> None:
    """Whoever may choose a key's access groups chose any, and had the models of it."""
    groups = {}
    for name in ("ours", "theirs"):
        status, made = await kit.post("/v1/access_group", access_group_name=name)
        assert status == 201
        groups[name] = made["access_group_id"]
    await kit.post("/team/update", team_id="t", access_group_ids=[groups["ours"]])
    permissions = ["/key/generate", "/key/access_group_assignment"]
    await kit.post("/team/permissions_update", team_id="t", team_member_permissions=permissions)
    for by in ("lead", "bob"):
        for chosen in ([groups["theirs"]], [groups["ours"], groups["theirs"]]):
            answer = await kit.post("/key/generate", by, team_id="t", access_group_ids=chosen)
            error_of(answer, 403, "auth_error", "access_group_ids")
        own = [groups["ours"]]
        assert (await kit.post("/key/generate", by, team_id="t", access_group_ids=own))[0] == 200


async def test_an_alias_leads_out_of_the_organization(kit: TeamKit) -> None:
    """A team's alias of an allowed name led to any model, and an alias allows what it leads to."""
    alias = {"cheap": "expensive"}
    new = {"organization_id": "o", "models": ["cheap"], "model_aliases": alias}
    error_of(await kit.post("/team/new", "chief", **new), 400, BAD, "model_aliases")
    new["model_aliases"] = {"mine": "cheap"}
    status, made = await kit.post("/team/new", "chief", **new)
    assert status == 200
    answer = await kit.post("/team/update", "chief", team_id=made["team_id"], model_aliases=alias)
    error_of(answer, 400, BAD, "model_aliases")


async def test_a_users_team_has_more_than_the_user(kit: TeamKit) -> None:
    """A user with few models who may make teams gave one an access group, or an alias of more."""
    await kit.user("few", models=["cheap"])
    key = (await kit.admin.generate(user_id="few", allowed_routes=["/team/new"]))["key"]
    answer = await kit.post("/team/new", key, access_group_ids=["any"])
    error_of(answer, 403, "auth_error", "access_group_ids")
    answer = await kit.post("/team/new", key, model_aliases={"cheap": "expensive"})
    error_of(answer, 400, BAD, "model_aliases")
    assert (await kit.post("/team/new", key, models=["cheap"]))[0] == 200


@pytest.mark.parametrize("name", ["*", "from-*", "all-proxy-models", "beta", "alias", "wild/x"])
async def test_a_team_model_whose_name_gives_more(kit: TeamKit, name: str) -> None:
    """A team's admin brought a model whose name, in the team's list, stood for other models too: a
    wildcard, an access group, a name of everybody's."""
    upstream = {"model": "openai/*"} if "*" in name else {}
    sent = {**body(name, **upstream), "model_info": {"team_id": "t"}}
    answer = await kit.call("POST", "/model/new", "lead", sent)
    error_of(answer, 403, "auth_error", "model_name")
    own = {**body("own"), "model_info": {"team_id": "t", "id": "own"}}
    assert (await kit.call("POST", "/model/new", "lead", own))[0] == 200
    answer = await kit.call("PATCH", "/model/own/update", "lead", {"model_name": name})
    error_of(answer, 403, "auth_error", "model_name")
    assert (await kit.info("t"))["team_info"]["models"] == ["cheap", "own"]
    assert (await kit.call("POST", "/model/new", None, sent))[0] == 200


async def test_a_team_model_in_a_group_of_others(kit: TeamKit) -> None:
    """A team's admin put its model into a group with a budget, which all of the group spend."""
    sent = {**body("own"), "model_info": {"team_id": "t", "id": "own", "access_groups": ["beta"]}}
    answer = await kit.call("POST", "/model/new", "lead", sent)
    error_of(answer, 403, "auth_error", "model_info.access_groups")
    assert (await kit.call("POST", "/model/new", None, sent))[0] == 200
    for groups in ([], None, ["other"]):
        change = {"model_info": {"access_groups": groups}}
        answer = await kit.call("PATCH", "/model/own/update", "lead", change)
        error_of(answer, 403, "auth_error", "model_info.access_groups")
    change = {"model_info": {"access_groups": ["beta"]}, "litellm_params": {"rpm": 5}}
    assert (await kit.call("PATCH", "/model/own/update", "lead", change))[0] == 200


async def test_an_org_admin_raises_its_own_budget(kit: TeamKit) -> None:
    """An organization's admin changed the budget that limits itself."""
    own = {"organization_id": "o", "user_id": "chief", "max_budget_in_organization": 1}
    assert (await kit.call("PATCH", "/organization/member_update", None, own))[0] == 200
    own["max_budget_in_organization"] = 100
    answer = await kit.call("PATCH", "/organization/member_update", "chief", own)
    detail_of(answer, 403)


async def test_an_org_admin_adds_everybody(kit: TeamKit) -> None:
    """An organization's admin added all users of the gateway to a team, and so learnt of them."""
    status, made = await kit.post("/team/new", "chief", organization_id="o", team_id="x")
    assert status == 200, made
    detail_of(await kit.post("/team/bulk_member_add", "chief", team_id="x", all_users=True), 403)
    assert (await kit.post("/team/bulk_member_add", team_id="x", all_users=True))[0] == 200


async def test_an_increase_above_the_upper_bound(start: StartAdmin, kit: TeamKit) -> None:
    """A user raised its key's budget for a time, above what the operator lets any key have."""
    rules = KeyRules(caps=read_caps({"max_budget": 10}))
    capped = TeamKit(await start(rules))
    capped.keys = kit.keys
    until = {"temp_budget_expiry": "2100-01-01"}
    key = (await capped.post("/key/generate", "bob", max_budget=4))[1]["key"]
    for fields in ({"temp_budget_increase": 7}, {"metadata": {"temp_budget_increase": 7, **until}}):
        change = {"key": key, **fields} | ({} if "metadata" in fields else until)
        answer = await capped.post("/key/update", "bob", **change)
        error_of(answer, 400, BAD, "temp_budget_increase")
    metadata = {"temp_budget_increase": 1, **until}
    answer = await capped.post("/key/generate", "bob", metadata=metadata)
    error_of(answer, 400, BAD, "temp_budget_increase")
    change = {"key": key, "temp_budget_increase": 6, **until}
    assert (await capped.post("/key/update", "bob", **change))[0] == 200


@pytest.mark.parametrize("increase", ["x", "NaN", "-1e9", [], {}, True, 1e308, "Infinity"])
async def test_an_odd_increase_in_metadata(kit: TeamKit, increase: Any) -> None:
    """What is no amount under `metadata.temp_budget_increase` was a fault of the gateway's."""
    metadata = {"temp_budget_increase": increase}
    status, answer = await kit.post("/key/generate", "lead", team_id="t", metadata=metadata)
    assert status in {200, 400}, answer


async def test_one_fault_spoils_keys_of_others(kit: TeamKit) -> None:
    """Keys share a transaction: an unforeseen fault of one failed all those made just then."""
    commits = kit.admin.client.app[ADMIN].commits

    async def fault(_: Connection) -> None:
        raise ArithmeticError

    faulty = commits.shared(fault, lambda _: [], order="", numbered=False)
    made = [kit.post("/key/generate", "bob") for _ in range(5)]
    first, *others = await asyncio.gather(faulty, *made, return_exceptions=True)
    assert isinstance(first, ArithmeticError)
    assert [answer[0] for answer in others if isinstance(answer, tuple)] == [200] * 5


async def test_members_read_secrets_of_callbacks(kit: TeamKit) -> None:
    """Members of a team read the secrets of callbacks in its keys; now answers mask them, and what
    is sent back masked stays."""
    variables = {"langfuse_secret_key": "SECRET-1", "langfuse_host": "https://h"}
    logging = [{"callback_name": "langfuse", "callback_vars": variables}]
    status, made = await kit.post("/key/generate", "lead", team_id="t", logging=logging)
    assert status == 200
    shown = [
        made,
        await kit.get("/team/info", "bob", team_id="t"),
        await kit.get("/key/info", "bob", key=made["token"]),
        await kit.get("/key/list", return_full_object="true"),
        await kit.get("/team/list"),
        await kit.get("/user/info", "lead"),
        await kit.get("/audit"),
    ]
    assert "SECRET-1" not in str(shown)
    metadata = (await kit.admin.info(made["key"]))["metadata"]
    metadata["note"] = "new"
    assert (await kit.post("/key/update", "lead", key=made["key"], metadata=metadata))[0] == 200
    sent = {"key": made["key"], "logging": metadata["logging"]}
    assert (await kit.post("/key/update", "lead", **sent))[0] == 200
    [row] = await kit.admin.sql(
        "select metadata::text as it from virtual_key where token = $1", made["token"]
    )
    assert "SECRET-1" in row["it"]
    assert "new" in row["it"]


async def test_rows_that_fill_memory(kit: TeamKit) -> None:
    """Users made thousands of keys of a megabyte each, which lists then showed all at once; team
    admins put as much into a team, which every worker holds."""
    text = "x" * 70_000
    key = (await kit.post("/key/generate", "lead", team_id="t"))[1]["key"]
    callback = {"callback_name": "c", "callback_vars": {"host": text}}
    for path, sent in (
        ("/key/generate", {"metadata": {"note": text}}),
        ("/key/generate", {"team_id": "t", "router_settings": {"note": text}}),
        ("/key/update", {"key": key, "metadata": {"note": text}}),
        ("/project/new", {"team_id": "t", "metadata": {"note": text}}),
        ("/team/t/callback", callback),
    ):
        answer = await kit.post(path, "lead", **sent)
        error_of(answer, 400, BAD)
    of_o = {"organization_id": "o", "metadata": {"note": text}}
    error_of(await kit.post("/team/new", "chief", **of_o), 400, BAD)
    user = {"organizations": ["o"], "metadata": {"note": text}}
    error_of(await kit.post("/user/new", "chief", **user), 400, BAD)
    named = {"team_id": "t", "team_member_permissions": [f"{n}{'x' * 400}" for n in range(200)]}
    detail_of(await kit.post("/team/permissions_update", "lead", **named), 400)
    assert (await kit.post("/key/update", key=key, metadata={"note": text}))[0] == 200
    smaller = {"key": key, "metadata": {"note": text[1:]}}
    assert (await kit.post("/key/update", "lead", **smaller))[0] == 200


async def test_a_list_of_all_keys_of_a_team(kit: TeamKit) -> None:
    """A member of a team with many keys had all of them shown at once, without any bound."""
    await kit.admin.sql(
        "insert into virtual_key (token, team_id) "
        "select encode(sha256(n::text::bytea), 'hex'), 't' from generate_series(1, 10001) n"
    )
    status, teams = await kit.get("/team/list", "bob", user_id="bob")
    assert (status, len(teams[0]["keys"])) == (200, 10_000)


async def test_an_org_admin_names_thousands_at_once(kit: TeamKit) -> None:
    """One call for thousands of members kept an organization locked for most of a minute."""
    member = [{"role": "internal_user", "user_id": f"u{number}"} for number in range(501)]
    for by in ("chief", MASTER):
        answer = await kit.post("/organization/member_add", by, organization_id="o", member=member)
        error_of(answer, 400, BAD, "member")
