"""The façade through which everything is counted. Writing costs a few integer additions.

One `Metrics` per process, made after any fork. Handles are cheap to use and dear to get: take
them once and keep them. All of it belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import platform
from bisect import bisect_left
from decimal import Decimal
from pathlib import Path

from attrs import frozen

from shared.domain.deployments import Deployment
from shared.domain.usage import Usage
from shared.telemetry import catalogue
from shared.telemetry.catalogue import Kind, Metric
from shared.telemetry.slot_directory import SlotDirectory
from shared.telemetry.slots import SlotFile

_MOST_SERIES = 5000
_LARGEST = 2**63 - 1


class Counter:
    """A label set that only grows."""

    __slots__ = ("_slot", "_values")

    def __init__(self, values: memoryview, slot: int) -> None:
        self._values = values
        self._slot = slot

    def add(self, count: int = 1) -> None:
        """Add a whole number in the metric's stored unit."""
        self._values[self._slot] += count


class Gauge:
    """A label set that goes up and down."""

    __slots__ = ("_scale", "_slot", "_values")

    def __init__(self, values: memoryview, slot: int, scale: int) -> None:
        self._values = values
        self._slot = slot
        self._scale = scale

    def set(self, value: float) -> None:
        """The value now, in the metric's unit."""
        self._values[self._slot] = int(value * self._scale)

    def add(self, count: int) -> None:
        """Up or down by a whole number; for gauges that count things."""
        self._values[self._slot] += count * self._scale


class Histogram:
    """A label set of observations."""

    __slots__ = ("_bounds", "_scale", "_slot", "_sum", "_values")

    def __init__(self, values: memoryview, slot: int, metric: Metric) -> None:
        self._values = values
        self._slot = slot
        self._bounds = metric.buckets
        self._sum = slot + len(metric.buckets) + 1
        self._scale = metric.scale

    def observe(self, value: float) -> None:
        """Count a value in the metric's unit; a bucket includes its upper bound."""
        values = self._values
        values[self._slot + bisect_left(self._bounds, value)] += 1
        values[self._sum] += int(value * self._scale)


