"""POST /config/update: merged by member, checked as a whole, sealed, noted, in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from shared.config.secret import MASK
from shared.gateway.live_models import LiveModels
from tests.support.admin_api import Admin, admins, error_of, issues_of
from tests.support.management import audit_of, fed, user_key
from tests.support.stored_config import config_admin
from tests.support.stored_models import make

Make = Callable[..., Awaitable[tuple[Admin, LiveModels]]]
LANGFUSE = "sk-lf-0123456789abcdef"


@pytest.fixture
async def made(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Make]:
    async with admins(database, aiohttp_client) as start:

        async def make(**more: Any) -> tuple[Admin, LiveModels]:
            return await config_admin(start, database, tmp_path, **more)

        yield make


async def update(admin: Admin, **sections: Any) -> dict[str, Any]:
    """A change that goes through."""
    status, body = await admin.call("POST", "/config/update", sections)
    assert status == 200, body
    return dict(body)


async def rows(admin: Admin) -> dict[str, str]:
    found = await admin.sql("select param_name, value::text from config")
    return {row["param_name"]: row["value"] for row in found}


async def refused(admin: Admin, param: str | None, **sections: Any) -> str:
    """The message of a change that is refused whole."""
    before = await rows(admin)
    answer = await admin.call("POST", "/config/update", sections)
    error = error_of(answer, 400, "invalid_request_error", param)
    assert await rows(admin) == before
    return str(error["message"])


async def test_settings_are_in_force_at_once(made: Make) -> None:
    """Every section is stored and holds, the file's members beside it; the answer says so."""
    admin, live = await made()
    body = await update(
        admin,
        general_settings={"completion_model": "from-file"},
        litellm_settings={
            "budget_exceeded_status_code": 429,
            "model_alias_map": {"a": "from-file"},
        },
        router_settings={"num_retries": 7, "model_group_alias": {"b": "from-file"}},
    )
    assert body == {
        "message": "The settings were changed",
        "notices": [],
        "restart_required": [],
    }
    assert live.config.general.completion_model == "from-file"
    assert live.config.general.enforced_params == ["user"]
    assert live.config.litellm.budget_exceeded_status_code == 429
    assert live.config.num_retries == 7
    assert live.config.router.timeout == 30
    assert set(live.catalog.names()) == {"from-file", "a", "b"}


async def test_merged_by_member(made: Make) -> None:
    """What is sent wins member by member, the rest stays, and null takes a member away."""
    admin, live = await made()
    await update(admin, router_settings={"num_retries": 1, "retry_after": 2})
    await update(admin, router_settings={"num_retries": 4})
    assert (live.config.num_retries, live.config.router.retry_after) == (4, 2)
    await update(admin, router_settings={"num_retries": None}, litellm_settings=None)
    assert (live.config.num_retries, live.config.router.retry_after) == (3, 2)
    assert await update(admin) == {
        "message": "The settings were changed",
        "notices": [],
        "restart_required": [],
    }


async def test_callbacks_are_added_in_lower_case(made: Make) -> None:
    """Callbacks are united with those there are; a notice says that none is called."""
    admin, _ = await made()
    body = await update(admin, litellm_settings={"success_callback": ["Langfuse", "s3"]})
    assert len(body["notices"]) == 1
    assert "litellm_settings.success_callback: not in force" in body["notices"][0]
    await update(admin, litellm_settings={"success_callback": ["LANGFUSE", "otel"]})
    assert '["langfuse", "s3", "otel"]' in (await rows(admin))["litellm_settings"]
    message = await refused(
        admin, "litellm_settings.success_callback", litellm_settings={"success_callback": [5]}
    )
    assert "a list of texts" in message


async def test_two_changes_at_once_both_count(made: Make) -> None:
    """Changes of different members of one section that come together lose nothing."""
    admin, live = await made()
    names = ["num_retries", "retry_after", "stream_timeout"]
    await asyncio.gather(
        *(update(admin, router_settings={name: place + 5}) for place, name in enumerate(names)),
        *(update(admin, litellm_settings={"model_alias_map": {"x": "from-file"}}) for _ in "ab"),
    )
    router = live.config.router
    assert (router.num_retries, router.retry_after, router.stream_timeout) == (5, 6, 7)


