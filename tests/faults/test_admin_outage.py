"""The key routes while their database is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.admin_api import AS_MASTER, admins, error_of
from tests.support.postgres import Postgres

pytestmark = pytest.mark.xdist_group("faults")


async def test_without_a_database(aiohttp_client: Any, own_postgres: Postgres) -> None:
    """While the database is away every call that needs it is 503 no_db_connection, never 401, and
    the next one after its return works."""
    async with admins(own_postgres.create(), aiohttp_client) as start:
        admin = await start()
        made = await admin.generate()
        # In a thread, so that the connections hear of it before they are used again.
        await asyncio.to_thread(own_postgres.stop)
        for method, path, body in (
            ("GET", "/key/info", None),
            ("POST", "/key/generate", {}),
            ("POST", "/key/block", {"key": made["key"]}),
        ):
            error_of(await admin.call(method, path, body), 503, "no_db_connection")
        answer = await admin.call("GET", "/key/info", key=made["key"])
        error_of(answer, 503, "no_db_connection")
        async with admin.client.get("/key/list", headers=AS_MASTER) as response:
            assert response.headers["retry-after"]
        await asyncio.to_thread(own_postgres.start)
        assert (await admin.info(made["key"]))["status"] == "active"
        await admin.generate()
