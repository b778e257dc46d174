"""The statement that takes leases, and the coalescer that sends it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import msgspec
import pytest
from attrs import evolve

from shared.db.ask import BATCH_TOKENS, QUEUED_TOKENS, Asker
from shared.db.leases import (
    MONEY,
    RATE,
    SLOTS,
    LeaseAsk,
    LeaseGrant,
    LeaseItem,
    lease_arguments,
    lease_grants,
)
from shared.db.link import Link
from shared.db.rows import prepare
from shared.domain.errors import Overloaded, StoreUnavailable
from shared.domain.keys import hash_key

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


class Owner:
    """Asks under one identity, at times of the test's choosing."""

    def __init__(self, connection: asyncpg.Connection, name: str = "w", live: int = 1) -> None:
        self.connection = connection
        self.name = name
        self.live = live
        self.seq = 0

    async def take(
        self, *items: LeaseItem, at_s: float | None = 0.0, seq: int | None = None
    ) -> tuple[LeaseGrant, ...]:
        self.seq = self.seq + 1 if seq is None else seq
        ask = LeaseAsk(self.name, 1, self.seq, self.live, 8.0, 60.0, items)
        now = None if at_s is None else NOON + timedelta(seconds=at_s)
        answer = await self.connection.fetchval(
            "select lease_take($1, $2, $3, $4, $5, $6, $7, $8)", *lease_arguments(ask), now
        )
        return lease_grants(answer)

    async def rate(self, at_s: float = 0.0, **fields: object) -> LeaseGrant:
        """One item on a limit of 100 a minute."""
        [grant] = await self.take(rate(**fields), at_s=at_s)
        return grant


def rate(scope: str = "key:k", **fields: object) -> LeaseItem:
    """An item for requests; numbers become decimals."""
    given = {
        name: Decimal(each) if isinstance(each, int) and name in DECIMALS else each
        for name, each in fields.items()
    }
    base = {"limit": Decimal(100), "least": Decimal(1), "length_ms": 60_000}
    return LeaseItem(RATE, scope, "requests", **(base | given))  # type: ignore[arg-type]


DECIMALS = {"limit", "least", "need", "ample", "scarce", "have", "give_back", "owed"}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the gateway's codecs."""
    opened = await asyncpg.connect(database)
    await prepare(opened)
    yield opened
    await opened.close()


async def test_a_window_counts_from_the_first_request(connection: asyncpg.Connection) -> None:
    """The window opens with the first ask, not on the minute, and the next one with the first
    ask after it."""
    owner = Owner(connection)
    first = await owner.rate(at_s=7.25, need=1)
    assert first.window_id == NOON_MS + 7250
    assert first.ends_ms == 60_000
    same = await owner.rate(at_s=67.0, need=1)
    assert (same.window_id, same.ends_ms, same.used) == (first.window_id, 250, 2)
    later = await owner.rate(at_s=90.0, need=1)
    assert (later.window_id, later.used) == (NOON_MS + 90_000, 1)


async def test_the_following_window_is_leased_ahead(connection: asyncpg.Connection) -> None:
    """What is leased ahead is used of the following window, which opens when the old one ends."""
    owner = Owner(connection)
    now = await owner.rate(need=100)
    ahead = await owner.rate(at_s=59.5, ahead=True, ample=40, window_id=now.window_id)
    assert (ahead.granted, ahead.window_id) == (40, NOON_MS + 60_000)
    assert (ahead.starts_ms, ahead.ends_ms) == (500, 60_500)
    full = await owner.rate(at_s=59.9, need=1, window_id=now.window_id)
    assert full.granted == 0
    following = await owner.rate(at_s=75.0, need=100)
    assert (following.window_id, following.granted) == (NOON_MS + 60_000, 60)
    assert following.ends_ms == 45_000


