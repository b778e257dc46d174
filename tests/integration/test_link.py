"""Links and the pool over real servers: codecs, losses, partitions, poolers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.db.link import Link
from shared.db.pool import Store
from shared.domain.errors import ConfigError, StoreUnavailable
from tests.support.postgres import Postgres
from tests.support.wire import Wire

NAME = "meridian-test-link"


@asynccontextmanager
async def open_link(dsn: str, **options: Any) -> AsyncIterator[Link]:
    link = Link("test", dsn, application_name=NAME, **options)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def open_store(dsn: str, **options: Any) -> AsyncIterator[Store]:
    store = Store(dsn, application_name=NAME, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> float:
    """Seconds until a condition held; fails the test if it never does."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the condition is the product's own state
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def kill(dsn: str, name: str = NAME) -> None:
    """Ends all server sessions of a name in this database; others test on the same server."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = $1 and datname = current_database()",
        name,
    )
    await connection.close()


async def sessions(store: Store, count: int, query: str = "%") -> None:
    """Waits until so many other sessions of the name run a statement like `query`."""
    seen = None
    async with asyncio.timeout(5):
        while seen != count:
            seen = await store.fetchval(
                "select count(*) from pg_stat_activity where application_name = $1 "
                "and datname = current_database() and query like $2 and pid <> pg_backend_pid()",
                NAME,
                query,
            )


class Changes:
    """Records `on_change`, and lets a test wait for the next one."""

    def __init__(self, link: Link) -> None:
        self.seen: list[bool] = []
        self._news = asyncio.Event()
        link.on_change(self._note)

    def _note(self, up: bool) -> None:
        self.seen.append(up)
        self._news.set()

    async def count(self, number: int, within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while len(self.seen) < number:
                self._news.clear()
                await self._news.wait()


async def test_values_pass_unharmed(database: str) -> None:
    """Money is Decimal, JSON is bytes, arrays and ids come back as sent."""
    call_id = UUID(int=7 << 80)
    now = datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=UTC)
    async with open_link(database) as link:
        row = await link.fetchrow(
            "select $1::numeric as money, $2::jsonb as doc, $3::uuid[] as ids, "
            "$4::text[] as names, $5::timestamptz as at, $6::numeric[] as sums, "
            "null::jsonb as nothing",
            Decimal("0.1000000001"),
            b'{"a": [1, null]}',
            [call_id],
            ["x", "ü"],
            now,
            [Decimal("1.50"), None],
        )
    assert row is not None
    assert row["money"] == Decimal("0.1000000001")
    assert row["doc"] == b'{"a": [1, null]}'
    assert row["ids"] == [call_id]
    assert row["names"] == ["x", "ü"]
    assert row["at"] == now
    assert row["sums"] == [Decimal("1.50"), None]
    assert row["nothing"] is None


async def test_a_link_is_one_named_connection_with_the_server_side_time_out(database: str) -> None:
    """Any number of concurrent calls share one session, which carries the name and time-out."""
    async with open_link(database, statement_timeout_s=3.0) as link:
        pids = await asyncio.gather(*(link.fetchval("select pg_backend_pid()") for _ in range(50)))
        assert len(set(pids)) == 1
        assert await link.fetchval("show application_name") == NAME
        assert await link.fetchval("show statement_timeout") == "3s"


async def test_a_repeated_statement_is_prepared_once(database: str) -> None:
    """Statements stay in the session, so that a call is one round trip."""
    async with open_link(database) as link:
        for number in range(5):
            await link.fetchval("select $1::bigint + 41", number)
        assert (
            await link.fetchval(
                "select count(*) from pg_prepared_statements where statement like '%+ 41'"
            )
            == 1
        )


async def test_an_error_of_a_statement_passes_and_leaves_the_link_up(database: str) -> None:
    """The statement's own errors are the caller's business and cost no connection."""
    async with open_link(database) as link:
        pid = await link.fetchval("select pg_backend_pid()")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await link.fetchval("select 1 / 0")
        with pytest.raises(asyncpg.InterfaceError):
            await link.fetchval("select $1::int", 1, 2)
        assert await link.fetchval("select pg_backend_pid()") == pid


async def test_a_statement_that_the_server_cuts_is_unavailability(database: str) -> None:
    """A server-side time-out is `StoreUnavailable`, and the connection goes on."""
    async with open_link(database, statement_timeout_s=0.1) as link:
        pid = await link.fetchval("select pg_backend_pid()")
        with pytest.raises(StoreUnavailable):
            await link.fetchval("select pg_sleep(5)")
        assert link.up
        assert await link.fetchval("select pg_backend_pid()") == pid


async def test_a_killed_session_fails_its_statement_and_is_replaced(database: str) -> None:
    """A connection cut mid-statement is `StoreUnavailable` at once and back within a second."""
    async with open_link(database) as link:
        changes = Changes(link)
        sleeping = asyncio.create_task(link.fetchval("select pg_sleep(30)"))
        async with open_store(database) as store:
            await sessions(store, 1, "%pg_sleep%")
        await kill(database)
        with pytest.raises(StoreUnavailable) as refused:
            await sleeping
        assert ("retry-after", "1") in refused.value.headers
        await changes.count(2, within_s=1.0)
        assert changes.seen == [False, True]
        assert await link.fetchval("select 1") == 1


async def test_a_cancelled_caller_leaves_the_link_usable(database: str) -> None:
    """The next caller gets its own answer after one that went away mid-statement."""
    async with open_link(database) as link, open_store(database) as store:
        gone = asyncio.create_task(link.fetchval("select 'first' from pg_sleep(30)"))
        await sessions(store, 1, "%pg_sleep%")
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await link.fetchval("select 'second'") == "second"


async def test_a_partition_is_noticed_by_the_client(database: str) -> None:
    """When no bytes come through, statements fail after the client's time-out, then at once."""
    async with Wire(database) as wire, open_link(wire.dsn) as link:
        assert await link.fetchval("select 1") == 1
        wire.freeze()
        with pytest.raises(StoreUnavailable):
            await link.fetchval("select 2", timeout=0.2)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await link.fetchval("select 3")
        assert time.monotonic() - started < 0.1
        wire.thaw()
        await until(lambda: link.up)
        assert await link.fetchval("select 4") == 4


