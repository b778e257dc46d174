"""The admin's key API on a real database and the real aiohttp application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
from aiohttp import web
from aiohttp.test_utils import TestClient

from services.admin.api import calls
from services.admin.api.commits import Commits
from services.admin.api.deps import AdminServices
from services.admin.api.key_policy import KeyRules
from services.admin.api.respond import error_middleware
from services.admin.api.routes import OPEN_ROUTES, ROUTES
from services.admin.api.rule_book import RuleBook, Rules
from services.admin.api.team_rules import TeamRules
from services.admin.api.user_rules import UserRules
from shared.db.pool import Store
from shared.domain.clock import Clock
from shared.domain.keys import hash_key
from shared.fleet.applied import Notifier

MASTER = "sk-master-of-this-test-0123456789"
AS_MASTER = {"authorization": f"Bearer {MASTER}"}
BODY_LIMIT = 1024 * 1024

Client = TestClient[web.Request, web.Application]
Answer = tuple[int, Any]
StartAdmin = Callable[..., Awaitable["Admin"]]


class Admin:
    """An admin under test, and a direct look into its database."""

    def __init__(self, client: Client, database: str) -> None:
        self.client = client
        self.database = database

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = MASTER, **more: Any
    ) -> Answer:
        """Status and JSON body of an answer."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= more.pop("headers", {})
        extra = more if body is None else {"json": body, **more}
        async with self.client.request(method, path, headers=headers, **extra) as response:
            assert response.content_type == "application/json", await response.text()
            return response.status, await response.json()

    async def generate(self, **fields: Any) -> dict[str, Any]:
        """A new key."""
        status, body = await self.call("POST", "/key/generate", fields)
        assert status == 200, body
        return dict(body)

    async def info(self, key: str, *, by: str = MASTER) -> dict[str, Any]:
        """The info of a key, asked for by another."""
        status, body = await self.call("GET", "/key/info", params={"key": key}, key=by)
        assert status == 200, body
        return dict(body["info"])

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Rows of a statement, by a connection of the test's own."""
        connection = await asyncpg.connect(self.database)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()


@asynccontextmanager
async def admins(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Gives a function that starts an admin with rules and other members of its services."""
    async with AsyncExitStack() as stack:

        async def start(rules: KeyRules | None = None, **more: Any) -> Admin:
            services = await stack.enter_async_context(_services(database, rules, more))
            app = web.Application(middlewares=[error_middleware], client_max_size=BODY_LIMIT)
            calls.register(app, services, ROUTES)
            calls.register_open(app, OPEN_ROUTES)
            return Admin(await aiohttp_client(app), database)

        yield start


@asynccontextmanager
async def _services(
    database: str, rules: KeyRules | None, more: dict[str, Any]
) -> AsyncIterator[AdminServices]:
    store = Store(database, application_name="test-admin", size=6, acquire_timeout_s=2.0)
    await store.open()
    notifier = Notifier(store)
    task = asyncio.create_task(notifier.run())
    commits = Commits(store, notifier.poke, stale_limit_s=900.0)
    try:
        yield AdminServices(
            store=store,
            clock=Clock(),
            commits=commits,
            book=_book(rules, more),
            **{"master_token": hash_key(MASTER)} | more,
        )
    finally:
        await commits.close()
        task.cancel()
        await asyncio.wait([task])
        await store.close()


def _book(rules: KeyRules | None, more: dict[str, Any]) -> RuleBook:
    users, teams = more.pop("user_rules", UserRules()), more.pop("team_rules", TeamRules())
    keys = rules or KeyRules()
    return more.pop("book", None) or RuleBook(Rules(keys=keys, users=users, teams=teams), keys)


def error_of(answer: Answer, status: int, kind: str, param: str | None = None) -> dict[str, Any]:
    """The error of an answer in the common shape, checked."""
    assert answer[0] == status, answer
    error = answer[1]["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, str(status)), error
    assert list(answer[1]) == ["error"]
    assert error["message"]
    return dict(error)


def issues_of(answer: Answer) -> list[tuple[str, list[Any]]]:
    """Types and places of a 422, checked to hold nothing else."""
    assert answer[0] == 422, answer
    for issue in answer[1]["detail"]:
        assert sorted(issue) == ["loc", "msg", "type"]
    return [(issue["type"], issue["loc"]) for issue in answer[1]["detail"]]
