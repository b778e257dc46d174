"""Owners of keys, end users, tags and access groups in a worker's caches, over a real store and
feed: what is read, what a change takes out of service, and that nothing older comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from shared.domain.errors import StoreUnavailable
from shared.domain.keys import Principal, Subject, SubjectKind
from shared.domain.limits import Dimension
from shared.keys.cache import MISSING
from tests.support.cache_fleet import CacheFleet, eventually, running_caches
from tests.support.postgres import Postgres

END_USER, TAG, GROUP = SubjectKind.END_USER, SubjectKind.TAG, SubjectKind.MODEL_ACCESS_GROUP

OWNERS = """
insert into budget (budget_id, max_budget, budget_duration, rpm_limit)
select 'b-' || kind, n, '30d', 100 + n from unnest(array['key', 'member', 'default', 'org',
    'orgmember', 'project', 'enduser']) with ordinality as k(kind, n);
insert into app_user (user_id, max_budget, rpm_limit) values ('u', 20, 120);
insert into organization (organization_id, organization_alias, budget_id)
    values ('o', 'o', 'b-org'), ('o2', 'o2', null);
insert into organization_member (organization_id, user_id, budget_id)
    values ('o', 'u', 'b-orgmember');
insert into team (team_id, organization_id, rpm_limit, metadata, access_group_ids)
    values ('t', 'o', 130, '{"team_member_budget_id": "b-default"}', '{g-team}');
insert into team_member (team_id, user_id, budget_id) values ('t', 'u', 'b-member');
insert into project (project_id, budget_id) values ('p', 'b-project');
insert into access_group (access_group_id, access_group_name, access_model_names)
    values ('g-team', 'g-team', '{a}'), ('g-key', 'g-key', '{b}');
"""
COLUMNS = {
    "user_id": "u",
    "team_id": "t",
    "project_id": "p",
    "budget_id": "b-key",
    "end_user_budget_id": "b-enduser",
    "access_group_ids": ["g-key"],
}


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[CacheFleet]:
    async with running_caches(database) as made:
        yield made


async def owned(fleet: CacheFleet) -> str:
    """A key with every owner there is."""
    for statement in OWNERS.strip().split(";\n"):
        await fleet.write(statement.removesuffix(";"))
    return await fleet.add("owned", **COLUMNS)


def rates(principal: Principal) -> dict[str, Decimal]:
    """The requests that each scope allows."""
    return {
        ref.scope.partition(":")[0]: ref.limit
        for ref in principal.scopes
        if ref.dimension is Dimension.REQUESTS
    }


async def test_all_owners_come_with_one_reading(fleet: CacheFleet) -> None:
    """A key with every kind of owner costs one statement, and each owner's limits are scopes, in
    the contract's order."""
    hashed = await owned(fleet)
    principal = await fleet.known(hashed)
    assert len(fleet.loads) == 1
    assert rates(principal) == {
        "key": 101,
        "project": 106,
        "team": 130,
        "organization": 104,
        "user": 120,
        "team_member": 102,
        "organization_member": 105,
    }
    assert list(rates(principal)) == [
        "key",
        "project",
        "team",
        "organization",
        "user",
        "team_member",
        "organization_member",
    ]
    owners = principal.owners
    assert owners.organization_id == "o"
    assert owners.end_user_budget is not None
    assert owners.end_user_budget.budget_id == "b-enduser"
    assert [group.access_model_names for group in owners.access_groups] == [("b",)]
    assert [group.access_model_names for group in owners.team_access_groups] == [("a",)]


