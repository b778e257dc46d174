"""Every metric of the product, in one table.

Names and labels of the `litellm_…` ones are those of the reference (LLM contract §6.5), cut down
to labels that the configuration bounds: never a key, user, team or end user, whose numbers come
from the ledger. `docs/metrics.md` lists the same table; a test compares them.
"""

from __future__ import annotations

import zlib
from enum import StrEnum

from attrs import frozen


class Kind(StrEnum):
    """Prometheus' metric types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """How the values of several processes become one. Counters and histograms always add up."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@frozen
class Metric:
    """A declared metric.

    Slots hold whole numbers: a value times `scale`. `buckets` are a histogram's upper bounds
    without +Inf. `merge` matters for gauges.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    scale: int = 1
    merge: Merge = Merge.SUM

    @property
    def exposed(self) -> str:
        """The name on the wire, where counters end in `_total`."""
        if self.kind is not Kind.COUNTER or self.name.endswith("_total"):
            return self.name
        return f"{self.name}_total"

    @property
    def width(self) -> int:
        """Slots of one label set: a histogram has its buckets, +Inf and the sum of values."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1

    @property
    def fingerprint(self) -> int:
        """Changes with whatever makes stored numbers mean something else."""
        return zlib.crc32(repr((self.kind, self.labels, self.buckets, self.scale)).encode())


LATENCY_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 420.0, 600.0),
)
"""Seconds, as in the reference."""

OVERHEAD_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)
"""Milliseconds."""

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds."""

MICRO = 1_000_000
MILLI = 1_000
COST_SCALE = 10**10
"""Spend is counted in the ledger's own unit, 1e-10 USD, so that both agree to the last digit."""

_MODEL = ("model", "requested_model", "model_id", "api_provider", "region")
_LATENCY = ("model_group", *_MODEL)
_DEPLOYMENT = ("requested_model", "litellm_model_name", "model_id", "api_provider", "region")
_ERROR = ("exception_status", "exception_class")


def _counter(name: str, help: str, *labels: str, scale: int = 1) -> Metric:  # noqa: A002
    return Metric(name, Kind.COUNTER, help, labels, scale=scale)


def _gauge(
    name: str,
    help: str,  # noqa: A002 - Prometheus' own word
    *labels: str,
    scale: int = 1,
    merge: Merge = Merge.SUM,
) -> Metric:
    return Metric(name, Kind.GAUGE, help, labels, scale=scale, merge=merge)


