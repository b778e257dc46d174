"""Problem details (RFC 9457), the errors of `/management/v1`."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from services.admin.api.respond import answer
from shared.domain.errors import GatewayError

_TYPES = "urn:problem-type:"


class Problem(GatewayError):
    """A problem of a type of its own. `allowed` are the words that would have been right."""

    def __init__(
        self, status: int, kind: str, detail: str, allowed: Sequence[str] | None = None
    ) -> None:
        super().__init__(detail, status=status)
        self.kind = kind
        self.allowed = allowed


def problem(error: GatewayError) -> web.Response:
    """Any error as a problem."""
    kind, allowed = (error.kind, error.allowed) if isinstance(error, Problem) else (None, None)
    title = HTTPStatus(error.status).phrase
    body: dict[str, Any] = {
        "type": _TYPES + (kind or title.lower().replace(" ", "-")),
        "title": title,
        "status": error.status,
        "detail": error.message,
    }
    if allowed is not None:
        body["allowed"] = list(allowed)
    response = answer(body, error.status)
    response.content_type = "application/problem+json"
    for name, value in error.headers:
        response.headers[name] = value
    return response