class CallSeries:
    """What is counted of calls of one route, model group and deployment."""

    __slots__ = (
        "_api",
        "_cached",
        "_failures",
        "_input",
        "_metrics",
        "_output",
        "_overhead",
        "_reasoning",
        "_requests",
        "_spend",
        "_total",
        "_total_tokens",
        "_ttft",
        "_values",
        "_where",
        "_written",
        "_zero",
    )

    def __init__(self, metrics: Metrics, route: str, group: str, target: Target) -> None:
        self._metrics = metrics
        self._values = metrics.values
        self._where = (group, route, target)
        region = metrics.region
        model = (target.model, group, target.model_id, target.provider, region)
        slot = metrics.slot
        self._spend = slot(catalogue.SPEND, *model)
        self._total_tokens = slot(catalogue.TOTAL_TOKENS, *model)
        self._input = slot(catalogue.INPUT_TOKENS, *model)
        self._output = slot(catalogue.OUTPUT_TOKENS, *model)
        self._cached = slot(catalogue.CACHED_TOKENS, *model)
        self._written = slot(catalogue.CACHE_WRITE_TOKENS, *model)
        self._reasoning = slot(catalogue.REASONING_TOKENS, *model)
        self._total = metrics.histogram(catalogue.TOTAL_LATENCY, group, *model).observe
        self._api = metrics.histogram(catalogue.API_LATENCY, group, *model).observe
        self._ttft = metrics.histogram(catalogue.TIME_TO_FIRST_TOKEN, group, *model).observe
        self._overhead = metrics.histogram(
            catalogue.OVERHEAD, group, target.model, target.model_id, target.provider, region
        ).observe
        self._requests: dict[int, int] = {}
        self._failures: dict[tuple[int, str], int] = {}
        self._zero: dict[str, int] = {}

    def settled(
        self,
        status: int,
        usage: Usage,
        cost: Decimal,
        total_s: float,
        api_s: float | None = None,
        ttft_s: float | None = None,
        overhead_s: float | None = None,
    ) -> None:
        """A call that was sent upstream has ended. `status` is what the client got.

        Times are seconds: `api_s` is `None` where no upstream answered, `ttft_s` unless the
        answer is a stream, `overhead_s` is what of the total was not the upstream's.
        """
        values = self._values
        try:
            values[self._requests[status]] += 1
        except KeyError:
            self.answered(status)
        tokens_in = usage.prompt_tokens
        tokens_out = usage.completion_tokens
        if tokens_in or tokens_out:
            values[self._total_tokens] += tokens_in + tokens_out
            values[self._input] += tokens_in
            values[self._output] += tokens_out
            if usage.cached_tokens:
                values[self._cached] += usage.cached_tokens
            if usage.cache_write_tokens:
                values[self._written] += usage.cache_write_tokens
            if usage.reasoning_tokens:
                values[self._reasoning] += usage.reasoning_tokens
        if cost:
            try:
                values[self._spend] += int(cost.scaleb(10))
            except ValueError:
                # Over 64 bits: an absurd price must not make settling fail.
                values[self._spend] = _LARGEST
        self._total(total_s)
        if api_s is not None:
            self._api(api_s)
        if ttft_s is not None:
            self._ttft(ttft_s)
        if overhead_s is not None:
            self._overhead(overhead_s * 1000)

    def answered(self, status: int) -> None:
        """Count a request by what the client got; `settled` does it for calls."""
        slot = self._requests.get(status)
        if slot is None:
            slot = self._requests[status] = self._request_slot(status)
        self._values[slot] += 1

    def failed(self, status: int, error: str) -> None:
        """Count a request answered with an error, by the error's class name."""
        slot = self._failures.get((status, error))
        if slot is None:
            slot = self._failures[status, error] = self._failure_slot(status, error)
        self._values[slot] += 1

    def zero_cost(self, reason: str) -> None:
        """A successful call that cost nothing: `no_price`, `free_model` or `no_usage`."""
        slot = self._zero.get(reason)
        if slot is None:
            group, _, target = self._where
            labels = (group, target.model, target.model_id, target.provider, reason)
            slot = self._zero[reason] = self._metrics.slot(catalogue.ZERO_COST, *labels)
        self._values[slot] += 1

    def _request_slot(self, status: int) -> int:
        group, route, target = self._where
        return self._metrics.slot(
            catalogue.REQUESTS,
            *(group, route, _code(status), target.model_id, target.provider, self._metrics.region),
        )

    def _failure_slot(self, status: int, error: str) -> int:
        group, route, target = self._where
        return self._metrics.slot(
            catalogue.FAILED_REQUESTS,
            *(group, route, _code(status), error),
            *(target.model_id, target.provider, self._metrics.region),
        )


class AttemptSeries:
    """What is counted of attempts at one deployment of one model group."""

    __slots__ = ("_failures", "_labels", "_metrics", "_successes", "_total", "_values")

    def __init__(self, metrics: Metrics, group: str, target: Target) -> None:
        self._metrics = metrics
        self._values = metrics.values
        self._labels = (group, target.model, target.model_id, target.provider, metrics.region)
        self._total = metrics.slot(catalogue.DEPLOYMENT_REQUESTS, *self._labels)
        self._successes = metrics.slot(catalogue.DEPLOYMENT_SUCCESSES, *self._labels)
        self._failures: dict[tuple[int, str], int] = {}

    def succeeded(self) -> None:
        """The upstream answered."""
        self._values[self._total] += 1
        self._values[self._successes] += 1

    def failed(self, status: int, error: str) -> None:
        """It did not, or with an error; `status` is the upstream's or our own for it."""
        self._values[self._total] += 1
        slot = self._failures.get((status, error))
        if slot is None:
            labels = (*self._labels, _code(status), error)
            slot = self._metrics.slot(catalogue.DEPLOYMENT_FAILURES, *labels)
            self._failures[status, error] = slot
        self._values[slot] += 1


