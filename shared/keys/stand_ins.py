"""Keys that are in no table: each stands in for the holder of a token, in one of its teams.

They have owners as stored keys do, so a cache of keys holds them, and what the feed says of their
owners is obeyed in the same way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from shared.domain.clock import Clock
from shared.domain.keys import Principal, VirtualKey
from shared.keys.cache import KeyCache, Missing
from shared.keys.changes import Subscriber
from shared.keys.levels import Policy

Load = Callable[[Sequence[VirtualKey]], Awaitable[bytes]]


class StandIns:
    """For one event loop. `load` gets keys and returns what `load_principals` says of them."""

    def __init__(
        self,
        load: Load,
        clock: Clock,
        policy: Policy,
        *,
        stale_limit_s: float,
        capacity: int = 20_000,
    ) -> None:
        self._load = load
        # The last used ones last, as in the cache; more than it can ask for.
        self._keys: OrderedDict[str, VirtualKey] = OrderedDict()
        self._most = 2 * capacity
        self._cache = KeyCache(
            self._read, clock, policy, capacity=capacity, stale_limit_s=stale_limit_s
        )

    def get(self, key: VirtualKey) -> Principal | Literal[Missing.MISSING] | None:
        """The principal of a key, or `MISSING`. Raises `StoreUnavailable` as for stored keys."""
        self._note(key)
        return self._cache.get(key.token)

    async def find(self, key: VirtualKey) -> Principal | None:
        """The same, reading what is not known. Raises `StoreUnavailable` or `Overloaded`."""
        self._note(key)
        return await self._cache.find(key.token)

    def obey(self, policy: Policy) -> None:
        """From now on the operator says this of limits."""
        self._cache.obey(policy)

    def contact(self, mono: float) -> None:
        """The feed was applied to its head at this monotonic time."""
        self._cache.contact(mono)

    def subscribers(self) -> Mapping[str, Subscriber]:
        """Kind of change → the call that takes the changed objects out of service."""
        return self._cache.subscribers()

    async def close(self) -> None:
        """Ends reading."""
        await self._cache.close()

    def _note(self, key: VirtualKey) -> None:
        if key.token in self._keys:
            self._keys.move_to_end(key.token)
            return
        if len(self._keys) >= self._most:
            self._keys.popitem(last=False)
        self._keys[key.token] = key

    async def _read(self, tokens: Sequence[str]) -> bytes:
        known = (self._keys.get(token) for token in tokens)
        return await self._load([key for key in known if key is not None])
