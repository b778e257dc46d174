"""The gateway's response headers on LLM routes (management contract §8.1); empty ones are left out.

Heads are text of `name: value` lines, each ended by CRLF: what is the same for every reply of a
deployment is joined once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.domain.deployments import Deployment
from shared.domain.keys import VirtualKey
from shared.domain.requests import Headers
from shared.gateway.call import Call
from shared.gateway.reply import Reply

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# Upstream headers that describe a hop, or a body that is no longer there.
_HOP = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "set-cookie",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
    }
)
_LONGEST_VALUE = 4096


def head_of(headers: Headers) -> str:
    """Header pairs as lines."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def reply_head(call: Call, reply: Reply, rt: Runtime) -> str:
    """What goes out with a successful reply, besides its content type."""
    deployment, key = call.deployment, call.principal.key
    assert deployment is not None
    duration_ms = (rt.clock.mono() - call.started_s) * 1000
    overhead_ms = duration_ms - (call.first_byte_s - call.sent_s) * 1000
    if overhead_ms < 0:
        overhead_ms = 0.0
    head = (
        f"x-litellm-call-id: {call.id_text}\r\n"
        f"{rt.deployments.head(deployment, call.group.name)}"
        f"x-litellm-response-duration-ms: {duration_ms:.3f}\r\n"
        f"x-litellm-overhead-duration-ms: {overhead_ms:.3f}\r\n"
        f"x-litellm-attempted-retries: {call.attempts - 1}\r\n"
        f"x-litellm-max-retries: {call.max_retries}\r\n"
        "x-litellm-attempted-fallbacks: 0\r\n"
    )
    if call.cost is not None:
        head += f"x-litellm-response-cost: {call.cost:f}\r\n"
    if call.scopes:
        head += _limits_head(key)
        if call.reservation is not None:
            head += call.reservation.head()
    return head + _relayed_head(reply.headers)


def deployment_head(deployment: Deployment, group: str, identity: str) -> str:
    """The lines that are the same for every reply of a deployment in a group."""
    base = urlsplit(deployment.api_base)
    pairs = (
        ("x-litellm-model-id", deployment.id),
        ("x-litellm-model-name", f"{deployment.provider}/{deployment.upstream_model}"),
        ("x-litellm-model-api-base", f"{base.scheme}://{base.netloc}{base.path}"),
        ("x-litellm-model-region", deployment.region or ""),
        ("x-litellm-model-group", group),
    )
    return identity + head_of(
        tuple((name, safe) for name, value in pairs if (safe := _safe(value)))
    )


def _limits_head(key: VirtualKey) -> str:
    head = ""
    if key.tpm_limit is not None:
        head += f"x-litellm-key-tpm-limit: {key.tpm_limit}\r\n"
    if key.rpm_limit is not None:
        head += f"x-litellm-key-rpm-limit: {key.rpm_limit}\r\n"
    if key.max_budget is not None:
        # As it was given: the database pads it with zeros.
        head += f"x-litellm-key-max-budget: {key.max_budget.normalize():f}\r\n"
    return head


def _relayed_head(upstream: Headers) -> str:
    """The upstream's own headers under `llm_provider-`, its rate limits also as they are."""
    head = ""
    for name, value in upstream:
        if name in _HOP or len(value) > _LONGEST_VALUE or not value.isprintable():
            continue
        head += f"llm_provider-{name}: {value}\r\n"
        if name == "x-request-id" or name.startswith("x-ratelimit-"):
            head += f"{name}: {value}\r\n"
    return head


def _safe(value: str) -> str:
    """A value for a header; characters beyond printable Latin-1 become question marks."""
    text = value.encode("latin-1", "replace").decode("latin-1")
    return "".join(char if char.isprintable() else "?" for char in text)
