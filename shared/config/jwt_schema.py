"""The names of `general_settings.litellm_jwtauth`: those in force, and those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from attrs import frozen
from msgspec import Meta

from shared.config.config_pending import Pending
from shared.config.config_schema import FLAG, SECONDS, TEXT, TEXTS, Key, Type

_Entries = list[dict[str, Annotated[str, Meta(min_length=1)]]]
_ROLES = Type("list of mappings", _Entries, "a list of mappings of texts")

JWT_AUTH: tuple[Key, ...] = (
    Key("user_id_jwt_field", TEXT, "Claim with the user's id; `a.b` is the member b of a."),
    Key("user_email_jwt_field", TEXT, "Claim with the user's e-mail address."),
    Key("user_id_upsert", FLAG, "Makes users who are not known yet.", default="false"),
    Key("user_allowed_email_domain", TEXT, "Users must have an e-mail address of this domain."),
    Key("team_id_jwt_field", TEXT, "Claim with the id of a team."),
    Key("team_ids_jwt_field", TEXT, "Claim with the ids of several teams."),
    Key("team_id_default", TEXT, "The team of tokens that name none."),
    Key("org_id_jwt_field", TEXT, "Claim with the id of an organization."),
    Key("end_user_id_jwt_field", TEXT, "Claim with the id of the end user."),
    Key(
        "admin_jwt_scope",
        TEXT,
        "Scope (claim `scope`) that makes its holder a proxy admin.",
        default="litellm_proxy_admin",
    ),
    Key(
        "admin_allowed_routes",
        TEXTS,
        "Routes, or groups of them, that holders of this scope may call.",
        default="all",
    ),
    Key(
        "team_allowed_routes",
        TEXTS,
        "Routes, or groups of them, that tokens of a team without a user may call.",
        default="openai_routes, info_routes",
    ),
    Key("roles_jwt_field", TEXT, "Claim with roles, for `jwt_litellm_role_map`."),
    Key(
        "jwt_litellm_role_map",
        _ROLES,
        "Entries of `jwt_role` (`*` matches any text) and the `litellm_role` that it stands for.",
    ),
    Key("user_roles_jwt_field", TEXT, "Claim with roles, for `user_allowed_roles`."),
    Key("user_allowed_roles", TEXTS, "Tokens must have one of these in `user_roles_jwt_field`."),
    Key("public_key_ttl", SECONDS, "How long fetched signing keys are good.", "s", "600"),
)

_WEAKER = (
    Pending("enforce_rbac", "refuse tokens without a mapped role", weakens=True),
    Pending("role_mappings", "map roles to users and teams", weakens=True),
    Pending("scope_mappings", "map scopes to models and routes", weakens=True),
    Pending("enforce_scope_based_access", "refuse tokens without a mapped scope", weakens=True),
    Pending("enforce_team_based_model_access", "refuse models of no team", weakens=True),
    Pending("custom_validate", "check tokens by code", weakens=True),
    Pending("issuers", "trust several issuers, each in its own way"),
)
PENDING_JWT: tuple[Pending, ...] = (
    *_WEAKER,
    *(
        Pending(name, effect)
        for name, effect in (
            ("object_id_jwt_field", "say whom a mapped role is about"),
            ("org_alias_jwt_field", "find organizations by their names"),
            ("oidc_userinfo_cache_ttl", "ask the provider for the user"),
            ("oidc_userinfo_enabled", "ask the provider for the user"),
            ("oidc_userinfo_endpoint", "ask the provider for the user"),
            ("public_allowed_routes", "let tokens call public routes; everybody may"),
            ("routing_overrides", "treat tokens differently by route"),
            ("sync_user_role_and_teams", "store roles and teams of tokens"),
            ("team_alias_jwt_field", "find teams by their names"),
            ("team_claim_fallback", "try other claims for the team"),
            ("team_id_upsert", "make teams that are not known yet"),
            ("upsert_sso_user_to_team", "store memberships of tokens"),
            ("virtual_key_claim_field", "use the virtual key that a claim names"),
            ("virtual_key_mapping_cache_ttl", "use the virtual key that a claim names"),
        )
    ),
)


@frozen(kw_only=True)
class JwtSettings:
    """`litellm_jwtauth`, the part in force. Claims are dotted paths, times seconds."""

    user_id_jwt_field: str | None = None
    user_email_jwt_field: str | None = None
    user_id_upsert: bool = False
    user_allowed_email_domain: str | None = None
    team_id_jwt_field: str | None = None
    team_ids_jwt_field: str | None = None
    team_id_default: str | None = None
    org_id_jwt_field: str | None = None
    end_user_id_jwt_field: str | None = None
    admin_jwt_scope: str = "litellm_proxy_admin"
    admin_allowed_routes: tuple[str, ...] = ()
    team_allowed_routes: tuple[str, ...] = ("openai_routes", "info_routes")
    roles_jwt_field: str | None = None
    jwt_litellm_role_map: tuple[tuple[str, str], ...] = ()
    user_roles_jwt_field: str | None = None
    user_allowed_roles: tuple[str, ...] = ()
    public_key_ttl: float = 600.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> JwtSettings:
        """From checked members. Raises `KeyError` with the name that an entry of the role map
        lacks."""
        plain = dict(values)
        for name in ("admin_allowed_routes", "team_allowed_routes", "user_allowed_roles"):
            if name in plain:
                plain[name] = tuple(plain[name])
        plain["jwt_litellm_role_map"] = tuple(
            (entry["jwt_role"], entry["litellm_role"])
            for entry in plain.get("jwt_litellm_role_map", ())
        )
        return cls(**plain)
