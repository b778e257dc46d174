"""`meridian import litellm`: a whole database comes over, once, and works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from services.admin.api.key_policy import KeyRules
from shared.config.secret import Secret
from shared.domain.keys import hash_key
from shared.limits.windows import zone
from shared.secrets.members import config_section, credential_values, model_params
from shared.secrets.sealing import Sealer
from tests.support.admin_api import StartAdmin, admins
from tests.support.cache_fleet import running_caches
from tests.support.litellm_database import (
    OUR_SALT,
    SALT,
    LiteLLMDatabase,
    boxed,
    contents,
    gcm,
    imported,
    rows,
)

KEY = "sk-imported-0123456789abcdef"
SECRETS = (
    "sk-provider-of-a-model-0001",
    "sk-provider-of-a-credential-0002",
    "callback-secret-3",
    "variable-4",
)
NOW = datetime.now(UTC)
LATER = (NOW + timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%S")
BEFORE = (NOW - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.fixture
async def source(empty_database: str) -> LiteLLMDatabase:
    """A proxy's database with something of everything."""
    database = LiteLLMDatabase(empty_database)
    await database.create()
    await fill(database)
    return database


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as starting:
        yield starting


async def fill(source: LiteLLMDatabase) -> None:
    """Objects that refer to each other, and what was spent."""
    await source.add(
        "BudgetTable",
        {"budget_id": "b-org", "max_budget": 100.1, "budget_duration": "30d",
         "budget_reset_at": LATER, "created_by": "root"},
        {"budget_id": "b-member", "max_budget": 0.1, "rpm_limit": 5},
        {"budget_id": "b-key", "max_budget": 7, "budget_duration": "1d",
         "budget_reset_at": LATER, "model_max_budget": {"gpt": {"budget_limit": 1.5}}},
    )  # fmt: skip
    await source.add(
        "ObjectPermissionTable",
        {"object_permission_id": "p1", "mcp_servers": ["m1"], "mcp_tool_permissions": {"m1": []}},
    )
    await source.add(
        "OrganizationTable",
        {"organization_id": "o1", "organization_alias": "Org", "budget_id": "b-org",
         "models": ["gpt"], "spend": 0.30000000000000004, "object_permission_id": "p1"},
    )  # fmt: skip
    await source.add(
        "UserTable",
        {"user_id": "u1", "user_email": "A@x.org", "user_role": "internal_user", "spend": 1.25,
         "max_budget": 10, "budget_duration": "30d", "budget_reset_at": LATER, "rpm_limit": 9,
         "models": ["gpt"], "password": "scrypt:AAAA", "metadata": '{"team": "blue"}'},
        {"user_id": "u2", "user_email": "b@x.org", "user_role": "proxy_admin", "spend": 2},
        {"user_id": "litellm-proxy-budget", "spend": 3.5, "max_budget": 1000,
         "budget_duration": "30d", "budget_reset_at": LATER},
    )  # fmt: skip
    await source.add(
        "OrganizationMembership",
        {"user_id": "u1", "organization_id": "o1", "user_role": "org_admin", "spend": 0.5},
    )
    await source.run("""insert into "LiteLLM_ModelTable" values (7, '{"fast": "gpt"}')""")
    await source.add(
        "TeamTable",
        {"team_id": "t1", "team_alias": "Team", "organization_id": "o1", "models": ["gpt"],
         "max_budget": 50, "spend": 4.2, "model_id": 7, "policies": ["strict"],
         "admins": ["u2"], "members": ["u1", "u3"],
         "members_with_roles": [
             {"role": "admin", "user_id": "u2"}, {"role": "user", "user_id": "u1"},
             {"role": "user", "user_email": "a@X.org"}],
         "metadata": {"logging": [{"callback_name": "l", "callback_type": "success",
                                   "callback_vars": {"secret_key": boxed(SECRETS[2])}}]}},
    )  # fmt: skip
    await source.add(
        "TeamMembership",
        {"user_id": "u1", "team_id": "t1", "spend": 0.01, "total_spend": 0.07,
         "budget_id": "b-member"},
    )  # fmt: skip
    await source.add("ProjectTable", {"project_id": "pr1", "team_id": "t1", "spend": 0.2,
                     "model_rpm_limit": {"gpt": 3}, "models": ["gpt"]})  # fmt: skip
    await source.add("AccessGroupTable", {"access_group_id": "ag1", "access_group_name": "group",
                     "access_model_names": ["gpt"], "assigned_team_ids": ["t1"]})  # fmt: skip
    await source.add("ModelAccessGroupBudgetTable", {"access_group_name": "beta", "spend": 0.6})
    await source.add("TagTable", {"tag_name": "prod", "spend": 0.9, "budget_id": "b-org"})
    await source.add(
        "EndUserTable",
        {"user_id": "e1", "spend": 0.11, "budget_id": "b-member", "allowed_model_region": "eu"},
        {"user_id": "e2", "spend": 0.22},
    )
    await source.add(
        "CredentialsTable",
        {"credential_id": "c1", "credential_name": "cred",
         "credential_values": {"api_key": gcm(SECRETS[1]), "api_base": gcm("http://h/v1", SALT, 3)},
         "credential_info": {"custom_llm_provider": "openai"}},
    )  # fmt: skip
    await source.add(
        "ProxyModelTable",
        {"model_id": "m1", "model_name": "gpt", "litellm_params": {
            "model": boxed("openai/gpt-x"), "api_key": boxed(SECRETS[0]),
            "api_base": boxed("http://h/v1"), "use_in_pass_through": False},
         "model_info": {"id": "m1", "db_model": True, "access_groups": ["beta"]}},
        {"model_id": "m2", "model_name": "gpt", "litellm_params": json.dumps({
            "model": boxed("openai/gpt-y"), "litellm_credential_name": boxed("cred")})},
    )  # fmt: skip
    await source.add(
        "VerificationToken",
        {"token": hash_key(KEY), "key_name": "sk-...cdef", "key_alias": "ci", "user_id": "u1",
         "team_id": "t1", "models": ["gpt"], "spend": 1.1, "budget_id": "b-key",
         "rpm_limit": 60, "metadata": {"tags": ["prod"]}, "last_active": BEFORE,
         "aliases": {"a": "gpt"}, "object_permission_id": "p1"},
        {"token": hash_key("sk-2"), "spend": 0.123456789012345, "max_budget": 3.3,
         "budget_duration": "1d", "budget_reset_at": BEFORE, "expires": LATER},
        {"token": hash_key("sk-session"), "team_id": "litellm-dashboard", "spend": 0.5},
    )  # fmt: skip
    await source.add(
        "DeletedVerificationToken",
        {"id": "d1", "token": hash_key("sk-gone"), "spend": 8.5, "deleted_by": "root",
         "key_alias": "old"},
    )  # fmt: skip
    await source.add("DeletedTeamTable", {"id": "d1", "team_id": "t0", "spend": 1.5,
                     "members_with_roles": [{"role": "user", "user_id": "u1"}]})  # fmt: skip
    await source.add(
        "DeprecatedVerificationToken",
        {"id": "r1", "token": hash_key("sk-rotated"), "active_token_id": hash_key(KEY),
         "revoke_at": LATER},
        {"id": "r2", "token": hash_key("sk-over"), "active_token_id": hash_key(KEY),
         "revoke_at": BEFORE},
    )  # fmt: skip
    await source.add(
        "BudgetWindowSpend",
        {"entity_type": "team", "entity_id": "t1", "window_duration": "30d",
         "window_start": BEFORE, "spend": 0.25},
        {"entity_type": "user", "entity_id": "u2", "window_duration": "7d",
         "window_start": "2020-01-01T00:00:00", "spend": 9},
    )  # fmt: skip
    await source.add(
        "Config",
        {"param_name": "router_settings", "param_value": {"num_retries": 2}},
        {"param_name": "general_settings", "param_value": {"master_key": "sk-of-the-config"}},
        {"param_name": "environment_variables",
         "param_value": {"SOME_API_KEY": boxed(SECRETS[3]), "DATABASE_URL": boxed("x")}},
        {"param_name": "litellm_settings",
         "param_value": {"timezone": "Asia/Tokyo", "num_retries": "many", "nonsense": 1}},
        {"param_name": "model_cost_map_reload_config", "param_value": {"interval_hours": 6}},
    )  # fmt: skip
    day = {
        "date": "2026-03-01",
        "api_key": hash_key(KEY),
        "model": "gpt-x",
        "model_group": "gpt",
        "custom_llm_provider": "openai",
        "endpoint": "/chat/completions",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "api_requests": 2,
        "successful_requests": 2,
    }
    await source.add("DailyUserSpend", {**day, "id": "1", "user_id": "u1", "spend": 0.1},
                     {**day, "id": "2", "user_id": "u1", "spend": 0.2, "endpoint": None},
                     {**day, "id": "3", "user_id": None, "spend": 0.4})  # fmt: skip
    await source.add("DailyTeamSpend", {**day, "id": "1", "team_id": "t1", "spend": 0.3})
    await source.add("DailyTagSpend", {**day, "id": "1", "tag": "prod", "spend": 0.3})
    await source.add("InvitationLink", {"id": "i1", "user_id": "u1"})
    await source.add("SpendLogs", {"request_id": "r1", "spend": 0.1})


