"""Who calls the management API, and whether the call may reach its handler.

Keys are read from the database for every call, so what was changed a moment ago holds already.
The phases are those of the contract (§2.4, §3.0): the key itself (401), its `allowed_routes`
(403 `{"detail"}`), the role gate (401); the handler's own role check (403) comes after.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from attrs import frozen

from services.admin.api.refusals import Detail
from shared.db.keys import LOAD_PRINCIPALS, decode_principals
from shared.domain.errors import AuthenticationFailed, PermissionDenied, StoreUnavailable
from shared.domain.keys import KEY_PREFIX, MASTER_KEY_NAME, Principal, VirtualKey, hash_key
from shared.keys.presented import presented_key
from shared.keys.principal import Owners, build_principal, check_usable, unknown_key
from shared.keys.routes import names_route

if TYPE_CHECKING:
    from aiohttp import web

    from services.admin.api.deps import AdminServices

MASTER_USER_ID = "default_user_id"

_MASTER = Principal(key=VirtualKey(token=MASTER_KEY_NAME, user_id=MASTER_USER_ID), master=True)
_LONGEST_NAME = 512


@frozen
class Caller:
    """An authenticated caller. Only the master key administers as long as users have no roles."""

    principal: Principal
    changed_by: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self.principal.master

    @property
    def token(self) -> str:
        """The stored form of the caller's key; for the master key its name."""
        return self.principal.key.token

    @property
    def user_id(self) -> str | None:
        """Who owns the caller's key."""
        return self.principal.key.user_id

    @property
    def actor(self) -> str:
        """Whom a change is attributed to."""
        return self.changed_by or self.user_id or self.token

    def require_admin(self) -> None:
        """Raises `PermissionDenied` for anyone else: what handlers that change things ask first."""
        if not self.is_admin:
            raise PermissionDenied("This key may not do this; only the proxy admin may")


async def authenticate(request: web.Request, services: AdminServices) -> Caller:
    """The caller, by the key that the request presents."""
    changed_by = _changed_by(request)
    if services.master_token is None:
        return Caller(_MASTER, changed_by)
    plain = presented_key(request.headers, services.key_header)
    token = hash_key(plain)
    if hmac.compare_digest(token, services.master_token):
        return Caller(_MASTER, changed_by)
    if not plain.startswith(KEY_PREFIX):
        raise AuthenticationFailed(f"A virtual key begins with '{KEY_PREFIX}'")
    return Caller(await _principal(token, services), changed_by)


def admit(caller: Caller, path: str, groups: frozenset[str], *, open_to_all: bool) -> None:
    """The gate in front of a handler. `groups` are the names of route groups that `path` is in;
    `open_to_all` routes let every valid key in and scope what they show."""
    if caller.is_admin:
        return
    allowed = caller.principal.key.allowed_routes
    if allowed and not names_route(allowed, path, groups):
        raise Detail(403, f"This key is not allowed to call {path}: see its allowed_routes")
    if not open_to_all and not allowed:
        raise AuthenticationFailed(f"Only the proxy admin may call {path}")


async def _principal(token: str, services: AdminServices) -> Principal:
    data = await services.store.fetchval(LOAD_PRINCIPALS, [token])
    loaded = decode_principals(data)
    if token in loaded.unreadable:
        raise StoreUnavailable("The row of this key cannot be read")
    if not loaded.keys:
        raise unknown_key()
    key = loaded.keys[0].key
    principal = build_principal(
        Owners(
            key,
            user=loaded.users.get(key.user_id or ""),
            team=loaded.teams.get(key.team_id or ""),
            budget=loaded.budgets.get(key.budget_id or ""),
        )
    )
    check_usable(principal, services.clock.now())
    return principal


def _changed_by(request: web.Request) -> str | None:
    name = request.headers.get("litellm-changed-by", "")[:_LONGEST_NAME]
    return name.encode("utf-8", "replace").decode() or None
