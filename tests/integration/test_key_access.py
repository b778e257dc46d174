"""Who may call the key routes, and that no secret stays behind."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from tests.support.admin_api import (
    AS_MASTER,
    MASTER,
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


WRITES = ("generate", "update", "delete", "block", "unblock")
PARAMS = {"generate": "team_id", "delete": "keys"}


async def test_authentication_phase(admin: Admin) -> None:
    """The contract's table: none, malformed, unknown, blocked and expired keys are 401."""
    error_of(await admin.call("GET", "/key/list", key=None), 401, "auth_error")
    for value in ("", "Bearer", "Bearer ", "not-a-bearer", "Bearer nonsense", "Bearer é"):
        headers = {"authorization": value}
        answer = await admin.call("GET", "/key/list", key=None, headers=headers)
        error_of(answer, 401, "auth_error")
    hashed = (await admin.generate())["token"]
    error_of(await admin.call("GET", "/key/list", key=hashed), 401, "auth_error")
    unknown = await admin.call("GET", "/key/list", key="sk-nobody-knows-this")
    error_of(unknown, 401, "token_not_found_in_db", "key")
    made = await admin.generate(duration="1h")
    await admin.sql(
        "update virtual_key set expires = now() - interval '1 s' where token = $1", made["token"]
    )
    expired = await admin.call("GET", "/key/list", key=made["key"])
    error_of(expired, 401, "expired_key", made["key_name"])


@pytest.mark.parametrize(
    "headers",
    [
        {"x-litellm-api-key": MASTER},
        {"x-litellm-api-key": f"Bearer {MASTER}", "authorization": "Bearer sk-other"},
        {"api-key": MASTER},
        {"x-api-key": MASTER},
        {"x-goog-api-key": MASTER},
        {"ocp-apim-subscription-key": MASTER},
        {"authorization": f"bearer {MASTER}"},
    ],
)
async def test_key_headers(admin: Admin, headers: dict[str, str]) -> None:
    """The key is taken from each header of the contract, in its order."""
    assert (await admin.call("GET", "/key/list", key=None, headers=headers))[0] == 200


async def test_own_key_header(start: StartAdmin) -> None:
    """A header of the operator's own beats the others."""
    admin = await start(key_header="x-company-key")
    headers = {"x-company-key": f"Bearer {MASTER}", "authorization": "Bearer sk-other"}
    assert (await admin.call("GET", "/key/list", key=None, headers=headers))[0] == 200


@pytest.mark.parametrize("name", WRITES)
async def test_keys_of_nobody_never_write(admin: Admin, name: str) -> None:
    """A key without a user that exists writes nothing, not even itself, whatever routes it names;
    nothing changes."""
    plain = await admin.generate(user_id="u1")
    target = {"key": plain["key"], "keys": [plain["key"]]}
    error_of(
        await admin.call("POST", f"/key/{name}", target, key=plain["key"]), 403, "auth_error",
        PARAMS.get(name, "key"),
    )  # fmt: skip
    for routes in (["management_routes"], [f"/key/{name}"], ["/key"], ["/key/*"]):
        key = (await admin.generate(allowed_routes=routes, user_id="u1"))["key"]
        status, body = await admin.call("POST", f"/key/{name}", target, key=key)
        assert (status, body["error"]["type"]) == (403, "auth_error")
    key = (await admin.generate(allowed_routes=["llm_api_routes"]))["key"]
    status, body = await admin.call("POST", f"/key/{name}", target, key=key)
    assert (status, list(body)) == (403, ["detail"])
    assert isinstance(body["detail"], str)
    assert (await admin.info(plain["key"]))["status"] == "active"


async def test_allowed_routes_hold_for_reading_too(admin: Admin) -> None:
    """A key that may only call LLM routes may not ask about itself; a read-only one may."""
    llm = (await admin.generate(key_type="llm_api"))["key"]
    status, body = await admin.call("GET", "/key/info", key=llm)
    assert (status, list(body)) == (403, ["detail"])
    reader = (await admin.generate(key_type="read_only"))["key"]
    assert (await admin.call("GET", "/key/info", key=reader))[0] == 200
    status, body = await admin.call("POST", "/key/block", {"key": reader}, key=reader)
    assert (status, list(body)) == (403, ["detail"])


async def test_a_key_that_is_no_text(admin: Admin) -> None:
    """Bytes that are no UTF-8 are a bad key, not a fault of ours."""
    reader, writer = await asyncio.open_connection("127.0.0.1", admin.client.port)
    writer.write(
        b"GET /key/list HTTP/1.1\r\nhost: a\r\nauthorization: Bearer sk-\xff\xfe\r\n"
        b"litellm-changed-by: \xff\r\nconnection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 401 " in answer.partition(b"\r\n")[0]
    assert b"auth_error" in answer


async def test_other_methods_and_paths(admin: Admin) -> None:
    """A known path with another method is 405 and says which are there."""
    async with admin.client.get("/key/generate", headers=AS_MASTER) as response:
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        assert await response.json() == {"detail": "Method Not Allowed"}


async def test_answers_are_not_to_be_kept(admin: Admin) -> None:
    """Answers with keys in them carry no-store."""
    async with admin.client.post("/key/generate", json={}, headers=AS_MASTER) as response:
        assert response.headers["cache-control"] == "no-store"


async def test_plain_keys_are_nowhere(admin: Admin, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the database nor the logs ever hold a plain key, refused ones included."""
    captured = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(captured))
    try:
        with caplog.at_level(logging.DEBUG):
            made = await admin.generate(key_alias="secret", metadata={"a": 1})
            custom = await admin.generate(key="sk-custom-secret-0001")
            plains = [made["key"], custom["key"], "sk-wrong-secret-0002"]
            await admin.call("POST", "/key/generate", {"key": custom["key"]})
            await admin.call("GET", "/key/info", params={"key": made["key"]}, key=plains[2])
            await admin.call("POST", "/key/update", {"key": plains[2], "rpm_limit": 1})
            await admin.call("POST", "/key/block", {"key": made["key"]})
            await admin.call("POST", "/key/delete", {"keys": [made["key"], plains[2]]})
            await admin.call("GET", "/key/list", params={"search": custom["key"]})
    finally:
        structlog.reset_defaults()
    tables = await admin.sql("select tablename from pg_tables where schemaname = current_schema()")
    # The services run without the server's access log, which would show query strings.
    ours = [entry.getMessage() for entry in caplog.records if entry.name != "aiohttp.access"]
    dump = captured.getvalue() + "\n".join(ours)
    for table in tables:
        rows = await admin.sql(f'select t::text as row from "{table["tablename"]}" t')
        dump += "\n".join(row["row"] for row in rows)
    assert "secret" in dump
    for plain in (*plains, MASTER):
        assert plain not in dump
