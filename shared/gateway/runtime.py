"""What a process serves requests with: made once at start, passed to every step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Protocol

from attrs import field, frozen

from shared.config.gateway_config import GatewayConfig
from shared.domain.capabilities import Binary, Capabilities
from shared.domain.clock import Clock
from shared.domain.deployments import Deployment
from shared.domain.ids import CallIds
from shared.domain.requests import EndpointKind, Origin
from shared.gateway.drain import Drain
from shared.gateway.headers import deployment_head
from shared.gateway.hooks import Guard, ReplyCache
from shared.gateway.live_models import LiveModels
from shared.gateway.meters import Meters
from shared.gateway.rules import CallRules
from shared.keys.bearers import Bearers
from shared.keys.cache import KeyCache
from shared.keys.presented import LONGEST_KEY
from shared.limits.leases import Leases
from shared.providers.heads import request_head
from shared.providers.openai_compatible import param_rules
from shared.providers.prices.entry import PriceEntry
from shared.providers.registry import PROVIDERS
from shared.routing.catalog import Catalog
from shared.spend.journal import Journal
from shared.upstream.base import Upstream
from shared.upstream.timers import TimerWheel

# Names under which a deployment may have been called: those of its group, as a rule one.
_MOST_DERIVED = 100


@frozen
class Limits:
    """Bounds of one request. Sizes are bytes."""

    max_body_bytes: int
    body_idle_s: float = 60.0
    max_reply_bytes: int = 64 * 1024 * 1024
    max_event_bytes: int = 16 * 1024 * 1024
    max_retries: int = 10
    stale_limit_s: float = 900.0


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
    """What is derived from a deployment once and used by every call: targets, prices, headers.

    It is kept with the deployment itself, so it goes when the deployment does, and a call in
    flight has what it was planned with.
    """

    __slots__ = ("_identity", "_usage_in_streams")

    def __init__(self, *, usage_in_streams: bool, identity: str) -> None:
        self._usage_in_streams = usage_in_streams
        self._identity = identity

    def head(self, deployment: Deployment, group: str) -> str:
        """The lines that go out with every reply; `group` may be a name of the client's."""
        derived = deployment.derived
        head: str | None = derived.get(group)
        if head is None:
            if len(derived) >= _MOST_DERIVED:
                derived.clear()
            head = derived[group] = deployment_head(deployment, group, self._identity)
        return head

    def target(self, deployment: Deployment, kind: EndpointKind) -> Target:
        """The target; raises `NotSupported` when the provider lacks the endpoint."""
        target: Target | None = deployment.derived.get((Target, kind))
        if target is None:
            origin, head = request_head(deployment, kind)
            provider = PROVIDERS[deployment.provider]
            asks = self._usage_in_streams and provider.supports_stream_usage
            rules = param_rules(provider, deployment.upstream_model)
            target = Target(origin, head, asks, rules.renamed)
            deployment.derived[Target, kind] = target
        return target

    def price(self, deployment: Deployment) -> PriceEntry | None:
        """The deployment's price in its quick form; `None` when it is not known."""
        try:
            price: PriceEntry | None = deployment.derived[PriceEntry]
        except KeyError:
            rates = deployment.rates
            price = None if rates is None else PriceEntry(rates, "deployment")
            deployment.derived[PriceEntry] = price
        return price


@frozen(eq=False)
class Runtime:
    """The object graph of the data plane. Immutable; what changes is inside its owners.

    `master_token` is the master key's hash, `None` when every caller is let in. `version` is the
    product's, `identity` the header lines that go out with every answer of an LLM route.
    `bearers` let tokens in, where the operator does; `longest_key` bounds what may be presented.
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
    always_usage: bool
    identity: str
    clock: Clock
    ids: CallIds
    random: Random
    limits: Limits
    models: LiveModels
    deployments: Deployments
    keys: KeyCache
    rules: CallRules
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
    bearers: Bearers | None = None
    longest_key: int = LONGEST_KEY

    @property
    def catalog(self) -> Catalog:
        """The models in force now; another object after every change of them."""
        return self.models.catalog

    @property
    def config(self) -> GatewayConfig:
        """The configuration in force now; another object after every change of a setting."""
        return self.models.config