CHANGES = {
    "user": "update app_user set rpm_limit = 1",
    "user gone": "delete from app_user",
    "team": "update team set rpm_limit = 1",
    "member": "update team_member set budget_id = null",
    "member gone": "delete from team_member",
    "organization": "update organization set budget_id = null",
    "organization member": "delete from organization_member",
    "project": "update project set blocked = true",
    "access group": "update access_group set access_model_names = '{c}'",
    "access group of the key gone": "delete from access_group where access_group_id = 'g-key'",
    "key's budget": "update budget set rpm_limit = 1 where budget_id = 'b-key'",
    "member's budget": "update budget set rpm_limit = 1 where budget_id = 'b-member'",
    "organization's budget": "update budget set rpm_limit = 1 where budget_id = 'b-org'",
    "organization member's budget": "delete from budget where budget_id = 'b-orgmember'",
    "project's budget": "update budget set rpm_limit = 1 where budget_id = 'b-project'",
    "end users' budget": "update budget set max_budget = 1 where budget_id = 'b-enduser'",
    "team's organization": "update team set organization_id = 'o2'",
    "team's default": "update team set metadata = '{}'",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_an_owner(fleet: CacheFleet, change: str) -> None:
    """Once a change of any owner is applied no older principal is served, one reading brings the
    new one, and a key of other owners is not read again."""
    hashed = await owned(fleet)
    await fleet.write("insert into app_user (user_id) values ('other')")
    other_key = await fleet.add("other", user_id="other")
    before, other = await fleet.known(hashed), await fleet.known(other_key)
    fleet.loads.clear()
    narrowed = (
        CHANGES[change]
        .replace(
            "update app_user set rpm_limit = 1",
            "update app_user set rpm_limit = 1 where user_id = 'u'",
        )
        .replace("delete from app_user", "delete from app_user where user_id = 'u'")
    )
    await fleet.apply(narrowed)
    assert fleet.cache.get(hashed) is not before
    after = await fleet.known(hashed)
    assert after.owners != before.owners
    assert fleet.cache.get(other_key) is other
    assert fleet.loads == [(hashed,)]


@pytest.mark.parametrize("change", CHANGES)
async def test_an_owner_read_before_its_change_is_not_served_after_it(
    fleet: CacheFleet, change: str
) -> None:
    """A change that comes while the old owner is on its way makes the reading start again."""
    hashed = await owned(fleet)
    before = await fleet.known(hashed)
    fleet.gate = asyncio.Event()
    fleet.reading.clear()
    await fleet.apply("update virtual_key set key_alias = 'again'")
    lookup = asyncio.create_task(fleet.cache.find(hashed))
    await fleet.reading.wait()
    await fleet.apply(CHANGES[change])
    fleet.gate.set()
    fleet.gate = None
    after = await lookup
    assert after is not None
    assert after.owners.key.key_alias == "again"
    assert (after.scopes, after.owners.project, after.owners.access_groups, after.owners) != (
        before.scopes,
        before.owners.project,
        before.owners.access_groups,
        before.owners,
    )
    fresh = await fleet.known(hashed)
    assert fresh.owners == after.owners


async def test_owners_that_come_later(fleet: CacheFleet) -> None:
    """A key that names owners which do not exist takes them up once they are made."""
    hashed = await fleet.add("early", user_id="u", team_id="t", project_id="p")
    assert (await fleet.known(hashed)).scopes == ()
    await fleet.write("insert into budget (budget_id, rpm_limit) values ('b', 7)")
    await fleet.apply("insert into team (team_id, organization_id) values ('t', 'o')")
    assert (await fleet.known(hashed)).scopes == ()
    await fleet.apply("insert into project (project_id, budget_id) values ('p', 'b')")
    assert rates(await fleet.known(hashed)) == {"project": 7}
    await fleet.apply(
        "insert into organization (organization_id, organization_alias, budget_id) "
        "values ('o', 'o', 'b')"
    )
    assert rates(await fleet.known(hashed)) == {"project": 7, "organization": 7}
    await fleet.apply(
        "insert into team_member (team_id, user_id, budget_id) values ('t', 'u', 'b')"
    )
    assert rates(await fleet.known(hashed)) == {"project": 7, "organization": 7, "team_member": 7}


async def test_a_budget_shared_by_many_is_read_once(fleet: CacheFleet) -> None:
    """A changed budget of hundreds of memberships is one object dropped and one reading."""
    await fleet.write("insert into budget (budget_id, rpm_limit) values ('b', 5)")
    await fleet.write("insert into team (team_id) values ('t')")
    await fleet.write(
        "insert into team_member (team_id, user_id, budget_id) "
        "select 't', i, 'b' from generate_series(0, 299) i"
    )
    await fleet.apply(
        "insert into virtual_key (token, team_id, user_id) "
        "select encode(sha256(i::text::bytea), 'hex'), 't', i from generate_series(0, 299) i"
    )
    tokens = [row["token"] for row in await fleet.store.fetch("select token from virtual_key")]
    await asyncio.gather(*(fleet.known(each) for each in tokens))
    fleet.loads.clear()
    await fleet.apply("update budget set rpm_limit = 6")
    principals = await asyncio.gather(*(fleet.known(each) for each in tokens))
    assert {rates(each)["team_member"] for each in principals} == {6}
    assert [len(batch) for batch in fleet.loads] == [1]


async def test_no_lookup_ever_goes_back_in_time(fleet: CacheFleet) -> None:
    """While the budgets behind a key and an end user change again and again, no lookup that starts
    after a change was applied sees an older state, whatever is in flight."""
    hashed = await owned(fleet)
    await fleet.write("update budget set rpm_limit = 0")
    await fleet.apply("insert into end_user (end_user_id, budget_id) values ('e', 'b-enduser')")
    applied = 0
    stop = asyncio.Event()
    seen = 0

    async def look(number: int) -> None:
        nonlocal seen
        dice = random.Random(number)
        while not stop.is_set():
            floor = applied
            principal = await fleet.known(hashed)
            for budget in (principal.owners.member_budget, principal.owners.organization_budget):
                assert budget is not None
                assert (budget.rpm_limit or 0) >= floor
            await fleet.subjects.find([(END_USER, "e")])
            subject = fleet.subjects.get(END_USER, "e")
            assert isinstance(subject, Subject)
            assert subject.budget is not None
            assert (subject.budget.rpm_limit or 0) >= floor
            seen += 1
            await asyncio.sleep(dice.random() / 100)

    lookers = [asyncio.create_task(look(number)) for number in range(30)]
    for number in range(1, 16):
        await fleet.apply("update budget set rpm_limit = $1", number)
        applied = number
        before = seen
        await eventually(lambda before=before: seen > before)
    stop.set()
    await asyncio.gather(*lookers)
    assert seen > 100


# -- end users, tags, model access groups


async def listed(fleet: CacheFleet) -> None:
    """Wait until names without rules need no reading."""
    await eventually(lambda: fleet.subjects.get(TAG, "unheard of") is None)


async def looked(fleet: CacheFleet, kind: SubjectKind, name: str) -> Subject | None:
    """What is known of a name, read if need be."""
    await fleet.subjects.find([(kind, name)])
    found = fleet.subjects.get(kind, name)
    assert found is not MISSING
    return found


async def test_names_without_rules_are_not_asked_for(fleet: CacheFleet) -> None:
    """However many end users and tags calls name, the store is asked only for those that may have
    rules."""
    await fleet.apply("insert into end_user (end_user_id) values ('no rule'), ('blocked')")
    await fleet.apply("update end_user set blocked = true where end_user_id = 'blocked'")
    await listed(fleet)
    for number in range(1000):
        assert await looked(fleet, END_USER, f"e{number}") is None
        assert await looked(fleet, TAG, f"t{number}") is None
    assert fleet.subject_loads == []
    found = await looked(fleet, END_USER, "blocked")
    assert found is not None
    assert found.blocked
    assert len(fleet.subject_loads) == 1


async def test_a_name_gets_rules(fleet: CacheFleet) -> None:
    """Rules made for a name that had none are in force once applied, and gone when removed."""
    await listed(fleet)
    assert await looked(fleet, END_USER, "e") is None
    await fleet.apply("insert into budget (budget_id, max_budget) values ('b', 5)")
    for kind, table, column in (
        (END_USER, "end_user", "end_user_id"),
        (TAG, "tag", "name"),
        (GROUP, "model_access_group", "access_group"),
    ):
        await fleet.apply(f"insert into {table} ({column}, budget_id) values ('e', 'b')")
        found = await looked(fleet, kind, "e")
        assert found is not None
        assert found.budget is not None
        assert found.budget.max_budget == 5
        assert fleet.subjects.get(kind, "e") is found
        await fleet.apply("update budget set max_budget = max_budget")
        assert fleet.subjects.get(kind, "e") is not found
        await fleet.apply(f"delete from {table}")
        assert await looked(fleet, kind, "e") is None


async def test_rules_read_before_a_change_are_not_in_force_after_it(fleet: CacheFleet) -> None:
    """A change of an end user, or of its budget, while the old rules are on their way makes the
    reading start again."""
    await fleet.write("insert into budget (budget_id, max_budget) values ('b', 5)")
    await fleet.apply("insert into end_user (end_user_id, budget_id) values ('e', 'b')")
    for change in ("update budget set max_budget = 6", "update end_user set blocked = true"):
        fleet.gate = asyncio.Event()
        fleet.reading.clear()
        # What was in use is read again at once, else the lookup reads it.
        await fleet.apply("update end_user set alias = alias")
        lookup = asyncio.create_task(looked(fleet, END_USER, "e"))
        await fleet.reading.wait()
        await fleet.apply(change)
        assert not lookup.done()
        fleet.gate.set()
        fleet.gate = None
        found = await lookup
        assert found is not None
        assert found.budget is not None
        assert (found.budget.max_budget, found.blocked) == (6, "end_user" in change)


async def test_too_many_names_with_rules_to_list(database: str) -> None:
    """Where those with rules are too many, each name is asked for once and remembered, within the
    capacity."""
    async with running_caches(database, subjects={"most_listed": 5, "capacity": 20}) as fleet:
        await fleet.apply(
            "insert into end_user (end_user_id, blocked) "
            "select i::text, true from generate_series(1, 12) i"
        )
        await eventually(lambda: fleet.subjects.get(END_USER, "unheard of") is MISSING)
        assert await looked(fleet, END_USER, "none") is None
        assert await looked(fleet, END_USER, "none") is None
        found = await looked(fleet, END_USER, "3")
        assert found is not None
        assert found.blocked
        assert len(fleet.subject_loads) == 2
        await fleet.apply("insert into end_user (end_user_id, blocked) values ('none', true)")
        assert await looked(fleet, END_USER, "none") is not None
        for number in range(100):
            await looked(fleet, END_USER, f"x{number}")
            assert len(fleet.subjects) <= 20


@pytest.mark.parametrize("name", ["\x00", "a\udc80b", "x" * 5000], ids=["NUL", "surrogate", "long"])
async def test_names_that_the_database_cannot_hold(database: str, name: str) -> None:
    """They have no rules, and are not asked for."""
    async with running_caches(database, subjects={"most_listed": -1}) as fleet:
        await eventually(lambda: fleet.lists > 0)
        assert await looked(fleet, END_USER, name) is None
        assert fleet.subject_loads == []


async def test_everything_changed(fleet: CacheFleet) -> None:
    """A truncated table takes all of its names out of service, and the list is read again."""
    await fleet.apply("insert into tag (name) values ('a'), ('b')")
    await fleet.write("insert into budget (budget_id) values ('b')")
    await fleet.apply("update tag set budget_id = 'b'")
    await listed(fleet)
    assert await looked(fleet, TAG, "a") is not None
    lists = fleet.lists
    await fleet.apply("truncate tag")
    await eventually(lambda: fleet.lists > lists)
    await listed(fleet)
    assert await looked(fleet, TAG, "a") is None
    assert await looked(fleet, TAG, "b") is None


@pytest.mark.xdist_group("faults")
async def test_an_outage_is_never_taken_for_the_absence_of_rules(own_postgres: Postgres) -> None:
    """While the store is away a name that may have rules is a 503; names without rules are served,
    also by a worker that has not been able to list them since."""
    async with running_caches(own_postgres.create()) as fleet:
        await fleet.apply("insert into end_user (end_user_id, blocked) values ('e', true)")
        await listed(fleet)
        await asyncio.to_thread(own_postgres.stop)
        await eventually(lambda: not fleet.ask.up)
        with pytest.raises(StoreUnavailable) as refused:
            await fleet.subjects.find([(END_USER, "e")])
        assert refused.value.status == 503
        assert fleet.subjects.get(END_USER, "other") is None
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: fleet.listen.up and fleet.ask.up)
        found = await looked(fleet, END_USER, "e")
        assert found is not None
        assert found.blocked
