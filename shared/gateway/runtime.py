"""What a process serves requests with: made once at start, passed to every step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Protocol

from attrs import field, frozen

from shared.domain.capabilities import Binary, Capabilities
from shared.domain.clock import Clock
from shared.domain.deployments import Deployment
from shared.domain.ids import CallIds
from shared.domain.requests import EndpointKind, Origin
from shared.gateway.drain import Drain
from shared.gateway.headers import deployment_head
from shared.gateway.hooks import Guard, ReplyCache
from shared.gateway.meters import Meters
from shared.keys.cache import KeyCache
from shared.limits.leases import Leases
from shared.providers.heads import request_head
from shared.providers.openai_compatible import param_rules
from shared.providers.prices.entry import PriceEntry
from shared.providers.registry import PROVIDERS
from shared.routing.catalog import Catalog
from shared.spend.journal import Journal
from shared.upstream.base import Upstream
from shared.upstream.timers import TimerWheel

_MOST_HEADS = 10_000


@frozen
class Limits:
    """Bounds of one request. Sizes are bytes."""

    max_body_bytes: int
    body_idle_s: float = 60.0
    max_reply_bytes: int = 64 * 1024 * 1024
    max_event_bytes: int = 16 * 1024 * 1024
    max_retries: int = 10
    stale_limit_s: float = 900.0


@frozen
class Retries:
    """The router's defaults (LLM contract §4.3)."""

    num_retries: int = 2
    retry_after_s: float = 0.0


class StoreState(Protocol):
    """How the database is doing, as readiness tells it."""

    @property
    def up(self) -> bool:
        """Whether statements can be run now."""
        ...

    @property
    def stale_s(self) -> float:
        """Seconds since the change feed was known to be applied to its head."""
        ...


@frozen
class Target:
    """Where a deployment's requests of one kind go, and under which names its parameters."""

    origin: Origin
    head: bytes = field(repr=False)
    asks_usage: bool
    renamed: tuple[tuple[str, str], ...]


class Deployments:
    """What is derived from a deployment once and used by every call: targets, prices, headers."""

    __slots__ = ("_heads", "_identity", "_prices", "_targets", "_usage_in_streams")

    def __init__(self, *, usage_in_streams: bool, identity: str) -> None:
        self._usage_in_streams = usage_in_streams
        self._identity = identity
        self._heads: dict[tuple[str, str], str] = {}
        self._targets: dict[tuple[str, EndpointKind], Target] = {}
        self._prices: dict[str, PriceEntry | None] = {}

    def head(self, deployment: Deployment, group: str) -> str:
        """The lines that go out with every reply; `group` may be a name of the client's."""
        key = (deployment.id, group)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[key] = deployment_head(deployment, group, self._identity)
        return head

    def target(self, deployment: Deployment, kind: EndpointKind) -> Target:
        """The target; raises `NotSupported` when the provider lacks the endpoint."""
        key = (deployment.id, kind)
        target = self._targets.get(key)
        if target is None:
            origin, head = request_head(deployment, kind)
            provider = PROVIDERS[deployment.provider]
            asks = self._usage_in_streams and provider.supports_stream_usage
            rules = param_rules(provider, deployment.upstream_model)
            target = self._targets[key] = Target(origin, head, asks, rules.renamed)
        return target

    def price(self, deployment: Deployment) -> PriceEntry | None:
        """The deployment's price in its quick form; `None` when it is not known."""
        try:
            return self._prices[deployment.id]
        except KeyError:
            rates = deployment.rates
            entry = None if rates is None else PriceEntry(rates, "deployment")
            self._prices[deployment.id] = entry
            return entry


@frozen(eq=False)
class Runtime:
    """The object graph of the data plane. Immutable; what changes is inside its owners.

    `master_token` is the master key's hash, `None` when every caller is let in. `version` is the
    product's, `identity` the header lines that go out with every answer of an LLM route.
    """

    loop: asyncio.AbstractEventLoop
    binary: Binary
    capabilities: Capabilities
    region: str
    version: str
    root_path: str
    log_level: str
    master_token: str | None
    key_header: str | None
    forced_model: str | None
    always_usage: bool
    metrics_need_key: bool
    public_readiness_details: bool
    identity: str
    clock: Clock
    ids: CallIds
    random: Random
    limits: Limits
    retries: Retries
    catalog: Catalog
    deployments: Deployments
    keys: KeyCache
    leases: Leases
    journal: Journal
    upstreams: Mapping[str, Upstream]
    timers: TimerWheel
    drain: Drain
    meters: Meters
    store: StoreState
    scrape: Callable[[], Awaitable[tuple[bytes, str]]]
    details: Callable[[], dict[str, Any]]
    guards: tuple[Guard, ...] = ()
    cache: ReplyCache | None = None