async def test_variables_are_sealed_and_used(made: Make) -> None:
    """A stored variable is sealed at rest, in no answer or audit entry, and a provider's key for
    models that have none."""
    admin, live = await made()
    await make(admin, "groq", api_key=None, api_base=None, model="groq/llama")
    assert live.catalog.resolve("groq") is None
    body = await update(admin, environment_variables={"GROQ_API_KEY": LANGFUSE, "N": 5, "B": True})
    assert LANGFUSE not in str(body)
    group = live.catalog.resolve("groq")
    assert group is not None
    assert group.deployments[0].api_key == LANGFUSE
    assert (live.config.environment["N"], live.config.environment["B"]) == ("5", "true")
    stored = (await rows(admin))["environment_variables"]
    assert LANGFUSE not in stored
    assert stored.count('": "sealed:1:') == 3
    entries = await audit_of(admin, "LiteLLM_Config")
    assert LANGFUSE not in str(entries)
    assert entries[-1]["object_id"] == "environment_variables"
    await update(admin, environment_variables={"GROQ_API_KEY": None})
    assert live.catalog.resolve("groq") is None


async def test_a_mask_stands_for_what_is_stored(made: Make) -> None:
    """A mask that comes back keeps the secret; where nothing is stored it is refused."""
    admin, live = await made()
    await update(admin, environment_variables={"A_KEY": LANGFUSE})
    await update(admin, environment_variables={"A_KEY": MASK, "OTHER": "x"})
    assert live.config.environment["A_KEY"] == LANGFUSE
    message = await refused(admin, "environment_variables", environment_variables={"B_KEY": MASK})
    assert "B_KEY" in message


async def test_secrets_of_other_settings_are_sealed(made: Make) -> None:
    """What a setting holds under a secret's name, or as a header, is sealed and shown nowhere."""
    admin, _ = await made()
    endpoint = {"path": "/x", "target": "https://x", "headers": {"x-any": LANGFUSE}}
    body = await update(
        admin,
        general_settings={"pass_through_endpoints": [endpoint], "drain_endpoint_token": LANGFUSE},
    )
    assert len(body["notices"]) == 2
    assert LANGFUSE not in str(await rows(admin)) + str(body)
    status, fields = await admin.call("GET", "/config/list")
    assert status == 200
    assert LANGFUSE not in str(fields)
    shown = {each["field_name"]: each["field_value"] for each in fields}
    assert shown["pass_through_endpoints"] == [{**endpoint, "headers": {"x-any": MASK}}]
    assert LANGFUSE not in str(await audit_of(admin, "LiteLLM_Config"))