@frozen
class Target:
    """A deployment as labels: upstream model, deployment id, provider. Empty before planning."""

    model: str = ""
    model_id: str = ""
    provider: str = ""

    @classmethod
    def of(cls, deployment: Deployment | None) -> Target:
        """The labels of a deployment, if there is one yet."""
        if deployment is None:
            return cls()
        return cls(deployment.upstream_model, deployment.id, deployment.provider)


class Metrics:
    """All metrics of this process. `values` is the shared memory, `region` a label of calls."""

    __slots__ = ("_attempts", "_calls", "_file", "directory", "in_flight", "region", "values")

    def __init__(self, directory: SlotDirectory, file: SlotFile, region: str) -> None:
        self.directory = directory
        self._file = file
        self.values = file.values
        self.region = region
        self.in_flight = self.gauge(catalogue.IN_FLIGHT)
        self._calls: dict[tuple[str, str, str], CallSeries] = {}
        self._attempts: dict[tuple[str, str], AttemptSeries] = {}

    @classmethod
    def open(cls, state_dir: Path, region: str, version: str, cap: int = 1000) -> Metrics:
        """The metrics of a new process under the state directory; `cap` bounds label sets."""
        directory = SlotDirectory(state_dir / "metrics")
        metrics = cls(directory, directory.create(cap), region)
        metrics.gauge(catalogue.BUILD_INFO, version, platform.python_version(), region).set(1)
        return metrics

    def calls(self, route: str, group: str, deployment: Deployment | None) -> CallSeries:
        """Where calls are counted. `group` is a model group that is configured, else empty: a
        name that only a client knows would be a label without bound."""
        key = (route, group, "" if deployment is None else deployment.id)
        series = self._calls.get(key)
        if series is None:
            if len(self._calls) >= _MOST_SERIES:
                self._calls.clear()
            series = CallSeries(self, route, group, Target.of(deployment))
            self._calls[key] = series
        return series

    def attempts(self, group: str, deployment: Deployment) -> AttemptSeries:
        """Where attempts at a deployment are counted."""
        key = (group, deployment.id)
        series = self._attempts.get(key)
        if series is None:
            if len(self._attempts) >= _MOST_SERIES:
                self._attempts.clear()
            series = self._attempts[key] = AttemptSeries(self, group, Target.of(deployment))
        return series

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """A counter's label set; it shows in the scrape from now on."""
        return Counter(self.values, self._slot_of(metric, Kind.COUNTER, labels))

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """A gauge's label set. Taking it says that this process has a value, 0 until set."""
        return Gauge(self.values, self._slot_of(metric, Kind.GAUGE, labels), metric.scale)

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """A histogram's label set."""
        return Histogram(self.values, self._slot_of(metric, Kind.HISTOGRAM, labels), metric)

    def slot(self, metric: Metric, *labels: str) -> int:
        """The first slot of a label set, for code that adds to `values` itself."""
        return self._file.series(metric, labels)

    def close(self) -> None:
        """At the very end: no handle may be used afterwards. Counters stay for later scrapes."""
        self._file.close()

    def _slot_of(self, metric: Metric, kind: Kind, labels: tuple[str, ...]) -> int:
        if metric.kind is not kind:
            raise ValueError(f"{metric.name} is a {metric.kind}, not a {kind}")
        return self._file.series(metric, labels)


class LoopLag:
    """Watches how late the event loop's timers come. Owned by whoever starts it."""

    __slots__ = ("_due", "_handle", "_interval_s", "_loop", "_observe")

    def __init__(self, metrics: Metrics, interval_s: float = 0.25) -> None:
        self._observe = metrics.histogram(catalogue.LOOP_LAG).observe
        self._interval_s = interval_s
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From within the loop."""
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        """Before the metrics are closed."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self._due = self._loop.time() + self._interval_s
        self._handle = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._observe(max(0.0, self._loop.time() - self._due))
        self._arm()


def _code(status: int) -> str:
    """A status as a label; what is no status is `other`, so that the label stays bounded."""
    return str(status) if 100 <= status <= 599 else "other"
