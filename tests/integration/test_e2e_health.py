"""Health, readiness, probes and metrics of real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from shared.domain.capabilities import Binary
from tests.support.fleet import Calls, Fleet, Member, until
from tests.support.prometheus_text import Exposition

pytestmark = pytest.mark.xdist_group("fleet")


@pytest.fixture(scope="module")
def fresh(fleet: Fleet) -> Iterator[Member]:
    """A worker whose metrics nobody else has moved, and which makes no probes."""
    with fleet.member("fresh", Binary.WORKER, DISABLE_HEALTH_CHECKS="true") as member:
        yield member


async def test_liveness(calls: Calls) -> None:
    """Every instance says that it is alive, under both names, to everybody."""
    for member in calls.fleet.members.values():
        for name in ("liveliness", "liveness"):
            answer = await calls.request("GET", f"{member.url}/health/{name}")
            assert (answer.status, answer.body) == (200, "I'm alive!")


async def test_readiness(calls: Calls) -> None:
    """Readiness says what the instance is, what it serves and how the database is."""
    held = {"worker": ["llm", "probes"], "admin": ["llm", "management", "ui", "probes"]}
    for member in calls.fleet.members.values():
        answer = await calls.request("GET", f"{member.url}/health/readiness")
        binary = member.name.partition("-")[0]
        assert answer.status == 200
        assert answer.body.pop("version")
        assert answer.body == {
            "status": "healthy",
            "db": "connected",
            "degraded": False,
            "binary": binary,
            "region": "north",
            "capabilities": held[binary],
        }


async def test_readiness_details(calls: Calls) -> None:
    """Details are for the master key alone, and name connections, feed and ledger."""
    url = f"{calls.fleet.workers[0].url}/health/readiness/details"
    assert (await calls.request("GET", url)).status == 401
    assert (await calls.request("GET", url, await calls.new_key())).status == 403
    answer = await calls.request("GET", url, calls.fleet.master_key)
    assert answer.status == 200
    body = answer.body
    assert body["connections"] == {"listen": True, "ask": True, "bulk": True}
    assert body["feed"]["applied"] == body["feed"]["head"] > 0
    assert body["feed"]["staleness_s"] < 2
    assert body["ledger"]["rows_rejected"] == 0
    assert set(body["off"]) == {"management", "ui"}


async def test_probe_of_the_callers_models(calls: Calls) -> None:
    """`/health` probes what the caller may use, by a small call that is in the ledger, and shows
    where upstreams are to the master only."""
    url = f"{calls.fleet.workers[0].url}/health"
    assert (await calls.request("GET", url)).status == 401
    key = await calls.new_key(models=["chat-one", "text-one", "embed-one"])
    answer = await calls.request("GET", url, key)
    assert answer.status == 200
    assert (answer.body["healthy_count"], answer.body["unhealthy_count"]) == (3, 0)
    assert {each["mode"] for each in answer.body["healthy_endpoints"]} == {
        *("chat", "completion", "embedding")
    }
    assert not any("api_base" in each for each in answer.body["healthy_endpoints"])
    received = {row["path"]: row["body"] for row in await calls.received()}
    assert len(received) == 3
    assert received["/v1/chat/completions"]["max_tokens"] == 16
    answer = await calls.request("GET", f"{url}?model=chat-one", calls.fleet.master_key)
    assert [each["api_base"] for each in answer.body["healthy_endpoints"]] == [
        f"{calls.fleet.upstream_url}/v1"
    ]


@pytest.mark.parametrize(
    ("knob", "healthy"), [("fine", True), ("status:500", False), ("html:502", False)]
)
async def test_probe_through_a_pattern(calls: Calls, knob: str, healthy: bool) -> None:
    """A model that only a pattern serves is probed under its own name; one that fails is
    unhealthy, with a 503 if it was asked for."""
    model = f"up/{knob}"
    key = await calls.new_key(models=[model])
    url = f"{calls.fleet.workers[0].url}/health"
    answer = await calls.request("GET", url, key)
    counts = (answer.body["healthy_count"], answer.body["unhealthy_count"])
    assert (answer.status, counts) == (200, (1, 0) if healthy else (0, 1)), answer
    answer = await calls.request("GET", url, key, params={"model": model})
    assert answer.status == (200 if healthy else 503)
    assert (await calls.stats())["by_model"] == {knob: 2}


async def test_no_probes(calls: Calls, fresh: Member) -> None:
    """Where probes are switched off, `/health` says so and no upstream is called."""
    answer = await calls.request("GET", f"{fresh.url}/health", calls.fleet.master_key)
    assert (answer.status, answer.body["status"]) == (200, "healthy")
    assert "DISABLE_HEALTH_CHECKS" in answer.body["probes"]
    assert (await calls.stats())["requests"] == 0


async def scraped(calls: Calls, member: Member) -> Exposition:
    """The instance's metrics, read strictly."""
    url = f"{member.url}/metrics"
    async with calls.session.get(
        url, headers={"authorization": f"Bearer {calls.fleet.master_key}"}
    ) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Exposition(await answer.read())