async def counters(dsn: str, kind: str, owner: str) -> tuple[Decimal, list[Decimal]]:
    """What counters say: of the lifetime, and of each window."""
    query = "select window_start_s, spend from spend_counter where (kind, id) = ($1, $2) order by 1"
    found = {row["window_start_s"]: row["spend"] for row in await rows(dsn, query, kind, owner)}
    return found.pop(0, Decimal(0)), list(found.values())


async def test_everything_comes_over_and_is_equal(source: LiteLLMDatabase, database: str) -> None:
    """Every kind of object is here in the source's number, every total to ten places, and no
    secret is in what was said or in clear in what was stored."""
    outcome = await imported(source.dsn, database)
    assert outcome.status == 0, (outcome.out, outcome.err)
    assert outcome.line("keys") == ("3", "1", "2", True)
    assert outcome.line("team members") == ("3", "0", "3", True)
    assert outcome.line("spend of keys") == ("1.723456789", "0.5", "1.223456789", True)
    assert outcome.line("spend of organizations") == ("0.3", "0", "0.3", True)
    assert outcome.line("daily figures of keys: spend") == ("0.7", "0", "0.7", True)
    assert outcome.line("daily figures of users: calls") == ("6", "2", "4", True)
    names = {line["name"] for line in outcome.report["lines"]}
    assert names >= {"users", "teams", "organizations", "budgets", "models", "credentials",
                     "end users", "tags", "projects", "access groups"}  # fmt: skip
    assert "users[u1].password" in outcome.examples("changed")
    assert {
        "settings[general_settings].master_key",
        "settings[environment_variables].DATABASE_URL",
        "settings[litellm_settings].num_retries",
        "settings[litellm_settings].nonsense",
    } <= outcome.examples("changed")
    left = {each["what"]: each["count"] for each in outcome.report["left_out"]}
    assert sum(count for what, count in left.items() if "InvitationLink" in what) == 1
    assert sum(count for what, count in left.items() if "SpendLogs" in what) == 1
    stored = await rows(
        database,
        "select m::text from model m union all select c::text from credential c "
        "union all select c::text from config c union all select t::text from team t",
    )
    said = outcome.out + outcome.err + str([tuple(row) for row in stored])
    for secret in (*SECRETS, SALT, OUR_SALT, KEY, "sk-of-the-config", source.dsn.split("@")[0]):
        assert secret not in said


