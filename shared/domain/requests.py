"""What crosses the seams of a request: the client's head, and the request sent upstream."""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen

from shared.domain.deployments import Timeouts

Headers = tuple[tuple[str, str], ...]
"""Header fields as (lower-case name, value) pairs, in wire order."""


class EndpointKind(StrEnum):
    """What a request asks a model for. The values are the `mode` of deployments."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@frozen
class Origin:
    """Where a connection goes. `scheme` is `http`, `https`, or `demo` for the built-in upstream."""

    scheme: str
    host: str
    port: int


@frozen
class UpstreamRequest:
    """A request ready for the wire.

    `head` is the request line and header lines, each ended by CRLF, without `content-length` and
    without the blank line; it holds credentials, hence no repr. `body` is whole.
    """

    origin: Origin
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)
    timeouts: Timeouts = Timeouts()
