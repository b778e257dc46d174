"""Keys that get another value: both values in their time, and counters that go on to the cent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.admin.api.key_policy import KeyRules
from services.admin.api.key_rotator import Rotator
from shared.db import ledger
from shared.db.key_admin import find_key
from shared.db.key_rotation import due_tokens
from shared.db.keys import decode_principals, load_principals
from shared.db.link import Link
from shared.db.pool import Store
from shared.domain.ledger import BudgetCharge
from shared.keys.generate import generate_key
from shared.spend.records import encode_close, encode_open
from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
    error_of,
)
from tests.support.ledger_calls import Calls

ID_BYTES = 16


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


class Poster:
    """A worker's journal that posts calls one by one."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._calls = Calls()
        self._journal: UUID = uuid4()
        self._at = 0

    async def post(self, token: str, cost: str, charges: tuple[BudgetCharge, ...] = ()) -> None:
        """One call by a key."""
        opened = self._calls.opened(key=token, charges=charges)
        closed = self._calls.closed(opened, cost=Decimal(cost))
        pair = b"[[%b,%b]]" % (encode_open(opened)[ID_BYTES:], encode_close(closed)[ID_BYTES:])
        stretch = ledger.Stretch(self._journal, 0, self._at, self._at + 1, "i1", 1)
        assert (await ledger.apply(self._link, stretch, pair)).inserted == 1
        self._at += 1


@pytest.fixture
async def link(database: str) -> AsyncIterator[Link]:
    """A worker's connection."""
    made = Link("bulk", database, application_name="test", statement_timeout_s=30.0)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def poster(link: Link) -> Poster:
    """A worker that posts."""
    return Poster(link)


async def rotate(admin: Admin, key: str, **body: Any) -> dict[str, Any]:
    """The answer to a rotation."""
    status, answer = await admin.call("POST", "/key/regenerate", {"key": key, **body})
    assert status == 200, answer
    return dict(answer)


async def works(admin: Admin, key: str) -> bool:
    """Whether a key is let in."""
    status, body = await admin.call("GET", "/key/info", key=key)
    assert status == 200 or body["error"]["type"] == "token_not_found_in_db", body
    return status == 200


async def test_a_rotated_key_is_the_same_key(admin: Admin) -> None:
    """The generate shape with a new value; alias, limits and owners stay, the old value is dead."""
    old = await admin.generate(key_alias="ci", max_budget=5, user_id="u", metadata={"a": 1})
    new = await rotate(admin, old["key"])
    assert new["token"] is None
    assert new["key"] != old["key"]
    assert new["key_name"] == f"sk-...{new['key'][-4:]}"
    for name in ("key_alias", "max_budget", "user_id", "metadata", "spend", "created_at"):
        assert new[name] == old[name], name
    assert new.keys() >= old.keys()
    info = await admin.info(new["key"])
    assert info["rotation_count"] == 1
    assert datetime.now(UTC) - datetime.fromisoformat(info["last_rotation_at"]) < timedelta(hours=1)
    assert not await works(admin, old["key"])
    assert await works(admin, new["key"])
    [archived] = await admin.sql("select token, reason, key_alias from deleted_virtual_key")
    assert tuple(archived) == (old["token"], "rotated", "ci")
    assert (await admin.info(old["key"]))["status"] == "deleted"
    again = await rotate(admin, new["key"])
    assert (await admin.info(again["key"]))["rotation_count"] == 2