async def test_an_imported_key_works_with_all_its_owners(
    source: LiteLLMDatabase, database: str, start: StartAdmin
) -> None:
    """Workers load the key with its user, team, member, budget and organization; /key/info shows
    it with what it spent in its linked budget's window, in the time zone that the source's
    settings brought along; a rotated one works as its successor."""
    assert (await imported(source.dsn, database)).status == 0
    tokens = [hash_key(KEY), hash_key("sk-rotated"), hash_key("sk-over")]
    found = await rows(database, "select load_principals($1::text[])::text", tokens)
    document = json.loads(found[0][0])
    assert [key["presented"] for key in document["keys"]] == tokens[:2]
    assert {key["token"] for key in document["keys"]} == {hash_key(KEY)}
    assert [user["user_id"] for user in document["users"]] == ["u1"]
    assert document["teams"][0]["model_aliases"] == {"fast": "gpt"}
    assert document["teams"][0]["metadata"]["policies"] == ["strict"]
    assert document["members"][0]["budget_id"] == "b-member"
    assert {each["budget_id"] for each in document["budgets"]} == {"b-key", "b-member", "b-org"}
    admin = await start(KeyRules(timezone=zone("Asia/Tokyo")))
    info = await admin.info(KEY)
    assert (info["key_alias"], info["spend"], info["rpm_limit"]) == ("ci", 1.1, 60)
    assert info["litellm_budget_table"]["max_budget"] == 7
    assert info["object_permission"]["mcp_servers"] == ["m1"]
    assert info["last_active"].startswith(BEFORE)