async def test_setup_runs_on_every_new_connection(database: str) -> None:
    """What a caller sets up is there again after a reconnect."""
    runs: list[int] = []

    async def setup(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        runs.append(await connection.fetchval("select pg_backend_pid()"))
        await connection.execute("set meridian.mark = 'set'")

    async with open_link(database, setup=setup) as link:
        changes = Changes(link)
        await kill(database)
        await changes.count(2)
        assert await link.fetchval("show meridian.mark") == "set"
    assert len(set(runs)) == 2


async def test_notifications_arrive_and_survive_a_reconnect(database: str) -> None:
    """LISTEN is set anew on the new connection."""
    heard: list[tuple[str, str]] = []
    async with open_link(database, listen=("news",)) as link:
        assert link.mode == "listen"
        link.on_notify(lambda channel, payload: heard.append((channel, payload)))
        changes = Changes(link)
        await link.execute("select pg_notify('news', 'a')")
        await until(lambda: heard == [("news", "a")])
        await kill(database)
        await changes.count(2)
        async with open_link(database) as other:
            await other.execute("select pg_notify('news', 'b')")
        await until(lambda: heard == [("news", "a"), ("news", "b")])


async def test_swallowed_notifications_are_found_out(database: str) -> None:
    """Where LISTEN is answered but nothing is delivered, the link says `poll`."""
    async with Wire(database) as wire:
        wire.swallow_notifications = True
        async with open_link(wire.dsn, listen=("news",)) as link:
            assert link.up
            assert link.mode == "poll"


async def test_a_pooler_that_refuses_parameters_is_used_without_them(database: str) -> None:
    """Start-up parameters are dropped, and names of statements with them."""
    async with Wire(database) as wire:
        wire.refuse_parameters = True
        async with open_link(wire.dsn) as link, open_store(wire.dsn) as store:
            for queryable in (link, store):
                assert await queryable.fetchval("select $1::int", 5) == 5
                assert queryable.pooled
            assert await link.fetchval("select count(*) from pg_prepared_statements") == 0


async def test_lost_statement_names_switch_the_link_to_unnamed_ones(database: str) -> None:
    """A session that forgets prepared statements, as behind a pooler, costs one refused call."""
    async with open_link(database) as link:
        changes = Changes(link)
        assert await link.fetchval("select $1::int", 1) == 1
        await link.execute("deallocate all")
        with pytest.raises(StoreUnavailable):
            await link.fetchval("select $1::int", 2)
        await changes.count(2)
        assert link.pooled
        assert await link.fetchval("select $1::int", 3) == 3
        await link.execute("deallocate all")
        assert await link.fetchval("select $1::int", 4) == 4


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://u:secret-word@h:port/db"])
async def test_an_unreadable_dsn_is_a_setting_to_be_fixed(dsn: str) -> None:
    """A DSN that cannot be parsed stops the start without being repeated."""
    with pytest.raises(ConfigError, match="DATABASE_URL") as refused:
        async with open_link(dsn):
            pass
    assert "secret-word" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.xdist_group("faults")
async def test_a_restarted_server_is_found_again(own_postgres: Postgres) -> None:
    """While the server is away calls fail at once; soon after its return both owners work."""
    dsn = own_postgres.create()
    async with open_link(dsn) as link, open_store(dsn) as store:
        assert await store.fetchval("select 1") == 1
        changes = Changes(link)
        await asyncio.to_thread(own_postgres.stop)
        await changes.count(1)
        started = time.monotonic()
        for queryable in (link, store):
            with pytest.raises(StoreUnavailable):
                await queryable.fetchval("select 1")
        assert time.monotonic() - started < 1.0
        await asyncio.to_thread(own_postgres.start)
        await changes.count(2, within_s=5.0)
        assert await link.fetchval("select 1") == 1
        assert await store.fetchval("select 1") == 1


@pytest.mark.xdist_group("faults")
async def test_a_link_opened_during_an_outage_connects_when_it_ends(own_postgres: Postgres) -> None:
    """Opening does not fail for want of a server, and names the kind of fault only."""
    dsn = own_postgres.create()
    await asyncio.to_thread(own_postgres.stop)
    async with open_link(dsn, listen=("news",)) as link:
        assert not link.up
        assert link.last_error == "ConnectionRefusedError"
        with pytest.raises(StoreUnavailable):
            await link.fetchval("select 1")
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: link.up)
        assert await link.fetchval("select 1") == 1


