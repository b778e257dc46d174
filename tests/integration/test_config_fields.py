"""What shows settings, and changes them one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shared.config.secret import MASK
from shared.gateway.live_models import LiveModels
from tests.support.admin_api import Admin, admins, issues_of
from tests.support.management import audit_of, detail_of, user_key
from tests.support.stored_config import FILE, config_admin

Make = Callable[..., Awaitable[tuple[Admin, LiveModels]]]
GENERAL = {"config_type": "general_settings"}


@pytest.fixture
async def made(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Make]:
    async with admins(database, aiohttp_client) as start:

        async def make(**more: Any) -> tuple[Admin, LiveModels]:
            return await config_admin(start, database, tmp_path, **more)

        yield make


async def update(admin: Admin, **sections: Any) -> None:
    status, body = await admin.call("POST", "/config/update", sections)
    assert status == 200, body


async def set_field(admin: Admin, name: Any, value: Any) -> tuple[int, Any]:
    body = {"field_name": name, "field_value": value, **GENERAL}
    return await admin.call("POST", "/config/field/update", body)


async def info(admin: Admin, name: str) -> tuple[int, Any]:
    return await admin.call("GET", "/config/field/info", params={"field_name": name})


async def test_list(made: Make) -> None:
    """Every setting in force with its value and where that is from; secrets are masked."""
    admin, _ = await made(environ={"STORE_MODEL_IN_DB": "true"})
    await update(admin, general_settings={"completion_model": "m", "alerting": ["slack"]})
    status, rows = await admin.call("GET", "/config/list", params=GENERAL)
    assert status == 200
    fields = {row["field_name"]: row for row in rows}
    assert fields["completion_model"] == {
        "field_name": "completion_model",
        "field_type": "String",
        "field_description": "Overrides the model of every LLM request.",
        "field_value": "m",
        "stored_in_db": True,
        "field_default_value": None,
        "premium_field": False,
        "nested_fields": None,
        "field_options": None,
        "field_tab": None,
        "source": "db",
        "editable": True,
    }
    seen = {name: (row["source"], row["stored_in_db"]) for name, row in fields.items()}
    assert seen["enforced_params"] == ("config", False)
    assert seen["store_model_in_db"] == ("env", None)
    assert seen["disable_custom_api_keys"] == ("default", None)
    assert (fields["enforced_params"]["field_type"], fields["enforced_params"]["editable"]) == (
        "List",
        False,
    )
    assert fields["master_key"]["field_value"] == MASK
    assert not fields["database_url"]["editable"]
    assert fields["alerting"]["field_value"] == ["slack"]
    assert "it would send alerts" in fields["alerting"]["field_description"]
    assert "custom_auth" not in fields


async def test_field_info(made: Make) -> None:
    """One setting; one that is not set, or that there is not, is refused."""
    admin, _ = await made()
    assert await info(admin, "enforced_params") == (
        200,
        {
            "field_name": "enforced_params",
            "field_value": ["user"],
            "source": "config",
            "editable": False,
        },
    )
    assert (await info(admin, "master_key"))[1]["field_value"] == MASK
    assert "not set" in detail_of(await info(admin, "completion_model"), 400)
    assert "no such name" in detail_of(await info(admin, "nonsense"), 400)
    assert issues_of(await admin.call("GET", "/config/field/info")) == [
        ("missing", ["query", "field_name"])
    ]
    assert issues_of(await admin.call("GET", "/config/list", params={"config_type": "x"}))


async def test_field_update_and_delete(made: Make) -> None:
    """One member is set and taken away; the row is answered, and both are noted."""
    admin, live = await made()
    status, body = await set_field(admin, "completion_model", "from-file")
    assert status == 200
    assert body == {
        "param_name": "general_settings",
        "param_value": {"completion_model": "from-file"},
        "notices": [],
        "restart_required": [],
    }
    assert live.config.general.completion_model == "from-file"
    await set_field(admin, "litellm_key_header_name", "x-k")
    delete = {"field_name": "completion_model", **GENERAL}
    status, body = await admin.call("POST", "/config/field/delete", delete)
    assert status == 200
    assert body["param_value"] == {"litellm_key_header_name": "x-k"}
    assert live.config.general.completion_model is None
    detail_of(await admin.call("POST", "/config/field/delete", delete), 400)
    assert len(await audit_of(admin, "LiteLLM_Config")) == 3


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("enforced_params", ["x"], 400),
        ("completion_model", "", 400),
        ("completion_model", None, 400),
        ("completion_model", "a\0b", 400),
        ("disable_custom_api_keys", "perhaps", 400),
        ("allowed_routes", ["/x"], 400),
        ("database_url", "postgresql://x", 400),
        ("nonsense", 1, 400),
        (5, 1, 422),
        (None, 1, 422),
    ],
)
async def test_bad_fields(made: Make, name: Any, value: Any, status: int) -> None:
    """What is wrong is refused, and nothing stored."""
    admin, _ = await made()
    answer = await set_field(admin, name, value)
    assert answer[0] == status, answer
    assert await admin.sql("select 1 from config") == []
    body = {"field_name": "x", "config_type": "router_settings"}
    assert (await admin.call("POST", "/config/field/delete", body))[0] == 422


async def test_router(made: Make) -> None:
    """The router's settings as they are in force, and what they could be."""
    admin, _ = await made()
    await update(admin, router_settings={"model_group_alias": {"a": "from-file"}})
    status, body = await admin.call("GET", "/router/settings")
    assert status == 200
    assert body["current_values"]["model_group_alias"] == {
        "a": {"model": "from-file", "hidden": False}
    }
    assert (body["current_values"]["num_retries"], body["current_values"]["timeout"]) == (3, 30.0)
    _, fields = await admin.call("GET", "/router/fields")
    assert [each["field_name"] for each in fields["fields"]] == list(body["current_values"])
    values = {each["field_name"]: each.pop("field_value") for each in body["fields"]}
    assert values == body["current_values"]
    assert body["fields"] == fields["fields"]


