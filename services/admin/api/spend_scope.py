"""Who sees whose spend.

Proxy admins and viewers see everything. Everybody else sees the calls of its own user, or of its
key where that has no user, and all calls of a team when it administers the team or the team's
organization and asks for it. A key with the permission `get_spend_routes` sees the global pages.
"""

from __future__ import annotations

from functools import wraps

from aiohttp import web
from attrs import evolve

from services.admin.api.calls import AdminCall, AdminHandler
from shared.db.rows import Queryable
from shared.db.spend_log import CallFilter
from shared.db.spend_names import key_permissions, keys_of_user, teams_of_organizations
from shared.db.spend_totals import Owner
from shared.domain.errors import AuthenticationFailed, PermissionDenied

_GLOBAL_PERMISSION = "get_spend_routes"


async def scoped(call: AdminCall, chosen: CallFilter) -> CallFilter:
    """The filter, narrowed to what the caller sees; asking for another user's calls is 403."""
    caller = call.caller
    if caller.sees_all or await administers(call, chosen.team_id):
        return chosen
    if chosen.user_id not in {None, caller.user_id}:
        raise PermissionDenied("This key may see only its own user's calls", param="user_id")
    if caller.user_id is not None:
        return evolve(chosen, user_id=caller.user_id)
    if chosen.token not in {None, caller.token}:
        raise PermissionDenied("This key may see only its own calls", param="api_key")
    return evolve(chosen, token=caller.token)


async def administers(call: AdminCall, team_id: str | None) -> bool:
    """Whether the caller is an admin of a team or of its organization."""
    if team_id is None:
        return False
    return team_id in call.caller.admin_teams or team_id in await teams_of_own(call)


async def teams_of_own(call: AdminCall) -> tuple[str, ...]:
    """The teams of the organizations that the caller administers."""
    organizations = sorted(call.caller.admin_organizations)
    if not organizations:
        return ()
    return await teams_of_organizations(call.services.store, organizations)


def own_owner(call: AdminCall) -> Owner | None:
    """Whose roll-ups the caller is confined to; `None` is everybody's."""
    caller = call.caller
    if caller.sees_all:
        return None
    return Owner("key", caller.token) if caller.user_id is None else Owner("user", caller.user_id)


async def own_keys(call: AdminCall) -> tuple[str, ...] | None:
    """The keys whose calls the caller may see in the roll-ups of others; `None` is all."""
    caller = call.caller
    if caller.sees_all:
        return None
    if caller.user_id is None:
        return (caller.token,)
    return await keys_of_user(call.services.store, caller.user_id)


def for_spend_readers(handler: AdminHandler) -> AdminHandler:
    """A handler that only those get to who may see what everybody spends."""

    @wraps(handler)
    async def gated(call: AdminCall) -> web.Response:
        if not call.caller.sees_all and not await _may_read(call.services.store, call):
            named = bool(call.caller.principal.key.allowed_routes)
            refusal = PermissionDenied if named else AuthenticationFailed
            raise refusal("Only a proxy admin or a key with get_spend_routes may see this")
        return await handler(call)

    return gated


async def _may_read(store: Queryable, call: AdminCall) -> bool:
    permissions = await key_permissions(store, call.caller.token)
    return permissions.get(_GLOBAL_PERMISSION) is True
