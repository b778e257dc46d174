"""The change feed: order, completeness, resync, confirmation."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from shared.db.feed import FEED_CHANNEL, head_version, notify, read_page, transaction_version, trim
from shared.db.instances import InstanceFacts, register
from shared.db.link import Link
from shared.db.pool import Store
from shared.domain.clock import Clock
from shared.fleet.applied import Notifier, wait_applied
from shared.fleet.follower import Follower
from tests.support.postgres import Postgres

ADD_KEY = "insert into virtual_key (token) values ($1)"
FACTS = InstanceFacts("worker", "eu", "host", "1.0", 2, ("llm",))


def token(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


class Heard:
    """A subscriber that remembers, and lets a test wait."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...] | None] = []
        self._news = asyncio.Event()

    def __call__(self, ids: tuple[str, ...] | None) -> None:
        self.calls.append(ids)
        self._news.set()

    @property
    def ids(self) -> set[str]:
        return {name for call in self.calls if call is not None for name in call}

    async def until(self, condition: Callable[[], bool], within_s: float) -> float:
        started = time.monotonic()
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()
        return time.monotonic() - started


@asynccontextmanager
async def running(*works: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def following(
    dsn: str, heard: Heard | None = None, kind: str = "key", poll_s: float = 0.5
) -> AsyncIterator[tuple[Follower, Link]]:
    """A follower at work that has had its first reading."""
    link = Link("listen", dsn, application_name="meridian-test-feed", listen=(FEED_CHANNEL,))
    await link.open()
    follower = Follower(link, Clock(), {kind: heard or Heard()}, poll_s=poll_s)
    try:
        async with running(follower.run()):
            assert await follower.wait_version(1, 5.0)
            yield follower, link
    finally:
        await link.close()


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    made = Store(database, application_name="meridian-test-store", size=12)
    await made.open()
    yield made
    await made.close()


async def test_versions_follow_commits_without_gaps_or_deadlocks(
    store: Store, database: str
) -> None:
    """Under 8 writers of many-table transactions a reader sees every version once, in order, and
    every change that was committed and none that was rolled back."""
    committed: set[str] = set()
    done = asyncio.Event()

    async def write(writer: int) -> None:
        dice = random.Random(writer)
        for number in range(25):
            name = f"{writer}-{number}"
            keep = dice.random() > 0.2
            statements = [
                (ADD_KEY, token(name)),
                ("insert into team (team_id) values ($1)", name),
                ("insert into config (param_name, value) values ($1, '1')", name),
            ]
            dice.shuffle(statements)
            with suppress(ZeroDivisionError):
                async with store.transaction() as connection:
                    for sql, argument in statements:
                        await connection.execute(sql, argument)
                    if not keep:
                        raise ZeroDivisionError
                committed.add(token(name))

    async def read() -> list[tuple[int, str, tuple[str, ...] | None]]:
        link = Link("reader", database, application_name="meridian-test-reader")
        await link.open()
        seen: list[tuple[int, str, tuple[str, ...] | None]] = []
        at = 1
        while True:
            last = done.is_set()
            page = await read_page(link, at, rows=7)
            seen.extend((c.version, c.kind, c.ids) for c in page.changes)
            at = page.changes[-1].version if page.changes else at
            if last and at == page.head:
                break
        await link.close()
        return seen

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(writer) for writer in range(8)))
    done.set()
    seen = await reading
    versions = sorted({version for version, _, _ in seen})
    assert [version for version, _, _ in seen] == sorted(version for version, _, _ in seen)
    assert versions == list(range(2, 2 + len(committed)))
    assert len(seen) == 3 * len(committed)
    assert {ids[0] for _, kind, ids in seen if kind == "key" and ids} == committed


async def test_a_page_ends_between_versions(store: Store) -> None:
    """A transaction of many statements is never cut, whatever the page size."""
    for size in (3, 1, 4):
        async with store.transaction() as connection:
            for number in range(size):
                await connection.execute(ADD_KEY, token((size, number)))
    page = await read_page(store, 1, rows=2)
    assert [change.version for change in page.changes] == [2, 2, 2]
    page = await read_page(store, 2, rows=2)
    assert [change.version for change in page.changes] == [3, 4, 4, 4, 4]
    assert (await read_page(store, 4)).changes == ()


async def test_one_transaction_has_one_version_that_it_can_learn(store: Store) -> None:
    """A writer reads its version before the commit; nobody sees it until then."""
    async with store.transaction() as connection:
        await connection.execute(ADD_KEY, token(1))
        await connection.execute("insert into team (team_id) values ('t')")
        version = await transaction_version(connection)
        await connection.execute(ADD_KEY, token(2))
        assert await head_version(store) == version - 1
    assert await head_version(store) >= version
    page = await read_page(store, version - 1)
    assert {change.kind for change in page.changes if change.version == version} == {"key", "team"}


