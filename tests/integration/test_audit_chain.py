"""The audit log's chain: what tampering shows, what retention may take, what no statement may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from shared.db.audit_log import drop_before
from tests.support.admin_api import Admin, StartAdmin, admins

DAY_S = 86_400.0
_FILL = """
insert into audit_log (id, changed_at, changed_by, route, action, table_name, object_id)
select 'id-' || n, clock_timestamp() - make_interval(days => $1 - n), 'ada', '/x', 'updated', 't',
    n::text
from generate_series(1, $1) n
"""


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as starter:
        yield starter


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    return await start()


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def verified(admin: Admin) -> dict[str, Any]:
    """What the check says."""
    status, body = await admin.call("GET", "/audit/verify")
    assert status == 200, body
    assert body["intact"] is (body["broken"] is None)
    return dict(body)


async def tamper(db: asyncpg.Connection, statement: str) -> None:
    """What somebody with the database's password can do."""
    await db.execute("set session_replication_role = replica")
    await db.execute(statement)
    await db.execute("set session_replication_role = origin")


async def test_empty_log_is_intact(admin: Admin):
    """Nothing written is nothing broken."""
    assert await verified(admin) == {
        "intact": True,
        "entries": 0,
        "dropped_seq": 0,
        "last_seq": 0,
        "broken": None,
    }


async def test_long_chain_is_walked_in_pages(admin: Admin, db: asyncpg.Connection):
    """More entries than a page holds are all checked, and the one changed is named."""
    await db.execute(_FILL, 4500)
    assert await verified(admin) == {
        "intact": True,
        "entries": 4500,
        "dropped_seq": 0,
        "last_seq": 4500,
        "broken": None,
    }
    await tamper(db, "update audit_log set changed_by = 'nobody' where seq = 4321")
    broken = (await verified(admin))["broken"]
    assert broken == {"seq": 4321, "id": "id-4321", "reason": "changed"}


@pytest.mark.parametrize(
    "column",
    ["changed_by", "actor", "changed_by_api_key", "source_ip", "route", "table_name", "object_id"],
)
async def test_every_column_is_covered(admin: Admin, db: asyncpg.Connection, column: str):
    """No part of an entry can be changed unseen."""
    await db.execute(_FILL, 3)
    await tamper(db, f"update audit_log set {column} = 'other' where seq = 2")
    assert (await verified(admin))["broken"] == {"seq": 2, "id": "id-2", "reason": "changed"}


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("update audit_log set changed_at = now() where seq = 1", (1, "id-1", "changed")),
        ("update audit_log set action = 'deleted' where seq = 3", (3, "id-3", "changed")),
        ("update audit_log set before_value = '{}' where seq = 3", (3, "id-3", "changed")),
        ("update audit_log set digest = '\\x00' where seq = 3", (3, "id-3", "changed")),
        ("delete from audit_log where seq = 1", (2, "id-2", "missing")),
        ("delete from audit_log where seq = 3", (4, "id-4", "missing")),
        ("delete from audit_log where seq = 5", (5, None, "missing")),
        ("delete from audit_log", (5, None, "missing")),
        ("update audit_head set digest = '\\x00'", (5, None, "changed")),
    ],
)
async def test_break_is_named(
    admin: Admin, db: asyncpg.Connection, statement: str, broken: tuple[int, str | None, str]
):
    """Changed, taken out, or cut off at either end: the check says where."""
    await db.execute(_FILL, 5)
    await tamper(db, statement)
    seq, change_id, reason = broken
    found = (await verified(admin))["broken"]
    assert found == {"seq": seq, "id": change_id, "reason": reason}


async def test_retention_leaves_a_chain_that_verifies(admin: Admin, db: asyncpg.Connection):
    """Old entries go in steps; the rest verifies from the oldest kept one on."""
    await db.execute(_FILL, 30)
    assert await drop_before(db, 10.5 * DAY_S, 7) == 7
    assert (await verified(admin))["dropped_seq"] == 7
    assert await drop_before(db, 10.5 * DAY_S, 1000) == 12
    assert await drop_before(db, 10.5 * DAY_S, 1000) == 0
    assert await verified(admin) == {
        "intact": True,
        "entries": 11,
        "dropped_seq": 19,
        "last_seq": 30,
        "broken": None,
    }
    await db.execute(_FILL.replace("'id-'", "'new-'"), 2)
    assert (await verified(admin))["intact"]
    await tamper(db, "update audit_log set route = '/y' where seq = 20")
    assert (await verified(admin))["broken"]["seq"] == 20


async def test_retention_may_take_all(admin: Admin, db: asyncpg.Connection):
    """A log of old entries empties, and the chain goes on after it."""
    await db.execute(_FILL, 4)
    assert await drop_before(db, -DAY_S, 100) == 4
    assert (await verified(admin))["intact"]
    await db.execute(_FILL, 1)
    body = await verified(admin)
    assert (body["intact"], body["entries"], body["last_seq"]) == (True, 1, 5)


async def test_retention_does_not_wait_for_clocks_that_went_back(
    admin: Admin, db: asyncpg.Connection
):
    """Only a beginning of the chain goes: a young entry keeps all that follow it."""
    await db.execute(_FILL, 5)
    await tamper(db, "update audit_log set changed_at = now() where seq = 2")
    assert await drop_before(db, 0.5 * DAY_S, 100) == 1
    assert await db.fetchval("select min(seq) from audit_log") == 2


@pytest.mark.parametrize(
    "statement",
    [
        "delete from audit_log where seq = 3",
        "delete from audit_log",
        "truncate audit_log",
        "update audit_log set route = '/y'",
    ],
)
async def test_no_plain_statement_takes_an_entry(db: asyncpg.Connection, statement: str):
    """Entries are only ever added, or dropped by retention."""
    await db.execute(_FILL, 5)
    with pytest.raises(asyncpg.RestrictViolationError):
        await db.execute(statement)
    assert await db.fetchval("select count(*) from audit_log") == 5


async def test_check_and_retention_while_others_write(admin: Admin, database: str):
    """A check sees one moment, so that what is written or dropped meanwhile breaks nothing."""
    writing = True

    async def write() -> None:
        connection = await asyncpg.connect(database)
        while writing:
            await connection.execute(_FILL.replace("'id-'", "gen_random_uuid()::text"), 20)
        await connection.close()

    async def drop() -> None:
        connection = await asyncpg.connect(database)
        while writing:
            await drop_before(connection, 2 * DAY_S, 15)
            await asyncio.sleep(0.01)
        await connection.close()

    tasks = [asyncio.create_task(work()) for work in (write, write, drop)]
    for _ in range(10):
        assert (await verified(admin))["intact"]
    writing = False
    await asyncio.gather(*tasks)
    body = await verified(admin)
    assert body["intact"]
    assert body["dropped_seq"] > 0