async def test_closing_a_link_ends_its_session(database: str) -> None:
    """Nothing is reopened after `close`, and the server session is gone."""
    link = Link("test", database, application_name=NAME)
    await link.open()
    await link.close()
    with pytest.raises(StoreUnavailable):
        await link.fetchval("select 1")
    async with open_store(database) as store:
        await sessions(store, 0)
    assert not link.up


async def test_a_transaction_is_whole_or_nothing(database: str) -> None:
    """The block's exception rolls back, its end commits."""
    add = "insert into config (param_name, value) values ($1, '1')"
    async with open_store(database) as store:

        async def fail() -> None:
            async with store.transaction() as connection:
                await connection.execute(add, "lost")
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        async with store.transaction() as connection:
            await connection.execute(add, "kept")
        assert [row[0] for row in await store.fetch("select param_name from config")] == ["kept"]


async def test_a_pool_without_a_free_connection_is_unavailability(database: str) -> None:
    """Waiting for a connection is bounded, and its end is 503 and nothing else."""
    async with open_store(database, size=1, acquire_timeout_s=0.05) as store:
        async with store.connection():
            with pytest.raises(StoreUnavailable) as refused:
                await store.fetchval("select 1")
            assert refused.value.status == 503
        assert await store.fetchval("select 1") == 1


async def test_a_cut_inside_a_transaction_is_unavailability(database: str) -> None:
    """The session's end under a transaction is `StoreUnavailable`, and the pool goes on."""
    async with open_store(database, size=1) as store:

        async def cut() -> None:
            async with store.transaction() as connection:
                await connection.execute("insert into config (param_name, value) values ('a', '1')")
                await kill(database)
                await connection.execute("select 1")

        with pytest.raises(StoreUnavailable):
            await cut()
        assert await store.fetchval("select count(*) from config") == 0


async def test_a_partition_under_the_pool_costs_one_time_out(database: str) -> None:
    """A statement that gets no answer gives its connection up; the next one gets a new one."""
    async with Wire(database) as wire, open_store(wire.dsn, size=1) as store:
        assert await store.fetchval("select 1") == 1
        wire.freeze()
        with pytest.raises(StoreUnavailable):
            await store.fetchval("select 2", timeout=0.1)
        wire.thaw()
        assert await store.fetchval("select 3") == 3
