"""Telling the fleet of changed keys, and waiting until they are in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
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


async def test_wait_applied(admin: Admin) -> None:
    """Writes that wait say who has applied them; an instance that lags counts as unreachable
    until it confirms."""
    status, body = await admin.call("POST", "/key/generate?wait=applied", {})
    assert status == 200
    assert body["propagation"]["applied"] == 0
    assert body["propagation"]["unreachable"] == 0
    await admin.sql(
        "insert into instance (id, binary_name, region, host, version, schema_version, "
        "capabilities) values ('w1', 'worker', 'eu', 'h', '1', 1, '{llm}')"
    )
    path = "/key/block?wait=applied&timeout=0.3"
    _, blocked = await admin.call("POST", path, {"key": body["key"]})
    assert (blocked["propagation"]["applied"], blocked["propagation"]["unreachable"]) == (0, 1)
    assert blocked["propagation"]["elapsed_ms"] >= 300

    connection = await asyncpg.connect(admin.database)
    heard = asyncio.Event()
    await connection.add_listener("meridian_feed", lambda *_: heard.set())

    async def confirm() -> None:
        before = await connection.fetchval("select wanted from change_ack")
        while True:
            await heard.wait()
            heard.clear()
            wanted = await connection.fetchval("select wanted from change_ack")
            if wanted > before:
                break
        await admin.sql("update instance set applied_version = $1, last_seen = now()", wanted)

    confirming = asyncio.create_task(confirm())
    answer = await admin.call(
        "POST", "/key/delete?wait=applied&timeout=20", {"keys": [body["key"]]}
    )
    await confirming
    await connection.close()
    assert answer[1]["propagation"]["applied"] == 1
    assert answer[1]["propagation"]["elapsed_ms"] < 15_000


@pytest.mark.parametrize("query", ["wait=soon", "timeout=-1", "timeout=x", "timeout=61"])
async def test_bad_waits_write_nothing(admin: Admin, query: str) -> None:
    """A wait that makes no sense is refused before anything is written."""
    issues_of(await admin.call("POST", f"/key/generate?{query}", {}))
    assert await admin.sql("select from virtual_key") == []


async def test_writes_are_announced(admin: Admin) -> None:
    """A commit wakes the followers of the feed."""
    connection = await asyncpg.connect(admin.database)
    heard = asyncio.Event()
    await connection.add_listener("meridian_feed", lambda *_: heard.set())
    await admin.generate()
    async with asyncio.timeout(5):
        await heard.wait()
    await connection.close()