REQUESTS = _counter(
    "litellm_proxy_total_requests_metric",
    "Requests answered, refused ones included",
    *("requested_model", "route", "status_code", "model_id", "api_provider", "region"),
)
FAILED_REQUESTS = _counter(
    "litellm_proxy_failed_requests_metric",
    "Requests answered with an error",
    *("requested_model", "route", *_ERROR, "model_id", "api_provider", "region"),
)
SPEND = _counter("litellm_spend_metric", "Cost of calls in USD", *_MODEL, scale=COST_SCALE)
TOTAL_TOKENS = _counter("litellm_total_tokens_metric", "Tokens in and out", *_MODEL)
INPUT_TOKENS = _counter("litellm_input_tokens_metric", "Prompt tokens", *_MODEL)
OUTPUT_TOKENS = _counter("litellm_output_tokens_metric", "Completion tokens", *_MODEL)
CACHED_TOKENS = _counter(
    "litellm_input_cached_tokens_metric", "Prompt tokens that the provider had cached", *_MODEL
)
CACHE_WRITE_TOKENS = _counter(
    "litellm_input_cache_creation_tokens_metric", "Prompt tokens written to a cache", *_MODEL
)
REASONING_TOKENS = _counter(
    "litellm_output_reasoning_tokens_metric", "Completion tokens spent on reasoning", *_MODEL
)
ZERO_COST = _counter(
    "litellm_zero_cost_requests_total",
    "Successful calls that were priced at nothing",
    *("requested_model", "model", "model_id", "api_provider", "reason"),
)
TOTAL_LATENCY = Metric(
    "litellm_request_total_latency_metric",
    Kind.HISTOGRAM,
    "Seconds from the request to the last byte of its answer",
    _LATENCY,
    LATENCY_BUCKETS,
    MICRO,
)
API_LATENCY = Metric(
    "litellm_llm_api_latency_metric",
    Kind.HISTOGRAM,
    "Seconds that the upstream took",
    _LATENCY,
    LATENCY_BUCKETS,
    MICRO,
)
TIME_TO_FIRST_TOKEN = Metric(
    "litellm_llm_api_time_to_first_token_metric",
    Kind.HISTOGRAM,
    "Seconds to the first byte of a stream's body",
    _LATENCY,
    LATENCY_BUCKETS,
    MICRO,
)
OVERHEAD = Metric(
    "litellm_overhead_latency_metric",
    Kind.HISTOGRAM,
    "Milliseconds that the gateway added to the upstream's time",
    ("model_group", "litellm_model_name", "model_id", "api_provider", "region"),
    OVERHEAD_BUCKETS,
    MILLI,
)
IN_FLIGHT = _gauge("litellm_in_flight_requests", "Requests being served now")
DEPLOYMENT_REQUESTS = _counter(
    "litellm_deployment_total_requests", "Attempts at a deployment", *_DEPLOYMENT
)
DEPLOYMENT_SUCCESSES = _counter(
    "litellm_deployment_success_responses", "Attempts that the upstream answered", *_DEPLOYMENT
)
DEPLOYMENT_FAILURES = _counter(
    "litellm_deployment_failure_responses", "Attempts that failed", *_DEPLOYMENT, *_ERROR
)
JOURNAL_PENDING = _gauge(
    "meridian_journal_pending_bytes", "Bytes in the journal that are not in the ledger yet"
)
JOURNAL_AGE = _gauge(
    "meridian_journal_oldest_unposted_seconds",
    "Age of the oldest record that is not in the ledger yet",
    scale=MILLI,
    merge=Merge.MAX,
)
LEDGER_ROWS = _counter("meridian_ledger_rows_posted_total", "Rows that the ledger took")
LEDGER_REJECTED = _counter(
    "meridian_ledger_rows_rejected_total", "Rows set aside because the ledger cannot take them"
)
FEED_VERSION = _gauge(
    "meridian_feed_version_applied",
    "Version of the change feed in force, the lowest of all processes",
    merge=Merge.MIN,
)
FEED_LAG = _gauge(
    "meridian_feed_lag_seconds",
    "Seconds since the change feed's head was last seen, the highest of all processes",
    scale=MILLI,
    merge=Merge.MAX,
)
MODELS_BEHIND = _gauge(
    "meridian_models_behind_seconds",
    "Seconds for which stored models have not been in force, the highest of all processes",
    scale=MILLI,
    merge=Merge.MAX,
)
KEY_CACHE_ENTRIES = _gauge("meridian_key_cache_entries", "Objects held in memory", "kind")
KEY_CACHE_LOOKUPS = _counter(
    "meridian_key_cache_lookups_total", "Keys looked up: hit, miss or known as unknown", "result"
)
LEASES_ASKED = _counter(
    "meridian_leases_asked_total", "Allowances asked from the shared store", "dimension"
)
LEASES_REFUSED = _counter(
    "meridian_leases_refused_total", "Allowances that the shared store refused", "dimension"
)
DATABASE_UP = _gauge(
    "meridian_database_up",
    "Whether a connection stands, by its role: 0 if one process has lost it",
    "role",
    merge=Merge.MIN,
)
UPSTREAM_CONNECTIONS = _gauge(
    "meridian_upstream_connections",
    "Connections to upstreams that are open or idle, and requests waiting for one",
    "state",
)
LOOP_LAG = Metric(
    "meridian_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    "Seconds by which a timer came late",
    (),
    LAG_BUCKETS,
    MICRO,
)
LOG_DROPPED = _counter(
    "meridian_request_log_dropped_total", "Request records lost because the output was too slow"
)
LABEL_OVERFLOW = _counter(
    "meridian_metrics_label_overflow_total",
    "Label sets beyond the bound of a metric, counted under `other`",
    "metric",
)
BUILD_INFO = _gauge(
    "meridian_build_info", "Always 1", "version", "python", "region", merge=Merge.MAX
)

CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Metric)
)
"""All of the above, in the order of declaration."""
