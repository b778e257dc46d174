"""States of the process, read into gauges when somebody scrapes, and shown by readiness details."""

from __future__ import annotations

from typing import Any, Protocol

from attrs import field, frozen

from shared.fleet.follower import Follower
from shared.gateway.drain import Drain
from shared.gateway.live_models import LiveModels
from shared.keys.cache import KeyCache
from shared.limits.tally import Tally
from shared.spend.batches import FlushStats
from shared.spend.flusher import Flusher
from shared.spend.journal import Journal
from shared.telemetry import catalogue
from shared.telemetry.catalogue import Metric
from shared.telemetry.metrics import Metrics
from shared.upstream.pool import HttpPool

_FOREVER_S = 1e9


class LinkState(Protocol):
    """A named connection."""

    name: str

    @property
    def up(self) -> bool: ...


@frozen(eq=False)
class Gauges:
    """Reads owners of state; holds none itself but what counters have been told."""

    metrics: Metrics
    drain: Drain
    journal: Journal
    posted: tuple[FlushStats, ...]
    flusher: Flusher
    follower: Follower
    keys: KeyCache
    limits: Tally
    pool: HttpPool
    links: tuple[LinkState, ...]
    models: LiveModels
    _told: dict[tuple[str, ...], int] = field(factory=dict, init=False)

    def read(self) -> None:
        """Put what is now into the gauges."""
        gauge = self.metrics.gauge
        gauge(catalogue.IN_FLIGHT).set(self.drain.in_flight)
        gauge(catalogue.JOURNAL_PENDING).set(self.journal.bytes_pending)
        gauge(catalogue.JOURNAL_AGE).set(self.flusher.oldest_unposted_s)
        gauge(catalogue.FEED_VERSION).set(self.follower.in_force)
        gauge(catalogue.FEED_LAG).set(min(self.follower.staleness_s, _FOREVER_S))
        gauge(catalogue.MODELS_BEHIND).set(self.models.behind_s)
        gauge(catalogue.KEY_CACHE_ENTRIES, "key").set(len(self.keys))
        for link in self.links:
            gauge(catalogue.DATABASE_UP, link.name).set(int(link.up))
        stats = self.pool.stats
        for state in ("open", "idle", "waiting"):
            gauge(catalogue.UPSTREAM_CONNECTIONS, state).set(getattr(stats, state))
        self._count(catalogue.LEDGER_ROWS, sum(each.rows for each in self.posted))
        self._count(catalogue.LEDGER_REJECTED, sum(each.rejected for each in self.posted))
        for result, count in self.keys.lookups.items():
            self._count(catalogue.KEY_CACHE_LOOKUPS, count, result)
        for dimension, count in self.limits.asked.items():
            self._count(catalogue.LEASES_ASKED, count, dimension)
        for dimension, count in self.limits.refused.items():
            self._count(catalogue.LEASES_REFUSED, count, dimension)

    def _count(self, metric: Metric, total: int, *labels: str) -> None:
        """Bring a counter up to what its owner has counted since the process began."""
        told = self._told.get((metric.name, *labels), 0)
        self.metrics.counter(metric, *labels).add(total - told)
        self._told[metric.name, *labels] = total

    def details(self) -> dict[str, Any]:
        """The same for a person, as members of readiness details."""
        return {
            "in_flight_requests": self.drain.in_flight,
            "connections": {link.name: link.up for link in self.links},
            "feed": {
                "applied": self.follower.applied,
                "in_force": self.follower.in_force,
                "head": self.follower.head,
                "staleness_s": round(min(self.follower.staleness_s, _FOREVER_S), 3),
            },
            "ledger": {
                "open_calls": self.journal.open_calls,
                "bytes_pending": self.journal.bytes_pending,
                "oldest_unposted_s": round(self.flusher.oldest_unposted_s, 3),
                "rows_posted": self.flusher.stats.rows,
                "rows_rejected": self.flusher.stats.rejected,
            },
            "models": self.models.details(),
            "key_cache": {"keys": len(self.keys)},
        }