async def test_rotation_by_path_and_with_fields(admin: Admin) -> None:
    """The key may stand in the path, the body wins; fields of generate change the key too."""
    old = await admin.generate(models=["a"], rpm_limit=1, duration="1h")
    other = await admin.generate()
    status, new = await admin.call("POST", f"/key/{old['token']}/regenerate")
    assert (status, new["models"]) == (200, ["a"])
    body = {"key": new["key"], "models": ["b"], "rpm_limit": None, "duration": "-1", "tags": ["t"]}
    status, new = await admin.call("POST", f"/key/{other['key']}/regenerate", body)
    assert (status, new["models"], new["rpm_limit"], new["expires"]) == (200, ["b"], None, None)
    assert new["metadata"] == {"tags": ["t"]}
    assert await works(admin, other["key"])
    status, new = await admin.call(
        "POST", f"/key/{new['key']}/regenerate", {"new_key": "sk-a/b/c-012345678"}
    )
    assert (status, new["key"]) == (200, "sk-a/b/c-012345678")
    status, new = await admin.call("POST", "/key/sk-a/b/c-012345678/regenerate", {})
    assert status == 200


async def test_rotation_refusals(start: StartAdmin) -> None:
    """No key 400, unknown 404, values that cannot be 400 naming the field; nothing changes."""
    admin = await start()
    key = (await admin.generate(key="sk-first-value-0001"))["key"]
    taken = (await admin.generate())["key"]
    gone = (await admin.generate(key="sk-gone-value-00001"))["key"]
    await admin.call("POST", "/key/delete", {"keys": [gone]})
    path = "/key/regenerate"
    error_of(await admin.call("POST", path), 400, "invalid_request_error", "key")
    error_of(await admin.call("POST", path, {}), 400, "invalid_request_error", "key")
    unknown = await admin.call("POST", path, {"key": "sk-nobody"})
    error_of(unknown, 404, "invalid_request_error", "key")
    for body, kind, param in (
        ({"new_key": "sk-short"}, "invalid_request_error", "new_key"),
        ({"new_key": "no-prefix-0123456789"}, "invalid_request_error", "new_key"),
        ({"new_key": taken}, "bad_request_error", "new_key"),
        ({"new_key": key}, "bad_request_error", "new_key"),
        ({"new_key": gone}, "bad_request_error", "new_key"),
        ({"grace_period": "soon"}, "invalid_request_error", "grace_period"),
        ({"grace_period": "-1"}, "invalid_request_error", "grace_period"),
        ({"new_master_key": "sk-master"}, "invalid_request_error", "new_master_key"),
        ({"max_budget": -1}, "invalid_request_error", "max_budget"),
        ({"auto_rotate": True}, "invalid_request_error", "rotation_interval"),
    ):
        error_of(await admin.call("POST", path, {"key": key, **body}), 400, kind, param)
    for body in ({"grace_period": 5}, {"new_key": []}, {"models": "x"}):
        assert (await admin.call("POST", path, {"key": key, **body}))[0] == 422
    assert await works(admin, key)
    assert (await admin.info(key))["rotation_count"] == 0
    other = await start(KeyRules(custom_keys=False))
    own = await other.call("POST", path, {"key": key, "new_key": "sk-second-value-0002"})
    error_of(own, 403, "auth_error", "new_key")


async def test_grace(start: StartAdmin) -> None:
    """Within it old values work as the new one, also for the API; at its end they do not."""
    admin = await start(KeyRules(rotation_grace="1h"))
    first = await admin.generate(key_alias="a")
    second = await rotate(admin, first["key"])
    third = await rotate(admin, second["key"], grace_period="30m")
    for old in (first, second, third):
        status, body = await admin.call("GET", "/key/info", key=old["key"])
        assert (status, body["key"]) == (200, third["token_id"])
        named = await admin.info(old["key"])
        assert (named["status"], named["rotation_count"]) == ("active", 2)
    status, body = await admin.call("POST", "/key/block", {"key": first["key"]})
    assert (status, body["token"]) == (200, third["token_id"])
    await admin.call("POST", "/key/unblock", {"key": third["key"]})
    await admin.sql(
        "update deprecated_virtual_key set revoke_at = now() - interval '1 s' where token = $1",
        first["token"],
    )
    assert not await works(admin, first["key"])
    assert await works(admin, second["key"])
    last = await rotate(admin, third["key"], grace_period="")
    assert not await works(admin, third["key"])
    assert await works(admin, second["key"])
    await admin.call("POST", "/key/delete", {"keys": [last["key"]]})
    assert not await works(admin, second["key"])


