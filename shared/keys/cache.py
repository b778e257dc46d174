"""Keys and their owners as this process knows them.

The store is the truth, this is a copy that is only ever dropped and read anew, never written
back. Three rules keep a revoked key from coming back:

- What the feed names is out of service when the subscriber returns.
- What was being read while the feed named it is not kept, since it may be older than the change;
  whoever waits for it reads again.
- Without contact to the feed for longer than the staleness limit nothing is served at all.

Owners are held apart from keys, so that a change to a team drops the team, and its keys take up
the new one when they are used next. A fault of the store is `StoreUnavailable`, never "no such
key".
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

import structlog
from attrs import define

from shared.db.keys import LoadedKey, LoadedPrincipals, decode_principals
from shared.domain.clock import Clock
from shared.domain.errors import GatewayError, StoreUnavailable
from shared.domain.keys import OwnerKind, Principal, VirtualKey, owners_of
from shared.keys.changes import Changes
from shared.keys.flights import Flights
from shared.keys.levels import NO_POLICY, Policy
from shared.keys.owners import LiveOwners, OwnerMap, OwnerSlot, ReadOwners
from shared.keys.principal import build_principal

Load = Callable[[Sequence[str]], Awaitable[bytes]]

# A dropped object that was used this recently is read again at once.
_HOT_S = 60.0
_MAX_REFETCHES = 1000
# A lookup that is overtaken by changes this often is given up.
_MAX_READS = 16

_log = structlog.get_logger(__name__)


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

_Slots = tuple[OwnerSlot, ...]


@define(eq=False)
class _Entry:
    """A key in the cache. `generation` is that of the owners it was last compared with; its
    limits hold until `until_mono`."""

    key: VirtualKey
    slots: _Slots
    principal: Principal
    generation: int
    until_mono: float
    used_mono: float = float("-inf")


class KeyCache:
    """For one event loop. `load` gets tokens and returns what `load_principals` says of them.

    `get` is a plain call for the hot path, `find` waits for the store. At most `capacity` keys are
    held, those not used for longest going first; `max_waiting` tokens may wait to be read, further
    ones are `Overloaded`. Tokens that the store does not know are remembered for
    `absent_ttl_s`, or until the feed names them. `policy` is what the operator says of limits.
    """

    def __init__(
        self,
        load: Load,
        clock: Clock,
        policy: Policy = NO_POLICY,
        *,
        capacity: int = 50_000,
        stale_limit_s: float = 900.0,
        absent_ttl_s: float = 2.0,
        absent_capacity: int = 10_000,
        max_waiting: int = 2048,
    ) -> None:
        self._load = load
        self._clock = clock
        self._policy = policy
        self._capacity = capacity
        self._stale_limit_s = stale_limit_s
        self._absent_ttl_s = absent_ttl_s
        self._absent_capacity = absent_capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the last used ones last
        self._owners = {kind: OwnerMap(kind) for kind in OwnerKind}
        self._generation = 0
        self._aliases: dict[str, tuple[str, float]] = {}
        self._absent: dict[str, float] = {}
        self._fresh_until = clock.mono() + stale_limit_s
        self._flights: Flights[str] = Flights(self._read, max_waiting, "The key cache is closed.")
        self._changes: Changes | None = None
        self._hits = self._misses = self._unknown = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lookups(self) -> dict[str, int]:
        """How many look-ups found a key in memory, had to read, or knew that there is none."""
        return {"hit": self._hits, "miss": self._misses, "unknown": self._unknown}

    def get(self, token: str) -> Principal | Literal[Missing.MISSING] | None:
        """What is known of a token: a principal, `None` if there is no such key, or `MISSING`.

        Expiry and blocks are the caller's to check. Raises `StoreUnavailable` when the feed was
        not heard of for longer than the staleness limit.
        """
        found = self._look(token)
        if found is None:
            self._unknown += 1
        elif found is not MISSING:
            self._hits += 1
        return found

    async def find(self, token: str) -> Principal | None:
        """The same, reading what is not known. Raises `StoreUnavailable` or `Overloaded`."""
        found = self.get(token)
        if found is not MISSING:
            return found
        self._misses += 1
        for _ in range(_MAX_READS):
            # One caller going away must not end the others' wait.
            error = await asyncio.shield(self._awaited_flight(token))
            if error is not None:
                raise StoreUnavailable(error)
            found = self._look(token)
            if found is not MISSING:
                return found
        raise StoreUnavailable("The key is being changed too often to be read.")

    def obey(self, policy: Policy) -> None:
        """From now on the operator says this of limits. Known keys stay, and get their limits anew
        when they are used next."""
        self._policy = policy
        for entry in self._entries.values():
            entry.until_mono = float("-inf")

    def contact(self, mono: float) -> None:
        """The feed was applied to its head at this monotonic time."""
        self._fresh_until = mono + self._stale_limit_s

    def subscribers(self) -> Mapping[str, Callable[[tuple[str, ...] | None], None]]:
        """Kind of change → the call that takes the changed objects out of service."""
        return {
            "key": self._keys_changed,
            **{kind.value: partial(self._owners_changed, kind) for kind in OwnerKind},
        }

    async def close(self) -> None:
        """Ends reading; whoever waits gets `StoreUnavailable`."""
        await self._flights.close()

    def _look(self, token: str) -> Principal | Literal[Missing.MISSING] | None:
        now = self._clock.mono()
        if now > self._fresh_until:
            raise StoreUnavailable("The database was not reached for too long to trust known keys.")
        entry = self._entries.get(token)
        if entry is None:
            return self._get_other(token, now)
        if entry.generation != self._generation and not self._renew(entry):
            return MISSING
        if now >= entry.until_mono:
            self._build(entry)
        entry.used_mono = now
        self._entries.move_to_end(token)
        return entry.principal

    def _get_other(self, token: str, now: float) -> Principal | Literal[Missing.MISSING] | None:
        alias = self._aliases.get(token)
        if alias is not None:
            active, revoke_at_s = alias
            if revoke_at_s > self._clock.now():
                return self._look(active) if active in self._entries else MISSING
            del self._aliases[token]
        until = self._absent.get(token)
        return MISSING if until is None or until <= now else None

    def _renew(self, entry: _Entry) -> bool:
        """Takes up the owners' newer slots; false if one of them has to be read first."""
        live = LiveOwners(self._owners)
        owners_of(entry.key, live)
        if live.missing:
            return False
        slots = tuple(live.slots)
        if slots != entry.slots:
            _hold(slots)
            self._release(entry.slots)
            entry.slots = slots
            self._build(entry)
        entry.generation = self._generation
        return True

    def _build(self, entry: _Entry) -> None:
        """The principal as of now, from owners that are all live."""
        now_s = self._clock.now()
        owners = owners_of(entry.key, LiveOwners(self._owners))
        entry.principal = build_principal(owners, self._policy, now_s)
        entry.until_mono = self._clock.mono() + entry.principal.until_s - now_s

    # Reading: one batch at a time, so that of two readings of an object the later is the newer.

    def _awaited_flight(self, token: str) -> asyncio.Future[str | None]:
        """The reading that will tell of a token, perhaps one under way for the same owner."""
        entry = self._entries.get(token)
        if entry is not None:
            live = LiveOwners(self._owners)
            owners_of(entry.key, live)
            known = {(slot.kind, slot.id): slot for slot in entry.slots}
            for missing in live.missing:
                old = known.get(missing)
                if old is not None:
                    flight = self._flights.get(old.token)
                    if flight is not None:
                        return flight
                    old.token = token
        return self._flights.start(token)

    async def _read(self, batch: list[str]) -> str | None:
        changes = self._changes = Changes()
        try:
            loaded = decode_principals(await self._load(batch))
            self._keep(batch, loaded, changes)
        except GatewayError as fault:
            return fault.message
        except Exception:  # noqa: BLE001 - supervisor: lookups must end, and never as "no such key"
            _log.exception("key_lookup_failed")
            return "Keys cannot be read from the database."
        finally:
            self._changes = None
        return None

    def _keep(self, batch: list[str], loaded: LoadedPrincipals, changes: Changes) -> None:
        found = {key.presented: key for key in loaded.keys}
        now = self._clock.mono()
        for token in batch:
            if changes.names("key", token):
                continue
            key = found.get(token)
            if key is not None:
                if not _overtaken(key.key, loaded, changes):
                    self._keep_key(key, loaded)
            elif token in loaded.unreadable:
                _log.error("stored_key_unreadable", token=token[:12])
                self._flights.land((token,), "The stored key cannot be read.")
            else:
                self._drop(token)
                self._keep_absent(token, now)

    def _keep_key(self, found: LoadedKey, loaded: LoadedPrincipals) -> None:
        key = found.key
        read = ReadOwners(self._owners, loaded.find, key.token)
        owners = owners_of(key, read)
        if read.retired:
            self._generation += 1
        slots = tuple(read.slots)
        _hold(slots)
        now_s = self._clock.now()
        principal = build_principal(owners, self._policy, now_s)
        until_mono = self._clock.mono() + principal.until_s - now_s
        entry = _Entry(key, slots, principal, self._generation, until_mono)
        known = self._drop(key.token)
        if known is not None:
            entry.used_mono = known.used_mono
        while len(self._entries) >= self._capacity:
            self._drop(next(iter(self._entries)))
        self._entries[key.token] = entry
        self._absent.pop(found.presented, None)
        if found.revoke_at is not None:
            if len(self._aliases) >= self._capacity:
                del self._aliases[next(iter(self._aliases))]
            self._aliases[found.presented] = (key.token, found.revoke_at.timestamp())

    def _keep_absent(self, token: str, now: float) -> None:
        self._absent.pop(token, None)
        if len(self._absent) >= self._absent_capacity:
            del self._absent[next(iter(self._absent))]
        self._absent[token] = now + self._absent_ttl_s

    def _drop(self, token: str) -> _Entry | None:
        entry = self._entries.pop(token, None)
        if entry is not None:
            self._release(entry.slots)
        return entry

    def _release(self, slots: _Slots) -> None:
        for slot in slots:
            self._owners[slot.kind].release(slot)

    # What the feed says. Dropping comes first: nothing below may wait or fail before it.

    def _keys_changed(self, tokens: tuple[str, ...] | None) -> None:
        if self._changes is not None:
            self._changes.add("key", tokens)
        if tokens is None:
            self._aliases.clear()
            self._absent.clear()
            tokens = tuple(self._entries)
        dropped = []
        for token in tokens:
            self._aliases.pop(token, None)
            self._absent.pop(token, None)
            entry = self._drop(token)
            if entry is not None:
                dropped.append(entry)
        self._read_again(dropped)

    def _owners_changed(self, kind: OwnerKind, ids: tuple[str, ...] | None) -> None:
        if self._changes is not None:
            self._changes.add(kind, ids)
        dropped = self._owners[kind].drop(ids)
        if dropped:
            self._generation += 1
        entries = (self._entries.get(slot.token) for slot in dropped)
        self._read_again([entry for entry in entries if entry is not None])

    def _read_again(self, entries: list[_Entry]) -> None:
        """Reads in the background what was in use a moment ago."""
        since = self._clock.mono() - _HOT_S
        hot = (entry for entry in entries if entry.used_mono > since)
        for entry in heapq.nlargest(_MAX_REFETCHES, hot, key=lambda entry: entry.used_mono):
            # Half of the places are left for those who wait; but random keys must not hold up
            # keys that are known to be good.
            if not self._flights.half_full:
                self._flights.start(entry.key.token, first=True)


def _overtaken(key: VirtualKey, loaded: LoadedPrincipals, changes: Changes) -> bool:
    """Whether the feed has named the key or one of its owners since they were asked for."""
    named = changes.names("key", key.token)

    def find(kind: OwnerKind, owner_id: str) -> Any:
        nonlocal named
        named = named or changes.names(kind, owner_id)
        return loaded.find(kind, owner_id)

    owners_of(key, find)
    return named


def _hold(slots: _Slots) -> None:
    for slot in slots:
        slot.holders += 1
