"""`/metrics`: the slots of all processes of this state directory, in Prometheus' text format.

aioprometheus' collectors and text formatter do the formatting. They are filled anew for every
scrape and never touched on the way of a request.
"""

from __future__ import annotations

import asyncio
from itertools import accumulate

from aioprometheus.collectors import Collector, Registry
from aioprometheus.collectors import Counter as CounterCollector
from aioprometheus.collectors import Gauge as GaugeCollector
from aioprometheus.collectors import Histogram as HistogramCollector
from aioprometheus.formats.text import TextFormatter
from aioprometheus.histogram import Histogram as Buckets

from shared.domain.clock import Clock
from shared.telemetry.catalogue import CATALOGUE, Kind, Metric
from shared.telemetry.slot_directory import SeriesKey, SlotDirectory

MEMO_S = 1.0
"""A scrape that comes sooner after the last one gets the same bytes."""

_INFINITY = float("inf")


class Exposition:
    """Renders scrapes, one at a time, in a thread."""

    __slots__ = ("_at_s", "_body", "_clock", "_directory", "_formatter", "_turn")

    def __init__(self, directory: SlotDirectory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._formatter = TextFormatter()
        self._turn = asyncio.Lock()
        self._body = b""
        self._at_s = -_INFINITY

    async def scrape(self) -> tuple[bytes, str]:
        """The body and its content type."""
        async with self._turn:
            if self._clock.mono() - self._at_s >= MEMO_S:
                self._body = await asyncio.to_thread(self._render)
                self._at_s = self._clock.mono()
        return self._body, self._formatter.get_headers()["Content-Type"]

    def _render(self) -> bytes:
        registry = Registry()
        by_metric: dict[str, list[tuple[SeriesKey, list[int]]]] = {}
        for key, values in self._directory.collect().items():
            by_metric.setdefault(key[0], []).append((key, values))
        for metric in CATALOGUE:
            if series := by_metric.get(metric.name):
                collector = _collector(metric, registry)
                for (_, labels), values in sorted(series):
                    _fill(collector, metric, labels, values)
        return self._formatter.marshall(registry)


def _collector(metric: Metric, registry: Registry) -> Collector:
    help_text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    match metric.kind:
        case Kind.COUNTER:
            return CounterCollector(metric.exposed, help_text, registry=registry)
        case Kind.GAUGE:
            return GaugeCollector(metric.exposed, help_text, registry=registry)
        case Kind.HISTOGRAM:
            bounds = (*metric.buckets, _INFINITY)
            return HistogramCollector(metric.exposed, help_text, registry=registry, buckets=bounds)


def _fill(collector: Collector, metric: Metric, labels: tuple[str, ...], values: list[int]) -> None:
    named = {name: _escaped(value) for name, value in zip(metric.labels, labels, strict=True)}
    if metric.kind is Kind.HISTOGRAM:
        collector.set_value(named, _buckets(metric, values))
    else:
        collector.set_value(named, _scaled(values[0], metric.scale))


def _buckets(metric: Metric, values: list[int]) -> Buckets:
    """A histogram of the formatter's with our counts; they are cumulative there."""
    *counts, total = values
    filled = Buckets(*metric.buckets, _INFINITY)
    filled.buckets.update(zip(filled.buckets, accumulate(counts), strict=True))
    filled.observations = sum(counts)
    filled.sum = _scaled(total, metric.scale)
    return filled


def _scaled(value: int, scale: int) -> float:
    return value if scale == 1 else value / scale


def _escaped(label: str) -> str:
    """A label's value as the text format wants it; the formatter does not see to that."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
