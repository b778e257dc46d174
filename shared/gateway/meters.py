"""What a call leaves behind in metrics and in the request log."""

from __future__ import annotations

from decimal import Decimal

from shared.domain.errors import UpstreamError
from shared.domain.ledger import CallStatus
from shared.domain.usage import Usage
from shared.gateway.call import Call
from shared.telemetry.metrics import Metrics
from shared.telemetry.request_log import RequestLog, RequestRecord

_KEY_DIGITS = 8


class Meters:
    """Counts and logs calls of one process."""

    __slots__ = ("_log", "_metrics")

    def __init__(self, metrics: Metrics, log: RequestLog) -> None:
        self._metrics = metrics
        self._log = log

    def attempt_failed(self, call: Call, error: UpstreamError) -> None:
        """One attempt at a deployment has failed; the call may go on."""
        assert call.deployment is not None
        series = self._metrics.attempts(call.group.label, call.deployment)
        series.failed(error.status, type(error).__name__)

    def attempt_succeeded(self, call: Call) -> None:
        """The deployment has begun to answer."""
        assert call.deployment is not None
        self._metrics.attempts(call.group.label, call.deployment).succeeded()

    def settled(self, call: Call, usage: Usage, cost: Decimal, now: float) -> None:
        """The call is over, whatever became of it."""
        total_s = now - call.started_s
        api_s = call.upstream_end_s - call.sent_s if call.upstream_end_s else None
        overhead_s = None if api_s is None else max(total_s - api_s, 0.0)
        ttft_s = call.first_byte_s - call.started_s if call.started_reply else None
        group = call.group.label if call.group is not None else ""
        series = self._metrics.calls(call.route.name, group, call.deployment)
        if call.opened:
            series.settled(call.http_status, usage, cost, total_s, api_s, ttft_s, overhead_s)
        else:
            series.answered(call.http_status)
        error = type(call.error).__name__ if call.error is not None else None
        if error is not None:
            series.failed(call.http_status, error)
        elif not cost and call.status is CallStatus.SUCCESS:
            series.zero_cost(_why_free(call, usage))
        self._log.add(_record(call, usage, cost, total_s, ttft_s, overhead_s, error))


def _why_free(call: Call, usage: Usage) -> str:
    if call.deployment is None or call.deployment.rates is None:
        return "no_price"
    return "no_usage" if usage.estimated else "free_model"


def _record(
    call: Call,
    usage: Usage,
    cost: Decimal,
    total_s: float,
    ttft_s: float | None,
    overhead_s: float | None,
    error: str | None,
) -> RequestRecord:
    deployment = call.deployment
    key = call.principal.key if call.principal is not None else None
    return RequestRecord(
        time=call.started_epoch_s,
        request_id=call.id_text,
        call_id=call.id_text,
        route=call.route.name,
        method=call.x.head.method,
        status=call.http_status,
        model_group=call.group.name if call.group is not None else None,
        model=deployment.upstream_model if deployment is not None else None,
        deployment=deployment.id if deployment is not None else None,
        provider=deployment.provider if deployment is not None else None,
        key=key.token[:_KEY_DIGITS] if key is not None else None,
        team=key.team_id if key is not None else None,
        stream=call.stream,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost=format(cost, "f") if cost else None,
        duration_ms=total_s * 1000,
        ttft_ms=None if ttft_s is None else ttft_s * 1000,
        overhead_ms=None if overhead_s is None else overhead_s * 1000,
        attempts=call.attempts,
        error=error,
        client_ip=call.x.head.peer or None,
    )