async def test_what_was_leased_ahead_lapses_with_its_window(
    connection: asyncpg.Connection,
) -> None:
    """After both windows have passed a new one opens empty."""
    owner = Owner(connection)
    now = await owner.rate(need=1)
    await owner.rate(at_s=59.5, ahead=True, ample=40, window_id=now.window_id)
    fresh = await owner.rate(at_s=121.0, need=1)
    assert (fresh.window_id, fresh.used) == (NOON_MS + 121_000, 1)


async def test_a_late_ask_ahead_gets_the_window_that_has_opened(
    connection: asyncpg.Connection,
) -> None:
    """An ask ahead that arrives after the change is an ordinary one."""
    owner = Owner(connection)
    now = await owner.rate(need=1)
    late = await owner.rate(at_s=60.5, ahead=True, ample=40, window_id=now.window_id)
    assert (late.window_id, late.starts_ms, late.granted) == (NOON_MS + 60_500, 0, 40)


async def test_give_back_is_for_its_own_window(connection: asyncpg.Connection) -> None:
    """Leftovers of the open window return, those of a closed one are dropped; neither opens one."""
    owner = Owner(connection)
    first = await owner.rate(need=50)
    returned = await owner.rate(at_s=1, give_back=20, window_id=first.window_id)
    assert (returned.used, returned.granted) == (30, 0)
    closed = await owner.rate(at_s=61, give_back=30, window_id=first.window_id)
    assert closed.window_id == 0
    fresh = await owner.rate(at_s=70, need=1, give_back=30, window_id=first.window_id)
    assert (fresh.window_id, fresh.used) == (NOON_MS + 70_000, 1)


async def test_debts_and_outage_use_count_beyond_the_limit(
    connection: asyncpg.Connection,
) -> None:
    """A debt of the window and use during an outage are added whatever the limit."""
    owner = Owner(connection)
    first = await owner.rate(need=90)
    debt = await owner.rate(at_s=1, give_back=-30, owed=5, window_id=first.window_id)
    assert debt.used == 125
    assert (await owner.rate(at_s=2, need=1)).granted == 0
    fresh = await owner.rate(at_s=61, owed=7)
    assert fresh.used == 7


async def test_a_clock_that_went_back_holds_no_window_open(
    connection: asyncpg.Connection,
) -> None:
    """After a step back by more than a window (another server took over) a window opens anew."""
    owner = Owner(connection)
    await owner.rate(need=100)
    assert (await owner.rate(at_s=-30, need=1)).granted == 0
    assert (await owner.rate(at_s=-90, need=1)).granted == 1


@pytest.mark.parametrize(
    ("live", "fields", "granted"),
    [
        (1, {"need": 3}, 3),
        (1, {"need": 3, "ample": 30, "scarce": 5}, 30),
        (1, {"need": 3, "ample": 90}, 50),
        (4, {"need": 3, "ample": 90}, 12),
        (4, {"need": 30, "ample": 90}, 30),
        (1, {"need": 300, "least": 3}, 100),
        (1, {"need": 300, "least": 101}, 0),
        (1, {"ample": 30, "have": 10}, 20),
        (1, {"ample": 5, "have": 10}, 0),
    ],
)
async def test_sizes(
    connection: asyncpg.Connection, live: int, fields: dict[str, int], granted: int
) -> None:
    """A grant is what is needed, or what demand will use while others are left as much."""
    owner = Owner(connection, live=live)
    if "have" in fields:
        opened = await owner.rate(need=fields["have"])
        fields = fields | {"window_id": opened.window_id}
    assert (await owner.rate(**fields)).granted == granted


async def test_scarce_demand_counts_below_half(connection: asyncpg.Connection) -> None:
    """With less than half left, a grant covers the near demand only."""
    owner = Owner(connection)
    await owner.rate(need=60)
    assert (await owner.rate(need=1, ample=20, scarce=4)).granted == 4


