"""Journal to ledger over a real database: exact sums, whatever fails in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import uvloop
from attrs import evolve, frozen

from shared.db import ledger
from shared.db.link import Link
from shared.domain.clock import Clock
from shared.domain.errors import StoreUnavailable
from shared.domain.ids import id_floor
from shared.domain.ledger import BudgetCharge, CallClosed, CallOpened, CallStatus
from shared.spend.adoption import Adopter
from shared.spend.flusher import Flusher
from shared.spend.journal import Journal
from shared.spend.records import Joiner, encode_close, encode_open
from shared.spend.segments import CLOSED, OPENED, Frame
from tests.support.ledger_calls import KEY, Calls, open_soon
from tests.support.postgres import Postgres

KIB = 1024
COST = Decimal("0.0012345678")
DAY_S = 86400

Make = Callable[..., Journal]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
async def link(database: str) -> AsyncIterator[Link]:
    async with opened_link(database) as made:
        yield made


@contextlib.asynccontextmanager
async def opened_link(dsn: str) -> AsyncIterator[Link]:
    made = Link("bulk", dsn, application_name="test", statement_timeout_s=30.0)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def journal_in(root: Path, **options: Any) -> AsyncIterator[Journal]:
    """A live journal; left to adopters at the end."""
    given = {"instance": "i1", "boot": 7, "clock": Clock()} | options
    journal = Journal(root, **given)
    try:
        yield journal
    finally:
        journal.shutdown(remove=False)


@contextlib.asynccontextmanager
async def flushing(journal: Journal, link: Link, **options: Any) -> AsyncIterator[Flusher]:
    flusher = Flusher(journal, link, **({"interval_s": 0.01} | options))
    task = asyncio.create_task(flusher.run())
    try:
        yield flusher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110 - what is awaited is in the database
            await asyncio.sleep(0.01)


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def settle(journal: Journal, calls: Calls, opened: CallOpened, **end: Any) -> None:
    open_soon(journal, opened)
    journal.close(calls.closed(opened, **end))


@frozen
class Totals:
    rows: int
    cost: Decimal


async def totals(link: Link) -> Totals:
    row = await link.fetchrow("select count(*) as n, coalesce(sum(cost), 0) as cost from spend_log")
    assert row is not None
    return Totals(row["n"], row["cost"])


async def assert_consistent(link: Link, holders: int = 0) -> Totals:
    """Rows, counters, roll-ups and holds tell the same, to the last digit."""
    log = await link.fetchrow(
        """
        select count(*) as calls, coalesce(sum(cost), 0) as cost,
            coalesce(sum(prompt_tokens), 0) as prompt, coalesce(sum(completion_tokens), 0) as done,
            count(*) filter (where status in ('success', 'client_closed')) as good
        from spend_log
        """
    )
    counter = await link.fetch(
        """
        select kind, sum(calls) as calls, sum(spend) as cost, sum(prompt_tokens) as prompt,
            sum(completion_tokens) as done
        from spend_counter where window_start_s = 0 and kind in ('key', 'global') group by 1
        """
    )
    daily = await link.fetchrow(
        """
        select sum(calls) as calls, sum(spend) as cost, sum(prompt_tokens) as prompt,
            sum(completion_tokens) as done, sum(successes) as good, sum(failures) as bad
        from daily_spend where kind = 'key'
        """
    )
    assert log is not None
    assert daily is not None
    sums = (log["calls"], log["cost"], log["prompt"], log["done"])
    assert {row["kind"] for row in counter} == ({"key", "global"} if log["calls"] else set())
    for row in counter:
        assert (row["calls"], row["cost"], row["prompt"], row["done"]) == sums
    if log["calls"]:
        assert (daily["calls"], daily["cost"], daily["prompt"], daily["done"]) == sums
        assert (daily["good"], daily["good"] + daily["bad"]) == (log["good"], log["calls"])
    per_owner = await link.fetch(
        """
        with owned as (
            select 'user' as kind, user_id as id, cost from spend_row
            union all select 'team', team_id, cost from spend_row
            union all select 'team_member', user_id || ':' || team_id, cost from spend_row
            union all select 'organization', organization_id, cost from spend_row
            union all select 'organization_member', user_id || ':' || organization_id, cost
            from spend_row
            union all select 'project', project_id, cost from spend_row
            union all select 'end_user', end_user, cost from spend_row
            union all select 'key', key, cost from spend_row
            union all select 'tag', tag, cost from spend_row, unnest(tags) as tag
        ), truth as (
            select kind, id, sum(cost) as cost, count(*) as calls from owned
            where id is not null group by 1, 2
        )
        select t.kind, t.id from truth t
        full join (select * from spend_counter where window_start_s = 0 and kind <> 'global') c
            using (kind, id)
        where (t.cost, t.calls) is distinct from (c.spend, c.calls)
        union all
        select t.kind, t.id from (
            select * from truth
            where kind not in ('team_member', 'organization_member', 'project')) t
        full join (select kind, id, sum(spend) as spend, sum(calls) as calls
                   from daily_spend group by 1, 2) d using (kind, id)
        where (t.cost, t.calls) is distinct from (d.spend, d.calls)
        """
    )
    assert per_owner == []
    return Totals(log["calls"], log["cost"])


def posting(
    pairs: list[tuple[CallOpened, CallClosed]], journal: UUID, start: int, **changes: Any
) -> tuple[ledger.Stretch, bytes]:
    """Calls as a stretch of a journal, ready for the database."""
    joiner = Joiner({})
    bodies = []
    for opened, closed in pairs:
        joiner.feed(0, Frame(OPENED, encode_open(opened), 1))
        row = joiner.feed(0, Frame(CLOSED, encode_close(closed), 2))
        assert row is not None
        bodies.append(row.body)
    stretch = ledger.Stretch(journal, 0, start, start + len(pairs), "i1", 7)
    return evolve(stretch, **changes), b"[" + b",".join(bodies) + b"]"


# ---------------------------------------------------------------- the function


async def test_a_row_holds_all_fields(link: Link, calls: Calls) -> None:
    """What the journal says of a call is what the view shows, and the rest is derived from it."""
    opened = calls.opened(
        end_user="cust-1",
        tags=("a", "b"),
        session_id="s1",
        requester_ip="10.0.0.1",
        stream=True,
        project_id="p1",
    )
    closed = calls.closed(
        opened,
        status=CallStatus.CLIENT_CLOSED,
        http_status=499,
        ttft_s=0.1234,
        cached_tokens=3,
        cache_write_tokens=4,
        reasoning_tokens=5,
        estimated=True,
        attempts=2,
        error_type="client_gone",
        model="gpt-4o-mini",
    )
    answer = await ledger.apply(link, *posting([(opened, closed)], uuid4(), 0))
    assert answer == ledger.Applied(True, 1, 1)
    row = await link.fetchrow("select * from spend_row")
    assert row is not None
    shown = dict(row)
    assert shown.pop("started_at").timestamp() == pytest.approx(opened.started_s, abs=1e-5)
    assert shown.pop("ended_at").timestamp() == pytest.approx(closed.ended_s, abs=1e-5)
    assert shown == {
        "id": opened.id,
        "ttft_ms": 123,
        "status": "client_closed",
        "http_status": 499,
        "route": "acompletion",
        "model": "gpt-4o-mini",
        "model_group": "gpt-4o",
        "deployment_id": "8d1f0b9c2a7e4d5f",
        "provider": "openai",
        "api_base": "https://api.openai.com/v1",
        "region": "eu-west-1",
        "instance": "i1",
        "key": KEY,
        "key_alias": "ci-bot",
        "user_id": "u1",
        "team_id": "t1",
        "organization_id": "o1",
        "project_id": "p1",
        "end_user": "cust-1",
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "cached_tokens": 3,
        "cache_write_tokens": 4,
        "reasoning_tokens": 5,
        "estimated": True,
        "cost": COST,
        "tags": ["a", "b"],
        "session_id": "s1",
        "requester_ip": "10.0.0.1",
        "attempts": 2,
        "error_type": "client_gone",
        "upstream_id": "chatcmpl-1",
        "stream": True,
    }
    day = await link.fetchrow("select * from daily_spend where kind = 'tag' and id = 'b'")
    assert day is not None
    assert day["day"] == datetime.fromtimestamp(opened.started_s, UTC).date()
    assert (day["key"], day["model_group"], day["model"]) == (KEY, "gpt-4o", "gpt-4o-mini")
    assert (day["provider"], day["route"], day["deployment_id"]) == ("openai", "acompletion", "")
    assert (day["calls"], day["successes"], day["failures"]) == (1, 1, 0)
    assert (day["cached_tokens"], day["duration_ms"]) == (3, 250)
    seen = await link.fetchval("select last_active from key_activity where token = $1", KEY)
    assert seen.timestamp() == pytest.approx(closed.ended_s, abs=1e-5)
    await assert_consistent(link)


async def test_replays_add_nothing(link: Link, calls: Calls) -> None:
    """A stretch is taken once, from where the cursor stands; known ids are skipped beyond that."""
    journal = uuid4()
    pairs = [(opened, calls.closed(opened)) for opened in (calls.opened() for _ in range(5))]
    first = posting(pairs[:3], journal, 0)
    assert await ledger.apply(link, *first) == ledger.Applied(True, 3, 3)
    assert await ledger.apply(link, *first) == ledger.Applied(False, 3, 0)
    gap = posting(pairs[3:], journal, 4)
    assert await ledger.apply(link, *gap) == ledger.Applied(False, 3, 0)
    overlap = posting(pairs[2:] * 2, journal, 3)
    assert await ledger.apply(link, *overlap) == ledger.Applied(True, 9, 2)
    unknown = posting(pairs, uuid4(), 5)
    assert await ledger.apply(link, *unknown) == ledger.Applied(False, 0, 0)
    other = posting(pairs, uuid4(), 0)
    assert await ledger.apply(link, *other) == ledger.Applied(True, 5, 0)
    assert await assert_consistent(link) == Totals(5, 5 * COST)
    assert await ledger.cursors(link, journal) == {0: 9}


async def test_replays_add_nothing_after_retention(link: Link, calls: Calls) -> None:
    """When retention has dropped the rows, the cursor still refuses their journal."""
    journal = uuid4()
    old = calls.opened(id=id_floor(time.time() - DAY_S))
    stretch = posting([(old, calls.closed(old))], journal, 0)
    assert (await ledger.apply(link, *stretch)).inserted == 1
    assert await ledger.drop_before(link, datetime.now(UTC)) == 1
    assert (await totals(link)).rows == 0
    assert await ledger.apply(link, *stretch) == ledger.Applied(False, 1, 0)
    spend = await link.fetchval("select spend from spend_counter where kind = 'key'")
    assert spend == COST


async def test_charges_move_held_to_spent(link: Link, calls: Calls) -> None:
    """Each named window gets the cost once; the owner's hold shrinks by it, below zero if so."""
    window = 1_790_000_000
    charges = (
        BudgetCharge(f"key:{KEY}"),
        BudgetCharge(f"key:{KEY}", window),
        BudgetCharge(f"key:{KEY}", window),
        BudgetCharge("team_member:u1:t1", window),
        BudgetCharge("global:"),
        BudgetCharge("project:p1"),
    )
    await link.execute(
        "insert into budget_hold values ($1, 0, 'i1', 7, 1.5), ($1, 0, 'i2', 7, 1)", f"key:{KEY}"
    )
    opened = calls.opened(charges=charges)
    closed = calls.closed(opened, cost=Decimal("0.5"))
    await ledger.apply(link, *posting([(opened, closed)], uuid4(), 0))
    rows = await link.fetch(
        "select kind, id, window_start_s as at, spend, calls from spend_counter"
        " where kind in ('key', 'team_member', 'global', 'project')"
    )
    assert {(r["kind"], r["id"], r["at"]): (r["spend"], r["calls"]) for r in rows} == {
        ("key", KEY, 0): (Decimal("0.5"), 1),
        ("key", KEY, window): (Decimal("0.5"), 1),
        ("team_member", "u1:t1", 0): (Decimal("0.5"), 1),
        ("team_member", "u1:t1", window): (Decimal("0.5"), 1),
        ("global", "", 0): (Decimal("0.5"), 1),
        ("project", "p1", 0): (Decimal("0.5"), 1),
    }
    holds = await link.fetch("select scope, window_start_s as at, instance, held from budget_hold")
    assert {(r["scope"], r["at"], r["instance"]): r["held"] for r in holds} == {
        (f"key:{KEY}", 0, "i1"): Decimal("1.0"),
        (f"key:{KEY}", 0, "i2"): Decimal(1),
        (f"key:{KEY}", window, "i1"): Decimal("-0.5"),
        ("team_member:u1:t1", window, "i1"): Decimal("-0.5"),
        ("global:", 0, "i1"): Decimal("-0.5"),
        ("project:p1", 0, "i1"): Decimal("-0.5"),
    }