async def test_spend_goes_to_the_windows_that_are_open(
    source: LiteLLMDatabase, database: str
) -> None:
    """A budget's spend is in its window and in the lifetime; one that was due to start anew counts
    for the lifetime alone; a lifetime that the source knows wins; budgets side by side too."""
    assert (await imported(source.dsn, database)).status == 0
    expected = {
        ("key", hash_key(KEY)): ("1.1", ["1.1"]),
        ("key", hash_key("sk-2")): ("0.123456789", []),
        ("user", "u1"): ("1.25", ["1.25"]),
        ("user", "u2"): ("2", []),
        ("team", "t1"): ("4.2", ["0.25"]),
        ("team_member", "u1:t1"): ("0.07", []),
        ("organization", "o1"): ("0.3", ["0.3"]),
        ("organization_member", "u1:o1"): ("0.5", []),
        ("project", "pr1"): ("0.2", []),
        ("tag", "prod"): ("0.9", ["0.9"]),
        ("end_user", "e2"): ("0.22", []),
        ("model_access_group", "beta"): ("0.6", []),
        ("global", ""): ("3.5", ["3.5"]),
    }
    for (kind, owner), (lifetime, windows) in expected.items():
        found = await counters(database, kind, owner)
        assert found == (Decimal(lifetime), [Decimal(each) for each in windows]), (kind, owner)
    totals = await rows(database, "select kind, sum(spend) as spend, sum(calls) as calls from "
                        "daily_owner_spend where kind <> 'key' group by 1 order by 1")  # fmt: skip
    assert [(row["kind"], row["spend"], row["calls"]) for row in totals] == [
        (kind, Decimal("0.3"), calls) for kind, calls in (("tag", 2), ("team", 2), ("user", 4))
    ]
    by_model = await rows(database, "select sum(spend), sum(calls) from daily_model_spend "
                          "where kind = 'key' and model = 'gpt-x'")  # fmt: skip
    assert tuple(by_model[0]) == (Decimal("0.7"), 6)