async def test_back_to_the_first_value(admin: Admin) -> None:
    """A key may take its first value again, and no other key may."""
    old = await admin.generate(key="sk-the-first-value-1", spend=2)
    new = await rotate(admin, old["key"], grace_period="1h")
    taken = await admin.call("POST", "/key/generate", {"key": old["key"]})
    error_of(taken, 400, "bad_request_error", "key")
    other = await admin.generate()
    stolen = await admin.call(
        "POST", "/key/regenerate", {"key": other["key"], "new_key": old["key"]}
    )
    error_of(stolen, 400, "bad_request_error", "new_key")
    back = await rotate(admin, new["key"], new_key=old["key"])
    assert (back["token_id"], back["spend"]) == (old["token"], 2.0)
    assert not await works(admin, new["key"])


async def test_spend_goes_on(admin: Admin, poster: Poster) -> None:
    """What is posted before, and after, and late under an old value counts once, for the key."""
    old = await admin.generate(max_budget=10, spend=1)
    await poster.post(old["token"], "0.25")
    new = await rotate(admin, old["key"])
    assert new["spend"] == 1.25
    await poster.post(old["token"], "0.5")
    await poster.post(new["token_id"], "0.0625")
    assert (await admin.info(new["key"]))["spend"] == 1.8125
    last = await rotate(admin, new["key"])
    for token, cost in ((old["token"], "1"), (new["token_id"], "2"), (last["token_id"], "4")):
        await poster.post(token, cost)
    assert (await admin.info(last["key"]))["spend"] == 8.8125
    params = {"return_full_object": "true", "sort_by": "spend"}
    _, listed = await admin.call("GET", "/key/list", params=params)
    assert [row["spend"] for row in listed["keys"]] == [8.8125]
    await admin.call("POST", "/key/delete", {"keys": [last["key"]]})
    assert (await admin.info(last["key"]))["spend"] == 8.8125
    rows = await admin.sql("select key, sum(spend) from daily_spend where kind = 'key' group by 1")
    assert {row["key"]: row["sum"] for row in rows} == {
        old["token"]: Decimal("1.75"),
        new["token_id"]: Decimal("2.0625"),
        last["token_id"]: Decimal(4),
    }


async def test_no_spend_is_lost_while_rotating(admin: Admin, database: str, poster: Poster) -> None:
    """Workers that post under any value while a key is rotated again and again lose nothing."""
    made = await admin.generate()
    tokens = [made["token"]]
    other = Link("bulk", database, application_name="test", statement_timeout_s=30.0)
    await other.open()

    async def post(by: Poster) -> None:
        for n in range(40):
            await by.post(tokens[n % len(tokens)], "0.01")

    async def turn() -> str:
        key = made["key"]
        for _ in range(10):
            new = await rotate(admin, key, grace_period="1h")
            key = new["key"]
            tokens.append(new["token_id"])
        return key

    try:
        last, _, _ = await asyncio.gather(turn(), post(poster), post(Poster(other)))
    finally:
        await other.close()
    assert (await admin.info(last))["spend"] == 0.8
    [kept] = await admin.sql(
        "select count(*), sum(calls) as calls from spend_counter where kind = 'key'"
    )
    assert tuple(kept) == (1, 80)


