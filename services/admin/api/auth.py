"""Who calls the management API, and whether the call may reach its handler.

Callers are read from the database for every call, so what was changed a moment ago holds already.
The phases are those of the contract (§2.4, §3.0): the key itself (401), its `allowed_routes`
(403 `{"detail"}`), the role gate (401, a viewer's 403); the handler's check of the object (403)
comes after.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from services.admin.api.access import Access, Relation, Role, role_of
from services.admin.api.refusals import Detail
from shared.db.callers import LoadedCaller, load_caller
from shared.domain.errors import AuthenticationFailed, PermissionDenied, StoreUnavailable
from shared.domain.keys import (
    KEY_PREFIX,
    MASTER_KEY_NAME,
    MASTER_USER_ID,
    Principal,
    VirtualKey,
    hash_key,
)
from shared.keys.presented import LONGEST_KEY, LONGEST_TOKEN, is_token, presented_key
from shared.keys.principal import build_principal, check_usable, unknown_key
from shared.keys.routes import names_route
from shared.telemetry.redact import Redactor

if TYPE_CHECKING:
    from aiohttp import web

    from services.admin.api.deps import AdminServices

_MASTER = Principal(key=VirtualKey(token=MASTER_KEY_NAME, user_id=MASTER_USER_ID), master=True)
_LONGEST_NAME = 512
_TEAM_ADMIN, _ORG_ADMIN = "admin", "org_admin"


@frozen
class Caller:
    """An authenticated caller.

    `teams` and `organizations` hold the role that its user has in each. `changed_by` is whom the
    caller names as the author of its changes, `source_ip` the address of its connection.
    """

    principal: Principal
    role: Role = Role.INTERNAL_USER
    teams: Mapping[str, str] = {}
    organizations: Mapping[str, str] = {}
    changed_by: str | None = None
    source_ip: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether everything but what is the master key's own is allowed."""
        return self.role is Role.PROXY_ADMIN

    @property
    def sees_all(self) -> bool:
        """Whether everything may be read."""
        return self.role in {Role.PROXY_ADMIN, Role.PROXY_ADMIN_VIEWER}

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
        """Whom a change is attributed to: whom the caller names, else the caller."""
        return self.changed_by or self.identity

    @property
    def identity(self) -> str:
        """Who the caller is, whatever it says: its user, else its key."""
        return self.user_id or self.token

    @property
    def admin_teams(self) -> frozenset[str]:
        """The teams whose admin the caller is."""
        return frozenset(team for team, role in self.teams.items() if role == _TEAM_ADMIN)

    @property
    def admin_organizations(self) -> frozenset[str]:
        """The organizations whose admin the caller is."""
        return frozenset(org for org, role in self.organizations.items() if role == _ORG_ADMIN)

    def relations(
        self,
        *,
        user_id: str | None = None,
        token: str | None = None,
        team_id: str | None = None,
        organization_id: str | None = None,
    ) -> frozenset[Relation]:
        """What the caller is to an object with these owners."""
        found = set()
        if (user_id is not None and user_id == self.user_id) or token == self.token:
            found.add(Relation.OWNER)
        if team_id is not None and team_id in self.teams:
            found.add(Relation.TEAM_MEMBER)
            if team_id in self.admin_teams:
                found.add(Relation.TEAM_ADMIN)
        if organization_id in self.admin_organizations:
            found.add(Relation.ORG_ADMIN)
        return frozenset(found)

    def may_have(self, relations: frozenset[Relation]) -> bool:
        """Whether the caller is any of these to some object."""
        return (
            (Relation.OWNER in relations and not self.principal.master)
            or (Relation.TEAM_MEMBER in relations and bool(self.teams))
            or (Relation.TEAM_ADMIN in relations and bool(self.admin_teams))
            or (Relation.ORG_ADMIN in relations and bool(self.admin_organizations))
        )


async def authenticate(request: web.Request, services: AdminServices) -> Caller:
    """The caller, by the key that the request presents."""
    changed_by, source_ip = _changed_by(request), request.remote
    master = Caller(_MASTER, Role.PROXY_ADMIN, changed_by=changed_by, source_ip=source_ip)
    if services.master_token is None:
        return master
    longest = LONGEST_KEY if services.jwt is None else LONGEST_TOKEN
    plain = presented_key(request.headers, services.key_header, longest=longest)
    token = hash_key(plain)
    if hmac.compare_digest(token, services.master_token):
        return master
    if services.jwt is not None and is_token(plain):
        caller = await services.jwt.caller(plain, services, source_ip)
        return evolve(caller, changed_by=changed_by)
    if not plain.startswith(KEY_PREFIX):
        raise AuthenticationFailed(f"A virtual key begins with '{KEY_PREFIX}'")
    loaded = await load_caller(services.store, token)
    principal = _principal(token, loaded, services)
    return Caller(
        principal,
        role_of(principal.user.user_role if principal.user is not None else None),
        loaded.teams,
        loaded.organizations,
        changed_by,
        source_ip,
    )


def admit(caller: Caller, method: str, path: str, groups: frozenset[str], allowed: Access) -> None:
    """The gate in front of a handler. `groups` are the names of route groups that `path` is in."""
    if caller.principal.master:
        return
    if allowed.master_only:
        raise AuthenticationFailed(f"Only the master key may call {path}")
    routes = caller.principal.key.allowed_routes
    if routes and not names_route(routes, path, groups):
        raise Detail(403, f"This key is not allowed to call {path}: see its allowed_routes")
    allowed = allowed.for_key(names_it=bool(routes))
    if caller.is_admin or caller.role in allowed.roles:
        return
    if caller.role is Role.PROXY_ADMIN_VIEWER:
        if method == "GET" or caller.may_have(allowed.relations - {Relation.OWNER}):
            return
        raise PermissionDenied(f"A proxy admin viewer may not call {path}")
    if not caller.may_have(allowed.relations):
        # A key that names the route passes the gate; that it may is another matter (§2.4 j).
        refusal = PermissionDenied if routes else AuthenticationFailed
        raise refusal(f"The role {caller.role} may not call {path}")


def _principal(token: str, loaded: LoadedCaller, services: AdminServices) -> Principal:
    principals = loaded.principals
    if token in principals.unreadable:
        raise StoreUnavailable("The row of this key cannot be read")
    if not principals.keys:
        raise unknown_key()
    key = principals.keys[0].key
    principal = build_principal(principals.owners_of(key))
    check_usable(principal, services.clock.now())
    return principal


def _changed_by(request: web.Request) -> str | None:
    name = request.headers.get("litellm-changed-by", "")[:_LONGEST_NAME]
    return Redactor().text(name.encode("utf-8", "replace").decode()) or None