async def test_a_change_of_id_names_both_ids(store: Store) -> None:
    """A rotated key is reported under its old and its new token."""
    await store.execute(ADD_KEY, token("old"))
    before = await head_version(store)
    await store.execute("update virtual_key set token = $1", token("new"))
    (change,) = (await read_page(store, before)).changes
    assert set(change.ids or ()) == {token("old"), token("new")}


async def test_large_changes_and_truncation_reload_the_kind(store: Store) -> None:
    """A statement on more than 1,000 objects, or a truncation, names none; 1,000 are named."""
    many = (
        "insert into virtual_key (token) select encode(sha256(($2 || i)::bytea), 'hex') "
        "from generate_series(1, $1::int) i"
    )
    before = await head_version(store)
    await store.execute(many, 1000, "a")
    await store.execute(many, 1001, "b")
    await store.execute("truncate virtual_key cascade")
    changes = (await read_page(store, before)).changes
    sizes = [None if change.ids is None else len(change.ids) for change in changes]
    assert sizes[:2] == [1000, None]
    assert set(sizes[2:]) == {None}


async def test_statements_that_change_nothing_make_no_version(store: Store) -> None:
    """An update that meets no row is no event."""
    before = await head_version(store)
    await store.execute("update virtual_key set blocked = true")
    await store.execute("delete from team")
    assert await head_version(store) == before


async def test_writes_of_traffic_leave_the_head_alone(store: Store) -> None:
    """Heartbeats, last use, leadership and the archive neither add versions nor wait for them."""
    await store.execute(ADD_KEY, token("k"))
    before = await head_version(store)
    async with store.transaction() as holder:
        await holder.execute("update virtual_key set blocked = true")
        await transaction_version(holder)
        async with asyncio.timeout(2.0):
            await register(store, "i", FACTS)
            await store.execute("insert into key_activity values ($1, now())", token("k"))
            await store.execute("insert into leader values ('trim', 'i:1', 1, now())")
            await store.execute(
                "insert into deleted_virtual_key (token) values ($1)", token("gone")
            )
            await store.execute("update change_ack set wanted = 1")
        assert await head_version(store) == before


async def test_a_follower_hears_of_every_writer(store: Store, database: str) -> None:
    """A change that nobody announced, by plain SQL, is applied within a second."""
    heard = Heard()
    async with following(database, heard) as (follower, _):
        assert heard.calls == [None]
        plain = await asyncpg.connect(database)
        await plain.execute(ADD_KEY, token("k"))
        await plain.close()
        assert await heard.until(lambda: token("k") in heard.ids, 5.0) < 1.0
        assert follower.resyncs == 1
        assert follower.applied == await head_version(store)


async def test_a_notification_shortens_the_wait(store: Store, database: str) -> None:
    """Announced changes are applied at once, however rarely the follower polls."""
    heard = Heard()
    notifier = Notifier(store)
    async with following(database, heard, poll_s=60.0) as (_, link), running(notifier.run()):
        assert link.mode == "listen"
        for number in range(3):
            await store.execute(ADD_KEY, token(number))
            notifier.poke()
            assert await heard.until(lambda n=number: token(n) in heard.ids, 5.0) < 0.5


async def test_announcements_are_coalesced(store: Store, database: str) -> None:
    """A burst of commits is announced at most 20 times a second."""
    notifications: list[str] = []
    link = Link("count", database, application_name="meridian-test", listen=(FEED_CHANNEL,))
    link.on_notify(lambda channel, _payload: notifications.append(channel))
    await link.open()
    notifier = Notifier(store)
    async with running(notifier.run()):
        started = time.monotonic()
        while time.monotonic() - started < 0.3:
            notifier.poke()
            await asyncio.sleep(0.001)
    await notify(store)
    await link.fetchval("select 1")
    await link.close()
    assert 2 <= len(notifications) <= 9


async def test_a_killed_listener_loses_nothing(store: Store, database: str) -> None:
    """With its connection cut three times while keys change, a follower hears of each within a
    second of the change."""
    heard = Heard()
    async with following(database, heard) as (follower, link):
        for number in range(3):
            pid = await link.fetchval("select pg_backend_pid()")
            await store.execute("select pg_terminate_backend($1)", pid)
            await store.execute(ADD_KEY, token(number))
            assert await heard.until(lambda n=number: token(n) in heard.ids, 5.0) < 1.0
        assert follower.resyncs == 1


@pytest.mark.parametrize(
    "event",
    [
        "update change_feed set nonce = nonce + 1; update change_head set nonce = nonce + 1",
        """delete from change_feed where version > 2;
        update change_head set version = 2,
            nonce = (select nonce from change_feed where version = 2)""",
        """insert into team (team_id) values ('t');
        set constraints all immediate;
        update change_head set min_version = version;
        delete from change_feed where version < (select version from change_head)""",
    ],
    ids=["another nonce", "behind us", "no longer kept"],
)
async def test_a_place_that_is_not_in_the_feed_reloads_everything(
    store: Store, database: str, event: str
) -> None:
    """After a failover, a restore or a long absence all kinds are told to reload."""
    heard = Heard()
    for number in range(4):
        await store.execute(ADD_KEY, token(number))
    async with following(database, heard) as (follower, _):
        assert follower.applied == 5
        await store.execute(event)
        await heard.until(lambda: heard.calls == [None, None], 5.0)
        assert follower.applied == await head_version(store)
        # From here it follows as before.
        await store.execute(ADD_KEY, token("next"))
        await heard.until(lambda: token("next") in heard.ids, 5.0)
        assert follower.resyncs == 2