@pytest.mark.parametrize(
    ("sections", "param", "said"),
    [
        ({"router_settings": {"num_retrys": 1}}, "router_settings.num_retrys", "`num_retries`"),
        ({"litellm_settings": {"nonsense": 1}}, "litellm_settings.nonsense", "no such name"),
        (
            {"router_settings": {"num_retries": "x"}},
            "router_settings.num_retries",
            "a whole number",
        ),
        ({"router_settings": {"num_retries": 101}}, "router_settings.num_retries", "0 to 100"),
        ({"router_settings": {"num_retries": 10**400}}, None, "too big"),
        ({"litellm_settings": {"timezone": "Moon"}}, "litellm_settings.timezone", "IANA"),
        (
            {"router_settings": {"model_group_alias": {"a": "nobody"}}},
            "router_settings.model_group_alias.a",
            "no such model group",
        ),
        (
            {"litellm_settings": {"cost_discount_config": {"openai": 2}}},
            "litellm_settings.cost_discount_config.openai",
            "0 to 1",
        ),
        (
            {"litellm_settings": {"cost_margin_config": {"opnai": 0.1}}},
            "litellm_settings.cost_margin_config.opnai",
            "did you mean `openai`?",
        ),
        (
            {"litellm_settings": {"default_team_params": {"max_budgets": 1}}},
            None,
            "default_team_params.max_budgets",
        ),
        (
            {"general_settings": {"service_account_settings": {"enforced_params": "x"}}},
            None,
            "service_account_settings.enforced_params",
        ),
        (
            {"general_settings": {"allowed_ips": ["10.0.0.1"]}},
            "general_settings.allowed_ips",
            "not in force",
        ),
        (
            {"general_settings": {"master_key": "sk-x"}},
            "general_settings.master_key",
            "config.yaml",
        ),
        (
            {"general_settings": {"database_url": "postgresql://x"}},
            "general_settings.database_url",
            "before the database",
        ),
        (
            {"general_settings": {"enable_jwt_auth": True}},
            "general_settings.enable_jwt_auth",
            "configuration file",
        ),
        (
            {"router_settings": {"timeout": "os.environ/T"}},
            "router_settings.timeout",
            "config.yaml",
        ),
        (
            {"router_settings": {"retry_after": "os.environ/T"}},
            "router_settings.retry_after",
            "the same on every instance",
        ),
        (
            {"environment_variables": {"DATABASE_URL": "postgresql://x"}},
            "environment_variables.DATABASE_URL",
            "in the environment",
        ),
        (
            {"environment_variables": {"OF_FILE": "x"}},
            "environment_variables.OF_FILE",
            "environment_variables.OF_FILE",
        ),
        ({"environment_variables": {"a b": "x"}}, "environment_variables.a b", "a variable"),
        (
            {"environment_variables": {"A": "os.environ/B"}},
            "environment_variables.A",
            "the value itself",
        ),
        ({"environment_variables": {"A": ["x"]}}, "environment_variables.A", "expected text"),
        ({"environment_variables": {"A": "sealed:1:x:y"}}, "environment_variables.A", "sealed"),
        ({"router_settings": {"nul": "a\0b"}}, "router_settings.nul", "U+0000"),
        ({"model_list": []}, "model_list", "no such section"),
    ],
)
async def test_refused_whole(
    made: Make, sections: Mapping[str, Any], param: str | None, said: str
) -> None:
    """What is wrong is refused by its name, with all that came with it."""
    admin, live = await made()
    await update(admin, router_settings={"retry_after": 1})
    beside = {"litellm_settings": {"drop_params": True}}
    merged = {
        name: {**beside.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in {**beside, **sections}.items()
    }
    if said == "too big":
        answer = await admin.call("POST", "/config/update", merged)
        assert answer[0] == 400
    else:
        assert said in await refused(admin, param, **merged)
    assert not live.config.litellm.drop_params


async def test_file_owned_members_name_both_places(made: Make) -> None:
    """A member of the file is changed there alone; the refusal names the line and the row."""
    admin, _ = await made()
    message = await refused(
        admin, "litellm_settings.num_retries", litellm_settings={"num_retries": 1}
    )
    assert "config.yaml:" in message
    assert "`litellm_settings`" in message
    assert await admin.sql("select 1 from audit_log") == []


async def test_types_of_the_body(made: Make) -> None:
    """Sections are objects."""
    admin, _ = await made()
    answer = await admin.call("POST", "/config/update", {"router_settings": [1]})
    assert issues_of(answer) == [("dict_type", ["body", "router_settings"])]


async def test_too_much(made: Make) -> None:
    """A section has a size; thousands of aliases fit."""
    admin, live = await made()
    aliases = {f"alias-{place}": "from-file" for place in range(5000)}
    await update(admin, router_settings={"model_group_alias": aliases})
    assert len(live.catalog.names()) == 5001
    big = {"debug_level": "x" * 1_040_000}
    assert "1 MiB" in await refused(admin, "router_settings", router_settings=big)


async def test_at_the_next_start(made: Make) -> None:
    """What a process is built around is stored, told, and not half in force before."""
    admin, live = await made()
    body = await update(admin, litellm_settings={"timezone": "Europe/Oslo", "request_timeout": 5})
    assert body["restart_required"] == ["litellm_settings.timezone"]
    assert live.config.litellm.timezone == "UTC"
    assert live.config.litellm.request_timeout == 5
    _, restarted = await made()
    assert restarted.config.litellm.timezone == "Europe/Oslo"


async def test_rules_follow(made: Make) -> None:
    """Settings on keys, users and teams hold for the next request."""
    admin, _ = await made()
    await update(
        admin,
        general_settings={
            "team_metadata_schema": [{"name": "cost_center"}],
            "disable_auto_add_proxy_admin_to_teams": True,
        },
        litellm_settings={
            "default_key_generate_params": {"max_budget": 12},
            "upperbound_key_generate_params": {"tpm_limit": 10},
            "default_team_params": {"max_budget": 7},
            "default_internal_user_params": {"max_budget": 3},
        },
    )
    assert (await admin.generate())["max_budget"] == 12
    assert (await admin.call("POST", "/key/generate", {"tpm_limit": 11}))[0] == 400
    assert (await admin.call("POST", "/team/new", {}))[1]["max_budget"] == 7
    assert (await admin.call("POST", "/user/new", {"user_role": "internal_user"}))[1][
        "max_budget"
    ] == 3
    _, schema = await admin.call("GET", "/team/metadata_schema")
    assert schema == {"fields": [{"name": "cost_center"}]}


async def test_a_model_that_an_alias_stands_for_stays(made: Make) -> None:
    """What a stored alias needs cannot be deleted under it."""
    admin, _ = await made()
    model = await make(admin, "m")
    await update(admin, router_settings={"model_group_alias": {"a": "m"}})
    status, body = await admin.call("POST", "/model/delete", {"id": model["model_id"]})
    assert status == 400
    assert "router_settings.model_group_alias.a" in str(body)
    await update(admin, router_settings={"model_group_alias": None})
    assert (await admin.call("POST", "/model/delete", {"id": model["model_id"]}))[0] == 200


async def test_the_file_wins_at_start(made: Make, database: str) -> None:
    """A member that the file has come to hold is the file's; the database's is noticed."""
    admin, _ = await made()
    await update(admin, router_settings={"num_retries": 1})
    await admin.sql(
        """update config set value = value || '{"not_known_here": 1}' """
        "where param_name = 'router_settings'"
    )
    _, live = await made(file={"router_settings": {"num_retries": 9}})
    assert live.config.num_retries == 9
    notices = [str(each) for each in live.catalog.notices]
    assert any("router_settings.num_retries: not in force" in each for each in notices)
    assert any("not_known_here" in each for each in notices)


async def test_not_kept_in_the_database(made: Make) -> None:
    """Without STORE_MODEL_IN_DB nothing is stored."""
    admin, _ = await made(stored=False)
    answer = await admin.call("POST", "/config/update", {"router_settings": {"num_retries": 1}})
    error_of(answer, 500, "internal_server_error")
    assert await rows(admin) == {}


async def test_feed_audit_and_wait(made: Make) -> None:
    """A change is a row of the feed and an entry of the audit log by section; nothing changed is
    neither."""
    admin, _ = await made()
    body = await admin.call(
        "POST",
        "/config/update",
        {"router_settings": {"num_retries": 1}},
        params={"wait": "applied"},
    )
    assert body[1]["propagation"]["applied"] == 0
    await update(admin, router_settings={"num_retries": 1})
    await update(admin, router_settings={"num_retries": 2})
    assert await fed(admin, "config") == [["router_settings"]] * 2
    entries = await audit_of(admin, "LiteLLM_Config")
    assert [each["action"] for each in entries] == ["updated", "updated"]
    assert entries[1]["before_value"]["num_retries"] == 1
    assert entries[1]["updated_values"]["num_retries"] == 2


async def test_roles(made: Make) -> None:
    """Proxy admins change settings; viewers read them; nobody else does either."""
    admin, _ = await made()
    change = {"router_settings": {"num_retries": 1}}
    viewer = await user_key(admin, "proxy_admin_viewer")
    user = await user_key(admin, "internal_user")
    org = await user_key(admin, "internal_user_viewer")
    boss = await user_key(admin, "proxy_admin")
    assert (await admin.call("POST", "/config/update", change, key=boss))[0] == 200
    assert (await admin.call("POST", "/config/update", change, key=viewer))[0] == 403
    for key in (user, org):
        assert (await admin.call("POST", "/config/update", change, key=key))[0] == 401
        assert (await admin.call("GET", "/config/list", key=key))[0] == 401
    assert (await admin.call("GET", "/config/list", key=viewer))[0] == 200
    assert (await admin.call("POST", "/config/update", change, key=None))[0] == 401
