"""Letting JSON Web Tokens call the management API, where they are let in."""

from __future__ import annotations

from services.admin.api.access import Role
from services.admin.api.jwt_login import JwtLogin
from shared.config.jwt_schema import JwtSettings
from shared.domain.errors import ConfigError
from shared.keys.bearers import Verifier


def jwt_login(verifier: Verifier | None, jwt: JwtSettings) -> JwtLogin | None:
    """`None` where tokens are not let in. Raises `ConfigError` for roles that there are not."""
    if verifier is None:
        return None
    for _, role in jwt.jwt_litellm_role_map:
        if role not in set(Role):
            raise ConfigError(
                f"general_settings.litellm_jwtauth.jwt_litellm_role_map: no such litellm_role "
                f"`{role}`; there are {', '.join(Role)}"
            )
    return JwtLogin(verifier, jwt)
