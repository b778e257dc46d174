"""Step 1: who is calling. A known key costs a hash and a look-up, and waits for nothing."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from shared.domain.errors import AuthenticationFailed, RouteDenied
from shared.domain.keys import KEY_PREFIX, MASTER_KEY_NAME, Principal, VirtualKey, hash_key
from shared.gateway.bearer import find_bearer, known_bearer
from shared.gateway.call import Call
from shared.keys.cache import MISSING
from shared.keys.presented import is_token, presented_key
from shared.keys.principal import check_usable, unknown_key
from shared.keys.routes import names_route

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

MASTER = Principal(key=VirtualKey(token=MASTER_KEY_NAME, key_name=MASTER_KEY_NAME), master=True)

# Groups of routes that a key's `allowed_routes` may name (management contract §2.1, §2.2).
_LLM_GROUPS = frozenset({"llm_api_routes", "llm_api_routes_without_mcp", "openai_routes"})


def authenticate(call: Call, rt: Runtime) -> bool:
    """Set the principal if the key is at hand; `False` when the database must be asked, or a signed
    token be checked."""
    if call.known is not None:
        call.principal = call.known
        return True
    if rt.master_token is None:
        call.principal = MASTER
        return True
    plain = presented_key(call.x.head.headers, rt.key_header, longest=rt.longest_key)
    token = hash_key(plain)
    if hmac.compare_digest(token, rt.master_token):
        call.principal = MASTER
        return True
    if not plain.startswith(KEY_PREFIX):
        if rt.bearers is not None and is_token(plain):
            if not known_bearer(call, token, rt.bearers):
                return False
            _take(call, call.principal, rt)
            return True
        raise AuthenticationFailed(f"A virtual key begins with `{KEY_PREFIX}`.")
    principal = rt.keys.get(token)
    if principal is MISSING:
        call.token = token
        return False
    _take(call, principal, rt)
    return True


async def find_principal(call: Call, rt: Runtime) -> None:
    """Look the key up in the database; check a token."""
    if call.token:
        _take(call, await rt.keys.find(call.token), rt)
    else:
        await find_bearer(call, rt)
        _take(call, call.principal, rt)


def _take(call: Call, principal: Principal | None, rt: Runtime) -> None:
    call.principal = principal = usable(principal, rt)
    allowed = principal.key.allowed_routes
    if allowed and not names_route(allowed, call.x.head.path, _LLM_GROUPS):
        raise RouteDenied("This key may not call this route; its `allowed_routes` do not name it.")


def usable(principal: Principal | None, rt: Runtime) -> Principal:
    """The principal, if there is one and it may be used now."""
    if principal is None:
        raise unknown_key()
    check_usable(principal, rt.clock.now())
    return principal
