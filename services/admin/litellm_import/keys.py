"""Virtual keys: live, deleted, and rotated ones in their grace period."""

from __future__ import annotations

import re
from typing import Any

from services.admin.api.common_fields import budget_window, texts
from services.admin.api.key_fields import KEY_TYPE_ROUTES
from services.admin.litellm_import.callbacks import open_callbacks, without_callbacks
from services.admin.litellm_import.cleaning import Fields, LeftOut, Refused, after
from services.admin.litellm_import.kinds import (
    LIMIT_COLUMNS,
    LINKED_HOT,
    STAMP_COLUMNS,
    Circumstances,
    Kind,
    Reference,
    Taken,
    Unique,
    limits,
    spent,
    stamps,
)
from services.admin.litellm_import.objects import (
    BUDGETS,
    PERMISSIONS,
    TEAM_COLUMNS,
    model_limits,
    team_columns,
    with_policies,
)
from shared.db.imports import ImportTable
from shared.db.key_list import UI_SESSION_TEAM
from shared.db.litellm_source import SourceTable, linked_budget, model_aliases

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEY_COLUMNS = (
    "key_name",
    "key_alias",
    "key_type",
    "user_id",
    "team_id",
    "organization_id",
    "project_id",
    "agent_id",
    "models",
    "aliases",
    "config",
    "permissions",
    "metadata",
    "router_settings",
    "expires",
    "blocked",
    *LIMIT_COLUMNS,
    "budget_limits",
    "budget_fallbacks",
    "model_max_budget",
    "throttle_on_budget_exceeded",
    "budget_id",
    "end_user_budget_id",
    "allowed_routes",
    "allowed_cache_controls",
    "access_group_ids",
    "object_permission_id",
    "auto_rotate",
    "rotation_interval",
    "rotation_count",
    "key_rotation_at",
    "last_rotation_at",
)
_HOT = ("spend", "total_spend", "budget_reset_at", "last_active", "updated_at")


def hashed(fields: Fields, name: str) -> str:
    """The stored form of a key."""
    found = fields.row.get(name)
    if not isinstance(found, str) or not _HASH.fullmatch(found):
        raise Refused(name, "is no SHA-256 in hex")
    return found


def short(token: Any) -> str:
    """What may be shown of a stored form; nothing of what might be a plain key."""
    plain = isinstance(token, str) and _HASH.fullmatch(token)
    return f"{token[:12]}…" if plain else "?"


def _columns(fields: Fields, at: Circumstances) -> dict[str, Any]:
    """What stands of a key in its own row, live or archived."""
    if fields.row.get("team_id") == UI_SESSION_TEAM:
        raise LeftOut("browser sessions of the old console")
    metadata = with_policies(fields, fields.document("metadata", limits=True))
    metadata, encrypted = open_callbacks(metadata, at.opener, fields)
    if encrypted:
        fields.note("metadata.logging", "had encrypted callback_vars: set them again here")
        metadata = without_callbacks(metadata)
    interval = fields.interval("rotation_interval")
    rotates = bool(fields.flag("auto_rotate"))
    if rotates and interval is None:
        fields.note("auto_rotate", "has no rotation_interval: switched off")
    key_type = fields.words("key_type") or "default"
    if key_type != "default" and key_type not in KEY_TYPE_ROUTES:
        raise Refused("key_type", "is none that there is")
    return {
        "token": hashed(fields, "token"),
        "key_name": fields.words("key_name"),
        "key_alias": fields.words("key_alias") or None,
        "key_type": key_type,
        **{name: fields.link(name) for name in _LINKS},
        "models": fields.texts("models"),
        "aliases": fields.names("aliases"),
        "config": fields.document("config"),
        "permissions": fields.document("permissions"),
        "metadata": metadata,
        "router_settings": fields.document("router_settings"),
        "expires": fields.moment("expires"),
        "blocked": fields.flag("blocked", None),
        **limits(fields),
        "budget_limits": fields.listing("budget_limits", budget_window),
        "budget_fallbacks": fields.entries("budget_fallbacks", texts),
        "model_max_budget": fields.entries("model_max_budget", model_limits),
        "throttle_on_budget_exceeded": fields.flag("throttle_on_budget_exceeded", None),
        "allowed_routes": fields.texts("allowed_routes"),
        "allowed_cache_controls": fields.texts("allowed_cache_controls"),
        "access_group_ids": fields.texts("access_group_ids"),
        "auto_rotate": rotates and interval is not None,
        "rotation_interval": interval,
        "rotation_count": fields.count("rotation_count", 2**31 - 1) or 0,
        "key_rotation_at": fields.moment("key_rotation_at"),
        "last_rotation_at": fields.moment("last_rotation_at"),
        **stamps(fields, at),
    }


