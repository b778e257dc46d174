"""Ways in which what was made just then outlived its owner, each closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.support.admin_api import StartAdmin, admins
from tests.support.fleet import until
from tests.support.team_kit import Answer, TeamKit

_WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin) -> TeamKit:
    """Team `t` with the member `bob`, who may make keys; organization `o` with the admin
    `chief`."""
    kit = TeamKit(await start())
    for name in ("bob", "chief"):
        await kit.user(name)
    await kit.organization("o", "chief")
    await kit.team("t", members_with_roles=[{"role": "user", "user_id": "bob"}])
    permissions = ["/key/generate"]
    await kit.post("/team/permissions_update", team_id="t", team_member_permissions=permissions)
    return kit


@asynccontextmanager
async def held(kit: TeamKit, statement: str, *, kept: bool = False) -> AsyncIterator[None]:
    """What a statement locks is locked inside of the block; what it does is not kept, or is from
    then on."""
    connection = await asyncpg.connect(kit.admin.database)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        yield
        await (transaction.commit() if kept else transaction.rollback())
    finally:
        await connection.close()


async def waiting(kit: TeamKit, number: int) -> None:
    """Until so many statements wait for a lock."""

    async def enough() -> bool:
        [(found,)] = await kit.admin.sql(_WAITING)
        return bool(found >= number)

    await until(enough, what=f"{number} statements to wait")


ALIASES = "select pg_advisory_xact_lock(hashtext('virtual_key_alias'))"
REMOVALS: dict[str, dict[str, Any]] = {
    "/team/member_delete": {"team_id": "t", "user_id": "bob"},
    "/team/delete": {"team_ids": ["t"]},
    "/user/delete": {"user_ids": ["bob"]},
}


async def after_a_late_key(kit: TeamKit, path: str) -> list[Answer]:
    """A key that is being made when its owner goes, and the removal."""
    async with held(kit, ALIASES):
        made = asyncio.create_task(kit.post("/key/generate", "bob", team_id="t", key_alias="late"))
        await waiting(kit, 1)
        gone = asyncio.create_task(kit.post(path, **REMOVALS[path]))
        await waiting(kit, 2)
    return list(await asyncio.gather(made, gone))


@pytest.mark.parametrize("path", REMOVALS)
async def test_a_key_outlives_its_owner(kit: TeamKit, path: str) -> None:
    """A member that made keys all the time while it was taken out kept one of the team, and so did
    one whose team or user was deleted: a key without anybody's limits."""
    made, gone = await after_a_late_key(kit, path)
    assert (made[0], gone[0]) == (200, 200), (made, gone)
    [row] = await kit.admin.sql("select count(*) from virtual_key where team_id = 't'")
    assert row["count"] == 0


async def test_who_is_gone_makes_no_key(kit: TeamKit) -> None:
    """A call that was let in just before its user was taken out made a key all the same."""
    async with held(kit, "select from app_user where user_id = 'bob' for update"):
        made = asyncio.create_task(kit.post("/key/generate", "bob", team_id="t"))
        await waiting(kit, 1)
        gone = await kit.post("/team/member_delete", team_id="t", user_id="bob")
        assert gone[0] == 200
    assert (await made)[0] == 403


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_member_who_goes_while_it_is_changed(kit: TeamKit, bulk: bool) -> None:
    """A change of a member whose user was deleted just then was a fault of the gateway's."""
    path = "/management/v1/teams/t/members/bulk_update" if bulk else "/team/member_update"
    change = {"user_id": "bob", "rpm_limit": 5}
    body = {"members": [change]} if bulk else {"team_id": "t", **change}
    async with held(kit, "delete from team_member where user_id = 'bob'", kept=True):
        changed = asyncio.create_task(kit.post(path, **body))
        await waiting(kit, 1)
    status, answer = await changed
    assert (status, "not a member" in str(answer)) == (200 if bulk else 400, True)


async def test_a_team_outlives_its_organization(kit: TeamKit) -> None:
    """A team that was being made when its organization went had no organization's limits."""
    async with held(kit, "insert into team (team_id) values ('late')"):
        made = asyncio.create_task(
            kit.post("/team/new", "chief", team_id="late", organization_id="o")
        )
        await waiting(kit, 1)
        body = {"organization_ids": ["o"]}
        gone = asyncio.create_task(kit.call("DELETE", "/organization/delete", None, body))
        await waiting(kit, 2)
    assert [answer[0] for answer in await asyncio.gather(made, gone)] == [200, 200]
    assert await kit.admin.sql("select from team where team_id = 'late'") == []
