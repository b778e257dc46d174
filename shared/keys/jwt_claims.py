"""Who a token's claims say its holder is, by the operator's `litellm_jwtauth`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from attrs import frozen

from shared.config.jwt_schema import JwtSettings
from shared.domain.errors import AuthenticationFailed

_LONGEST = 512
_MOST_TEAMS = 200
_MOST_ROLES = 200


@frozen(kw_only=True)
class Identity:
    """The holder of a token. `role` is the one that its roles stand for, `None` where the map
    names none; `teams` are ids that need not exist."""

    name: str
    admin: bool = False
    role: str | None = None
    user_id: str | None = None
    email: str | None = None
    teams: tuple[str, ...] = ()
    organization_id: str | None = None
    end_user_id: str | None = None


def identity_of(claims: Mapping[str, Any], settings: JwtSettings) -> Identity:
    """Raises `AuthenticationFailed` for claims that let nobody in."""
    admin = settings.admin_jwt_scope in _scopes(claims)
    user_id = _text(claims, settings.user_id_jwt_field)
    email = _email(claims, settings)
    teams = _teams(claims, settings)
    if not admin:
        _check_allowed(claims, email, settings)
        if user_id is None and not teams:
            raise AuthenticationFailed("The token names neither a user nor a team")
    subject = user_id or _text(claims, "sub") or (teams[0] if teams else "token")
    return Identity(
        name=f"jwt:{subject}",
        admin=admin,
        role=_role(claims, settings),
        user_id=user_id,
        email=email,
        teams=teams,
        organization_id=_text(claims, settings.org_id_jwt_field),
        end_user_id=_text(claims, settings.end_user_id_jwt_field),
    )


def claim(claims: Mapping[str, Any], path: str | None) -> Any:
    """A claim by its name, else by the dotted path of a nested one; `None` where there is none."""
    if path is None:
        return None
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _check_allowed(claims: Mapping[str, Any], email: str | None, settings: JwtSettings) -> None:
    domain = settings.user_allowed_email_domain
    if domain is not None and (email or "").rpartition("@")[2].lower() != domain.lower():
        raise AuthenticationFailed("The token's e-mail address is not of an allowed domain")
    if settings.user_allowed_roles:
        roles = _texts(claims, settings.user_roles_jwt_field, _MOST_ROLES)
        if not set(roles) & set(settings.user_allowed_roles):
            raise AuthenticationFailed("The token has none of the roles that are let in")


def _role(claims: Mapping[str, Any], settings: JwtSettings) -> str | None:
    """What the first entry of the map that fits says."""
    roles = _texts(claims, settings.roles_jwt_field, _MOST_ROLES)
    for pattern, role in settings.jwt_litellm_role_map:
        if any(fnmatchcase(each, pattern) for each in roles):
            return role
    return None


def _teams(claims: Mapping[str, Any], settings: JwtSettings) -> tuple[str, ...]:
    single = _text(claims, settings.team_id_jwt_field)
    several = _texts(claims, settings.team_ids_jwt_field, _MOST_TEAMS)
    teams = dict.fromkeys(([] if single is None else [single]) + list(several))
    if not teams and settings.team_id_default is not None:
        return (settings.team_id_default,)
    return tuple(teams)


def _scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("scope")
    if isinstance(value, str):
        return tuple(value.split())
    return _list(value, _MOST_ROLES)


def _email(claims: Mapping[str, Any], settings: JwtSettings) -> str | None:
    """The address, unless the issuer says that it has not been verified."""
    email = _text(claims, settings.user_email_jwt_field)
    return None if claims.get("email_verified") is False else email


def _text(claims: Mapping[str, Any], path: str | None) -> str | None:
    """A claim that is an id; numbers are read as text, and what cannot be stored is refused."""
    value = claim(claims, path)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _storable(value):
        raise AuthenticationFailed(f"The token's claim {path} is not an id")
    return value


def _texts(claims: Mapping[str, Any], path: str | None, most: int) -> tuple[str, ...]:
    value = claim(claims, path)
    if isinstance(value, str):
        return (value,) if value and _storable(value) else ()
    return _list(value, most)


def _list(value: Any, most: int) -> tuple[str, ...]:
    """The texts of a list; what else stands in it names nothing here."""
    if not isinstance(value, list):
        return ()
    return tuple(each for each in value[:most] if isinstance(each, str) and _storable(each))


def _storable(text: str) -> bool:
    if len(text) > _LONGEST or "\x00" in text:
        return False
    # Half of a surrogate pair has no UTF-8.
    return text.encode("utf-8", "replace").decode() == text
