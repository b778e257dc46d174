"""Plain handlers of the data plane: their caller, their JSON, their errors."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from shared.domain.errors import GatewayError
from shared.domain.keys import Principal, hash_key
from shared.gateway.authenticate import MASTER, usable
from shared.gateway.bearer import bearer_principal
from shared.keys.presented import is_token, presented_key

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer; `body` is anything that msgspec encodes."""
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def answered(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler with its `GatewayError`s as answers."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except GatewayError as error:
            return reply(error.body(), error.status, dict(error.headers))

    return handle


async def caller(request: web.Request, rt: Runtime) -> Principal:
    """Who asks; raises `AuthenticationFailed`, or `StoreUnavailable` when nobody can tell."""
    if rt.master_token is None:
        return MASTER
    plain = presented_key(request.headers, rt.key_header, longest=rt.longest_key)
    token = hash_key(plain)
    if hmac.compare_digest(token, rt.master_token):
        return MASTER
    if rt.bearers is not None and is_token(plain):
        return await bearer_principal(request.headers, plain, request.remote, rt)
    return usable(await rt.keys.find(token), rt)