async def test_an_ask_that_arrives_late_changes_nothing(connection: asyncpg.Connection) -> None:
    """Slots and money ignore an ask older than the last one of the same owner."""
    owner = Owner(connection)
    slots = LeaseItem(SLOTS, "key:k", "max_parallel_requests", Decimal(10), need=Decimal(2))
    money = LeaseItem(
        MONEY, "key:k", "money", Decimal(1), Decimal("1e-12"), need=Decimal("0.5"), lease=1
    )
    [a, b] = await owner.take(slots, money)
    assert (a.granted, b.granted) == (2, Decimal("0.5"))
    [a, b] = await owner.take(slots, money, seq=1)
    assert (a.granted, b.granted) == (0, 0)
    held = "select (select sum(held) from slot_hold), (select sum(held) from budget_hold)"
    assert tuple(await connection.fetchrow(held)) == (2, Decimal("0.5"))


async def test_a_purse_counted_anew_keeps_what_is_held(connection: asyncpg.Connection) -> None:
    """An owner that has forgotten its count goes on from the hold as it stands."""
    owner = Owner(connection)
    money = LeaseItem(
        MONEY, "key:k", "money", Decimal(1), Decimal("1e-12"), need=Decimal("0.2"), lease=1
    )
    await owner.take(money)
    await connection.execute("update budget_hold set held = -0.1")
    [grant] = await owner.take(evolve(money, lease=2))
    assert grant.granted == Decimal("0.2")
    assert await connection.fetchval("select held from budget_hold") == Decimal("0.2")


async def test_nobody_is_dead_right_after_a_restart(connection: asyncpg.Connection) -> None:
    """Within one time to live of the server's start every owner counts as alive."""
    alive = (
        "select lease_alive('nobody', 1, pg_postmaster_start_time() - interval '1 hour',"
        " pg_postmaster_start_time() + $1, '8 s')"
    )
    assert await connection.fetchval(alive, timedelta(seconds=7.9)) is True
    assert await connection.fetchval(alive, timedelta(seconds=8.1)) is False


async def test_many_owners_on_shuffled_scopes_never_deadlock(database: str) -> None:
    """Eight owners ask for overlapping scopes in any order while the ledger posts: every ask is
    answered and no limit is passed."""
    scopes = [f"key:{number}" for number in range(12)]

    async def ask(number: int) -> None:
        chance = random.Random(number)
        connection = await asyncpg.connect(database)
        await prepare(connection)
        owner = Owner(connection, f"w{number}", live=8)
        try:
            for _ in range(40):
                items = [
                    item
                    for scope in chance.sample(scopes, 8)
                    for item in (
                        rate(scope, need=1, ample=3),
                        LeaseItem(
                            SLOTS, scope, "max_parallel_requests", Decimal(5), need=Decimal(1)
                        ),
                        LeaseItem(MONEY, scope, "money", Decimal(1), need=Decimal("0.01"), lease=1),
                    )
                ]
                chance.shuffle(items)
                await owner.take(*items, at_s=None)
                charged = chance.sample(scopes, 5)
                await connection.execute(
                    "select budget_settle($1, 1, $2, $3, $4)",
                    owner.name,
                    charged,
                    [0] * 5,
                    [Decimal("0.001")] * 5,
                )
        finally:
            await connection.close()

    async with asyncio.timeout(30):
        await asyncio.gather(*(ask(number) for number in range(8)))
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("select max(used) from rate_window") <= 100
        assert await connection.fetchval("select count(*) from rate_window") == len(scopes)
        slots = "select max(s) from (select sum(held) s from slot_hold group by scope) t"
        assert await connection.fetchval(slots) <= 5
    finally:
        await connection.close()