async def test_defaults_of_users_and_teams(made: Make) -> None:
    """What new users and teams get is shown with what it could be, and replaced as a whole."""
    admin, _ = await made()
    for kind, made_at, extra in (
        ("default_team_settings", "/team/new", {}),
        ("internal_user_settings", "/user/new", {"user_role": "internal_user"}),
    ):
        status, body = await admin.call(
            "PATCH", f"/update/{kind}", {"max_budget": 5, "tpm_limit": 9, "models": None}
        )
        assert status == 200, body
        assert body["settings"] == {"max_budget": 5, "tpm_limit": 9}
        await admin.call("PATCH", f"/update/{kind}", {"max_budget": 6})
        _, shown = await admin.call("GET", f"/get/{kind}")
        assert shown["values"] == {"max_budget": 6}
        assert "tpm_limit" in shown["field_schema"]["properties"]
        _, new = await admin.call("POST", made_at, extra)
        assert (new["max_budget"], new["tpm_limit"]) == (6, None)
        for wrong in ({"max_budgets": 1}, {"max_budget": "x"}, {"max_budget": -1}):
            detail_of(await admin.call("PATCH", f"/update/{kind}", wrong), 400)
        _, shown = await admin.call("GET", f"/get/{kind}")
        assert shown["values"] == {"max_budget": 6}


async def test_defaults_of_the_file(made: Make) -> None:
    """Those that the file sets are changed there."""
    file = {**FILE, "litellm_settings": {"default_team_params": {"max_budget": 1}}}
    admin, _ = await made(file=file)
    answer = await admin.call("PATCH", "/update/default_team_settings", {"max_budget": 2})
    assert "config.yaml" in detail_of(answer, 400)
    assert (await admin.call("GET", "/get/default_team_settings"))[1]["values"] == {"max_budget": 1}


async def test_yaml_is_open(made: Make) -> None:
    """The names of the configuration file are no secret."""
    admin, _ = await made()
    status, body = await admin.call("GET", "/config/yaml", key=None)
    assert status == 200
    assert body["general_settings"]["completion_model"]
    assert body["model_list"]


READS = (
    "/config/list",
    "/config/field/info?field_name=enforced_params",
    "/callbacks/list",
    "/callbacks/configs",
    "/get/config/callbacks",
    "/config/cost_discount_config",
    "/config/cost_margin_config",
    "/config/block_requests_for_models_without_pricing",
    "/router/settings",
    "/router/fields",
    "/get/default_team_settings",
    "/get/internal_user_settings",
)
WRITES = (
    ("POST", "/config/field/update"),
    ("POST", "/config/field/delete"),
    ("POST", "/config/callback/delete"),
    ("PATCH", "/config/cost_discount_config"),
    ("PATCH", "/config/cost_margin_config"),
    ("PATCH", "/config/block_requests_for_models_without_pricing"),
    ("PATCH", "/update/default_team_settings"),
    ("PATCH", "/update/internal_user_settings"),
)


async def test_roles(made: Make) -> None:
    """Viewers read, and only proxy admins change."""
    admin, _ = await made()
    viewer = await user_key(admin, "proxy_admin_viewer")
    user = await user_key(admin, "internal_user")
    for path in READS:
        assert (await admin.call("GET", path, key=viewer))[0] == 200, path
        assert (await admin.call("GET", path, key=user))[0] == 401, path
    for method, path in WRITES:
        assert (await admin.call(method, path, {}, key=viewer))[0] == 403, path
        assert (await admin.call(method, path, {}, key=user))[0] == 401, path
    assert await admin.sql("select 1 from config") == []
