"""The callbacks of file and database, and the removal of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shared.gateway.live_models import LiveModels
from tests.support.admin_api import Admin, admins, issues_of
from tests.support.management import detail_of
from tests.support.stored_config import config_admin

Make = Callable[..., Awaitable[tuple[Admin, LiveModels]]]
FILE = {"litellm_settings": {"failure_callback": ["sentry"], "callbacks": "otel"}}


@pytest.fixture
async def made(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Make]:
    async with admins(database, aiohttp_client) as start:

        async def make(**more: Any) -> tuple[Admin, LiveModels]:
            return await config_admin(start, database, tmp_path, **more)

        yield make


async def add(admin: Admin, *names: str) -> None:
    body = {"litellm_settings": {"success_callback": list(names)}}
    assert (await admin.call("POST", "/config/update", body))[0] == 200


async def test_lists(made: Make) -> None:
    """Callbacks of both places, by what they are called for."""
    admin, _ = await made(file=FILE)
    await add(admin, "Langfuse", "s3")
    assert await admin.call("GET", "/callbacks/list") == (
        200,
        {"success": ["langfuse", "s3"], "failure": ["sentry"], "success_and_failure": ["otel"]},
    )
    status, body = await admin.call("GET", "/get/config/callbacks")
    assert status == 200
    assert body["callbacks"] == [
        {"name": "langfuse", "variables": {}, "type": "success"},
        {"name": "s3", "variables": {}, "type": "success"},
        {"name": "sentry", "variables": {}, "type": "failure"},
        {"name": "otel", "variables": {}, "type": "success_and_failure"},
    ]
    assert await admin.call("GET", "/callbacks/configs") == (200, [])


async def test_delete(made: Make) -> None:
    """One is removed from all lists of the database; what remains is answered."""
    admin, _ = await made()
    await add(admin, "langfuse", "s3")
    both = {"litellm_settings": {"failure_callback": ["langfuse"]}}
    assert (await admin.call("POST", "/config/update", both))[0] == 200
    status, body = await admin.call(
        "POST", "/config/callback/delete", {"callback_name": "langfuse"}
    )
    assert status == 200
    assert (body["removed_callback"], body["remaining_callbacks"]) == ("langfuse", ["s3"])
    lists = (await admin.call("GET", "/callbacks/list"))[1]
    assert lists == {"success": ["s3"], "failure": [], "success_and_failure": []}


async def test_delete_refused(made: Make) -> None:
    """One that is not there is 404, one of the file 400, and none named 422."""
    admin, _ = await made(file=FILE)
    await add(admin, "s3")
    for name, status in (("langfuse", 404), ("sentry", 400), ("otel", 400)):
        body = {"callback_name": name}
        detail_of(await admin.call("POST", "/config/callback/delete", body), status)
    answer = await admin.call("POST", "/config/callback/delete", {})
    assert issues_of(answer) == [("missing", ["body", "callback_name"])]
    assert len(await admin.sql("select 1 from audit_log")) == 1