_LINKS = (
    "user_id",
    "team_id",
    "organization_id",
    "project_id",
    "agent_id",
    "budget_id",
    "end_user_budget_id",
    "object_permission_id",
)


def _key(fields: Fields, at: Circumstances) -> Taken:
    columns = _columns(fields, at)
    last_active = fields.at("last_active", at.now) if fields.row.get("last_active") else None
    return Taken(columns, spent(fields, "key", columns["token"], at), last_active)


KEYS = Kind(
    name="keys",
    kind="key",
    source=SourceTable(
        "VerificationToken",
        ("token",),
        (*_KEY_COLUMNS, "policies", "created_at", "created_by", "updated_by"),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable("virtual_key", ("token",), ("token", *_KEY_COLUMNS, *STAMP_COLUMNS)),
    read=_key,
    references=(
        Reference("budget_id", BUDGETS),
        Reference("end_user_budget_id", BUDGETS),
        Reference("object_permission_id", PERMISSIONS),
    ),
    unique=(Unique("key_alias"),),
    amounts="key",
    label=lambda row: short(row.get("token")),
)


def _deprecated(fields: Fields, at: Circumstances) -> Taken:
    revoke_at = fields.moment("revoke_at")
    if revoke_at is None:
        raise Refused("revoke_at", "is no time")
    if not after(revoke_at, at.now):
        raise LeftOut("rotated keys whose grace period is over")
    return Taken(
        {
            "token": hashed(fields, "token"),
            "active_token": hashed(fields, "active_token_id"),
            "revoke_at": revoke_at,
            "created_at": fields.at("created_at", at.now),
        }
    )


DEPRECATED_KEYS = Kind(
    name="rotated keys",
    kind="deprecated_key",
    source=SourceTable(
        "DeprecatedVerificationToken", ("token",), ("active_token_id", "revoke_at", "created_at")
    ),
    target=ImportTable(
        "deprecated_virtual_key",
        ("token",),
        ("token", "active_token", "revoke_at", "created_at"),
    ),
    read=_deprecated,
    references=(Reference("active_token", KEYS),),
    label=lambda row: short(row.get("token")),
)

_DELETION = ("deleted_at", "deleted_by", "deleted_by_api_key", "litellm_changed_by")


def _deletion(fields: Fields, at: Circumstances) -> dict[str, Any]:
    return {
        "spend": fields.spend("spend"),
        "deleted_at": fields.at("deleted_at", at.now),
        "deleted_by": fields.words("deleted_by"),
        "deleted_by_api_key": fields.words("deleted_by_api_key"),
        "litellm_changed_by": fields.words("litellm_changed_by"),
    }


def _deleted_key(fields: Fields, at: Circumstances) -> Taken:
    last_active = fields.at("last_active", at.now) if fields.row.get("last_active") else None
    columns = {**_columns(fields, at), **_deletion(fields, at), "last_active": last_active}
    return Taken(columns, id=fields.id("id"))


DELETED_KEYS = Kind(
    name="deleted keys",
    kind="deleted_key",
    source=SourceTable(
        "DeletedVerificationToken",
        ("id",),
        ("token", *_KEY_COLUMNS, "policies", "created_at", "created_by", "updated_at",
         "updated_by", "spend", "last_active", *_DELETION),
    ),
    target=ImportTable(
        "deleted_virtual_key",
        (),
        ("token", *_KEY_COLUMNS, *STAMP_COLUMNS, "spend", "last_active", *_DELETION),
    ),
    read=_deleted_key,
    label=lambda row: short(row.get("token")),
)  # fmt: skip


def _deleted_team(fields: Fields, at: Circumstances) -> Taken:
    members = fields.objects("members_with_roles")
    columns = {**team_columns(fields, at), **_deletion(fields, at), "members": members}
    return Taken(columns, id=fields.id("id"))


DELETED_TEAMS = Kind(
    name="deleted teams",
    kind="deleted_team",
    source=SourceTable(
        "DeletedTeamTable",
        ("id",),
        ("team_id", *TEAM_COLUMNS, "policies", "members_with_roles", "created_at", "updated_at",
         "spend", *_DELETION),
        linked=model_aliases("DeletedTeamTable"),
    ),
    target=ImportTable(
        "deleted_team",
        (),
        ("team_id", *TEAM_COLUMNS, "model_aliases", *STAMP_COLUMNS, "spend",
         "members", *_DELETION),
    ),
    read=_deleted_team,
)  # fmt: skip