async def test_a_dead_owners_released_hold_is_not_made_anew(link: Link, calls: Calls) -> None:
    """Settling for a dead owner takes from what it still holds and makes no negative hold."""
    await link.execute("insert into budget_hold values ('key:k', 0, 'i1', 7, 1)")
    opened = calls.opened(charges=(BudgetCharge("key:k"), BudgetCharge("user:u1")))
    closed = calls.closed(opened, cost=Decimal("0.25"))
    await ledger.apply(link, *posting([(opened, closed)], uuid4(), 0, owner_dead=True))
    holds = await link.fetch("select scope, held from budget_hold")
    assert [tuple(row) for row in holds] == [("key:k", Decimal("0.75"))]


async def test_concurrent_writers_agree_to_the_last_digit(database: str, link: Link) -> None:
    """Eight writers, overlapping owners, replays: no deadlock, and every sum is exact."""
    until = time.monotonic() + 3.0

    async def write(number: int) -> int:
        calls, chance, posted = Calls(), random.Random(number), 0
        journal, batches = uuid4(), []
        async with opened_link(database) as own:
            while time.monotonic() < until:
                pairs = []
                for _ in range(100):
                    who = chance.randrange(20)
                    opened = calls.opened(
                        key=f"{who:064x}",
                        user_id=f"u{who % 7}",
                        team_id=f"t{who % 3}",
                        end_user=f"e{chance.randrange(50)}",
                        tags=tuple(chance.sample("abcde", 2)),
                        model=f"m{chance.randrange(40)}",
                        charges=(
                            BudgetCharge(f"key:{who:064x}"),
                            BudgetCharge(f"team:t{who % 3}", 1_790_000_000),
                        ),
                    )
                    cost = Decimal(chance.randrange(10**9)).scaleb(-10)
                    pairs.append((opened, calls.closed(opened, cost=cost)))
                # Some of what this or an earlier batch holds is offered a second time.
                chance.shuffle(pairs)
                batches.append(pairs)
                again = chance.choice(batches)[:5]
                stretch, body = posting(pairs + again, journal, posted, instance=f"w{number}")
                answer = await ledger.apply(own, stretch, body)
                assert answer == ledger.Applied(True, stretch.end, 100)
                posted = stretch.end
        return len(batches) * 100

    written = sum(await asyncio.gather(*(write(number) for number in range(8))))
    assert written > 2000
    found = await assert_consistent(link)
    assert found.rows == written
    windows = await link.fetchval("select sum(spend) from spend_counter where window_start_s > 0")
    assert windows == found.cost
    held = await link.fetchval("select sum(held) from budget_hold where scope like 'key:%'")
    assert held == -found.cost
    deadlocks = await link.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert deadlocks == 0


