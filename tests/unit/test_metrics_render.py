"""The scrape: what a strict reader of the text format finds is what was counted."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.clock import Clock
from shared.domain.deployments import Deployment
from shared.domain.usage import Usage
from shared.telemetry import catalogue
from shared.telemetry.metrics import LoopLag, Metrics
from shared.telemetry.render import Exposition as Renderer
from tests.support.prometheus_text import Exposition

DEPLOYMENT = Deployment("d1", "chat", "openai", "gpt-4o", "https://upstream.test/v1")
MODEL = {
    "model": "gpt-4o",
    "requested_model": "chat",
    "model_id": "d1",
    "api_provider": "openai",
    "region": "eu",
}
LATENCY = {"model_group": "chat", **MODEL}
ROUTE = "/chat/completions"


@define(slots=True)
class SetClock(Clock):
    """A monotonic clock that stands still until it is moved."""

    at_s: float = 0.0

    def mono(self) -> float:
        return self.at_s


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    opened = Metrics.open(tmp_path, "eu", "9.9")
    yield opened
    opened.close()


async def scraped(metrics: Metrics) -> Exposition:
    body, _ = await Renderer(metrics.directory, Clock()).scrape()
    return Exposition(body)


async def test_settled_call(metrics: Metrics) -> None:
    """One call shows in requests, spend, tokens and four histograms with its exact numbers."""
    usage = Usage(1200, 300, cached_tokens=200, cache_write_tokens=100, reasoning_tokens=50)
    series = metrics.calls(ROUTE, "chat", DEPLOYMENT)
    series.settled(200, usage, Decimal("0.0042750001"), 1.5, 1.25, 0.3, 0.0004)
    found = await scraped(metrics)
    where = {"route": ROUTE, "requested_model": "chat", "model_id": "d1", "api_provider": "openai"}
    requests = {**where, "region": "eu", "status_code": "200"}
    assert found.value("litellm_proxy_total_requests_metric_total", **requests) == 1
    assert found.value("litellm_spend_metric_total", **MODEL) == 0.0042750001
    for name, tokens in {
        "litellm_total_tokens_metric_total": 1500,
        "litellm_input_tokens_metric_total": 1200,
        "litellm_output_tokens_metric_total": 300,
        "litellm_input_cached_tokens_metric_total": 200,
        "litellm_input_cache_creation_tokens_metric_total": 100,
        "litellm_output_reasoning_tokens_metric_total": 50,
    }.items():
        assert found.value(name, **MODEL) == tokens
    for name, seconds in {
        "litellm_request_total_latency_metric": 1.5,
        "litellm_llm_api_latency_metric": 1.25,
        "litellm_llm_api_time_to_first_token_metric": 0.3,
    }.items():
        assert found.value(f"{name}_sum", **LATENCY) == seconds
        assert found.value(f"{name}_count", **LATENCY) == 1
    assert found.total("litellm_overhead_latency_metric_sum") == 0.4


async def test_missing_times_are_not_observed(metrics: Metrics) -> None:
    """A call without an upstream's answer or a stream leaves those histograms alone."""
    metrics.calls(ROUTE, "chat", DEPLOYMENT).settled(504, Usage(), Decimal(0), 0.2)
    found = await scraped(metrics)
    assert found.value("litellm_request_total_latency_metric_count", **LATENCY) == 1
    assert found.value("litellm_llm_api_latency_metric_count", **LATENCY) == 0
    assert found.total("litellm_overhead_latency_metric_count") == 0
    assert found.value("litellm_spend_metric_total", **MODEL) == 0


async def test_failures_and_free_calls(metrics: Metrics) -> None:
    """Failures are counted by class and status, calls priced at nothing by their reason."""
    series = metrics.calls(ROUTE, "chat", DEPLOYMENT)
    series.failed(429, "RateLimited")
    series.failed(429, "RateLimited")
    series.zero_cost("no_price")
    unplanned = metrics.calls(ROUTE, "", None)
    unplanned.answered(401)
    unplanned.failed(401, "AuthenticationFailed")
    unplanned.answered(99999)
    found = await scraped(metrics)
    failed = "litellm_proxy_failed_requests_metric_total"
    assert found.total(failed, exception_class="RateLimited", exception_status="429") == 2
    assert found.total(failed, exception_class="AuthenticationFailed", requested_model="") == 1
    assert found.total("litellm_zero_cost_requests_total", reason="no_price") == 1
    assert found.total("litellm_proxy_total_requests_metric_total", status_code="401") == 1
    assert found.total("litellm_proxy_total_requests_metric_total", status_code="other") == 1


async def test_attempts(metrics: Metrics) -> None:
    """Attempts count by deployment, apart from requests."""
    attempts = metrics.attempts("chat", DEPLOYMENT)
    attempts.failed(504, "UpstreamTimeout")
    attempts.failed(504, "UpstreamTimeout")
    attempts.succeeded()
    found = await scraped(metrics)
    labels = {"litellm_model_name": "gpt-4o", "model_id": "d1", "requested_model": "chat"}
    assert found.total("litellm_deployment_total_requests_total", **labels) == 3
    assert found.total("litellm_deployment_success_responses_total", **labels) == 1
    failures = "litellm_deployment_failure_responses_total"
    assert found.total(failures, exception_class="UpstreamTimeout", exception_status="504") == 2


