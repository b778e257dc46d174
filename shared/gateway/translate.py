"""Step 5: the client's body as the upstream wants it. Pure.

Client and upstream speak the same dialect, so the body is forwarded as received but for what must
change: the model name, the members that only the gateway reads, the operator's default
parameters, and the request for usage in a stream. Every value that stays keeps its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.domain.deployments import Deployment, Timeouts
from shared.domain.errors import InvalidRequest
from shared.domain.requests import UpstreamRequest
from shared.gateway.call import Call
from shared.gateway.envelope import RawBody, read_members
from shared.gateway.plan import Attempt

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime, Target

# Members that the gateway consumes (LLM contract §1.0); they mean nothing upstream.
GATEWAY_MEMBERS = frozenset(
    {
        "additional_drop_params",
        "allowed_openai_params",
        "cache",
        "cache_control_injection_points",
        "caching",
        "content_policy_fallbacks",
        "context_window_fallbacks",
        "disable_fallbacks",
        "drop_params",
        "fallbacks",
        "fastest_response",
        "guardrails",
        "include_fallback_errors",
        "litellm_metadata",
        "litellm_session_id",
        "litellm_trace_id",
        "metadata",
        "mock_response",
        "mock_tool_calls",
        "num_retries",
        "policies",
        "priority",
        "stream_timeout",
        "tags",
        "timeout",
    }
)
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')
_TRUE = msgspec.Raw(b"true")
_LONGEST_TIMEOUT_S = 86_400


def translate(call: Call, attempt: Attempt, rt: Runtime) -> UpstreamRequest:
    """The upstream's request for one attempt."""
    deployment = attempt.deployment
    target = rt.deployments.target(deployment, call.route.kind)
    members = read_members(call.body)
    _rewrite(members, call, deployment, target)
    return UpstreamRequest(
        target.origin, target.head, msgspec.json.encode(members), _timeouts(call, deployment)
    )


def _rewrite(members: RawBody, call: Call, deployment: Deployment, target: Target) -> None:
    for name in GATEWAY_MEMBERS & members.keys():
        del members[name]
    for name in deployment.drop_params:
        members.pop(name, None)
    for sent, understood in target.renamed:
        if sent in members and understood not in members:
            members[understood] = members.pop(sent)
    for name, value in deployment.defaults.items():
        if name not in members:
            members[name] = msgspec.Raw(msgspec.json.encode(value))
    members["model"] = msgspec.Raw(msgspec.json.encode(deployment.upstream_model))
    if call.stream and target.asks_usage and not call.envelope.wants_usage:
        members["stream_options"] = _with_usage(members.get("stream_options"))


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or bytes(options) == b"null":
        return _WITH_USAGE
    members = msgspec.json.decode(options, type=RawBody)
    members["include_usage"] = _TRUE
    return msgspec.Raw(msgspec.json.encode(members))


def _timeouts(call: Call, deployment: Deployment) -> Timeouts:
    """The deployment's time-outs, cut to what the request asks for (LLM contract §5)."""
    timeouts = deployment.timeouts
    asked = call.envelope.timeout or _asked_s(call, "x-litellm-timeout")
    if call.stream:
        timeouts = deployment.stream_timeouts or timeouts
        asked = call.envelope.stream_timeout or _asked_s(call, "x-litellm-stream-timeout") or asked
    if asked is None:
        return timeouts
    return Timeouts(
        connect_s=min(timeouts.connect_s, asked),
        first_byte_s=min(timeouts.first_byte_s, asked),
        idle_s=min(timeouts.idle_s, asked),
        total_s=timeouts.total_s if call.stream else min(timeouts.total_s, asked),
    )


def _asked_s(call: Call, header: str) -> float | None:
    """Seconds that a header asks for; `None` without one."""
    text = call.x.head.headers.get(header)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise InvalidRequest(f"`{header}` must be seconds above 0, a day at most.", param=header)
    return seconds