async def test_secrets_are_sealed_with_our_own_key(source: LiteLLMDatabase, database: str) -> None:
    """What three ciphers hid is sealed here, opens with our salt key, and a worker's catalog of it
    is sound."""
    assert (await imported(source.dsn, database)).status == 0
    sealer = Sealer(Secret(OUR_SALT))
    models = {row["model_id"]: row for row in await rows(database, "select * from model")}
    params = json.loads(models["m1"]["litellm_params"])
    assert params["model"] == "openai/gpt-x"
    assert params["api_key"].startswith("sealed:1:")
    assert model_params("m1").open(params, lambda: sealer)["api_key"] == SECRETS[0]
    assert models["m1"]["secret_key_id"] == sealer.key_id
    assert json.loads(models["m2"]["litellm_params"])["litellm_credential_name"] == "cred"
    settings = {row["param_name"]: json.loads(row["value"])
                for row in await rows(database, "select * from config")}  # fmt: skip
    assert settings["router_settings"] == {"num_retries": 2}
    assert settings["litellm_settings"] == {"timezone": "Asia/Tokyo"}
    variables = config_section("environment_variables").open(
        settings["environment_variables"], lambda: sealer
    )
    assert variables == {"SOME_API_KEY": SECRETS[3]}
    values = json.loads((await rows(database, "select * from credential"))[0]["credential_values"])
    opened = credential_values("c1").open(values, lambda: sealer)
    assert opened == {"api_key": SECRETS[1], "api_base": "http://h/v1"}
    team = await rows(database, "select metadata::text from team")
    assert SECRETS[2] not in team[0]["metadata"]
    assert '"sealed:1:' in team[0]["metadata"]


async def test_a_second_run_changes_nothing(source: LiteLLMDatabase, database: str) -> None:
    """The second report is the first one's, says so, and no row of any table has changed."""
    first = await imported(source.dsn, database)
    before = await contents(database)
    second = await imported(source.dsn, database)
    assert second.status == 0
    assert second.report["lines"] == first.report["lines"]
    assert (second.report["added"], second.report["updated"], second.report["amounts"]) == (0, 0, 0)
    assert await contents(database) == before


async def test_a_dry_run_writes_nothing_and_says_the_same(
    source: LiteLLMDatabase, database: str
) -> None:
    """Every table is as it was, in both databases; the report is that of the run that follows."""
    before, there = await contents(database), await contents(source.dsn)
    dry = await imported(source.dsn, database, "--dry-run")
    assert dry.status == 0, dry.err
    assert await contents(database) == before
    real = await imported(source.dsn, database)
    assert {**dry.report, "dry_run": False} == real.report
    assert await contents(source.dsn) == there


async def test_a_running_worker_lets_an_imported_key_in(
    source: LiteLLMDatabase, database: str
) -> None:
    """A cache that has just refused the key knows it, with its limits, once the feed is applied."""
    async with running_caches(database) as worker:
        assert await worker.cache.find(hash_key(KEY)) is None
        assert (await imported(source.dsn, database)).status == 0
        assert await worker.follower.wait_version(2, 10.0)
        principal = await worker.cache.find(hash_key(KEY))
        assert principal is not None
        assert principal.team is not None
        assert principal.team.max_budget == 50
        levels = {scope.level for scope in principal.scopes}
        assert len(levels) > 2, principal.scopes


async def test_the_feed_names_what_was_imported(source: LiteLLMDatabase, database: str) -> None:
    """All in one version, so that workers take it over as a whole."""
    assert (await imported(source.dsn, database)).status == 0
    feed = await rows(database, "select kind, ids, version from change_feed where kind <> 'start'")
    assert {row["version"] for row in feed} == {2}
    named = {(row["kind"], each) for row in feed for each in row["ids"]}
    assert {("key", hash_key(KEY)), ("team", "t1"), ("user", "u1"), ("model", "m1")} <= named
    assert {("credential", "cred"), ("organization", "o1"), ("team_member", "t1\x1fu1")} <= named


async def test_two_imports_at_once_are_one_after_the_other(
    source: LiteLLMDatabase, database: str
) -> None:
    """Whoever comes second is refused, or finds all done; nothing is counted twice."""
    outcomes = await asyncio.gather(*(imported(source.dsn, database) for _ in range(2)))
    assert {outcome.status for outcome in outcomes} <= {0, 2}
    assert await counters(database, "key", hash_key(KEY)) == (Decimal("1.1"), [Decimal("1.1")])
