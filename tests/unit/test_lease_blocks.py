"""The arithmetic of local blocks: nothing is used that was not granted, nothing gets lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.db.leases import LeaseGrant, LeaseItem
from shared.domain.clock import Clock
from shared.domain.limits import Comparator, Dimension, ScopeRef
from shared.limits.blocks import RateBlock, Take
from shared.limits.estimates import Load
from shared.limits.outage import Fleet
from shared.limits.purses import MoneyBlock
from shared.limits.settings import LimitSettings
from shared.limits.slots import SlotBlock

ZERO = Decimal(0)
Step = tuple[str, int]


def load(tokens: int = 1, cost: Decimal = ZERO) -> Load:
    """A request of that size."""
    return Load(tokens, cost, 0, ("", ""))


def grant(granted: int | Decimal, window: int = 1, starts_s: float = 0, ends_s: float = 60):
    """An answer of the database."""
    return LeaseGrant(
        Decimal(granted), Decimal(granted), ZERO, ZERO, window, starts_s * 1000, ends_s * 1000
    )


class Bench:
    """One block on its own, with what it woke."""

    def __init__(self, kind, dimension: Dimension, limit: str, strict: bool = False) -> None:
        self.clock = Clock()
        self.now = self.clock.mono()
        self.fleet = Fleet(self.now)
        self.woken = 0
        self.settings = LimitSettings(strict=strict)
        ref = ScopeRef("key:k", dimension, Decimal(limit))
        self.block = kind(ref, self.settings, self.clock, self.fleet, self.wake)

    def wake(self, _block) -> None:
        self.woken += 1

    def renew(self, wanted: Sequence[Load], answer, took_s: float = 0.0) -> list[LeaseItem]:
        """One ask for those loads; `answer` is a grant, or makes one from an item."""
        for each in wanted:
            self.block.want(each)
        items = self.block.items(self.now)
        for item in items:
            got = answer(item) if callable(answer) else answer
            self.block.apply(item, got, self.now, self.now + took_s)
        self.now += took_s
        return items


def requests(limit: str = "100") -> Bench:
    """A block of requests."""
    return Bench(RateBlock, Dimension.REQUESTS, limit)


def test_a_window_is_used_from_the_safe_side() -> None:
    """A grant ends (sent + time left), although the answer came later."""
    bench = requests()
    bench.renew([load()], grant(10, ends_s=60), took_s=0.15)
    started = bench.now - 0.15
    assert bench.block.fits(load(), started + 59.999)
    assert not bench.block.fits(load(), started + 60)


def test_the_following_window_opens_from_the_safe_side() -> None:
    """What is leased ahead is used from (received + time until it opens), not before."""
    bench = requests()
    bench.renew([load()], grant(1, window=1000, ends_s=60))
    bench.block.take(load(), bench.now)
    bench.now += 59.5
    assert bench.block.closed(load(), bench.now) is False
    items = bench.renew([], grant(7, window=61_000, starts_s=0.5, ends_s=60.5), took_s=0.1)
    assert [item.ahead for item in items] == [True]
    opens = bench.now + 0.5
    assert not bench.block.fits(load(), opens - 0.001)
    assert bench.block.fits(load(), opens)
    taken = [bench.block.take(load(), opens) for _ in range(7)]
    assert {take[1] for take in taken} == {61_000}
    assert not bench.block.fits(load(), opens)
    assert not bench.block.fits(load(), opens + 60)


def test_low_water_asks_once() -> None:
    """A block that runs low wakes its owner once, and keeps what it has while it asks."""
    bench = requests("100000")
    for _ in range(2):
        bench.renew([load()], grant(200))
        bench.now += 0.5
        for _ in range(150):
            bench.block.take(load(), bench.now)
    bench.renew([load()] * 1000, grant(1000))
    bench.woken = 0
    taken = 0
    while not bench.woken:
        bench.block.take(load(), bench.now)
        taken += 1
    assert 500 <= taken < bench.block.available + taken
    for _ in range(5):
        bench.block.take(load(), bench.now)
    assert bench.woken == 1
    [item] = bench.block.items(bench.now)
    assert item.have == bench.block.available > 0
    assert item.give_back == 0
    assert item.need == 0


def test_exhaustion_is_cached_for_a_while() -> None:
    """After a grant too small requests are refused locally, then one may ask again."""
    bench = requests()
    bench.renew([load()], grant(0))
    assert bench.block.closed(load(), bench.now + 0.2)
    assert not bench.block.closed(load(), bench.now + 0.3)
    bench.now += 0.3
    bench.block.want(load())
    bench.block.items(bench.now)
    assert bench.block.closed(load(), bench.now + 0.1)


def test_smaller_requests_may_still_ask() -> None:
    """A request too large for what is left does not close the scope for smaller ones."""
    bench = Bench(RateBlock, Dimension.TOKENS, "1000")
    bench.renew([load(500)], grant(0))
    assert bench.block.closed(load(500), bench.now)
    assert not bench.block.closed(load(499), bench.now)
    bench.renew([load(100), load(400)], grant(300))
    bench.block.take(load(300), bench.now)
    assert bench.block.closed(load(1), bench.now)


def test_exhaustion_ends_with_the_window() -> None:
    """A refusal is not remembered beyond the window that caused it."""
    bench = requests()
    bench.renew([load()], grant(0, ends_s=0.1))
    assert bench.block.closed(load(), bench.now + 0.09)
    assert not bench.block.closed(load(), bench.now + 0.11)


class Tokens:
    """A block of tokens, and what the database would have counted for it."""

    def __init__(self, strict: bool) -> None:
        self.bench = Bench(RateBlock, Dimension.TOKENS, "1000", strict)
        self.block = self.bench.block
        self.window = self.opened = 0
        self.net = self.used = 0
        self.running: list[Take] = []

    def answer(self, item: LeaseItem) -> LeaseGrant:
        now = self.bench.now
        if not self.open():
            self.window, self.opened, self.net, self.used = self.window + 1, now, 0, 0
        if item.window_id == self.window:
            self.net -= int(item.give_back)
        left_s = self.opened + 60 - now
        if item.ahead:
            return grant(0, window=self.window + 1, starts_s=left_s, ends_s=60)
        got = int(item.need) if item.need else int(item.have > 0) * 5
        self.net += got
        return grant(got, window=self.window, ends_s=left_s)

    def open(self) -> bool:
        return self.window > 0 and self.bench.now < self.opened + 60

    def take(self, size: int) -> None:
        if self.block.fits(load(max(1, size)), self.bench.now):
            self.running.append(self.block.take(load(max(1, size)), self.bench.now))

    def settle(self, size: int) -> None:
        if self.running:
            take = self.running.pop(size % len(self.running))
            self.used += size if take[1] == self.window else 0
            self.block.settle(take, size, ZERO)

    def release(self, size: int) -> None:
        if self.running:
            self.block.release(self.running.pop(size % len(self.running)))

    def ask(self, size: int) -> None:
        self.bench.renew([load(max(1, size))], self.answer)

    def refill(self, _size: int) -> None:
        self.bench.renew([], self.answer)

    def sweep(self, _size: int) -> None:
        self.bench.now += 1
        self.block.sweep(self.bench.now)

    def wait(self, size: int) -> None:
        self.bench.now += size


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                (
                    Tokens.take,
                    Tokens.settle,
                    Tokens.release,
                    Tokens.ask,
                    Tokens.refill,
                    Tokens.sweep,
                    Tokens.wait,
                )
            ),
            st.integers(0, 60),
        ),
        max_size=60,
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_tokens_are_conserved(steps: list[tuple[Callable[..., None], int]], strict: bool) -> None:
    """At any time: granted - given back = used + reserved + available, window by window."""
    model = Tokens(strict)
    for step, size in steps:
        step(model, size)
        if model.open() and model.block.window == model.window:
            reserved = sum(take[2] for take in model.running if take[1] == model.window)
            assert model.net == model.used + reserved + model.block.available


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "settle", "release", "ask", "sweep", "lost"]),
            st.integers(1, 9),
        ),
        max_size=60,
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_money_is_conserved(steps: list[Step], strict: bool) -> None:
    """What we say we were granted is what is at hand, reserved and spent; in strict mode nothing
    starts that is not covered, in default mode one call at a time."""
    bench = Bench(MoneyBlock, Dimension.MONEY, "1.00", strict)
    block = bench.block
    spent = ZERO
    left = Decimal("1.00")
    known = ZERO
    running: list[tuple[Take, Decimal]] = []

    def answer(item: LeaseItem) -> LeaseGrant:
        nonlocal left, known
        left -= item.stated - known
        got = min(item.need, left) if left >= item.least else ZERO
        left -= got
        known = item.stated + got
        return grant(got, window=0)

    for what, size in steps:
        cost = Decimal(size) / 50
        match what:
            case "take":
                wanted = load(1, cost)
                if block.fits(wanted, bench.now):
                    take = block.take(wanted, bench.now)
                    running.append((take, cost))
                    assert take[2] == cost or not strict
            case "settle" if running:
                take, bound = running.pop(size % len(running))
                paid = min(cost, bound)
                spent += paid
                block.settle(take, 1, paid)
            case "release" if running:
                block.release(running.pop(size % len(running))[0])
            case "ask":
                bench.renew([load(1, cost)], answer)
                bench.now += 0.3
            case "lost":
                block.want(load(1, cost))
                for item in block.items(bench.now):
                    answer(item)
                    block.lost(item)
            case "sweep":
                bench.now += 2
                block.sweep(bench.now)
                bench.renew([], answer)
        purse = block.purse
        assert purse.outstanding == sum((take[2] for take, _ in running), ZERO)
        assert purse.granted == purse.available + purse.outstanding + spent
        short = [take for take, bound in running if take[2] < bound]
        assert len(short) <= (0 if strict else 1)
        assert left >= 0
        if strict:
            assert spent + purse.outstanding <= Decimal("1.00")


def test_a_partial_start_needs_an_exhausted_budget() -> None:
    """With less at hand than expected the database is asked first; a request starts short of its
    estimate only when there is no more."""
    bench = Bench(MoneyBlock, Dimension.MONEY, "1.00")
    wanted = load(1, Decimal("0.02"))
    bench.renew([wanted], grant(Decimal("0.03"), window=0))
    assert bench.block.fits(wanted, bench.now)
    bench.block.take(wanted, bench.now)
    assert not bench.block.fits(wanted, bench.now)
    bench.renew([wanted], grant(Decimal("0.01"), window=0))
    assert bench.block.fits(wanted, bench.now)
    take = bench.block.take(wanted, bench.now)
    assert take[2] == Decimal("0.01")
    assert not bench.block.fits(wanted, bench.now)
    bench.block.settle(take, 1, Decimal("0.05"))
    bench.block.want(wanted)
    [item] = bench.block.items(bench.now)
    assert item.need == Decimal("0.06")


def test_costs_are_rounded_as_they_are_stored() -> None:
    """A cost with more digits than the ledger keeps changes the purse by what the ledger posts."""
    bench = Bench(MoneyBlock, Dimension.MONEY, "1.00")
    wanted = load(1, Decimal("0.5"))
    bench.renew([wanted], grant(Decimal("0.5"), window=0))
    bench.block.settle(bench.block.take(wanted, bench.now), 1, Decimal("0.00000000015"))
    assert bench.block.purse.available == Decimal("0.4999999998")


def test_an_unreadable_period_is_a_day() -> None:
    """A budget whose stored period cannot be read resets at midnight."""
    clock = Clock()
    ref = ScopeRef("key:k", Dimension.MONEY, Decimal(1), duration="soon")
    block = MoneyBlock(ref, LimitSettings(), clock, Fleet(0), lambda _: None)
    assert block.purse.charge.window_start_s % 86400 == 0
    assert 0 <= clock.now() - block.purse.charge.window_start_s < 86400


def test_over_is_at_and_a_little_more() -> None:
    """The comparator `over` lets a call start at exactly the budget; strict mode never does."""
    ref = ScopeRef("key:k", Dimension.MONEY, Decimal(1), comparator=Comparator.OVER)
    for strict, expected in ((False, True), (True, False)):
        block = MoneyBlock(ref, LimitSettings(strict=strict), Clock(), Fleet(0), lambda _: None)
        assert (block.limit > 1) is expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "end", "ask", "sweep", "lost", "wait"]), st.integers(0, 9)
        ),
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_slots_held_cover_calls_that_run(steps: list[Step]) -> None:
    """We never run more than the database knows us to hold, and state exactly what runs."""
    bench = Bench(SlotBlock, Dimension.PARALLEL, "6")
    block = bench.block
    known = 0
    running: list[Take] = []

    def answer(item: LeaseItem) -> LeaseGrant:
        nonlocal known
        assert item.stated >= len(running)
        got = min(int(item.need), 6 - int(item.stated))
        known = int(item.stated) + got
        return LeaseGrant(Decimal(got), Decimal(known), ZERO, ZERO, 0, 0, 0)

    for what, size in steps:
        match what:
            case "take":
                if block.fits(load(), bench.now):
                    running.append(block.take(load(), bench.now))
            case "end" if running:
                block.settle(running.pop(), 1, ZERO)
            case "ask":
                bench.renew([load()] * size, answer)
            case "lost":
                block.want(load())
                for item in block.items(bench.now):
                    answer(item)
                    block.lost(item)
            case "sweep":
                for _ in range(2):
                    block.sweep(bench.now)
                    block.sweep(bench.now)
                    bench.renew([], answer)
                assert block.held == block.running == known
            case "wait":
                bench.now += size
        assert block.running == len(running) <= known <= 6
        assert block.held <= known


def test_slots_lapse_without_a_heartbeat() -> None:
    """A process that has neither asked nor been heard for the time to live uses no free slot."""
    bench = Bench(SlotBlock, Dimension.PARALLEL, "6")
    answer = LeaseGrant(Decimal(2), Decimal(2), ZERO, ZERO, 0, 0, 0)
    bench.renew([load()] * 2, answer)
    assert bench.block.fits(load(), bench.now + 7.9)
    assert not bench.block.fits(load(), bench.now + 8.1)
    bench.fleet.observe(2, 0, bench.now + 6)
    assert bench.block.fits(load(), bench.now + 13.9)


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
def test_shares_add_up(limit: int) -> None:
    """The shares of a fleet are the limit, neither more nor less."""
    shares = []
    for rank in range(6):
        fleet = Fleet(0)
        fleet.observe(6, rank, 10.0)
        shares.append(fleet.share(limit))
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_the_peak_of_the_fleet_is_forgotten_after_a_day() -> None:
    """Shares go by the most processes of the last 24 hours."""
    fleet = Fleet(0)
    fleet.observe(10, 0, 0.0)
    fleet.observe(2, 0, 23 * 3600.0)
    assert fleet.share(20) == 2
    fleet.observe(2, 0, 24 * 3600.0)
    assert fleet.share(20) == 10
    assert fleet.live == 2
