"""Every route of the management API against every kind of caller, from the rows of the routes.

Who is outside a row is refused in the contract's shape and changes nothing; who is inside passes
the gate. What comes after it is each route's own test.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from services.admin.api.calls import AdminRoute
from services.admin.api.routes import OPEN_ROUTES, ROUTES
from tests.support.admin_api import MASTER, Admin, StartAdmin, admins
from tests.support.caller_kinds import KINDS, Kind, add_owners, key_of, verdict

NOBODY = "nobody-of-the-matrix"
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# A body that no route takes: whoever passes the gate is stopped by it, and changes nothing.
NO_BODY: list[Any] = []
_PARAMETER = re.compile(r"\{[^{}]+\}")

_HEADS = "select h.version, a.seq from change_head h, audit_head a"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as starter:
        yield starter


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await add_owners(connection)
    yield connection
    await connection.close()


async def called(admin: Admin, route: AdminRoute, key: str) -> tuple[int, Any]:
    """The answer's status, and its body where that is JSON."""
    path = _PARAMETER.sub(NOBODY, route.path)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    more = {} if route.method == "GET" else {"json": NO_BODY}
    async with admin.client.request(route.method, path, headers=headers, **more) as response:
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else None


def complaint(kind: Kind, expected: str, status: int, body: Any) -> str | None:
    """What is wrong with an answer."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    if expected == "in":
        if status >= 500 and status != 501:
            return "failed"
        refused = status == 401 and error.get("type") in {"auth_error", "token_not_found_in_db"}
        return "was stopped at the gate" if refused else None
    if expected == "403 detail":
        fine = status == 403 and list(body) == ["detail"] and isinstance(body["detail"], str)
        return None if fine else "should have been 403 {detail}"
    kinds = {"401": kind.refused or "auth_error", "403": "auth_error"}
    fine = (
        status == int(expected)
        and set(error) == {"message", "type", "param", "code"}
        and error["code"] == expected
        and error["type"] == kinds[expected]
    )
    return None if fine else f"should have been {expected} {kinds[expected]}"


@pytest.mark.parametrize("name", KINDS)
async def test_every_route_for_one_kind_of_caller(
    start: StartAdmin, db: asyncpg.Connection, name: str
):
    """Refusals have their shape and change nothing; nobody inside a row is stopped at the gate."""
    admin, kind = await start(), KINDS[name]
    key = await key_of(db, kind)
    outside = [route for route in ROUTES if verdict(kind, route) != "in"]
    before = await db.fetchrow(_HEADS)
    found = await complaints(admin, kind, key, outside)
    assert await db.fetchrow(_HEADS) == before, "a refused call has changed something"
    found += await complaints(admin, kind, key, [each for each in ROUTES if each not in outside])
    assert not found, f"{name}:\n" + "\n".join(found)


async def complaints(admin: Admin, kind: Kind, key: str, routes: Sequence[AdminRoute]) -> list[str]:
    """What is wrong with the answers of some routes."""
    found = []
    for route in routes:
        status, body = await called(admin, route, key)
        wrong = complaint(kind, verdict(kind, route), status, body)
        if wrong is not None:
            found.append(f"{route.method} {route.path}: {status} {wrong}: {str(body)[:150]}")
    return found


async def test_no_get_writes(start: StartAdmin, db: asyncpg.Connection):
    """Whatever the master reads, feed and audit log stay as they were."""
    admin = await start()
    found = []
    for route in ROUTES:
        if route.method != "GET":
            continue
        before = await db.fetchrow(_HEADS)
        await called(admin, route, MASTER)
        if await db.fetchrow(_HEADS) != before:
            found.append(route.path)
    assert found == []


def test_every_route_has_one_row():
    """No path is served twice by a method, neither with nor without a gate, in any spelling."""
    seen = [(route.method, _PARAMETER.sub("{}", route.path)) for route in (*ROUTES, *OPEN_ROUTES)]
    assert sorted(seen) == sorted(set(seen))


def test_every_method_is_known():
    """Routes read by GET and change by the four methods that say so."""
    methods = {route.method for route in (*ROUTES, *OPEN_ROUTES)}
    assert methods <= CHANGING | {"GET"}


def writes(handler: Callable[..., Any]) -> bool:
    """Whether a handler's own code commits something."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(handler)))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(names & {"write", "commits", "note"})


def test_no_get_handler_commits():
    """A handler that commits answers no GET."""
    assert [route.path for route in ROUTES if route.method == "GET" and writes(route.handler)] == []
    assert any(writes(route.handler) for route in ROUTES)


def test_rows_let_admins_be():
    """No row names proxy admins, who are let in by all but the master's: naming them would make a
    reader think that the others do not."""
    for route in ROUTES:
        assert not (route.access.master_only and (route.access.roles or route.access.relations))


def test_the_matrix_can_fail():
    """A wrong verdict, a wrong shape and a failure are complained about."""
    refusal = {"error": {"message": "m", "type": "auth_error", "param": None, "code": "401"}}
    kind = KINDS["internal user"]
    assert complaint(kind, "in", 401, refusal)
    assert complaint(kind, "in", 500, {})
    assert complaint(kind, "401", 200, {})
    assert complaint(kind, "401", 401, {"detail": "x"})
    assert complaint(kind, "403 detail", 403, refusal)
    assert complaint(kind, "401", 401, refusal) is None
    assert complaint(kind, "in", 422, {"detail": []}) is None
