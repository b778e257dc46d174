"""What is in force: models and settings of the configuration file and, kept up to date, those
stored.

A change is built into a new catalog in small steps, between which the loop serves requests; one
assignment puts it in force. Calls in flight keep what they were planned with. When what is stored
cannot be in force, the last good catalog stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from attrs import evolve

from shared.config.gateway_config import GatewayConfig
from shared.config.stored import Stored
from shared.config.stored_settings import kept_from_start
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable
from shared.routing.catalog import Catalog
from shared.routing.whole import Whole, WholeReport, Wholes

Load = Callable[[], Awaitable[Stored]]
Prepare = Callable[[GatewayConfig], Callable[[], None]]

# How long the loop is kept from other work at once.
_SLICE_S = 0.002
# How many models that are not served here readiness details name.
_MOST_NAMED = 50

_log = structlog.get_logger(__name__)


class LiveModels:
    """Owns the catalog, made by `wholes`, and the configuration in force. `load` reads what is
    stored; without it the file is all there is.

    Raises `ConfigError` for a file that cannot be in force.
    """

    def __init__(self, wholes: Wholes, clock: Clock, load: Load | None = None) -> None:
        self.wholes = wholes
        self._clock = clock
        self._load = load
        self._turn = asyncio.Lock()
        self._failure: str | None = None
        self._behind_since: float | None = None
        # An alias of the file may stand for a model that is stored.
        first = wholes if load is None else evolve(wholes, file=_without_aliases(wholes.file))
        report = WholeReport()
        self._whole = first.make(Stored(), report)
        report.raise_problems()
        self.catalog: Catalog = self._whole.catalog
        self.config: GatewayConfig = self._whole.config
        self._started: GatewayConfig | None = None
        self._prepares: list[Prepare] = []

    @property
    def whole(self) -> Whole:
        """What the catalog was made of."""
        return self._whole

    @property
    def behind_s(self) -> float:
        """For how long something that is stored has been known not to be in force."""
        since = self._behind_since
        return 0.0 if since is None else self._clock.mono() - since

    def on_config(self, prepare: Prepare) -> None:
        """Has settings that are about to change prepared elsewhere; what `prepare` gives puts them
        in force there. A `ConfigError` of `prepare` refuses the change as a whole."""
        self._prepares.append(prepare)

    async def take_over(self) -> None:
        """Puts in force what is stored now; nothing of it if not all can be.

        Raises `StoreUnavailable` or `ConfigError`; whatever it raises, all is as it was then.
        """
        if self._load is None:
            return
        try:
            async with self._turn:
                stored = await self._load()
                self._put(await self._made(stored))
        except Exception as error:
            expected = isinstance(error, StoreUnavailable | ConfigError)
            self._failure = str(error) if expected else type(error).__name__
            if self._behind_since is None:
                self._behind_since = self._clock.mono()
            raise
        self._failure = self._behind_since = None
        _log.info("models_in_force", stored=len(stored.models), unserved=len(self._whole.unserved))

    def details(self) -> dict[str, Any]:
        """For a person, as a member of readiness details."""
        unserved = list(self._whole.unserved.items())[:_MOST_NAMED]
        return {
            "deployments": len(self.catalog.entries),
            "stored": self._load is not None,
            "unserved": {model_id: each.reason for model_id, each in unserved},
            "behind_s": round(self.behind_s, 3),
            "refused": self._failure,
        }

    def _put(self, whole: Whole) -> None:
        config = self.config
        puts: list[Callable[[], None]] = []
        if whole.config is not self._whole.config:
            started = self._started or whole.config
            config = kept_from_start(whole.config, started)
            puts = [prepare(config) for prepare in self._prepares]
        self._whole = whole
        self._started = self._started or whole.config
        # From here on the next call of anybody is planned with the new catalog.
        self.catalog = whole.catalog
        self.config = config
        for put in puts:
            put()

    async def _made(self, stored: Stored) -> Whole:
        report = WholeReport()
        steps = self.wholes.steps(stored, report, self._whole)
        until = self._clock.mono() + _SLICE_S
        while True:
            try:
                next(steps)
            except StopIteration as done:
                report.raise_problems()
                whole: Whole = done.value
                return whole
            if self._clock.mono() > until:
                await asyncio.sleep(0)
                until = self._clock.mono() + _SLICE_S


def _without_aliases(file: GatewayConfig) -> GatewayConfig:
    return evolve(
        file,
        router=evolve(file.router, model_group_alias={}),
        litellm=evolve(file.litellm, model_alias_map={}),
    )
