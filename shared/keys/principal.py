"""From a key and its owners to a `Principal`: whose limits apply, and may it be used at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import Owners, Principal
from shared.keys.levels import (
    NO_POLICY,
    Case,
    Policy,
    next_expiry_s,
    scopes_of,
    varies_by_tag,
)
from shared.keys.model_limits import varies_by_model

__all__ = ["Owners", "build_principal", "check_usable", "unknown_key"]


def build_principal(owners: Owners, policy: Policy = NO_POLICY, now_s: float = 0.0) -> Principal:
    """The principal of a key as of `now_s` (epoch), with one scope for every limit that is set."""
    return Principal(
        key=owners.key,
        user=owners.user,
        team=owners.team,
        scopes=scopes_of(Case(owners, policy, now_s)),
        owners=owners,
        per_model=varies_by_model(owners),
        per_tag=varies_by_tag(owners),
        tags=_tags(owners),
        enforced_params=_enforced_params(owners, policy),
        until_s=next_expiry_s(owners, now_s),
    )


def unknown_key() -> AuthenticationFailed:
    """What a key that nobody has made, or that is gone, is answered with (contract §3.0)."""
    return AuthenticationFailed(
        "This key is not known. It may have been deleted or regenerated.",
        type="token_not_found_in_db",
        param="key",
    )


def check_usable(principal: Principal, now_s: float) -> None:
    """Raises `AuthenticationFailed` for a blocked or expired key and for a blocked team or project.

    To be called on every use, with seconds since the epoch on the database's clock: an expiry is
    no change that the feed would tell of. Types and params are those of contract §3.0.
    """
    key = principal.key
    if key.blocked:
        raise AuthenticationFailed("This key is blocked. An administrator can unblock it.")
    if key.expires is not None and key.expires.timestamp() <= now_s:
        raise AuthenticationFailed(
            f"This key expired at {key.expires.isoformat()}. Use a new key.",
            type="expired_key",
            param=key.key_name or "sk-...",
        )
    if principal.team is not None and principal.team.blocked:
        raise AuthenticationFailed(
            f"The team '{principal.team.team_id}' of this key is blocked. "
            "An administrator can unblock it."
        )
    project = principal.owners.project
    if project is not None and project.blocked:
        raise AuthenticationFailed(
            f"The project '{project.project_id}' of this key is blocked. "
            "An administrator can unblock it."
        )


def _tags(owners: Owners) -> tuple[str, ...]:
    """The tags of every call with the key: its own and its team's."""
    found = _texts(owners.key.metadata, "tags")
    if owners.team is not None:
        found += _texts(owners.team.metadata, "tags")
    return tuple(dict.fromkeys(found))


def _enforced_params(owners: Owners, policy: Policy) -> tuple[str, ...]:
    """What a body must have (contract §4.7): by everybody, by service accounts, by this key."""
    metadata = owners.key.metadata
    found = policy.enforced_params
    if metadata.get("service_account_id"):
        found += policy.service_params
    found += _texts(metadata, "enforced_params")
    return tuple(dict.fromkeys(found))


def _texts(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = metadata.get(name)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