async def test_clearing_up_spares_what_is_in_use(connection: asyncpg.Connection) -> None:
    """Windows, slots and holds that are long idle go; those of live owners stay."""
    owner, dead = Owner(connection, "live"), Owner(connection, "dead")
    await connection.execute(
        "insert into instance (id, boot, binary_name, region, host, version, schema_version,"
        " capabilities, last_seen) values ('live', 1, 'worker', '', '', '', 4, '{}', $1)",
        NOON + timedelta(days=3),
    )
    money = LeaseItem(MONEY, "key:k", "money", Decimal(9), need=Decimal(1), lease=1)
    slots = LeaseItem(SLOTS, "key:k", "max_parallel_requests", Decimal(9), need=Decimal(1))
    for each in (owner, dead):
        await each.take(rate(need=1), slots, money)
    tables = ("rate_window", "slot_hold", "money_lease", "budget_hold")

    async def rows() -> list[int]:
        return [await connection.fetchval(f"select count(*) from {table}") for table in tables]

    assert await rows() == [1, 2, 2, 2]
    await connection.execute("select lease_clear(false, $1)", NOON + timedelta(minutes=10))
    assert await rows() == [1, 2, 2, 2]
    await connection.execute("select lease_clear(true, $1)", NOON + timedelta(days=3))
    assert await rows() == [0, 1, 2, 2]
    await connection.execute("select lease_clear(false, $1)", NOON + timedelta(days=3))
    assert await rows() == [0, 1, 1, 1]
    assert await connection.fetchval("select instance from budget_hold") == "live"


@pytest.fixture
async def asker(database: str) -> AsyncIterator[Asker]:
    """A coalescer on its own link."""
    link = Link("ask", database, application_name="test")
    await link.open()
    asker = Asker(link)
    yield asker
    await asker.close()
    await link.close()


def ask_of(*items: LeaseItem, seq: int = 1) -> LeaseAsk:
    """An ask of the owner `w`."""
    return LeaseAsk("w", 1, seq, 1, 8.0, 60.0, items)


async def test_misses_and_leases_share_a_statement(database: str, asker: Asker) -> None:
    """Key misses and leases that wait together are answered together, and rightly."""
    token = hash_key("sk-one")
    connection = await asyncpg.connect(database)
    await connection.execute("insert into virtual_key (token) values ($1)", token)
    await connection.close()
    found, other, grants = await asyncio.gather(
        asker.principals([token]),
        asker.principals([hash_key("sk-two")]),
        asker.leases(ask_of(rate(need=4))),
    )
    assert found is other
    assert [key["token"] for key in msgspec.json.decode(found)["keys"]] == [token]
    assert [grant.granted for grant in grants] == [4]
    assert await asker.leases(ask_of()) == ()


async def test_floods_of_unknown_keys_are_bounded(asker: Asker) -> None:
    """More unknown keys than the queue holds are refused; a lease overtakes those that wait."""
    tokens = [hash_key(str(number)) for number in range(QUEUED_TOKENS)]
    order: list[str] = []

    async def miss(part: list[str]) -> None:
        await asker.principals(part)
        order.append("miss")

    async def lease() -> None:
        await asker.leases(ask_of(rate(need=1)))
        order.append("lease")

    tasks = [asyncio.create_task(miss(tokens[at : at + 64])) for at in range(0, QUEUED_TOKENS, 64)]
    tasks.append(asyncio.create_task(lease()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await asker.principals(tokens[:1])
    await asyncio.gather(*tasks)
    assert order.index("lease") <= BATCH_TOKENS // 64 * 2
    assert await asker.principals(tokens[:1])


async def test_a_refused_statement_fails_only_its_half(asker: Asker) -> None:
    """An ask that the database refuses leaves the key misses beside it answered."""
    broken = LeaseItem(RATE, "key:k", "requests", Decimal(5), length_ms=0, need=Decimal(1))
    found, refused = await asyncio.gather(
        asker.principals([hash_key("x")]), asker.leases(ask_of(broken)), return_exceptions=True
    )
    assert isinstance(found, bytes)
    assert isinstance(refused, StoreUnavailable)
    assert (await asker.leases(ask_of(rate(need=1))))[0].granted == 1


async def test_closing_answers_everybody(asker: Asker) -> None:
    """Callers that wait when the process ends get an error, not silence."""
    waiting = [asyncio.create_task(asker.principals([hash_key("x")])) for _ in range(3)]
    await asyncio.sleep(0)
    await asker.close()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(end) for end in ends} <= {StoreUnavailable, bytes}
