"""Callers who come with a JSON Web Token of a sign-in provider instead of a key.

A token decides who calls; what the user may do stands in the store, except for what the operator
lets tokens decide: the admin scope, mapped roles, and membership of teams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from services.admin.api.access import Role, role_of
from services.admin.api.auth import Caller
from shared.config.jwt_schema import JwtSettings
from shared.db.callers import LoadedUser, load_user
from shared.db.jwt_users import usable_teams
from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import Principal, VirtualKey
from shared.keys.bearers import Verifier
from shared.keys.jwt_claims import Identity, identity_of
from shared.keys.jwt_users import user_of

if TYPE_CHECKING:
    from services.admin.api.deps import AdminServices

_MEMBER = "user"


@frozen
class JwtLogin:
    """Turns tokens into callers."""

    verifier: Verifier
    settings: JwtSettings

    async def close(self) -> None:
        """Ends what is under way."""
        await self.verifier.close()

    async def caller(
        self, token: str, services: AdminServices, source_ip: str | None = None
    ) -> Caller:
        """Whoever holds the token. Raises `AuthenticationFailed` for one that lets nobody in."""
        identity = identity_of(await self.verifier.verify(token), self.settings)
        user_id = await user_of(identity, self.settings, services.store, source_ip)
        user = None if user_id is None else await load_user(services.store, user_id)
        claimed = await usable_teams(services.store, identity.teams)
        if user is None and not identity.admin and not claimed:
            raise AuthenticationFailed("The user or team that the token names is not known here")
        key = VirtualKey(
            token=identity.name,
            user_id=user_id,
            team_id=claimed[0] if len(claimed) == 1 else None,
            organization_id=identity.organization_id,
            allowed_routes=self._routes(identity, user_id),
        )
        return Caller(
            Principal(key=key),
            _role(identity, user),
            {**dict.fromkeys(claimed, _MEMBER), **({} if user is None else user.teams)},
            {} if user is None else user.organizations,
            source_ip=source_ip,
        )

    def _routes(self, identity: Identity, user_id: str | None) -> tuple[str, ...]:
        if identity.admin:
            return self.settings.admin_allowed_routes
        return () if user_id is not None else self.settings.team_allowed_routes


def _role(identity: Identity, user: LoadedUser | None) -> Role:
    if identity.admin:
        return Role.PROXY_ADMIN
    if identity.role is not None:
        return Role(identity.role)
    if user is None:
        return Role.INTERNAL_USER_VIEWER
    return role_of(user.role)
