"""Limits and budgets over all processes: allowance leased in blocks, spent by plain calls.

`reserve` never waits. Where it has no allowance at hand, `acquire` asks the database once for all
who wait. While the database is away both decide by this process's share (docs/consistency.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Protocol

from shared.db.leases import LeaseAsk, LeaseGrant, LeaseItem
from shared.domain.clock import Clock
from shared.domain.errors import GatewayError, Overloaded, StoreUnavailable
from shared.domain.limits import Dimension, ScopeRef
from shared.limits.admission import Block, Reservation, ScopeSet
from shared.limits.blocks import RateBlock
from shared.limits.estimates import Demand, Estimates, Load
from shared.limits.outage import Fleet
from shared.limits.purses import MoneyBlock
from shared.limits.settings import LimitSettings
from shared.limits.slots import SlotBlock
from shared.limits.tally import Tally

__all__ = ["Demand", "LeaseAsker", "Leases", "LimitSettings", "Reservation"]

# A block may give two items, and the last waiter several blocks.
_MOST_ITEMS = 256
_MOST_WANTED = 100
_MOST_ROUNDS = 4
_KEPT_S = 120.0

_Name = tuple[str, Dimension, str | None]
_NewBlock = Callable[[ScopeRef, LimitSettings, Clock, Fleet, Callable[[Any], None]], Block]
_KINDS: Mapping[Dimension, _NewBlock] = MappingProxyType(
    {
        Dimension.REQUESTS: RateBlock,
        Dimension.TOKENS: RateBlock,
        Dimension.PARALLEL: SlotBlock,
        Dimension.MONEY: MoneyBlock,
    }
)


class LeaseAsker(Protocol):
    """Takes an ask to the database; raises `StoreUnavailable`."""

    async def leases(self, ask: LeaseAsk) -> Sequence[LeaseGrant]: ...


class _Waiter:
    """A request that waits for allowance."""

    __slots__ = ("answer", "load", "rounds", "scopes")

    def __init__(self, scopes: ScopeSet, load: Load, answer: asyncio.Future[Reservation]) -> None:
        self.scopes = scopes
        self.load = load
        self.answer = answer
        self.rounds = 0


class Leases:
    """Owner of all blocks of one process, for one event loop.

    `instance` and `boot` name the process in the database; the pair is never used twice. The
    heartbeat tells `observe_fleet`, without which slots lapse and outage shares are nothing.
    """

    def __init__(
        self,
        asker: LeaseAsker,
        clock: Clock,
        settings: LimitSettings,
        *,
        instance: str,
        boot: int,
    ) -> None:
        self._asker = asker
        self._clock = clock
        self._settings = settings
        self._instance = instance
        self._boot = boot
        self._fleet = Fleet(clock.mono())
        self._estimates = Estimates(settings)
        # By the identity of the tuple, which the set keeps alive: equal tuples are not hashed.
        self._sets: dict[int, ScopeSet] = {}
        self._blocks: dict[_Name, Block] = {}
        self._slots: dict[SlotBlock, None] = {}
        self._due: dict[Block, None] = {}
        self._waiters: deque[_Waiter] = deque()
        self._seq = 0
        self._pump: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._sweep_at = self._clear_at = clock.mono()
        self._probe_at = 0.0
        self._closed = False
        self.dark = False
        """Whether the database was away when it was last asked."""
        self.tally = Tally()

    # -- the hot path: plain calls

    def reserve(self, scopes: tuple[ScopeRef, ...], demand: Demand) -> Reservation | None:
        """A reservation, or `None` when `acquire` has to be awaited.

        Raises `RateLimited` or `BudgetExceeded` when a scope is known to be exhausted.
        """
        now = self._clock.mono()
        known = self._sets.get(id(scopes))
        if known is None or known.scopes is not scopes:
            known = self._learn(scopes, now)
        known.used_at = now
        load = self._estimates.load(known.owner, demand)
        if self.dark:
            return known.admit_alone(load, now)
        return known.admit(load, now)

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> None:
        """The call has ended and used this much; once, later calls do nothing."""
        takes, reservation.takes = reservation.takes, None
        if takes is None:
            return
        for take in takes:
            take[0].settle(take, tokens, cost)
        if tokens > 0:
            self._estimates.observe(reservation.load, tokens)

    def release(self, reservation: Reservation) -> None:
        """The call never went upstream: everything is given back."""
        takes, reservation.takes = reservation.takes, None
        for take in takes or ():
            take[0].release(take)

    # -- the slow path

    async def acquire(self, scopes: tuple[ScopeRef, ...], demand: Demand) -> Reservation:
        """The same, asking the database if need be. Raises as `reserve`, and `Overloaded`."""
        reserved = self.reserve(scopes, demand)
        if reserved is not None:
            return reserved
        if self._closed:
            raise StoreUnavailable("This process is shutting down.")
        if len(self._waiters) >= self._settings.max_waiting:
            raise Overloaded(
                "Too many requests wait for their limits.", headers=(("retry-after", "1"),)
            )
        known = self._sets[id(scopes)]
        load = self._estimates.load(known.owner, demand)
        answer: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(known, load, answer))
        self._kick()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self.release(answer.result())
            raise

    def observe_fleet(self, live: int, rank: int, sent_s: float) -> None:
        """A heartbeat went through: sent at `sent_s` (monotonic), it counted `live` processes that
        serve LLM traffic, of which this one is the `rank`-th (from 0) by id."""
        silent_s = sent_s - self._fleet.beat_s
        self._fleet.observe(live, rank, sent_s)
        if silent_s > self._settings.slot_ttl_s:
            self.lapsed(self._instance, self._boot)

    def lapsed(self, instance: str, boot: int) -> None:
        """Others may have taken this process for dead, or its name has changed: what it still
        holds is stated anew before it is used."""
        self._instance = instance
        self._boot = boot
        for block in self._blocks.values():
            block.restate()

    async def close(self) -> None:
        """Gives back what is at hand. Calls that still run may be settled afterwards."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._fail_waiters("This process is shutting down.")
        for block in self._blocks.values():
            block.restrict(block.ref)
            self._due[block] = None
        while self._due and not self.dark:
            await self._round()

    # -- blocks

    def _learn(self, scopes: tuple[ScopeRef, ...], now: float) -> ScopeSet:
        """Blocks for scopes that are new or have changed."""
        known = ScopeSet(scopes, tuple(self._block(ref) for ref in scopes), now)
        self._sets[id(scopes)] = known
        self._start_ticking()
        return known

    def _block(self, ref: ScopeRef) -> Block:
        name = (ref.scope, ref.dimension, ref.duration)
        block = self._blocks.get(name)
        if block is None:
            kind = _KINDS[ref.dimension]
            block = kind(ref, self._settings, self._clock, self._fleet, self._wake)
            self._blocks[name] = block
        elif block.ref != ref:
            block.restrict(ref)
        return block

    def _wake(self, block: Block) -> None:
        self._due[block] = None
        self._kick()

    # -- asking

    def _kick(self) -> None:
        if self._pump is None and not self._closed and not self.dark:
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="leases")

    async def _run(self) -> None:
        try:
            while self._waiters or self._due:
                await self._round()
                if self.dark:
                    break
        except BaseException:
            self._fail_waiters("Limits cannot be checked.")
            raise
        finally:
            self._pump = None

    async def _round(self) -> None:
        """One ask for everybody, and its answer."""
        asked = self._collect(self._clock.mono())
        if asked or self.dark:
            self._seq += 1
            sent = self._clock.mono()
            try:
                grants = await self._asker.leases(self._ask([item for _, item in asked]))
            except StoreUnavailable:
                self._went_dark(asked)
            else:
                self._apply(asked, grants, sent)
        self._serve()

    def _collect(self, now: float) -> list[tuple[Block, LeaseItem]]:
        wanted: dict[Block, None] = {}
        for waiter in self._waiters:
            if len(wanted) >= _MOST_WANTED:
                break
            if not waiter.answer.done():
                waiter.rounds += 1
                for block in waiter.scopes.blocks:
                    block.want(waiter.load)
                    wanted[block] = None
        asked: list[tuple[Block, LeaseItem]] = []
        for block in wanted:
            self._due.pop(block, None)
            asked += [(block, item) for item in block.items(now)]
        while self._due and len(asked) < _MOST_ITEMS - 1:
            block = next(iter(self._due))
            del self._due[block]
            asked += [(block, item) for item in block.items(now)]
        return asked

    def _ask(self, items: list[LeaseItem]) -> LeaseAsk:
        settings = self._settings
        return LeaseAsk(
            instance=self._instance,
            boot=self._boot,
            seq=self._seq,
            live=self._fleet.live,
            slot_ttl_s=settings.slot_ttl_s,
            money_ttl_s=None if settings.strict else settings.money_ttl_s,
            items=items,
        )

    def _apply(
        self,
        asked: list[tuple[Block, LeaseItem]],
        grants: Sequence[LeaseGrant],
        sent: float,
    ) -> None:
        received = self._clock.mono()
        self.dark = False
        for (block, item), grant in zip(asked, grants, strict=True):
            block.apply(item, grant, sent, received)
            self.tally.add(item, grant)
            if isinstance(block, SlotBlock):
                self._slots[block] = None

    def _went_dark(self, asked: list[tuple[Block, LeaseItem]]) -> None:
        self.dark = True
        self._probe_at = self._clock.mono() + self._settings.probe_s
        for block, item in asked:
            block.lost(item)
            self._due[block] = None

    def _serve(self) -> None:
        """Answer those who wait, in order of arrival."""
        now = self._clock.mono()
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if waiter.answer.done():
                continue
            try:
                reserved = self._decide(waiter, now)
            except GatewayError as refusal:
                waiter.answer.set_exception(refusal)
                continue
            if reserved is None:
                self._waiters.append(waiter)
            else:
                waiter.answer.set_result(reserved)

    def _decide(self, waiter: _Waiter, now: float) -> Reservation | None:
        if self.dark:
            return waiter.scopes.admit_alone(waiter.load, now)
        reserved = waiter.scopes.admit(waiter.load, now)
        if reserved is None and waiter.rounds >= _MOST_ROUNDS:
            refusal = waiter.scopes.refusal(waiter.load, now)
            if refusal is not None:
                raise refusal
        return reserved

    def _fail_waiters(self, message: str) -> None:
        for waiter in self._waiters:
            if not waiter.answer.done():
                waiter.answer.set_exception(StoreUnavailable(message))
        self._waiters.clear()

    # -- time

    def _start_ticking(self) -> None:
        if self._ticker is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._ticker = loop.call_later(self._settings.slot_idle_s, self._tick)

    def _tick(self) -> None:
        """Returns of what is idle, probes of a lost database, and clearing up."""
        self._ticker = None
        now = self._clock.mono()
        for slots in list(self._slots):
            slots.sweep(now)
            if slots.unused(now):
                del self._slots[slots]
        if now >= self._sweep_at:
            self._sweep_at = now + min(self._settings.idle_s, self._settings.window_s / 8)
            for block in self._blocks.values():
                if not isinstance(block, SlotBlock):
                    block.sweep(now)
        if now >= self._clear_at:
            self._clear_at = now + _KEPT_S / 4
            self._clear(now)
        if self.dark and now >= self._probe_at and self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run_probe(), name="probe")
        if self._blocks or self.dark:
            self._start_ticking()

    async def _run_probe(self) -> None:
        """One ask, empty if need be; when it is answered, whoever is due follows."""
        try:
            await self._round()
        finally:
            self._pump = None
        if not self.dark and (self._due or self._waiters):
            self._kick()

    def _clear(self, now: float) -> None:
        """Forget callers that have not been seen for long, and blocks that nobody refers to."""
        for key, known in list(self._sets.items()):
            if now - known.used_at > _KEPT_S:
                del self._sets[key]
        kept = {block for known in self._sets.values() for block in known.blocks}
        kept.update(block for waiter in self._waiters for block in waiter.scopes.blocks)
        for name, block in list(self._blocks.items()):
            if block not in kept and block not in self._due and block.unused(now):
                del self._blocks[name]
