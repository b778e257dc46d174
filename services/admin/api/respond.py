"""Request bodies in, JSON answers and errors out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.admin.api.refusals import Issue, Unprocessable
from shared.domain.errors import GatewayError, InvalidRequest, RequestTooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger(__name__)

# Answers hold keys and who may do what: nothing in between is to keep them.
_HEADERS = (("cache-control", "no-store"),)


def answer(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers=dict(_HEADERS),
    )


def refused(error: GatewayError) -> web.Response:
    """An error in the shape of its kind."""
    response = answer(error.body(), error.status)
    for name, value in error.headers:
        response.headers[name] = value
    return response


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what handlers raise into answers. The server's own errors (no route, for one) pass,
    but for a method that a path does not have. Nothing of an unexpected error goes out."""
    try:
        return await handler(request)
    except GatewayError as error:
        return refused(error)
    except web.HTTPMethodNotAllowed as error:
        response = answer({"detail": "Method Not Allowed"}, error.status)
        response.headers["allow"] = error.headers["allow"]
        return response
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 - the last resort of every call; it logs and hides
        _log.exception("request_failed", method=request.method, path=request.path)
        return refused(GatewayError("Something went wrong here; the log of the gateway says what"))


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object that is the body, whatever its content type says.

    The application's `client_max_size` bounds it, after decompression too.
    """
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise RequestTooLarge("The body is larger than this instance accepts") from None
    except (HttpProcessingError, web.PayloadAccessError, web.RequestPayloadError):
        raise InvalidRequest("The body cannot be read: is its content-encoding right?") from None
    if not data:
        raise Unprocessable([Issue("missing", ("body",), "Field required")])
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unprocessable([Issue("json_invalid", ("body",), "JSON decode error")]) from None
    if not isinstance(body, dict):
        issue = Issue("dict_type", ("body",), "Input should be a valid dictionary")
        raise Unprocessable([issue])
    return body
