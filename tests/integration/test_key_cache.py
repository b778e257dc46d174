"""The key cache over a real store and feed: sharing, dropping, races, outages."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.db.feed import head_version
from shared.db.keys import decode_principals, load_principals
from shared.domain.errors import AuthenticationFailed, Overloaded, StoreUnavailable
from shared.domain.keys import Principal
from shared.domain.limits import Dimension
from shared.keys.cache import MISSING, KeyCache
from shared.keys.principal import check_usable
from tests.support.cache_fleet import CacheFleet, eventually, running_caches, token
from tests.support.postgres import Postgres


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[CacheFleet]:
    async with running_caches(database) as made:
        yield made


def usable(cache: KeyCache, hashed: str) -> bool:
    """Whether a request with this key would be let in now, without waiting."""
    principal = cache.get(hashed)
    if not isinstance(principal, Principal):
        return False
    try:
        check_usable(principal, time.time())
    except AuthenticationFailed:
        return False
    return True


async def test_a_principal_has_all_that_the_store_knows(fleet: CacheFleet) -> None:
    """Key, user, team and the linked budget's limits come with one reading."""
    await fleet.write("insert into app_user (user_id, user_role) values ('u', 'internal_user')")
    await fleet.write(
        "insert into team (team_id, models, metadata) values ('t', '{gpt-4o}', '{\"a\": 1}')"
    )
    await fleet.write(
        "insert into budget (budget_id, max_budget, budget_duration, rpm_limit) "
        "values ('b', 2.5, '30d', 7)"
    )
    expires = datetime(2027, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    hashed = await fleet.add(
        "k",
        key_name="sk-...abcd",
        user_id="u",
        team_id="t",
        budget_id="b",
        expires=expires,
        max_budget=Decimal("0.1000000001"),
        aliases=b'{"fast": "gpt-4o-mini"}',
        metadata=b'{"tags": ["x"]}',
        allowed_routes=["/chat/completions"],
        max_parallel_requests=2,
    )
    principal = await fleet.known(hashed)
    assert principal.key.expires == expires
    assert principal.key.aliases == {"fast": "gpt-4o-mini"}
    assert principal.key.metadata == {"tags": ["x"]}
    assert principal.key.allowed_routes == ("/chat/completions",)
    assert principal.user is not None
    assert principal.user.user_role == "internal_user"
    assert principal.team is not None
    assert (principal.team.models, principal.team.metadata) == (("gpt-4o",), {"a": 1})
    limits = {scope.dimension: (scope.limit, scope.duration) for scope in principal.scopes}
    assert limits == {
        Dimension.REQUESTS: (Decimal(7), None),
        Dimension.PARALLEL: (Decimal(2), None),
        Dimension.MONEY: (Decimal("0.1000000001"), "30d"),
    }
    assert fleet.cache.get(hashed) is principal
    assert len(fleet.loads) == 1


async def test_unknown_keys_are_remembered_until_they_are_made(fleet: CacheFleet) -> None:
    """A refused key costs one reading, and works within a second of its creation."""
    hashed = token("late")
    assert fleet.cache.get(hashed) is MISSING
    assert await fleet.cache.find(hashed) is None
    assert await fleet.cache.find(hashed) is None
    assert fleet.cache.get(hashed) is None
    assert len(fleet.loads) == 1
    started = time.monotonic()
    await fleet.write("insert into virtual_key (token) values ($1)", hashed)
    while await fleet.cache.find(hashed) is None:  # noqa: ASYNC110 - a client trying again
        await asyncio.sleep(0.005)
    assert time.monotonic() - started < 1.0


async def test_an_unknown_key_is_asked_for_again_after_a_while(fleet: CacheFleet) -> None:
    """What the store did not know is believed for a short time only, and the memory is bounded."""
    hashed = token("unknown")
    assert await fleet.cache.find(hashed) is None
    fleet.clock.shift_s += 2.1
    assert fleet.cache.get(hashed) is MISSING


async def test_the_memory_of_unknown_keys_is_bounded(database: str) -> None:
    """Random keys push each other out, not known keys."""
    async with running_caches(database, absent_capacity=5) as fleet:
        kept = await fleet.add("kept")
        await fleet.known(kept)
        for number in range(20):
            assert await fleet.cache.find(token(number)) is None
        remembered = [number for number in range(20) if fleet.cache.get(token(number)) is None]
        assert remembered == [15, 16, 17, 18, 19]
        assert isinstance(fleet.cache.get(kept), Principal)


async def test_simultaneous_misses_share_readings(fleet: CacheFleet) -> None:
    """A thousand lookups of a hundred keys at once are a reading of a hundred keys."""
    await fleet.apply(
        "insert into virtual_key (token) "
        "select encode(sha256(i::text::bytea), 'hex') from generate_series(0, 99) i"
    )
    found = await asyncio.gather(*(fleet.cache.find(token(n % 100)) for n in range(1000)))
    assert all(found)
    assert sorted(name for batch in fleet.loads for name in batch) == sorted(
        token(number) for number in range(100)
    )
    assert len(fleet.loads) <= 2


async def test_a_caller_that_gives_up_ends_no_one_elses_wait(fleet: CacheFleet) -> None:
    """Cancelling the lookup that started a reading leaves the others their answer."""
    hashed = await fleet.add("k")
    fleet.gate = asyncio.Event()
    first = asyncio.create_task(fleet.cache.find(hashed))
    second = asyncio.create_task(fleet.cache.find(hashed))
    await fleet.reading.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    fleet.gate.set()
    assert await second is not None
    assert len(fleet.loads) == 1


async def test_a_key_deleted_with_its_team_is_unknown_before_the_feed_says_so(
    fleet: CacheFleet,
) -> None:
    """When only the team's end was heard of, a reading that finds no key settles the matter."""
    await fleet.write("insert into team (team_id) values ('t')")
    hashed = await fleet.add("k", team_id="t")
    await fleet.known(hashed)
    await fleet.listen.close()
    await fleet.write("delete from virtual_key")
    fleet.cache.subscribers()["team"](("t",))
    assert await fleet.cache.find(hashed) is None
    assert fleet.cache.get(hashed) is None


@pytest.mark.parametrize("change", ["blocked = true", "rpm_limit = 1", "models = '{a}'"])
async def test_a_change_is_obeyed_within_a_second_without_a_listener(
    fleet: CacheFleet, change: str
) -> None:
    """With its LISTEN connection killed at that moment and 200 lookups in flight, a worker obeys
    an update by plain SQL within a second."""
    hashed = await fleet.add("k")
    old = await fleet.known(hashed)
    stop = asyncio.Event()

    async def use() -> None:
        while not stop.is_set():
            await fleet.cache.find(hashed)
            await asyncio.sleep(0)

    users = [asyncio.create_task(use()) for _ in range(200)]
    pid = await fleet.listen.fetchval("select pg_backend_pid()")
    await fleet.store.execute("select pg_terminate_backend($1)", pid)
    await fleet.store.execute(f"update virtual_key set {change}")
    took = await eventually(lambda: fleet.cache.get(hashed) not in (old, MISSING))
    stop.set()
    await asyncio.gather(*users)
    assert took < 1.0
    assert (await fleet.known(hashed)).key != old.key


async def test_a_deleted_key_is_unknown_within_a_second(fleet: CacheFleet) -> None:
    """After the deletion is applied the key is refused, not served."""
    hashed = await fleet.add("k")
    await fleet.known(hashed)
    await fleet.apply("delete from virtual_key")
    assert not isinstance(fleet.cache.get(hashed), Principal)
    assert await fleet.cache.find(hashed) is None


async def test_nothing_read_before_a_change_is_served_after_it(fleet: CacheFleet) -> None:
    """A thousand lookups whose answer was on its way during a block all see the block."""
    hashed = await fleet.add("k")
    fleet.gate = asyncio.Event()
    lookups = [asyncio.create_task(fleet.cache.find(hashed)) for _ in range(1000)]
    await fleet.reading.wait()
    await fleet.apply("update virtual_key set blocked = true")
    assert not any(task.done() for task in lookups)
    fleet.gate.set()
    fleet.gate = None
    principals = await asyncio.gather(*lookups)
    assert all(principal is not None and principal.key.blocked for principal in principals)
    assert len(fleet.loads) == 2


@pytest.mark.parametrize(
    ("made", "change"),
    [
        ("insert into app_user (user_id) values ('o')", "update app_user set user_role = 'x'"),
        ("insert into team (team_id) values ('o')", "update team set blocked = true"),
        ("insert into budget (budget_id) values ('o')", "update budget set rpm_limit = 1"),
        ("insert into app_user (user_id) values ('o')", "delete from app_user"),
        ("select", "insert into team (team_id) values ('o')"),
    ],
    ids=["user", "team", "budget", "user deleted", "team made"],
)
async def test_an_owner_read_before_its_change_is_not_served_after_it(
    fleet: CacheFleet, made: str, change: str
) -> None:
    """The same for the owners of a key: a change in flight makes the reading start again."""
    await fleet.write(made)
    linked = {"budget_id": "o"} if "budget" in made else {}
    hashed = await fleet.add("k", user_id="o", team_id="o", **linked)
    before = await fleet.known(hashed)
    await fleet.apply("update virtual_key set key_alias = 'dropped'")
    fleet.gate, fleet.loads = asyncio.Event(), []
    fleet.reading.clear()
    lookup = asyncio.create_task(fleet.cache.find(hashed))
    await fleet.reading.wait()
    await fleet.apply(change)
    fleet.gate.set()
    fleet.gate = None
    after = await lookup
    assert after is not None
    assert (after.user, after.team, after.scopes) != (before.user, before.team, before.scopes)


async def test_no_lookup_ever_goes_back_in_time(fleet: CacheFleet) -> None:
    """While a key and its team change again and again, no lookup that starts after a change was
    applied sees an older state, whatever is in flight."""
    await fleet.write("insert into team (team_id, team_alias) values ('t', '0')")
    hashed = await fleet.add("k", team_id="t", rpm_limit=0)
    applied = {"key": 0, "team": 0}
    stop = asyncio.Event()
    seen = 0

    async def look(number: int) -> None:
        nonlocal seen
        dice = random.Random(number)
        while not stop.is_set():
            floor = dict(applied)
            principal = await fleet.known(hashed)
            assert principal.team is not None
            assert (principal.key.rpm_limit or 0) >= floor["key"]
            assert int(principal.team.team_alias or 0) >= floor["team"]
            seen += 1
            await asyncio.sleep(dice.random() / 100)

    lookers = [asyncio.create_task(look(number)) for number in range(50)]
    for number in range(1, 16):
        await fleet.apply("update virtual_key set rpm_limit = $1", number)
        applied["key"] = number
        await fleet.apply("update team set team_alias = $1", str(number))
        applied["team"] = number
        before = seen
        await eventually(lambda before=before: seen > before)
    stop.set()
    await asyncio.gather(*lookers)
    assert seen > 100
    last = await fleet.known(hashed)
    assert (last.key.rpm_limit, last.team and last.team.team_alias) == (15, "15")


async def test_a_team_is_read_once_for_all_its_keys(fleet: CacheFleet) -> None:
    """A renamed team is one object dropped and one reading, however many keys it has."""
    await fleet.write("insert into team (team_id, team_alias) values ('t', 'old')")
    await fleet.apply(
        "insert into virtual_key (token, team_id) "
        "select encode(sha256(i::text::bytea), 'hex'), 't' from generate_series(0, 499) i"
    )
    await asyncio.gather(*(fleet.known(token(number)) for number in range(500)))
    fleet.loads.clear()
    await fleet.apply("update team set team_alias = 'new'")
    principals = await asyncio.gather(*(fleet.known(token(number)) for number in range(500)))
    assert {p.team.team_alias for p in principals if p.team is not None} == {"new"}
    assert [len(batch) for batch in fleet.loads] == [1]


async def test_a_key_in_use_is_read_again_before_it_is_asked_for(fleet: CacheFleet) -> None:
    """A hot key that changed is back without a request having waited; a cold one is not."""
    hot, cold = await fleet.add("hot"), await fleet.add("cold")
    await fleet.known(cold)
    fleet.clock.shift_s += 100
    await fleet.known(hot)
    await fleet.apply("update virtual_key set rpm_limit = 5")
    await eventually(lambda: isinstance(fleet.cache.get(hot), Principal))
    assert fleet.cache.get(cold) is MISSING


async def test_a_rotated_key_works_under_its_old_hash_until_revoked(fleet: CacheFleet) -> None:
    """The old hash finds the new key while its grace lasts, follows its changes, and ends with
    the grace or when the grace is taken back."""
    new = await fleet.add("new")
    grace = (
        "insert into deprecated_virtual_key (token, active_token, revoke_at) "
        "values ($1, $2, clock_timestamp() + $3::text::interval)"
    )
    await fleet.write(grace, token("brief"), new, "0.4 s")
    await fleet.apply(grace, token("long"), new, "1 hour")
    brief, long = await fleet.known(token("brief")), await fleet.known(token("long"))
    assert brief.key.token == long.key.token == new
    assert fleet.cache.get(token("long")) is fleet.cache.get(new)
    await fleet.apply("update virtual_key set blocked = true")
    assert (await fleet.known(token("long"))).key.blocked
    await eventually(lambda: fleet.cache.get(token("brief")) is MISSING)
    assert await fleet.cache.find(token("brief")) is None
    await fleet.apply("delete from deprecated_virtual_key")
    assert await fleet.cache.find(token("long")) is None
    assert isinstance(await fleet.cache.find(new), Principal)


async def test_a_row_that_cannot_be_read_spoils_no_other(fleet: CacheFleet) -> None:
    """A key that no longer decodes is a fault, never "no such key"; its neighbours work."""
    good = await fleet.add("good")
    await fleet.write("insert into team (team_id) values ('poison')")
    victim = await fleet.add("victim", team_id="poison")
    await fleet.apply("alter table team drop constraint team_lists")
    await fleet.apply("update team set models = array[null]")
    results = await asyncio.gather(
        fleet.cache.find(victim), fleet.cache.find(good), return_exceptions=True
    )
    assert isinstance(results[0], StoreUnavailable)
    assert isinstance(results[1], Principal)
    await fleet.apply("update team set models = '{}'")
    assert isinstance(await fleet.cache.find(victim), Principal)


async def test_keys_not_used_lately_make_room(database: str) -> None:
    """The cache stays within its capacity and keeps the keys in use."""
    async with running_caches(database, capacity=10) as fleet:
        await fleet.apply(
            "insert into virtual_key (token, user_id) "
            "select encode(sha256(i::text::bytea), 'hex'), i from generate_series(0, 99) i"
        )
        for number in range(100):
            await fleet.known(token(number))
            assert isinstance(fleet.cache.get(token(0)), Principal)
            assert len(fleet.cache) <= 10


async def test_waiting_lookups_are_bounded(database: str) -> None:
    """More unknown keys than may wait are refused as overload, and later ones served."""
    async with running_caches(database, max_waiting=10) as fleet:
        fleet.gate = asyncio.Event()
        lookups = [asyncio.create_task(fleet.cache.find(token(number))) for number in range(11)]
        with pytest.raises(Overloaded) as refused:
            await lookups[10]
        assert refused.value.status == 503
        fleet.gate.set()
        assert await asyncio.gather(*lookups[:10]) == [None] * 10
        assert await fleet.cache.find(token(10)) is None


async def test_closing_the_cache_ends_waiting_lookups(fleet: CacheFleet) -> None:
    """Nobody hangs on a closed cache, be the reading under way or only asked for."""
    fleet.gate = asyncio.Event()
    lookup = asyncio.create_task(fleet.cache.find(token("k")))
    await fleet.reading.wait()
    await fleet.cache.close()
    with pytest.raises(StoreUnavailable):
        await lookup
    lookup = asyncio.create_task(fleet.cache.find(token("k")))
    await asyncio.sleep(0)
    await fleet.cache.close()
    with pytest.raises(StoreUnavailable):
        await lookup


async def test_without_the_feed_nothing_is_served_for_longer_than_the_limit(
    database: str,
) -> None:
    """Cut off from the feed a worker serves known keys up to the limit and none beyond, even if
    the other connection works."""
    async with running_caches(database, stale_limit_s=60.0) as fleet:
        hashed = await fleet.add("k")
        await fleet.known(hashed)
        await fleet.listen.close()
        fleet.clock.shift_s += 55.0
        assert usable(fleet.cache, hashed)
        fleet.clock.shift_s += 10.0
        with pytest.raises(StoreUnavailable):
            fleet.cache.get(hashed)
        with pytest.raises(StoreUnavailable):
            await fleet.cache.find(token("unknown"))


@pytest.mark.xdist_group("faults")
async def test_an_outage_is_never_answered_as_an_unknown_key(own_postgres: Postgres) -> None:
    """While the store is away known keys work, dropped and unknown ones are 503; after its return
    all are as the store says, changes made in between included."""
    async with running_caches(own_postgres.create()) as fleet:
        known, dropped, unseen = [await fleet.add(name) for name in ("known", "dropped", "unseen")]
        await fleet.known(known)
        await fleet.known(dropped)
        version = await head_version(fleet.store)
        await asyncio.to_thread(own_postgres.stop)
        fleet.cache.subscribers()["key"]((dropped,))
        await eventually(lambda: not fleet.listen.up and not fleet.ask.up)
        assert usable(fleet.cache, known)
        for hashed in (dropped, unseen, token("never made")):
            with pytest.raises(StoreUnavailable) as refused:
                await fleet.cache.find(hashed)
            assert (refused.value.status, refused.value.type) == (503, "no_db_connection")
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: fleet.listen.up and fleet.ask.up)
        assert isinstance(await fleet.cache.find(dropped), Principal)
        assert isinstance(await fleet.cache.find(unseen), Principal)
        assert await fleet.cache.find(token("never made")) is None
        await fleet.apply("update virtual_key set blocked = true")
        assert fleet.follower.applied > version
        assert (await fleet.known(known)).key.blocked


async def test_loading_leaves_out_what_does_not_exist(fleet: CacheFleet) -> None:
    """Unknown tokens and owners are absent from the document, shared owners are there once."""
    await fleet.write("insert into team (team_id) values ('t')")
    first = await fleet.add(1, team_id="t", user_id="nobody")
    second = await fleet.add(2, team_id="t")
    loaded = decode_principals(
        await load_principals(fleet.store, [first, second, token("unknown"), first])
    )
    assert {key.presented for key in loaded.keys} == {first, second}
    assert (set(loaded.teams), set(loaded.users), set(loaded.budgets)) == ({"t"}, set(), set())
    assert loaded.version == await head_version(fleet.store)
