"""Many keys with one request, the audit entries of every write, and writes that meet."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.key_policy import KeyRules
from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
    error_of,
)

BULK = "/key/bulk_update"
TEAM = "/team/key/bulk_update"
TABLE = "LiteLLM_VerificationToken"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def generate_many(admin: Admin, number: int, **fields: Any) -> list[dict[str, Any]]:
    """Keys made at once."""
    return await asyncio.gather(*(admin.generate(**fields) for _ in range(number)))


async def entries(admin: Admin, *actions: str) -> list[tuple[str, str]]:
    """Action and object of the audit entries, in order."""
    rows = await admin.sql(
        "select action, object_id from audit_log where action = any($1) order by seq", actions
    )
    return [(row["action"], row["object_id"]) for row in rows]


async def test_bulk_update(admin: Admin) -> None:
    """Each key gets its own values; one that cannot be changed spoils no other."""
    one, two = await generate_many(admin, 2)
    items = [
        {"key": one["key"], "max_budget": 5, "tags": ["t"], "models": ["ignored"]},
        {"key": "sk-nobody", "max_budget": 1},
        {"key": two["token"], "team_id": "t1", "object_permission": {"vector_stores": ["v"]}},
        {"key": two["token"], "budget_id": "none"},
        {"key": one["token"], "max_budget": -1},
    ]
    status, body = await admin.call("POST", BULK, {"keys": items})
    assert (status, body["total_requested"]) == (200, 5)
    done, failed = body["successful_updates"], body["failed_updates"]
    assert [item["key"] for item in done] == [one["key"], two["token"]]
    assert (done[0]["key_info"]["max_budget"], done[0]["key_info"]["models"]) == (5.0, [])
    assert done[0]["key_info"]["metadata"] == {"tags": ["t"]}
    assert done[1]["key_info"]["team_id"] == "t1"
    assert done[1]["key_info"]["object_permission"]["vector_stores"] == ["v"]
    assert [item["key"] for item in failed] == ["sk-nobody", two["token"], one["token"]]
    for item in failed:
        assert item["key_info"] is None
        assert item["failed_reason"]
    assert "budget_id" in failed[1]["failed_reason"]
    assert (await admin.info(one["key"]))["max_budget"] == 5.0
    assert Counter(await entries(admin, "updated")) == Counter(
        [("updated", one["token"]), ("updated", two["token"])]
    )


async def test_bulk_refusals(admin: Admin) -> None:
    """For proxy admins alone; from 1 to 500 keys; wrong types refuse all, naming the place."""
    made = await admin.generate()
    await admin.sql("insert into app_user (user_id, user_role) values ('u', 'internal_user')")
    user = await admin.generate(user_id="u")
    status, body = await admin.call("POST", BULK, {"keys": [{"key": user["key"]}]}, key=user["key"])
    assert (status, list(body), list(body["detail"])) == (403, ["detail"], ["error"])
    for number in (0, 501):
        status, body = await admin.call("POST", BULK, {"keys": [{"key": made["key"]}] * number})
        assert (status, list(body["detail"])) == (400, ["error"])
    for item, place in (
        ({"max_budget": 1}, ["keys", 0, "key"]),
        ({"key": made["key"], "max_budget": "x"}, ["keys", 0, "max_budget"]),
        ({"key": made["key"], "tags": [1]}, ["keys", 0, "tags", 0]),
        ("sk-x", ["keys", 0]),
    ):
        status, body = await admin.call("POST", BULK, {"keys": [item]})
        assert (status, body["detail"][0]["loc"]) == (422, ["body", *place])
    for body in ({}, {"keys": None}, {"keys": {}}):
        assert (await admin.call("POST", BULK, body))[0] == 422


async def test_five_hundred_at_once(admin: Admin) -> None:
    """The most that one request may change is changed in a few seconds, with an entry each."""
    made = await generate_many(admin, 500)
    before = time.monotonic()
    items = [{"key": each["token"], "max_budget": 1} for each in made]
    status, body = await admin.call("POST", BULK, {"keys": items})
    assert (status, len(body["successful_updates"])) == (200, 500)
    assert time.monotonic() - before < 30
    assert len(await entries(admin, "updated")) == 500
    [row] = await admin.sql("select count(distinct key_alias), min(max_budget) from virtual_key")
    assert row["min"] == 1
    gone = await admin.call("POST", "/key/delete", {"keys": [each["token"] for each in made]})
    assert gone[0] == 200
    assert len(await entries(admin, "deleted")) == 500


async def test_team_bulk_update(admin: Admin) -> None:
    """Some keys of a team, or all that are neither blocked nor expired."""
    await admin.sql("insert into team (team_id) values ('t1')")
    one, two, blocked, expired = await generate_many(admin, 4, team_id="t1")
    foreign = await admin.generate()
    await admin.call("POST", "/key/block", {"key": blocked["key"]})
    await admin.sql(
        "update virtual_key set expires = now() - interval '1 s' where token = $1",
        expired["token"],
    )
    fields = {"team_id": "t1", "update_fields": {"rpm_limit": 7}}
    status, body = await admin.call(
        "POST", TEAM, {**fields, "key_ids": [one["key"], foreign["key"]]}
    )
    assert (status, body["team_id"], body["total_requested"]) == (200, "t1", 2)
    assert [item["key"] for item in body["successful_updates"]] == [one["key"]]
    assert [item["key"] for item in body["failed_updates"]] == [foreign["key"]]
    fields["update_fields"] = {"tpm_limit": 8}
    status, body = await admin.call("POST", TEAM, {**fields, "all_keys_in_team": True})
    assert (status, body["total_requested"]) == (200, 2)
    for key, limits in ((one, (7, 8)), (two, (None, 8)), (blocked, (None, None))):
        info = await admin.info(key["key"])
        assert (info["rpm_limit"], info["tpm_limit"]) == limits
    for wrong in (
        {},
        {"key_ids": [one["key"]], "all_keys_in_team": True},
        {"key_ids": []},
        {"key_ids": [one["key"]] * 501},
        {"key_ids": [one["key"]], "update_fields": {}},
        {"key_ids": [one["key"]], "update_fields": {"max_budget": -1}},
    ):
        status, body = await admin.call("POST", TEAM, {**fields, **wrong})
        assert (status, list(body["detail"])) == (400, ["error"]), wrong
    for wrong in ({"update_fields": None}, {"team_id": None}, {"key_ids": 1}):
        assert (await admin.call("POST", TEAM, {**fields, **wrong}))[0] == 422


async def test_soft_budget_is_a_budget_of_its_own(admin: Admin) -> None:
    """It makes a linked budget, a change changes that; one that others have too stays theirs."""
    made = await admin.generate(soft_budget=1.5, max_budget=3)
    budget = made["litellm_budget_table"]
    assert (budget["soft_budget"], budget["max_budget"]) == (1.5, None)
    assert (made["budget_id"], made["soft_budget"]) == (budget["budget_id"], 1.5)
    _, body = await admin.call("POST", "/key/update", {"key": made["key"], "soft_budget": 2})
    assert body["budget_id"] == made["budget_id"]
    assert (body["soft_budget"], body["litellm_budget_table"]["soft_budget"]) == (2.0, 2.0)
    plain = await admin.generate()
    _, body = await admin.call("POST", "/key/update", {"key": plain["key"], "soft_budget": 4})
    assert body["litellm_budget_table"]["soft_budget"] == 4.0
    rows = await admin.sql(
        "select action, object_id from audit_log where table_name = 'LiteLLM_BudgetTable' "
        "order by seq"
    )
    assert [tuple(row) for row in rows] == [
        ("created", made["budget_id"]),
        ("updated", made["budget_id"]),
        ("created", body["budget_id"]),
    ]
    await admin.sql("insert into budget (budget_id, max_budget) values ('shared', 9)")
    linked = await admin.generate(budget_id="shared", soft_budget=1)
    assert linked["litellm_budget_table"]["soft_budget"] is None
    [row] = await admin.sql("select soft_budget from budget where budget_id = 'shared'")
    assert row["soft_budget"] is None


async def test_every_write_is_noted(admin: Admin) -> None:
    """One entry per write and key with who did it and what differs; a refused write leaves none."""
    made = await admin.generate(key_alias="noted", models=["a"], metadata={"api_key": "sk-deep"})
    key, token = made["key"], made["token"]
    await admin.call("POST", "/key/update", {"key": key, "rpm_limit": 3})
    await admin.call("POST", "/key/block", {"key": key})
    await admin.call("POST", "/key/unblock", {"key": key})
    await admin.call("POST", "/key/generate", {"key_alias": "noted"})
    await admin.call("POST", "/key/update", {"key": key, "budget_id": "none"})
    await admin.call("POST", "/key/delete", {"keys": [key]})
    rows = await admin.sql("select * from audit_log order by seq")
    actions = ["created", "updated", "blocked", "unblocked", "deleted"]
    assert [row["action"] for row in rows] == actions
    assert {(row["table_name"], row["object_id"]) for row in rows} == {(TABLE, token)}
    assert {row["changed_by"] for row in rows} == {"default_user_id"}
    assert {row["changed_by_api_key"] for row in rows} == {"litellm_proxy_master_key"}
    created, updated, blocked, _, deleted = rows
    assert created["before_value"] is None
    assert json.loads(created["updated_values"])["models"] == ["a"]
    assert json.loads(updated["before_value"])["rpm_limit"] is None
    assert json.loads(updated["updated_values"])["rpm_limit"] == 3
    assert json.loads(blocked["updated_values"])["blocked"] is True
    assert json.loads(deleted["before_value"])["key_alias"] == "noted"
    assert deleted["updated_values"] is None
    told = "".join(f"{row['before_value']}{row['updated_values']}" for row in rows)
    assert key not in told
    assert "sk-deep" not in told


async def test_a_batch_of_hundreds_is_noted_key_by_key(admin: Admin) -> None:
    """Keys made together share commits, and each has its entry, in an unbroken chain."""
    made = await generate_many(admin, 300)
    noted = await entries(admin, "created")
    assert {token for _, token in noted} == {each["token"] for each in made}
    rows = await admin.sql("select seq from audit_log order by seq")
    assert [row["seq"] for row in rows] == list(range(1, 301))
    [row] = await admin.sql("select count(distinct version) from change_feed where kind = 'key'")
    assert row["count"] < 150


async def test_writes_that_meet_never_lock_up(start: StartAdmin) -> None:
    """Group commits of two admins beside single and bulk writes that want the same aliases and
    keys in other orders: everything is answered, nothing with a fault."""
    first, second = await start(), await start(KeyRules())
    made = await generate_many(first, 12)
    tokens = [each["token"] for each in made]

    async def alias(by: Admin, turn: int) -> list[int]:
        calls = []
        for n in range(12):
            name = f"alias-{(n * 5 + turn) % 12}"
            update = {"key": tokens[(n * 7 + turn) % 12], "key_alias": name}
            calls += [
                by.call("POST", "/key/generate", {"key_alias": name}),
                by.call("POST", "/key/update", update),
            ]
        return [status for status, _ in await asyncio.gather(*calls)]

    async def bulk(by: Admin, step: int) -> list[int]:
        items = [{"key": token, "max_budget": 1} for token in tokens[::step]]
        answers = [
            await by.call("POST", BULK, {"keys": items}),
            await by.call("POST", "/key/regenerate", {"key": tokens[step], "grace_period": "1h"}),
            await by.call("POST", "/key/delete", {"keys": tokens[::-step][:3]}),
        ]
        return [status for status, _ in answers]

    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *(alias(by, turn) for turn in range(3) for by in (first, second)),
            *(bulk(by, step) for by, step in ((first, 1), (second, -1), (first, 2))),
        )
    statuses = Counter(status for each in results for status in each)
    assert set(statuses) <= {200, 400, 404}, statuses
    assert statuses[200] > 10
    [chain] = await first.sql("select count(*), max(seq) from audit_log")
    assert chain["count"] == chain["max"]
    error_of(
        await first.call("POST", "/key/update", {"key": "sk-x"}),
        404,
        "invalid_request_error",
        "key",
    )
