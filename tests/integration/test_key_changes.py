"""Keys looked at, changed, blocked and deleted through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
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


async def test_info_by_plain_and_by_hash(admin: Admin) -> None:
    """The outer key echoes what was sent, the info has no token."""
    made = await admin.generate(key_alias="a", max_budget=1)
    for sent in (made["key"], made["token"]):
        status, body = await admin.call("GET", "/key/info", params={"key": sent})
        assert (status, body["key"]) == (200, sent)
        assert "token" not in body["info"]
        assert body["info"]["status"] == "active"
        assert body["info"]["last_active"] is None
        assert body["info"]["rotation_count"] == 0


async def test_info_of_unknown_keys(admin: Admin) -> None:
    """Unknown keys are 404 not_found_error, whatever was sent for one."""
    for sent in ("sk-nobody", "0" * 64, "rubbish", "%00", "a\u0000"):
        answer = await admin.call("GET", "/key/info", params={"key": sent})
        if answer[0] != 422:
            error_of(answer, 404, "not_found_error", "key")
    error_of(await admin.call("GET", "/key/info"), 404, "not_found_error", "key")


async def test_info_of_a_key_about_itself(admin: Admin) -> None:
    """A key's default is itself; keys of its user are its own, others are 403."""
    mine = await admin.generate(user_id="u1")
    sibling = await admin.generate(user_id="u1")
    other = await admin.generate()
    status, body = await admin.call("GET", "/key/info", key=mine["key"])
    assert (status, body["key"]) == (200, mine["token"])
    await admin.info(sibling["key"], by=mine["key"])
    answer = await admin.call("GET", "/key/info", params={"key": other["key"]}, key=mine["key"])
    error_of(answer, 403, "auth_error", "key")
    answer = await admin.call("GET", "/key/info", params={"key": mine["key"]}, key=other["key"])
    error_of(answer, 403, "auth_error", "key")


async def test_status_follows_the_row(admin: Admin) -> None:
    """Blocked keys are revoked, past ones expired, deleted ones come from the archive."""
    key = (await admin.generate(duration="1h"))["key"]
    await admin.call("POST", "/key/block", {"key": key})
    assert (await admin.info(key))["status"] == "revoked"
    await admin.call("POST", "/key/unblock", {"key": key})
    await admin.sql("update virtual_key set expires = now() - interval '1 minute'")
    assert (await admin.info(key))["status"] == "expired"
    await admin.call("POST", "/key/delete", {"keys": [key]})
    info = await admin.info(key)
    assert info["status"] == "deleted"
    assert info["deleted_by"] == "default_user_id"
    assert info["deleted_at"].endswith("Z")


