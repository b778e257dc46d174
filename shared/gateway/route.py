"""What the pipeline knows of the route that a request came in on."""

from __future__ import annotations

from attrs import frozen

from shared.domain.requests import EndpointKind


@frozen
class Route:
    """An LLM route. `name` is its canonical path, the label of metrics and ledger rows."""

    name: str
    kind: EndpointKind


CHAT = Route("/v1/chat/completions", EndpointKind.CHAT)
COMPLETIONS = Route("/v1/completions", EndpointKind.COMPLETION)
EMBEDDINGS = Route("/v1/embeddings", EndpointKind.EMBEDDING)
