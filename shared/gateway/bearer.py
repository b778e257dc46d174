"""Callers who come with a signed token: who that is, and in which of its teams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.keys import Principal, hash_key
from shared.gateway.call import Call
from shared.keys.bearers import Bearer, Bearers, check_role
from shared.keys.cache import MISSING
from shared.keys.presented import presented_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.gateway.runtime import Runtime

_TEAM = "x-litellm-team-id"


def known_bearer(call: Call, token: str, bearers: Bearers) -> bool:
    """Set the principal if the token, given by its digest, is known; `False` when it must be
    checked or the database be asked."""
    bearer = bearers.get(token)
    if bearer is None:
        return False
    found = bearers.principals(bearer, _team(call.x.head.headers))
    if found is MISSING:
        return False
    _take(call, bearer, found)
    return True


async def find_bearer(call: Call, rt: Runtime) -> None:
    """Check the token that the call presents."""
    head = call.x.head
    plain = presented_key(head.headers, rt.key_header, longest=rt.longest_key)
    bearer, found = await _find(head.headers, plain, head.peer or None, rt)
    _take(call, bearer, found)


async def bearer_principal(
    headers: Mapping[str, str], plain: str, source_ip: str | None, rt: Runtime
) -> Principal:
    """Who comes with a token to a route without a model: in the first of its teams."""
    _, found = await _find(headers, plain, source_ip, rt)
    return found[0]


async def _find(
    headers: Mapping[str, str], plain: str, source_ip: str | None, rt: Runtime
) -> tuple[Bearer, tuple[Principal, ...]]:
    assert rt.bearers is not None
    bearer = await rt.bearers.find(hash_key(plain), plain, source_ip)
    return bearer, await rt.bearers.find_principals(bearer, _team(headers))


def _take(call: Call, bearer: Bearer, found: tuple[Principal, ...]) -> None:
    call.principal, *others = found
    call.others = tuple(others)
    call.end_user = bearer.identity.end_user_id
    check_role(bearer, call.principal)


def _team(headers: Mapping[str, str]) -> str | None:
    return headers.get(_TEAM) or None