async def test_limits_go_on(admin: Admin, link: Link, poster: Poster) -> None:
    """Workers count the old and the new value in the same scopes, windows of budgets included."""
    old = await admin.generate(max_budget=10, budget_duration="1d", rpm_limit=5, tpm_limit=50)
    new = await rotate(admin, old["key"], grace_period="1h")
    document = decode_principals(await load_principals(link, [old["token"], new["token_id"]]))
    assert {loaded.key.counter_id for loaded in document.keys} == {old["token"]}
    assert {loaded.key.token for loaded in document.keys} == {new["token_id"]}
    today = int(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    charge = BudgetCharge(f"key:{old['token']}", today)
    for token in (old["token"], new["token_id"]):
        await poster.post(token, "0.5", (charge,))
    assert (await admin.info(new["key"]))["spend"] == 1.0


async def test_last_use_goes_on(admin: Admin, poster: Poster) -> None:
    """The new value was last used when the old one was."""
    old = await admin.generate()
    await poster.post(old["token"], "0.1")
    seen = (await admin.info(old["key"]))["last_active"]
    assert seen is not None
    assert (await rotate(admin, old["key"]))["last_active"] == seen


async def test_access_groups_name_the_new_value(admin: Admin) -> None:
    """A group that holds a key holds it still."""
    old = await admin.generate()
    await admin.sql(
        "insert into access_group (access_group_id, access_group_name, assigned_key_ids) "
        "values ('g', 'g', array['x', $1])",
        old["token"],
    )
    new = await rotate(admin, old["key"])
    [group] = await admin.sql("select assigned_key_ids from access_group")
    assert group["assigned_key_ids"] == ["x", new["token_id"]]


async def test_rotations_at_once(admin: Admin) -> None:
    """Of several at once each rotates what the one before has left, or finds the key gone."""
    old = await admin.generate(key_alias="one")
    answers = await asyncio.gather(
        *(admin.call("POST", "/key/regenerate", {"key": old["key"]}) for _ in range(6))
    )
    assert sorted(answer[0] for answer in answers) == [200] + [404] * 5
    now = next(body["key"] for status, body in answers if status == 200)
    answers = await asyncio.gather(
        *(
            admin.call("POST", "/key/regenerate", {"key": now, "grace_period": "1h"})
            for _ in range(6)
        )
    )
    assert [answer[0] for answer in answers] == [200] * 6
    [key] = await admin.sql("select rotation_count from virtual_key")
    assert key["rotation_count"] == 7


async def test_rotation_is_announced_and_noted(admin: Admin) -> None:
    """Workers hear of both values; the log has who rotated what, and nothing of the values."""
    old = await admin.generate()
    [before] = await admin.sql("select version from change_head")
    status, new = await admin.call(
        "POST", "/key/regenerate?wait=applied&timeout=0", {"key": old["key"], "rpm_limit": 3},
        headers={"litellm-changed-by": "rita"},
    )  # fmt: skip
    assert (status, new["propagation"]["applied"]) == (200, 0)
    rows = await admin.sql(
        "select unnest(ids) as id from change_feed where kind = 'key' and version > $1",
        before["version"],
    )
    assert {old["token"], new["token_id"]} <= {row["id"] for row in rows}
    entries = await admin.sql(
        "select changed_by, table_name, object_id, before_value::text as old, "
        "updated_values::text as new from audit_log where action = 'rotated'"
    )
    [entry] = entries
    assert entry["changed_by"] == "rita"
    assert (entry["table_name"], entry["object_id"]) == ("LiteLLM_VerificationToken", old["token"])
    assert old["token"] in entry["old"]
    assert new["token_id"] in entry["new"]
    assert '"rpm_limit": 3' in entry["new"]
    for plain in (old["key"], new["key"]):
        assert plain not in entry["old"] + entry["new"]


async def test_rotation_by_itself(admin: Admin, database: str) -> None:
    """Keys that are due are found and rotated without a request; others are left alone."""
    status, body = await admin.call("POST", "/key/generate", {"auto_rotate": True})
    error_of((status, body), 400, "invalid_request_error", "rotation_interval")
    due = await admin.generate(auto_rotate=True, rotation_interval="30d")
    later = await admin.generate(auto_rotate=True, rotation_interval="1d")
    await admin.generate(rotation_interval="1d")
    await admin.sql(
        "update virtual_key set key_rotation_at = now() - interval '1 s' where token = $1",
        due["token"],
    )
    store = Store(database, application_name="test")
    await store.open()
    now, plain = datetime.now(UTC), generate_key()
    rotator = Rotator(rules=KeyRules(), now=now, actor="rotation")
    try:
        async with store.transaction() as connection:
            assert await due_tokens(connection, 10) == [due["token"]]
            row = await find_key(connection, due["token"], lock=True)
            assert row is not None
            after = await rotator.rotate(connection, row, plain, "1h")
            assert await due_tokens(connection, 10) == []
    finally:
        await store.close()
    assert after["key_rotation_at"] == now + timedelta(days=30)
    assert await works(admin, plain)
    assert await works(admin, due["key"])
    _, off = await admin.call("POST", "/key/update", {"key": later["key"], "auto_rotate": False})
    assert off["key_rotation_at"] is None
    _, on = await admin.call("POST", "/key/update", {"key": later["key"], "auto_rotate": True})
    assert on["key_rotation_at"] > later["key_rotation_at"]


async def test_reset_spend(admin: Admin, poster: Poster) -> None:
    """The window that the budget counts goes down to what is asked; other windows stay."""
    made = await admin.generate(max_budget=3, key_alias="r")
    await poster.post(made["token"], "2.5")
    path = f"/key/{made['key']}/reset_spend"
    status, body = await admin.call("POST", path, {"reset_to": 1.25})
    assert (status, body) == (
        200,
        {
            "key_hash": made["token"],
            "spend": 1.25,
            "previous_spend": 2.5,
            "max_budget": 3.0,
            "budget_reset_at": None,
        },
    )
    assert (await admin.info(made["key"]))["spend"] == 1.25
    [entry] = await admin.sql(
        "select object_id, before_value::text as old, updated_values::text as new "
        "from audit_log where action = 'reset'"
    )
    assert tuple(entry) == (made["token"], '{"spend": 2.5}', '{"spend": 1.25}')
    windowed = await admin.generate(max_budget=3, budget_duration="1d", spend=2)
    status, body = await admin.call(
        "POST", f"/key/{windowed['token']}/reset_spend", {"reset_to": 0}
    )
    assert (status, body["spend"], body["previous_spend"]) == (200, 0.0, 2.0)
    assert body["budget_reset_at"].endswith("T00:00:00Z")


async def test_reset_refusals(admin: Admin) -> None:
    """Above the spend or the budget, below 0, no number, no key."""
    made = await admin.generate(max_budget=2, spend=5)
    path = f"/key/{made['key']}/reset_spend"
    for value, status in (
        (5.01, 400), (2.5, 400), (-1, 400), ("1e400", 400), (True, 422), (None, 422),
        ("x", 422), ([], 422),
    ):  # fmt: skip
        answer = await admin.call("POST", path, {"reset_to": value})
        assert answer[0] == status, (value, answer)
        assert list(answer[1]) == ["detail"]
    assert (await admin.call("POST", path, {}))[0] == 422
    assert (await admin.call("POST", "/key/sk-nobody/reset_spend", {"reset_to": 0}))[0] == 404
    assert (await admin.call("POST", path, {"reset_to": 2}))[0] == 200


async def test_reset_while_posting(admin: Admin, poster: Poster) -> None:
    """A call that is posted while the spend is reset counts before it or after, never not."""
    made = await admin.generate(spend=100)
    path = f"/key/{made['key']}/reset_spend"

    async def post() -> None:
        for _ in range(20):
            await poster.post(made["token"], "1")

    async def reset() -> list[float]:
        answers = [await admin.call("POST", path, {"reset_to": 0}) for _ in range(10)]
        return [body["previous_spend"] for _, body in answers]

    _, taken = await asyncio.gather(post(), reset())
    assert sum(taken) + (await admin.info(made["key"]))["spend"] == 120
