"""The seam between the gateway and what answers upstream: a pool of connections, or the demo."""

from __future__ import annotations

from typing import Protocol

from shared.domain.errors import UpstreamError
from shared.domain.requests import Headers, UpstreamRequest


class Sink(Protocol):
    """Takes one reply. Called from the loop: `on_head` once, `on_data` as body bytes arrive
    (transfer coding removed), then exactly one of `on_end` and `on_error`; nothing after
    `Flight.cancel`. A sink may call its flight's methods from within these calls."""

    def on_head(self, status: int, headers: Headers) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_error(self, error: UpstreamError) -> None: ...


class Flight(Protocol):
    """One request on its way. Plain calls; all are no-ops once the reply has ended."""

    def pause(self) -> None:
        """Stop reading from upstream: the client is slow. Idle time-outs stop with it."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def cancel(self) -> None:
        """Close the upstream connection now; the sink hears nothing more."""
        ...


class Upstream(Protocol):
    """Sends requests. `start` never raises for network faults: those reach the sink."""

    def start(self, request: UpstreamRequest, sink: Sink) -> Flight: ...

    async def close(self) -> None:
        """Close idle connections and cancel what still flies."""
        ...