async def test_a_flush_is_no_change_for_the_feed(link: Link, calls: Calls) -> None:
    """Posting touches no watched table: the head of the change feed stays where it is."""
    before = await link.fetchval("select version from change_head")
    opened = calls.opened(end_user="e", tags=("t",), charges=(BudgetCharge(f"key:{KEY}"),))
    await ledger.apply(link, *posting([(opened, calls.closed(opened))], uuid4(), 0))
    assert (await totals(link)).rows == 1
    assert await link.fetchval("select version from change_head") == before


# ---------------------------------------------------------------- partitions


async def test_partitions_are_made_once(database: str, link: Link) -> None:
    """Any number may ask for partitions at once; each day is made once, and rows find it."""
    now = datetime.now(UTC)
    async with contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(opened_link(database)) for _ in range(4)]
        made = await asyncio.gather(*(ledger.ensure_partitions(each, 20) for each in links))
    # The migration made those from yesterday to a week ahead.
    assert sum(made) in (13, 14)
    assert await ledger.ensure_partitions(link, 20) == 0
    for days in (-1, 0, 20):
        at = now + timedelta(days=days)
        name = await link.fetchval(
            "select tableoid::regclass::text from spend_log where id = $1",
            await _insert_at(link, at),
        )
        assert name == f"spend_log_{at:%Y%m%d}"
    assert not await ledger.has_strays(link)