async def test_spend_is_that_of_the_budget_window(admin: Admin) -> None:
    """A key with a reset period shows its running window, one without its lifetime."""
    windowed = await admin.generate(max_budget=10, budget_duration="1d")
    lifetime = await admin.generate(max_budget=10)
    today = int(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    for token, start, spend in (
        (windowed["token"], 0, "7"),
        (windowed["token"], today, "0.42"),
        (windowed["token"], today - 86400, "5"),
        (lifetime["token"], 0, "3.5"),
    ):
        await admin.sql(
            "insert into spend_counter (kind, id, window_start_s, spend) "
            "values ('key', $1, $2, $3)",
            token,
            start,
            Decimal(spend),
        )
    assert (await admin.info(windowed["key"]))["spend"] == 0.42
    assert (await admin.info(lifetime["key"]))["spend"] == 3.5
    params = {"return_full_object": "true", "sort_by": "spend", "sort_order": "asc"}
    _, listed = await admin.call("GET", "/key/list", params=params)
    assert [key["spend"] for key in listed["keys"]] == [3.5, 0.42]


async def test_initial_spend(admin: Admin) -> None:
    """A spend that is sent is where the counter starts, and an update moves it."""
    body = await admin.generate(spend=1.25)
    assert body["spend"] == 1.25
    _, changed = await admin.call("POST", "/key/update", {"key": body["key"], "spend": 0})
    assert changed["spend"] == 0.0


async def test_update_changes_only_what_is_sent(admin: Admin) -> None:
    """Sent fields change, null clears, the rest stays; the answer echoes the key."""
    made = await admin.generate(
        models=["a"], max_budget=5, rpm_limit=1, duration="1h", metadata={"a": 1}, tags=["t"]
    )
    change = {"key": made["key"], "max_budget": 20, "rpm_limit": None, "models": None}
    status, body = await admin.call("POST", "/key/update", change)
    assert status == 200
    assert (body["key"], body["token"]) == (made["key"], made["token"])
    assert (body["max_budget"], body["rpm_limit"], body["models"]) == (20.0, None, [])
    assert body["expires"] == made["expires"]
    assert body["metadata"] == {"a": 1, "tags": ["t"]}
    assert body["updated_at"] > made["updated_at"]


async def test_update_of_metadata(admin: Admin) -> None:
    """`metadata` replaces the object whole, typed fields merge into it, null leaves them."""
    made = await admin.generate(metadata={"a": 1, "b": 2}, tags=["t"])
    named = {"key": made["token"]}
    _, body = await admin.call("POST", "/key/update", {**named, "model_rpm_limit": {"m": 3}})
    assert body["metadata"] == {"a": 1, "b": 2, "tags": ["t"], "model_rpm_limit": {"m": 3}}
    _, body = await admin.call("POST", "/key/update", {**named, "tags": None})
    assert body["metadata"]["tags"] == ["t"]
    _, body = await admin.call(
        "POST", "/key/update", {**named, "metadata": {"c": 3}, "guardrails": ["g"]}
    )
    assert body["metadata"] == {"c": 3, "guardrails": ["g"]}
    _, body = await admin.call("POST", "/key/update", {**named, "metadata": None})
    assert body["metadata"] == {}


async def test_update_of_expiry(admin: Admin) -> None:
    """A duration counts from now; "-1" and null take the expiry away."""
    key = (await admin.generate(duration="1h"))["key"]
    for never in ("-1", None):
        _, body = await admin.call("POST", "/key/update", {"key": key, "duration": "2h"})
        assert datetime.fromisoformat(body["expires"]) > datetime.now(UTC) + timedelta(hours=1)
        _, body = await admin.call("POST", "/key/update", {"key": key, "duration": never})
        assert body["expires"] is None


async def test_update_by_alias(admin: Admin) -> None:
    """Without a key the alias says which; no such alias is 404, neither is 422."""
    made = await admin.generate(key_alias="by-name")
    status, body = await admin.call("POST", "/key/update", {"key_alias": "by-name", "rpm_limit": 4})
    assert (status, body["rpm_limit"], body["key"]) == (200, 4, made["token"])
    missing = await admin.call("POST", "/key/update", {"key_alias": "no-name", "rpm_limit": 4})
    error_of(missing, 404, "invalid_request_error", "key_alias")
    assert issues_of(await admin.call("POST", "/key/update", {"rpm_limit": 4})) == [
        ("value_error", ["body"])
    ]
    _, body = await admin.call("POST", "/key/update", {"key": made["key"], "key_alias": "renamed"})
    assert body["key_alias"] == "renamed"


async def test_update_refusals(admin: Admin) -> None:
    """Unknown keys are 404, taken aliases 400, half a temporary budget 422."""
    unknown = await admin.call("POST", "/key/update", {"key": "sk-nobody", "rpm_limit": 1})
    error_of(unknown, 404, "invalid_request_error", "key")
    await admin.generate(key_alias="taken")
    key = (await admin.generate())["key"]
    taken = await admin.call("POST", "/key/update", {"key": key, "key_alias": "taken"})
    error_of(taken, 400, "bad_request_error", "key_alias")
    half = await admin.call("POST", "/key/update", {"key": key, "temp_budget_increase": 1})
    assert issues_of(half) == [("value_error", ["body"])]
    whole = {"temp_budget_increase": 1, "temp_budget_expiry": "2030-01-01T00:00:00Z"}
    _, body = await admin.call("POST", "/key/update", {"key": key, **whole})
    assert body["metadata"]["temp_budget_increase"] == 1.0
    assert body["metadata"]["temp_budget_expiry"].startswith("2030-01-01")


async def test_concurrent_updates_lose_nothing(admin: Admin) -> None:
    """Updates of different fields of one key that run at once all count."""
    key = (await admin.generate(metadata={"first": 1}))["key"]
    fields: dict[str, Any] = {
        "max_budget": 3.0,
        "rpm_limit": 4,
        "tpm_limit": 5,
        "user_id": "u",
        "models": ["m"],
        "blocked": True,
        "key_alias": "alias",
        "max_parallel_requests": 6,
    }
    typed = {f"model_{kind}_limit": {"m": 1} for kind in ("rpm", "tpm", "itpm", "otpm")}
    changes = [{name: value} for name, value in {**fields, **typed}.items()]
    answers = await asyncio.gather(
        *(admin.call("POST", "/key/update", {"key": key, **change}) for change in changes)
    )
    assert [answer[0] for answer in answers] == [200] * len(changes)
    info = await admin.info(key)
    assert {name: info[name] for name in fields} == fields
    assert info["metadata"] == {"first": 1, **typed}


async def test_block_and_unblock(admin: Admin) -> None:
    """Both answer the whole row; a blocked key is refused from that moment."""
    made = await admin.generate(key_alias="x")
    status, body = await admin.call("POST", "/key/block", {"key": made["key"]})
    assert (status, body["token"], body["blocked"], body["key_alias"]) == (
        200,
        made["token"],
        True,
        "x",
    )
    error_of(await admin.call("GET", "/key/info", key=made["key"]), 401, "auth_error")
    status, body = await admin.call("POST", "/key/unblock", {"key": made["token"]})
    assert (status, body["blocked"]) == (200, False)
    assert (await admin.call("GET", "/key/info", key=made["key"]))[0] == 200


@pytest.mark.parametrize("path", ["/key/block", "/key/unblock"])
async def test_block_refusals(admin: Admin, path: str) -> None:
    """No key is 422, what cannot be one 400, an unknown one 404."""
    assert issues_of(await admin.call("POST", path, {})) == [("missing", ["body", "key"])]
    bad = await admin.call("POST", path, {"key": "neither"})
    error_of(bad, 400, "bad_request_error", "key")
    unknown = await admin.call("POST", path, {"key": "sk-nobody"})
    error_of(unknown, 404, "not_found_error", "key")


async def test_delete(admin: Admin) -> None:
    """Keys go by plain value, hash and alias; unknown ones beside known ones are echoed."""
    one, two, three = [await admin.generate(key_alias=f"d{n}") for n in range(3)]
    sent = [one["key"], two["token"], "sk-unknown"]
    status, body = await admin.call(
        "POST", "/key/delete", {"keys": sent}, headers={"litellm-changed-by": "someone"}
    )
    assert (status, body) == (200, {"deleted_keys": sent})
    status, body = await admin.call("POST", "/key/delete", {"key_aliases": ["d2"]})
    assert (status, body) == (200, {"deleted_keys": ["d2"]})
    error_of(
        await admin.call("GET", "/key/info", key=one["key"]), 401, "token_not_found_in_db", "key"
    )
    rows = await admin.sql(
        "select token, litellm_changed_by, deleted_by_api_key from "
        "deleted_virtual_key order by deletion_id"
    )
    assert {row["token"] for row in rows} == {each["token"] for each in (one, two, three)}
    assert rows[0]["litellm_changed_by"] == "someone"
    assert rows[0]["deleted_by_api_key"] == "litellm_proxy_master_key"


async def test_delete_refusals(admin: Admin) -> None:
    """None found is 404, neither list 422."""
    none = await admin.call("POST", "/key/delete", {"keys": ["sk-nobody", "rubbish"]})
    error_of(none, 404, "invalid_request_error", "keys")
    for body in ({}, {"keys": []}, {"keys": None}):
        assert issues_of(await admin.call("POST", "/key/delete", body)) == [
            ("value_error", ["body"])
        ]


async def test_an_alias_is_free_again_after_deletion(admin: Admin) -> None:
    """The archive holds no alias back, and a custom key can be made anew."""
    for _ in range(2):
        await admin.generate(key="sk-again-and-again", key_alias="again")
        await admin.call("POST", "/key/delete", {"keys": ["sk-again-and-again"]})
    assert (await admin.info("sk-again-and-again"))["status"] == "deleted"


async def test_overlapping_deletes(admin: Admin) -> None:
    """Deletes of the same keys in other orders wait for each other and never fail."""
    made = [(await admin.generate())["token"] for _ in range(20)]
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/key/delete", {"keys": made[::step]})
            for step in (1, -1, 1, -1, 2, -2)
        )
    )
    assert {answer[0] for answer in answers} <= {200, 404}
    [left] = await admin.sql("select count(*) from deleted_virtual_key")
    assert left["count"] == 20