def test_series_are_kept(metrics: Metrics) -> None:
    """The same route, group and deployment give the same object; another one another."""
    assert metrics.calls(ROUTE, "chat", DEPLOYMENT) is metrics.calls(ROUTE, "chat", DEPLOYMENT)
    assert metrics.calls(ROUTE, "chat", DEPLOYMENT) is not metrics.calls(ROUTE, "chat", None)
    assert metrics.attempts("chat", DEPLOYMENT) is metrics.attempts("chat", DEPLOYMENT)


async def test_spend_does_not_overflow(metrics: Metrics) -> None:
    """An absurd cost fills the counter to its end and never makes settling fail."""
    series = metrics.calls(ROUTE, "chat", DEPLOYMENT)
    for _ in range(3):
        series.settled(200, Usage(), Decimal(800_000_000), 0.1)
    found = await scraped(metrics)
    assert found.value("litellm_spend_metric_total", **MODEL) == pytest.approx((2**63 - 1) / 10**10)


async def test_gauges_keep_fractions_and_signs(metrics: Metrics) -> None:
    """A gauge shows the value that was set, to its scale, and follows what is added."""
    metrics.gauge(catalogue.JOURNAL_AGE).set(1.234)
    metrics.in_flight.add(3)
    metrics.in_flight.add(-1)
    metrics.gauge(catalogue.DATABASE_UP, "ask").set(1)
    metrics.gauge(catalogue.DATABASE_UP, "ask").set(0)
    found = await scraped(metrics)
    assert found.value("meridian_journal_oldest_unposted_seconds") == 1.234
    assert found.value("litellm_in_flight_requests") == 2
    assert found.value("meridian_database_up", role="ask") == 0
    assert found.total("meridian_build_info", version="9.9", region="eu") == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 2000), min_size=1, max_size=40))
async def test_histograms_count_like_their_definition(seen: list[float]) -> None:
    """For any observations a bucket holds exactly those at or below its bound."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Metrics.open(Path(folder), "eu", "1")
        histogram = metrics.histogram(catalogue.TOTAL_LATENCY, *LATENCY.values())
        for value in seen:
            histogram.observe(value)
        found = await scraped(metrics)
        metrics.close()
    for bound, count in found.buckets("litellm_request_total_latency_metric", **LATENCY).items():
        assert count == sum(value <= float(bound) for value in seen)
    total = found.value("litellm_request_total_latency_metric_sum", **LATENCY)
    assert total == pytest.approx(sum(seen), abs=len(seen) * 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
async def test_any_label_value_survives(value: str) -> None:
    """Quotes, backslashes, line feeds and other scripts come out of the scrape as they went in."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Metrics.open(Path(folder), "eu", "1")
        metrics.counter(catalogue.KEY_CACHE_LOOKUPS, value).add(1)
        found = await scraped(metrics)
        metrics.close()
    assert found.label_sets("meridian_key_cache_lookups_total") == [{"result": value}]


async def test_types_helps_and_content_type(metrics: Metrics) -> None:
    """Every metric is told with its type and help, under the text format's content type."""
    metrics.calls(ROUTE, "chat", DEPLOYMENT).settled(200, Usage(1, 1), Decimal(1), 1.0)
    body, content_type = await Renderer(metrics.directory, Clock()).scrape()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    found = Exposition(body)
    known = {metric.exposed: metric for metric in catalogue.CATALOGUE}
    for name, kind in found.types.items():
        assert (kind, found.helps[name]) == (known[name].kind, known[name].help)
        for labels in found.label_sets(name):
            assert set(labels) == set(known[name].labels)


async def test_scrapes_within_a_second_are_one(metrics: Metrics) -> None:
    """A scrape soon after another, or at the same time, gets the same bytes; later a new one."""
    clock = SetClock()
    renderer = Renderer(metrics.directory, clock)
    rows = metrics.counter(catalogue.LEDGER_ROWS)
    rows.add(1)
    first, again = await asyncio.gather(renderer.scrape(), renderer.scrape())
    rows.add(1)
    clock.at_s = 0.9
    soon = await renderer.scrape()
    clock.at_s = 1.1
    later = await renderer.scrape()
    assert first[0] is again[0] is soon[0]
    rows_seen = [
        Exposition(body).value("meridian_ledger_rows_posted_total") for body, _ in (first, later)
    ]
    assert rows_seen == [1, 2]


async def test_loop_lag_is_seen(metrics: Metrics) -> None:
    """A blocked event loop shows as a timer that came late by as much; a stopped watch is quiet."""
    lag = LoopLag(metrics, interval_s=0.01)
    lag.start()
    blocked_until = time.monotonic() + 0.06
    while time.monotonic() < blocked_until:
        pass
    # The first turn of the loop finds the timer due, the second has run it.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lag.stop()
    found = await scraped(metrics)
    assert found.value("meridian_event_loop_lag_seconds_count") == 1
    assert 0.045 <= found.value("meridian_event_loop_lag_seconds_sum") < 5
    lag.stop()