async def test_days_without_partition_are_kept_and_moved(link: Link) -> None:
    """Rows of any time are taken; those of a day that gets its partition later move there."""
    now = datetime.now(UTC)
    later, ancient = now + timedelta(days=30), datetime(1999, 12, 31, tzinfo=UTC)
    ids = [await _insert_at(link, at) for at in (later, ancient)]
    assert await ledger.has_strays(link)
    await ledger.ensure_partitions(link, 31)
    where = await link.fetch("select id, tableoid::regclass::text as t from spend_log order by id")
    assert [(row["id"], row["t"]) for row in where] == [
        (ids[1], "spend_log_default"),
        (ids[0], f"spend_log_{later:%Y%m%d}"),
    ]
    indexes = "select count(*) from pg_indexes where tablename = $1"
    indexed = await link.fetchval(indexes, f"spend_log_{later:%Y%m%d}")
    assert indexed == await link.fetchval(indexes, "spend_log_default") >= 4


async def test_retention_drops_whole_days(link: Link) -> None:
    """Days that end before the bound go, the others and the default partition stay."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for days in (-1, 0):
        await _insert_at(link, now + timedelta(days=days))
    assert await ledger.drop_before(link, today - timedelta(seconds=1)) == 0
    started = time.perf_counter()
    assert await ledger.drop_before(link, today) == 1
    assert time.perf_counter() - started < 1.0
    assert (await totals(link)).rows == 1
    # The day is made again for a straggler.
    assert await ledger.ensure_partitions(link, 7) == 1


async def _insert_at(link: Link, at: datetime) -> UUID:
    calls = Calls()
    opened = calls.opened(id=UUID(int=id_floor(at.timestamp()).int | random.getrandbits(60)))
    await ledger.apply(link, *posting([(opened, calls.closed(opened))], uuid4(), 0))
    return opened.id


async def test_id_bounds_prune_partitions(link: Link) -> None:
    """The floor of an instant is the same in Python and SQL, and queries by it touch one day."""
    at = datetime(2026, 11, 3, 4, 5, 6, 789000, tzinfo=UTC)
    assert await link.fetchval("select spend_log_floor($1)", at) == id_floor(at.timestamp())
    now = time.time()
    plan = await link.fetch(
        f"explain select * from spend_log where id >= '{id_floor(now)}'"
        f" and id < '{id_floor(now + 1)}'"
    )
    scanned = {line[0].split(" on ")[1].split()[0] for line in plan if " on spend_log" in line[0]}
    day = datetime.fromtimestamp(now, UTC)
    assert scanned <= {
        f"spend_log_{day:%Y%m%d}",
        f"spend_log_{day:%Y%m%d}_pkey",
        "spend_log",
        "spend_log_default",
    }


async def test_rows_are_small(link: Link, calls: Calls) -> None:
    """An average row with its indexes takes at most 400 bytes, long names included."""
    journal, posted = uuid4(), 0
    for _ in range(10):
        pairs = []
        for number in range(1000):
            opened = calls.opened(
                key=f"{number % 97:064x}",
                team_id=str(UUID(int=2**80 + number % 20)),
                user_id=str(UUID(int=2**90 + number % 50)),
                end_user=f"customer-{number % 300}",
                deployment_id="9f" * 32,
                api_base="https://a-long-resource-name.openai.azure.com/openai/deployments/gpt",
                requester_ip="203.0.113.77",
                tags=("production", "checkout") if number % 3 == 0 else (),
            )
            pairs.append(
                (opened, calls.closed(opened, upstream_id=f"chatcmpl-{opened.id.hex[3:]}"))
            )
        instance = "meridian-worker-7d9f8b6c5-x2x4z"
        stretch, body = posting(pairs, journal, posted, instance=instance)
        await ledger.apply(link, stretch, body)
        posted = stretch.end
    size = await link.fetchval(
        "select sum(pg_total_relation_size(relid)) from pg_partition_tree('spend_log')"
        " where isleaf and pg_relation_size(relid) > 0"
    )
    assert size / 10_000 <= 400


# ---------------------------------------------------------------- the flusher


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_closes_are_posted(
    factory: Callable[[], asyncio.AbstractEventLoop], database: str, tmp_path: Path
) -> None:
    """On either loop: what is closed is in the ledger soon, what is open is not."""

    async def run() -> None:
        calls = Calls()
        async with (
            opened_link(database) as link,
            journal_in(tmp_path) as journal,
            flushing(journal, link, interval_s=0.1) as flusher,
        ):
            assert flusher.posted.is_set()
            live = [calls.opened() for _ in range(50)]
            for opened in live:
                journal.open(opened)
            for opened in live[:30]:
                journal.close(calls.closed(opened))
            assert not flusher.posted.is_set()
            started = time.monotonic()
            await asyncio.wait_for(flusher.posted.wait(), 5)
            assert time.monotonic() - started < 2
            assert await assert_consistent(link) == Totals(30, 30 * COST)
            assert flusher.oldest_unposted_s == 0
            assert journal.bytes_pending == 0
            for opened in live[30:]:
                journal.close(calls.closed(opened))
            assert journal.bytes_pending > 0
            assert await flusher.drain(5)
            assert await assert_consistent(link) == Totals(50, 50 * COST)
            assert (flusher.stats.rows, flusher.stats.batches) == (50, 2)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


async def test_a_full_batch_does_not_wait(link: Link, calls: Calls, tmp_path: Path) -> None:
    """With a long interval a batch goes out as soon as it is full."""
    async with (
        journal_in(tmp_path) as journal,
        flushing(journal, link, interval_s=60.0, batch_rows=20),
    ):
        for _ in range(20):
            settle(journal, calls, calls.opened())

        async def posted() -> bool:
            return (await totals(link)).rows == 20

        await eventually(posted)


async def test_segments_go_once_posted(link: Link, calls: Calls, tmp_path: Path) -> None:
    """Posted segments are freed, but for one in which a call began that is still open."""
    async with (
        journal_in(tmp_path, segment_size=16 * KIB, max_bytes=1024 * KIB) as journal,
        flushing(journal, link, retain_bytes=0) as flusher,
    ):
        early = [calls.opened() for _ in range(10)]
        for opened in early:
            open_soon(journal, opened)
        while journal.segments[-1].number < 1:
            settle(journal, calls, calls.opened())
        long = calls.opened()
        open_soon(journal, long)
        holder = journal.segments[-1].number
        for opened in early:
            journal.close(calls.closed(opened))
        while journal.segments[-1].number < 8:
            settle(journal, calls, calls.opened())
            await asyncio.sleep(0)

        async def waiting_for_the_long_call() -> bool:
            return (
                journal.segments[0].number == holder
                and flusher.posted.is_set()
                and "0" not in names(tmp_path / str(journal.id))
            )

        await eventually(waiting_for_the_long_call)
        journal.close(calls.closed(long))
        settle(journal, calls, calls.opened())

        async def only_the_current() -> bool:
            return len(journal.segments) == 1

        await eventually(only_the_current)
        kept = await ledger.cursors(link, journal.id)
        assert min(kept, default=99) >= holder
        await assert_consistent(link)


async def test_retained_until_old_or_many(link: Link, calls: Calls, tmp_path: Path) -> None:
    """Posted segments stay for their time while they are few."""
    async with (
        journal_in(tmp_path, segment_size=16 * KIB) as journal,
        flushing(journal, link, retain_s=3600.0) as flusher,
    ):
        while journal.segments[-1].number < 4:
            settle(journal, calls, calls.opened())
        assert await flusher.drain(5)
        assert [segment.number for segment in journal.segments] == [0, 1, 2, 3, 4]


async def test_poison_rows_are_set_aside(link: Link, calls: Calls, tmp_path: Path) -> None:
    """Rows that the database refuses land in ledger_rejected and block no other."""
    poison = [
        {"cost": Decimal("NaN")},
        {"cost": Decimal(-1)},
        {"cost": Decimal("1e12")},
        {"prompt_tokens": 2**31},
        {"ended_s": float("inf")},
    ]
    async with journal_in(tmp_path) as journal, flushing(journal, link) as flusher:
        bad = []
        for number in range(200):
            opened = calls.opened(charges=(BudgetCharge(f"key:{KEY}"),))
            end: dict[str, Any] = {}
            if number % 40 == 7:
                end = poison[number // 40]
                bad.append(str(opened.id))
            settle(journal, calls, opened, **end)
        await asyncio.wait_for(flusher.posted.wait(), 10)
        assert await assert_consistent(link) == Totals(195, 195 * COST)
        rows = await link.fetch("select * from ledger_rejected order by position")
        assert [json.loads(row["payload"])[0]["id"] for row in rows] == bad
        assert {row["sqlstate"][:2] for row in rows} <= {"22", "23"}
        assert (flusher.stats.rejected, flusher.stats.rows) == (5, 195)


async def test_texts_the_database_cannot_hold(link: Link, calls: Calls, tmp_path: Path) -> None:
    """NUL characters, lone surrogates and overlong texts from clients are no poison."""
    async with journal_in(tmp_path) as journal, flushing(journal, link) as flusher:
        for text in ("a\x00b", "\ud800", "x" * 100_000, "\\u0000", "é" * 3000):
            settle(
                journal,
                calls,
                calls.opened(model=text, end_user=text, tags=(text,), session_id=text),
                error_type=text,
            )
        await asyncio.wait_for(flusher.posted.wait(), 10)
        assert flusher.stats.rejected == 0
        assert (await assert_consistent(link)).rows == 5


async def test_a_lost_answer_is_noticed(link: Link, calls: Calls, tmp_path: Path) -> None:
    """When a batch was taken and its answer lost, the next try finds it there and goes on."""
    async with journal_in(tmp_path) as journal:
        pairs = []
        for _ in range(5):
            opened = calls.opened()
            settle(journal, calls, opened)
            pairs.append((opened, calls.closed(opened)))
        end = journal.segments[0].end
        stretch, body = posting(pairs, journal.id, 0, end=end)
        assert (await ledger.apply(link, stretch, body)).inserted == 5
        flusher = Flusher(journal, link, interval_s=0.01)
        task = asyncio.create_task(flusher.run())
        settle(journal, calls, calls.opened())
        await asyncio.wait_for(flusher.posted.wait(), 5)
        assert (await assert_consistent(link)).rows == 6
        assert flusher.stats.resyncs == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_lost_transactions_are_offered_again(
    link: Link, calls: Calls, tmp_path: Path
) -> None:
    """A database that comes back without its last batches gets them from retained segments."""
    async with (
        journal_in(tmp_path, segment_size=16 * KIB) as journal,
        flushing(journal, link) as flusher,
    ):
        long = calls.opened()
        journal.open(long)
        for _ in range(20):
            settle(journal, calls, calls.opened())
        assert await flusher.drain(5)
        tables = ("spend_log", "spend_counter", "daily_spend", "journal_cursor")
        for table in tables:
            await link.execute(f"create table saved_{table} as select * from {table}")
        while journal.segments[-1].number < 3:
            settle(journal, calls, calls.opened())
        assert await flusher.drain(5)
        before = await assert_consistent(link)
        for table in tables:
            await link.execute(f"delete from {table}")
            await link.execute(f"insert into {table} select * from saved_{table}")
        assert (await totals(link)).rows == 20
        flusher.resync()

        async def restored() -> bool:
            return await totals(link) == before

        await eventually(restored)
        journal.close(calls.closed(long))
        assert await flusher.drain(5)
        assert (await assert_consistent(link)).rows == before.rows + 1
        assert flusher.stats.orphans == 0


async def test_retire_removes_a_finished_journal(link: Link, calls: Calls, tmp_path: Path) -> None:
    """After a drain nothing of the journal is left, neither files nor cursors."""
    journal = Journal(tmp_path, instance="i1", boot=7, clock=Clock())
    async with flushing(journal, link, interval_s=60.0) as flusher:
        for _ in range(10):
            settle(journal, calls, calls.opened())
        assert await flusher.drain(5)
    assert await flusher.retire()
    assert names(tmp_path) == []
    assert await link.fetchval("select count(*) from journal_cursor") == 0
    assert (await totals(link)).rows == 10


# ---------------------------------------------------------------- outage


@pytest.mark.xdist_group("faults")
async def test_an_outage_loses_nothing(
    own_postgres: Postgres, calls: Calls, tmp_path: Path
) -> None:
    """While the server is away calls go on; five seconds after its return all is posted."""
    dsn = own_postgres.create()
    async with (
        opened_link(dsn) as link,
        journal_in(tmp_path) as journal,
        flushing(journal, link, batch_rows=100) as flusher,
    ):
        for _ in range(50):
            settle(journal, calls, calls.opened())
        await asyncio.wait_for(flusher.posted.wait(), 5)
        await asyncio.to_thread(own_postgres.stop, "immediate")
        for _ in range(500):
            settle(journal, calls, calls.opened())
            await asyncio.sleep(0.001)
        assert not await flusher.drain(0.2)
        assert flusher.oldest_unposted_s > 0.2
        assert flusher.stats.failures > 0
        waiting = journal.bytes_pending
        assert waiting > 0
        await asyncio.to_thread(own_postgres.start)
        await asyncio.wait_for(flusher.posted.wait(), 5)
        assert flusher.stats.failures == 0
        # A crash of this test server may lose what it had acknowledged: it does not sync.
        flusher.resync()
        await eventually(lambda: _has_rows(link, 550))
        await assert_consistent(link)


async def _has_rows(link: Link, rows: int) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return (await totals(link)).rows == rows
    return False


# ---------------------------------------------------------------- adoption


async def test_a_dead_journal_is_adopted(link: Link, calls: Calls, tmp_path: Path) -> None:
    """Closed calls are posted, open ones become interrupted, the hold and the files go."""
    charge = (BudgetCharge(f"key:{KEY}"),)
    await link.execute(
        "insert into budget_hold values ($1, 0, 'i1', 7, 5), ($1, 0, 'i1', 8, 3)", f"key:{KEY}"
    )
    async with journal_in(tmp_path, segment_size=16 * KIB) as journal:
        for _ in range(60):
            settle(journal, calls, calls.opened(charges=charge))
        cut_off = calls.opened(charges=charge, estimate=Decimal("0.75"))
        open_soon(journal, cut_off)
        assert await Adopter(tmp_path, link).adopt_all() == 0
        assert await Adopter(tmp_path, link, own=journal.id).adopt_all() == 0
    adopter = Adopter(tmp_path, link, batch_rows=7)
    assert await adopter.adopt_all() == 1
    assert (adopter.adopted, adopter.interrupted, adopter.failures) == (1, 1, 0)
    assert names(tmp_path) == []
    found = await assert_consistent(link)
    assert found == Totals(61, 60 * COST + Decimal("0.75"))
    row = await link.fetchrow("select * from spend_row where status = 'interrupted'")
    assert row is not None
    assert (row["id"], row["cost"], row["estimated"]) == (cut_off.id, Decimal("0.75"), True)
    assert (row["prompt_tokens"], row["completion_tokens"], row["instance"]) == (0, 0, "i1")
    assert row["ended_at"] >= row["started_at"]
    holds = await link.fetch("select boot, held from budget_hold")
    assert [tuple(hold) for hold in holds] == [(8, 3)]
    assert await link.fetchval("select count(*) from journal_cursor") == 0
    assert await adopter.adopt_all() == 0


async def test_adoption_goes_on_from_the_cursor(link: Link, calls: Calls, tmp_path: Path) -> None:
    """What the dead process had posted itself is not added again, whatever lay across."""
    async with journal_in(tmp_path, segment_size=16 * KIB) as journal:
        async with flushing(journal, link) as flusher:
            across = [calls.opened() for _ in range(5)]
            for opened in across:
                open_soon(journal, opened)
            for _ in range(40):
                settle(journal, calls, calls.opened())
            assert await flusher.drain(5)
        for opened in across[:3]:
            journal.close(calls.closed(opened))
        for _ in range(20):
            settle(journal, calls, calls.opened())
        assert (await totals(link)).rows == 40
    assert await Adopter(tmp_path, link).adopt_all() == 1
    found = await assert_consistent(link)
    assert found == Totals(65, 63 * COST + 2 * Decimal("0.05"))


async def test_an_adopted_journal_cannot_come_again(
    link: Link, calls: Calls, tmp_path: Path
) -> None:
    """An adopter that died before removing the files leaves a journal that adds nothing."""
    async with journal_in(tmp_path / "a") as journal:
        for _ in range(10):
            settle(journal, calls, calls.opened())
        for _ in range(3):
            journal.open(calls.opened())
    copy = tmp_path / "b" / str(journal.id)
    await asyncio.to_thread(_copy, tmp_path / "a" / str(journal.id), copy)
    assert await Adopter(tmp_path / "a", link).adopt_all() == 1
    before = await assert_consistent(link)
    assert before.rows == 13
    # Its cursors have gone with it: now the ids alone refuse.
    assert await Adopter(tmp_path / "b", link).adopt_all() == 1
    assert await assert_consistent(link) == before


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        (target / entry.name).write_bytes(entry.read_bytes())


async def test_others_journals_are_left_alone(link: Link, calls: Calls, tmp_path: Path) -> None:
    """A journal made for another database stays for its own; blank remains are removed."""
    async with journal_in(tmp_path, store="elsewhere") as journal:
        settle(journal, calls, calls.opened())
    blank = tmp_path / str(uuid4())
    blank.mkdir()
    (blank / "lock").touch()
    (blank / "0").write_bytes(bytes(4096))
    assert await Adopter(tmp_path, link, store="here").adopt_all() == 1
    assert names(tmp_path) == [str(journal.id)]
    assert (await totals(link)).rows == 0
    assert await Adopter(tmp_path, link, store="elsewhere").adopt_all() == 1
    assert (await totals(link)).rows == 1


async def test_an_unreadable_journal_is_kept(link: Link, calls: Calls, tmp_path: Path) -> None:
    """A journal whose owner cannot be read is reported and not removed, and stops no other."""
    async with journal_in(tmp_path) as broken:
        settle(broken, calls, calls.opened())
    for name in names(tmp_path / str(broken.id)):
        if name.isdigit():
            (tmp_path / str(broken.id) / name).write_bytes(b"\xff" * 64)
    async with journal_in(tmp_path) as sound:
        settle(sound, calls, calls.opened())
    adopter = Adopter(tmp_path, link)
    assert await adopter.adopt_all() == 1
    assert adopter.failures == 1
    assert names(tmp_path) == [str(broken.id)]
    assert (await totals(link)).rows == 1


async def test_adopting_waits_for_the_store(database: str, calls: Calls, tmp_path: Path) -> None:
    """Without a database nothing is adopted and nothing removed; the next look does it."""
    async with journal_in(tmp_path) as journal:
        settle(journal, calls, calls.opened())
    async with opened_link(database) as link:
        away = Link("bulk", "postgresql://x@127.0.0.1:1/x", application_name="test")
        await away.open()
        with pytest.raises(StoreUnavailable):
            await Adopter(tmp_path, away).adopt_all()
        await away.close()
        adopter = Adopter(tmp_path, link, interval_s=0.01)
        task = asyncio.create_task(adopter.run())
        await eventually(lambda: _has_rows(link, 1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_errors_are_told_apart(database: str, link: Link) -> None:
    """Bad rows are the rows' fault; everything else of the server is unavailability."""
    with pytest.raises(ledger.RowsRefused) as refused:
        await ledger.apply(
            link, ledger.Stretch(uuid4(), 0, 0, 1, "i", 1), b'[[{"id": "no uuid"}, {}]]'
        )
    assert refused.value.sqlstate == "23502"
    assert "no uuid" not in str(refused.value)
    connection = await asyncpg.connect(database)
    await connection.execute("drop function ledger_apply")
    await connection.close()
    with pytest.raises(StoreUnavailable):
        await ledger.apply(link, ledger.Stretch(uuid4(), 0, 0, 1, "i", 1), b"[]")
