"""Budgets over several processes, with costs posted as the ledger posts them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest

from shared.domain.errors import BudgetExceeded, RateLimited
from shared.domain.ledger import BudgetCharge
from shared.domain.limits import Comparator, Dimension, ScopeRef
from shared.domain.usage import Rates
from shared.limits.leases import Demand, LimitSettings, Reservation
from tests.support.lease_fleet import CHEAP, Process, eventually, fleet, limit, value

DOLLAR = (limit(Dimension.MONEY, "1.00"),)
CALL = Decimal("0.02")
TOKENS = 200  # of CHEAP: $0.02
NOTHING_HELD = "select coalesce(sum(greatest(held, 0)), 0) = 0 from budget_hold"


def demand(tokens: int | None = None) -> Demand:
    """A request without input whose reply may have so many tokens."""
    return Demand(input_tokens=0, max_output_tokens=tokens, model="m", rates=CHEAP)


class Ledger:
    """Posts settled calls: adds to the counter and takes the same off the owner's hold, at once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    async def post(
        self, process: Process, charges: tuple[BudgetCharge, ...], cost: Decimal
    ) -> None:
        async with self._lock, self._connection.transaction():
            for charge in charges:
                kind, _, owner = charge.scope.partition(":")
                await self._connection.execute(
                    "insert into spend_counter as t (kind, id, window_start_s, spend)"
                    " values ($1, $2, $3, $4) on conflict (kind, id, window_start_s, shard)"
                    " do update set spend = t.spend + excluded.spend",
                    kind,
                    owner,
                    charge.window_start_s,
                    cost,
                )
                await self._connection.execute(
                    "select budget_settle($1, $2, $3, $4, $5)",
                    process.name,
                    process.boot,
                    [charge.scope],
                    [charge.window_start_s],
                    [cost],
                )


@pytest.fixture
async def ledger(database: str):
    """A ledger on its own connection."""
    connection = await asyncpg.connect(database)
    yield Ledger(connection)
    await connection.close()


async def call(
    process: Process,
    ledger: Ledger,
    scopes: tuple[ScopeRef, ...] = DOLLAR,
    *,
    wants: Demand | None = None,
    cost: Decimal = CALL,
) -> Reservation:
    """One call of a fixed cost, from admission to posting."""
    reservation = await process.leases.acquire(scopes, wants or demand())
    charges = reservation.charges
    await asyncio.sleep(0.002)
    process.leases.settle(reservation, TOKENS, cost)
    await ledger.post(process, charges, cost)
    return reservation


async def flood(processes: list[Process], ledger: Ledger, wants: Demand | None = None) -> int:
    """Fifty calls at once on each process; how many were admitted."""
    ends = await asyncio.gather(
        *(call(p, ledger, wants=wants) for p in processes for _ in range(50)),
        return_exceptions=True,
    )
    assert {type(end) for end in ends} <= {BudgetExceeded, Reservation}, ends
    return sum(isinstance(end, Reservation) for end in ends)


@pytest.mark.parametrize("learnt", [True, False])
async def test_default_mode_overshoots_by_one_call_per_process(
    database: str, ledger: Ledger, learnt: bool
) -> None:
    """200 calls of $0.02 at once on 4 processes and $1.00: at most $1.08, and all of the dollar."""
    settings = LimitSettings(idle_s=0.2, reask_s=0.02)
    async with fleet(database, 4, settings) as processes:
        if learnt:
            for process in processes:
                await call(process, ledger)
        for _ in range(20):
            if not await flood(processes, ledger):
                break
            await eventually(database, NOTHING_HELD, True, 5)
        spent = await value(database, "select spend from spend_counter where kind = 'key'")
        assert Decimal("1.00") <= spent <= Decimal("1.00") + 4 * CALL


async def test_strict_mode_is_never_over(database: str, ledger: Ledger) -> None:
    """With the bound reserved the same flood spends exactly what fits."""
    settings = LimitSettings(strict=True, idle_s=0.2, reask_s=0.02)
    async with fleet(database, 4, settings) as processes:
        for _ in range(3):
            await flood(processes, ledger, demand(TOKENS))
            await eventually(database, NOTHING_HELD, True, 5)
        spent = await value(database, "select spend from spend_counter where kind = 'key'")
        assert spent == Decimal("1.00")