async def test_trimming_keeps_what_followers_may_need(store: Store, database: str) -> None:
    """Only changes both old and far back go; a follower behind them reloads, one within does
    not."""
    for number in range(20):
        await store.execute(ADD_KEY, token(number))
    assert await trim(store, keep_s=3600.0, keep_versions=5) == 0
    assert await trim(store, keep_s=0.0, keep_versions=100) == 0
    assert await trim(store, keep_s=0.0, keep_versions=5) == 15
    page = await read_page(store, 16)
    assert (page.min_version, page.head, len(page.changes)) == (16, 21, 5)
    assert page.after_nonce is not None
    assert (await read_page(store, 15)).after_nonce is None


async def test_a_subscriber_that_fails_hears_again_and_keeps_no_one_from_hearing(
    store: Store, database: str
) -> None:
    """A subscriber's bug is counted, it is told to reload, and the feed goes on."""
    told: list[tuple[str, ...] | None] = []

    def fail(ids: tuple[str, ...] | None) -> None:
        told.append(ids)
        if ids is not None:
            raise RuntimeError("a bug")

    heard = Heard()
    link = Link("listen", database, application_name="meridian-test", listen=(FEED_CHANNEL,))
    await link.open()
    follower = Follower(link, Clock(), {"team": fail, "key": heard}, poll_s=0.05)
    async with running(follower.run()):
        assert await follower.wait_version(1, 5.0)
        await store.execute("insert into team (team_id) values ('t')")
        await store.execute(ADD_KEY, token("k"))
        await heard.until(lambda: token("k") in heard.ids, 5.0)
    await link.close()
    assert told == [None, ("t",), None]
    assert follower.subscriber_faults == 1


async def test_a_version_is_confirmed_promptly_by_all_live_instances(
    store: Store, database: str
) -> None:
    """`wait_applied` returns within half a second of the commit, counting a vanished instance as
    unreachable, a stopped and a long forgotten one not at all."""
    boots = [await register(store, name, FACTS) for name in ("a", "b")]
    for name, age in (("vanished", "20 s"), ("forgotten", "1 h"), ("stopped", "1 s")):
        await register(store, name, FACTS)
        await store.execute(
            "update instance set last_seen = now() - $2::text::interval, "
            "stopped_at = case when id = 'stopped' then now() end where id = $1",
            name,
            age,
        )
    links, followers = [], []
    for name, boot in zip(("a", "b"), boots, strict=True):
        link = Link(name, database, application_name="meridian-test", listen=(FEED_CHANNEL,))
        await link.open()

        async def ack(version: int, link: Link = link, name: str = name, boot: int = boot) -> None:
            await link.execute(
                "update instance set applied_version = $3 where id = $1 and boot = $2",
                name,
                boot,
                version,
            )

        links.append(link)
        followers.append(Follower(link, Clock(), {"key": Heard()}, ack=ack, poll_s=30.0))
    async with running(*(follower.run() for follower in followers)):
        for follower in followers:
            assert await follower.wait_version(1, 5.0)
        for number in range(3):
            async with store.transaction() as connection:
                await connection.execute(ADD_KEY, token(number))
                version = await transaction_version(connection)
            applied = await wait_applied(store, version, 5.0)
            assert (applied.applied, applied.unreachable) == (2, 1)
            assert applied.elapsed_ms < 500
    for link in links:
        await link.close()


async def test_an_instance_that_lives_but_does_not_confirm_is_waited_for(store: Store) -> None:
    """The wait ends at its time-out, and the silent instance is unreachable, never confirmed."""
    await register(store, "silent", FACTS)
    await store.execute(ADD_KEY, token("k"))
    applied = await wait_applied(store, await head_version(store), 0.2)
    assert (applied.applied, applied.unreachable) == (0, 1)
    assert 200 <= applied.elapsed_ms < 1000


@pytest.mark.xdist_group("faults")
async def test_a_follower_survives_a_restart_of_the_server(own_postgres: Postgres) -> None:
    """Changes made after an outage are heard within 5 s of the server's return, and the contact
    time stands still meanwhile."""
    dsn = own_postgres.create()
    heard = Heard()
    async with following(dsn, heard) as (follower, link):
        await asyncio.to_thread(own_postgres.stop, "immediate")
        contact = follower.last_applied_mono
        await asyncio.to_thread(own_postgres.start)
        plain = await asyncpg.connect(dsn)
        await plain.execute(ADD_KEY, token("after"))
        await plain.close()
        assert await heard.until(lambda: token("after") in heard.ids, 10.0) < 5.0
        assert link.up
        assert contact is not None
        assert follower.last_applied_mono is not None
        assert follower.last_applied_mono > contact
