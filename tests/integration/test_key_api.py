"""Keys made through the management API, over a real database and the real application."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.admin.api.key_policy import KeyRules
from shared.domain.keys import hash_key
from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
    error_of,
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


async def test_generate_answers_with_the_whole_key(admin: Admin) -> None:
    """The answer of the contract's example: every field sent is stored and shown."""
    sent = {
        "key_alias": "ci-bot",
        "team_id": "t1",
        "user_id": "u1",
        "models": ["gpt-4o"],
        "duration": "30d",
        "max_budget": 10,
        "budget_duration": "30d",
        "rpm_limit": 60,
        "tpm_limit": 1000,
        "metadata": {"env": "dev"},
    }
    before = datetime.now(UTC)
    body = await admin.generate(**sent)
    plain = body["key"]
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", plain)
    assert body["token"] == body["token_id"] == hashlib.sha256(plain.encode()).hexdigest()
    assert body["key_name"] == f"sk-...{plain[-4:]}"
    for name in sent.keys() - {"duration"}:
        assert body[name] == sent[name], name
    expires = datetime.fromisoformat(body["expires"])
    assert body["expires"].endswith("Z")
    assert timedelta(days=30) <= expires - before < timedelta(days=30, minutes=1)
    assert datetime.fromisoformat(body["budget_reset_at"]).day == 1
    expected = {
        "organization_id": None,
        "project_id": None,
        "spend": 0.0,
        "budget_id": None,
        "soft_budget": None,
        "max_parallel_requests": None,
        "aliases": {},
        "config": {},
        "permissions": {},
        "model_max_budget": {},
        "allowed_routes": [],
        "key_type": "default",
        "allowed_cache_controls": [],
        "guardrails": None,
        "tags": None,
        "blocked": None,
        "litellm_budget_table": None,
        "router_settings": {},
        "created_by": "default_user_id",
        "updated_by": "default_user_id",
    }
    assert {name: body[name] for name in expected} == expected


async def test_generate_needs_no_field(admin: Admin) -> None:
    """An empty object makes a key without limits that never expires."""
    body = await admin.generate()
    assert body["expires"] is None
    assert body["models"] == []
    assert body["key_alias"] is None


async def test_later_features_are_stored_and_returned(admin: Admin) -> None:
    """Fields that other releases enforce come back as they were sent."""
    sent: dict[str, Any] = {
        "soft_budget": 1.5,
        "budget_limits": [{"budget_duration": "1h", "max_budget": 2.5}],
        "organization_id": "o1",
        "project_id": "p1",
        "agent_id": "a1",
        "max_parallel_requests": 3,
        "tpd_limit": 99,
        "model_max_budget": {"gpt-*": {"budget_limit": 1.0, "time_period": "1d"}},
        "budget_fallbacks": {"gpt-4o": ["gpt-4o-mini"]},
        "aliases": {"fast": "gpt-4o-mini"},
        "config": {"a": [1, {"b": None}]},
        "permissions": {"pii": True},
        "allowed_routes": ["/v1/chat/completions"],
        "allowed_cache_controls": ["no-cache"],
        "access_group_ids": ["g1"],
        "auto_rotate": True,
        "rotation_interval": "30d",
        "router_settings": {"num_retries": 2},
        "blocked": False,
        "throttle_on_budget_exceeded": True,
        "tags": ["x"],
        "guardrails": ["pii-guard"],
        "policies": ["p"],
        "prompts": ["q"],
        "enforced_params": ["user"],
        "model_rpm_limit": {"gpt-4o": 5},
        "model_tpm_limit": {"gpt-4o": 50},
        "mcp_rpm_limit": {"s": 1},
        "tag_rpm_limit": {"t": 1},
        "rpm_limit_type": "best_effort_throughput",
        "tpm_limit_type": "dynamic",
        "allowed_passthrough_routes": ["/x"],
        "denied_passthrough_routes": ["/y"],
        "disable_global_guardrails": True,
        "metadata": {"own": "yes"},
    }
    permission = {"mcp_servers": ["m"], "vector_stores": ["v"], "blocked_tools": []}
    body = await admin.generate(**sent, object_permission=permission)
    for name in sent.keys() - {"metadata", "budget_limits"}:
        assert body[name] == sent[name], name
    [limit] = body["budget_limits"]
    assert limit.pop("reset_at").endswith(":00:00Z")
    assert [limit] == sent["budget_limits"]
    assert datetime.fromisoformat(body["key_rotation_at"]) > datetime.now(UTC) + timedelta(days=29)
    assert body["metadata"]["own"] == "yes"
    assert body["metadata"]["tags"] == ["x"]
    info = await admin.info(body["key"])
    assert info["metadata"]["model_rpm_limit"] == {"gpt-4o": 5}
    assert info["object_permission"]["mcp_servers"] == ["m"]
    assert info["object_permission_id"] == info["object_permission"]["object_permission_id"]
    assert info["litellm_budget_table"]["soft_budget"] == 1.5
    assert info["budget_limits_usage"] == {"1h": {"current_spend": 0.0}}