async def test_far_under_budget_nothing_is_refused(database: str, ledger: Ledger) -> None:
    """A key far below its budget is not refused for reservations, however large `max_tokens`."""
    scopes = (limit(Dimension.MONEY, "1000"),)
    async with fleet(database, 2, LimitSettings()) as processes:
        await asyncio.gather(
            *(
                call(process, ledger, scopes, wants=demand(100_000))
                for process in processes
                for _ in range(20)
            )
        )


async def test_idle_money_goes_back(database: str, ledger: Ledger) -> None:
    """What was leased and not used is free for others after the idle time, ten times that while
    more than half is left."""
    scopes = (limit(Dimension.MONEY, "100"),)
    async with fleet(database, 1, LimitSettings(idle_s=0.1)) as [process]:
        await call(process, ledger, scopes)
        assert await value(database, "select sum(held) > 0 from budget_hold")
        assert 0.5 < await eventually(database, NOTHING_HELD, True, 4) < 2
        await call(process, ledger, scopes, cost=Decimal(60))
        assert await eventually(database, NOTHING_HELD, True, 4) < 1
        assert await value(database, "select spend from spend_counter") == Decimal("60.02")


async def test_budgeted_calls_do_not_wait(database: str, ledger: Ledger) -> None:
    """After the first calls budgeted requests wait for no round trip (two for a busy machine)."""
    scopes = (limit(Dimension.MONEY, "1000"),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        waited = 0
        for number in range(300):
            reservation = process.leases.reserve(scopes, demand())
            if reservation is None:
                waited += number > 20
                reservation = await process.leases.acquire(scopes, demand())
            process.leases.settle(reservation, TOKENS, CALL)
            await asyncio.sleep(0.003)
        assert waited <= 2


async def test_refusal_names_figures(database: str, ledger: Ledger) -> None:
    """A spent budget answers with the configured status and the figures, and bars a retry."""
    scopes = (limit(Dimension.MONEY, "0.50", scope="key:secret", duration="1d"),)
    settings = LimitSettings(budget_status=lambda: 429)
    async with fleet(database, 1, settings) as [process]:
        await call(process, ledger, scopes, cost=Decimal("0.75"))
        with pytest.raises(BudgetExceeded) as refused:
            await process.leases.acquire(scopes, demand())
    error = refused.value
    assert (error.status, error.type) == (429, "budget_exceeded")
    assert dict(error.headers) == {"x-should-retry": "false"}
    assert "key's budget of $0.50" in error.message
    assert "$0.75 spent" in error.message
    assert "resets at" in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("comparator", "admitted"), [(Comparator.AT, False), (Comparator.OVER, True)]
)
async def test_comparators(
    database: str, ledger: Ledger, comparator: Comparator, admitted: bool
) -> None:
    """At exactly the budget one comparator refuses and the other does not; above both do."""
    scopes = (limit(Dimension.MONEY, "0.02", comparator=comparator),)
    async with fleet(database, 1, LimitSettings(reask_s=0.001, idle_s=0.05)) as [process]:
        await call(process, ledger, scopes)
        await eventually(database, NOTHING_HELD, True, 2)
        if admitted:
            await call(process, ledger, scopes)
        with pytest.raises(BudgetExceeded):
            await process.leases.acquire(scopes, demand())


async def test_a_budget_of_zero_blocks_paid_use_only(database: str, ledger: Ledger) -> None:
    """Models without a price are not checked; anything else is refused."""
    scopes = (limit(Dimension.MONEY, 0),)
    free = Rates(input=Decimal(0), output=Decimal(0))
    async with fleet(database, 1, LimitSettings()) as [process]:
        for rates in (None, free):
            reservation = process.leases.reserve(scopes, Demand(10, 10, "m", rates))
            assert reservation is not None
            assert reservation.charges == (BudgetCharge("key:k", 0),)
        assert process.counted.asks == []
        with pytest.raises(BudgetExceeded):
            await process.leases.acquire(scopes, demand())