async def test_metrics_add_up(calls: Calls, fresh: Member) -> None:
    """After a known number of calls every counter has their number, and spend is the ledger's."""
    key = await calls.new_key()
    limited = await calls.new_key(rpm_limit=1)
    assert (await calls.chat(calls.fleet.workers[0], limited, "up/any")).status == 200
    for number in range(8):
        text = f"[[usage:{number + 1},3]]"
        answer = await calls.chat(fresh, key, "up/metered", text, stream=number % 2 == 0)
        assert answer.status == 200
    for _ in range(2):
        assert (await calls.chat(fresh, key, "up/metered", "[[status:500]]")).status == 500
    assert (await calls.chat(fresh, key, "no-such-model")).status == 400
    assert (await calls.chat(fresh, "sk-no-such-key", "up/metered")).status == 401
    assert (await calls.chat(fresh, limited, "up/metered")).status == 429
    rows = await calls.ledger(10, "metered")
    tokens_in, tokens_out = sum(range(1, 9)), 8 * 3

    metrics = await scraped(calls, fresh)
    requests = "litellm_proxy_total_requests_metric_total"
    by_status = {
        status: metrics.total(requests, status_code=status)
        for status in ("200", "500", "400", "401", "429")
    }
    assert by_status == {"200": 8, "500": 2, "400": 1, "401": 1, "429": 1}
    assert metrics.total(requests) == 13
    assert metrics.total(requests, route="/v1/chat/completions", region="north") == 13
    assert metrics.total("litellm_proxy_failed_requests_metric_total") == 5
    assert metrics.total("litellm_deployment_total_requests_total") == 10
    assert metrics.total("litellm_deployment_success_responses_total") == 8
    assert metrics.total("litellm_deployment_failure_responses_total") == 2
    assert metrics.total("litellm_input_tokens_metric_total") == tokens_in
    assert metrics.total("litellm_output_tokens_metric_total") == tokens_out
    assert metrics.total("litellm_total_tokens_metric_total") == tokens_in + tokens_out
    spend = Decimal(str(metrics.total("litellm_spend_metric_total")))
    assert round(spend, 10) == sum(row["cost"] for row in rows) > 0
    for name in ("litellm_request_total_latency_metric", "litellm_overhead_latency_metric"):
        assert metrics.total(f"{name}_count") == 10
    assert metrics.total("litellm_llm_api_time_to_first_token_metric_count") == 4
    assert metrics.total("litellm_in_flight_requests") == 0
    assert metrics.total("meridian_ledger_rows_posted_total") == 10
    assert metrics.total("meridian_ledger_rows_rejected_total") == 0
    assert metrics.total("meridian_journal_pending_bytes") == 0
    for role in ("listen", "ask", "bulk"):
        assert metrics.value("meridian_database_up", role=role) == 1
    lookups = "meridian_key_cache_lookups_total"
    assert metrics.total(lookups, result="miss") == 3
    assert metrics.total(lookups, result="hit") == 10
    assert metrics.total("meridian_leases_asked_total", dimension="requests") == 1
    assert metrics.total("meridian_leases_refused_total", dimension="requests") == 1
    models = metrics.label_sets("litellm_spend_metric_total")
    assert all(key[:10] not in str(labels) for labels in models)


async def test_metrics_want_a_key(calls: Calls, fresh: Member) -> None:
    """Metrics are for whoever has a valid key."""
    url = f"{fresh.url}/metrics"
    assert (await calls.request("GET", url)).status == 401
    assert (await calls.request("GET", url, "sk-no-such-key")).status == 401
    assert (await calls.request("GET", url, await calls.new_key())).status == 200


async def test_in_flight_is_seen(calls: Calls, fresh: Member) -> None:
    """Calls that run show in the gauge, and leave it when their client has gone."""
    key = await calls.new_key()
    running = [asyncio.create_task(calls.chat(fresh, key, "up/hang")) for _ in range(3)]

    async def gauge_is(count: int) -> bool:
        metrics = await scraped(calls, fresh)
        return metrics.total("litellm_in_flight_requests") == count

    await until(lambda: gauge_is(3), what="the gauge to show the calls")
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await until(lambda: gauge_is(0), what="the gauge to forget the calls")
