"""What is read anew as a whole when the feed names something of it.

Objects of a cache are dropped by a plain call. A whole that must not be missing meanwhile is read
first and then takes the place of the old one: until then the version of the change is not in force,
and not confirmed to those who wait for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from shared.domain.errors import ConfigError, StoreUnavailable

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 0.5

_log = structlog.get_logger(__name__)


class Reload:
    """Keeps one whole up to date. `load` reads it and puts it in force; it raises
    `StoreUnavailable` when the database is away, and `ConfigError` when what is stored cannot be
    in force: then the one before stays until the next change.

    `kinds` are those of the feed that it is made of. `through` is the version up to which every
    change is in force, `behind` whether there are later ones.
    """

    def __init__(self, name: str, kinds: tuple[str, ...], load: Callable[[], Awaitable[None]]):
        self.name = name
        self.kinds = kinds
        self.through = 0
        self.behind = True
        self._load = load
        self._wanted = asyncio.Event()

    def mark(self, ids: tuple[str, ...] | None) -> None:
        """A change to be taken over; the feed's subscriber."""
        del ids
        self.behind = True
        self._wanted.set()

    async def once(self, position: Callable[[], int]) -> None:
        """Reads now; raises what `load` raises. `position` tells which changes were heard of."""
        self._wanted.clear()
        through = position()
        await self._load()
        self.through = through
        if not self._wanted.is_set():
            self.behind = False

    async def run(self, position: Callable[[], int], done: Callable[[], None]) -> None:
        """Reads after changes until cancelled, `done` is called whenever more is in force.

        An unreachable database is waited for.
        """
        delay_s = _FIRST_DELAY_S
        while True:
            await self._wanted.wait()
            try:
                await self.once(position)
            except StoreUnavailable:
                delay_s = await self._again(delay_s, "The database is away.")
            except ConfigError as error:
                _log.error("reload_refused", what=self.name, reason=str(error))
            except Exception:  # noqa: BLE001 - supervisor: later changes must be taken over
                _log.exception("reload_failed", what=self.name)
                delay_s = await self._again(delay_s, "See the log above.")
            else:
                delay_s = _FIRST_DELAY_S
                done()

    async def _again(self, delay_s: float, reason: str) -> float:
        if delay_s == _FIRST_DELAY_S:
            _log.warning("reload_delayed", what=self.name, reason=reason)
        self._wanted.set()
        await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spreads load
        return min(_MAX_DELAY_S, delay_s * 2)