async def test_charges_name_the_window_of_admission(database: str, ledger: Ledger) -> None:
    """A call is charged to the calendar window in which it was admitted, lifetime budgets to 0."""
    scopes = (
        limit(Dimension.MONEY, 5, duration="1mo"),
        limit(Dimension.MONEY, 5, scope="team:t", duration=None),
    )
    async with fleet(database, 1, LimitSettings()) as [process]:
        reservation = await process.leases.acquire(scopes, demand())
        month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        assert reservation.charges == (
            BudgetCharge("key:k", int(month.timestamp())),
            BudgetCharge("team:t", 0),
        )


async def test_a_new_window_is_a_new_budget(database: str, ledger: Ledger) -> None:
    """When the calendar turns, the budget is whole again, and old calls settle in the old one."""
    scopes = (limit(Dimension.MONEY, "0.02", duration="1d"),)
    async with fleet(database, 1, LimitSettings()) as [process]:
        late = await process.leases.acquire(scopes, demand(TOKENS))
        with pytest.raises(BudgetExceeded):
            await process.leases.acquire(scopes, demand(TOKENS))
        process.clock.offset_s = 86400.0
        fresh = await process.leases.acquire(scopes, demand(TOKENS))
        assert fresh.charges[0].window_start_s == late.charges[0].window_start_s + 86400
        process.leases.release(late)
        with pytest.raises(BudgetExceeded):
            await process.leases.acquire(scopes, demand(TOKENS))


async def test_a_dead_owners_money_comes_back(database: str, ledger: Ledger) -> None:
    """What a vanished process held is free after its time to live; in strict mode on request."""
    for strict, back in ((False, True), (True, False)):
        settings = LimitSettings(strict=strict, money_ttl_s=0.4, reask_s=0.02)
        scopes = (limit(Dimension.MONEY, "1.00", scope=f"key:{strict}"),)
        async with fleet(database, 2, settings) as [dead, alive]:
            for _ in range(5):
                await dead.leases.acquire(scopes, demand(2000))
            await alive.beat(2, 1)
            with pytest.raises(BudgetExceeded):
                await alive.leases.acquire(scopes, demand(2000))
            await asyncio.sleep(0.5)
            if back:
                assert await alive.leases.acquire(scopes, demand(2000))
            else:
                with pytest.raises(BudgetExceeded):
                    await alive.leases.acquire(scopes, demand(2000))
                forget = "select lease_forget($1, $2)"
                assert await value(database, forget, dead.name, dead.boot) == 1
                await asyncio.sleep(0.03)
                assert await alive.leases.acquire(scopes, demand(2000))
        await value(database, "delete from instance returning 1")


async def test_a_lost_answer_loses_no_money(database: str, ledger: Ledger) -> None:
    """A grant whose answer never arrived is undone by the next ask."""
    async with fleet(database, 1, LimitSettings(probe_s=0.05, idle_s=0.05)) as [process]:
        await call(process, ledger)
        process.counted.deaf = True
        with pytest.raises(RateLimited, match="cannot be checked"):
            await process.leases.acquire(DOLLAR, Demand(0, 9000, "new", CHEAP))
        assert process.leases.dark
        assert await value(database, "select sum(held) > 0.5 from budget_hold")
        process.counted.deaf = False
        await eventually(database, NOTHING_HELD, True, 3)


async def test_a_renamed_process_keeps_what_it_holds(database: str, ledger: Ledger) -> None:
    """Under a new identity the running calls and the money at hand are stated again."""
    async with fleet(database, 1, LimitSettings()) as [process]:
        first = await process.leases.acquire(DOLLAR, demand(TOKENS))
        old = await value(database, "select held from budget_hold")
        process.leases.lapsed("other", 7)
        new = "select held from budget_hold where (instance, boot) = ('other', 7)"
        await eventually(database, new, old, 2)
        process.leases.settle(first, TOKENS, CALL)


async def test_spend_elsewhere_counts(database: str, ledger: Ledger) -> None:
    """A budget spent through another process is spent here too."""
    settings = LimitSettings(reask_s=0.02, idle_s=0.05)
    async with fleet(database, 2, settings) as [first, second]:
        await call(second, ledger)
        await call(first, ledger, cost=Decimal("1.10"))
        # What the second process leased before then is all that it could still use.
        await eventually(database, NOTHING_HELD, True, 3)
        with pytest.raises(BudgetExceeded):
            await call(second, ledger)
