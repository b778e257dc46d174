"""What the reference calls the routes of ledger rows."""

from __future__ import annotations

from collections.abc import Mapping

# Canonical path → call type and endpoint.
_NAMES: Mapping[str, tuple[str, str]] = {
    "/v1/chat/completions": ("acompletion", "/chat/completions"),
    "/v1/completions": ("atext_completion", "/completions"),
    "/v1/embeddings": ("aembedding", "/embeddings"),
}


def call_type(route: str) -> str:
    """The `call_type` of a route's rows; a route that has none is its own."""
    return _NAMES[route][0] if route in _NAMES else route


def endpoint(route: str) -> str:
    """The endpoint that activity is broken down by."""
    return _NAMES[route][1] if route in _NAMES else route
