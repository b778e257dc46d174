"""Health probes: a minimal call to one deployment, through the pipeline like any other.

So a probe costs a ledger row and counts in the metrics, as what it costs is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shared.domain.deployments import Deployment
from shared.domain.requests import EndpointKind
from shared.gateway.authenticate import MASTER
from shared.gateway.drive import Drive
from shared.gateway.exchange import RequestHead
from shared.gateway.pipeline import serve
from shared.gateway.route import CHAT, COMPLETIONS, EMBEDDINGS, Route

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

_PROMPT = "test from litellm"
_MAX_TOKENS = 16
_TIMEOUT_S = 60.0
_ROUTES: dict[str, Route] = {
    EndpointKind.CHAT: CHAT,
    EndpointKind.COMPLETION: COMPLETIONS,
    EndpointKind.EMBEDDING: EMBEDDINGS,
}


class ProbeExchange:
    """An exchange without a socket: the answer is kept for the prober."""

    __slots__ = ("body", "data", "head", "on_drain", "on_gone", "status")

    def __init__(self, head: RequestHead, body: bytes) -> None:
        self.head = head
        self.body: bytes | None = body
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.status = 0
        self.data = b""

    async def read(self, limit: int, idle_s: float) -> bytes:
        """The body; it is always whole."""
        del limit, idle_s
        return self.body or b""

    def start(self, status: int, head: str, length: int | None) -> None:
        """Keep the status."""
        del head, length
        self.status = status

    def write(self, data: bytes) -> bool:
        """Keep the bytes."""
        self.data += data
        return True

    def end(self, data: bytes = b"") -> None:
        """Keep the last bytes."""
        self.data += data

    def abort(self) -> None:
        """Nothing to cut."""


async def probe(deployment: Deployment, rt: Runtime) -> tuple[int, bytes]:
    """Status and body of a minimal call to the deployment, without limits and retries."""
    route = _ROUTES.get(deployment.mode, CHAT)
    head = RequestHead(
        method="POST",
        path=route.name,
        headers={},
        peer="",
    )
    exchange = ProbeExchange(head, _body(_name(deployment, rt), route))
    done = rt.loop.create_future()

    def ended() -> None:
        if not done.done():
            done.set_result(None)

    drive = Drive(serve(exchange, route, rt, principal=MASTER), ended, rt.loop)
    drive.start()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await done
    except TimeoutError:
        drive.gone()
        return 504, b""
    except asyncio.CancelledError:
        drive.gone()
        raise
    return exchange.status, exchange.data


def _name(deployment: Deployment, rt: Runtime) -> str:
    """What the deployment alone answers to; of those behind a pattern, the name that it covered,
    since their ids are in no model list."""
    group = rt.catalog.resolve(deployment.model_group)
    by_pattern = group is not None and group.pattern is not None
    return deployment.model_group if by_pattern else deployment.id


def _body(model: str, route: Route) -> bytes:
    asked: dict[str, Any] = {"model": model, "num_retries": 0}
    match route.kind:
        case EndpointKind.CHAT:
            asked |= {
                "messages": [{"role": "user", "content": _PROMPT}],
                "max_tokens": _MAX_TOKENS,
            }
        case EndpointKind.COMPLETION:
            asked |= {"prompt": _PROMPT, "max_tokens": _MAX_TOKENS}
        case EndpointKind.EMBEDDING:
            asked |= {"input": [_PROMPT]}
    return msgspec.json.encode(asked)