async def test_unknown_fields_are_ignored(admin: Admin) -> None:
    """A field that nobody knows does no harm, as with the reference."""
    body = await admin.generate(something_new={"a": 1}, key_alias="kept")
    assert body["key_alias"] == "kept"


@pytest.mark.parametrize(
    ("key_type", "routes"),
    [
        ("default", []),
        ("llm_api", ["llm_api_routes"]),
        ("management", ["management_routes"]),
        ("read_only", ["info_routes"]),
    ],
)
async def test_key_type_sets_allowed_routes(admin: Admin, key_type: str, routes: list[str]) -> None:
    """The type of a key is a short way to say what it may call."""
    body = await admin.generate(key_type=key_type)
    assert (body["key_type"], body["allowed_routes"]) == (key_type, routes)


async def test_custom_key(admin: Admin) -> None:
    """A key of one's own choosing is taken as it is, once."""
    body = await admin.generate(key="sk-my-own-key-0001")
    assert body["key"] == "sk-my-own-key-0001"
    assert body["token"] == hash_key("sk-my-own-key-0001")
    again = await admin.call("POST", "/key/generate", {"key": "sk-my-own-key-0001"})
    error_of(again, 400, "bad_request_error", "key")


async def test_custom_keys_can_be_switched_off(start: StartAdmin) -> None:
    """With the setting, only generated keys are made."""
    admin = await start(KeyRules(custom_keys=False))
    answer = await admin.call("POST", "/key/generate", {"key": "sk-my-own-key-0001"})
    error_of(answer, 403, "auth_error", "key")
    await admin.generate()


async def test_numbers_in_strings_are_numbers(admin: Admin) -> None:
    """The leniency that clients of the reference count on."""
    body = await admin.generate(max_budget="12.5", rpm_limit="7", tpm_limit=8.0)
    assert (body["max_budget"], body["rpm_limit"], body["tpm_limit"]) == (12.5, 7, 8)


async def test_alias_is_unique_also_in_a_race(admin: Admin) -> None:
    """Of many keys that want one alias at once exactly one gets it; the others hear 400."""
    answers = await asyncio.gather(
        *(admin.call("POST", "/key/generate", {"key_alias": "mine"}) for _ in range(12))
    )
    refused = [answer for answer in answers if answer[0] != 200]
    assert len(refused) == 11
    for answer in refused:
        error_of(answer, 400, "bad_request_error", "key_alias")
    await admin.generate(key_alias=None)
    await admin.generate(key_alias="")


async def test_unknown_budget(admin: Admin) -> None:
    """A budget that does not exist cannot be linked; one that does fills what is open."""
    answer = await admin.call("POST", "/key/generate", {"budget_id": "none"})
    error_of(answer, 400, "bad_request_error", "budget_id")
    await admin.sql(
        "insert into budget (budget_id, max_budget, budget_duration) values ('b1', 3, '1d')"
    )
    body = await admin.generate(budget_id="b1")
    assert body["litellm_budget_table"]["max_budget"] == 3
    assert body["max_budget"] is None
    assert body["budget_reset_at"].endswith("T00:00:00Z")


async def test_two_hundred_at_once(admin: Admin) -> None:
    """Parallel generation gives as many different keys, in far fewer feed versions."""
    [head] = await admin.sql("select version from change_head")
    bodies = await asyncio.gather(*(admin.generate(key_alias=f"k{n}") for n in range(200)))
    assert len({body["key"] for body in bodies}) == 200
    [count] = await admin.sql("select count(*) from virtual_key")
    assert count["count"] == 200
    [now] = await admin.sql("select version from change_head")
    assert 0 < now["version"] - head["version"] < 100


async def test_unicode_comes_back(admin: Admin) -> None:
    """Any text survives: alias, ids, metadata and model names."""
    words = "Ключ-鍵-🔑-é-ß-\u202e-\ufeff"
    body = await admin.generate(
        key_alias=words, user_id=words, metadata={words: [words]}, models=[words]
    )
    info = await admin.info(body["key"])
    assert (info["key_alias"], info["user_id"], info["models"]) == (words, words, [words])
    assert info["metadata"] == {words: [words]}
    _, listed = await admin.call("GET", "/key/list", params={"key_alias": words})
    assert listed["keys"] == [body["token"]]


async def test_names_need_not_be_stored(start: StartAdmin) -> None:
    """DISABLE_KEY_NAME: nothing of the plain key is kept."""
    admin = await start(KeyRules(store_names=False))
    assert (await admin.generate())["key_name"] is None
