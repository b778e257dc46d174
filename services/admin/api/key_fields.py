"""The fields of a key in request bodies (management contract §3.1.1, §4.7), as a table."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.body import Field, Place
from services.admin.api.common_fields import (
    amount,
    budget_duration,
    budget_window,
    duration,
    limit_type,
    model_budget,
    moment,
    names,
    object_permission,
    texts,
)
from services.admin.api.values import (
    MAX_PARALLEL,
    Loc,
    choice,
    count,
    document,
    flag,
    listing,
    mapping,
    money,
    reader,
    text,
)
from shared.domain.errors import InvalidRequest
from shared.limits.windows import parse_duration

KEY_TYPE_ROUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "llm_api": ("llm_api_routes",),
        "management": ("management_routes",),
        "read_only": ("info_routes",),
    }
)
_UNSAFE_ALIAS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@reader(**text.schema)
def _alias(value: Any, loc: Loc) -> str | None:
    alias = text(value, loc)
    if _UNSAFE_ALIAS.search(alias):
        raise InvalidRequest("key_alias must not hold control characters", param="key_alias")
    if ".." in re.split(r"[/\\]", alias):
        raise InvalidRequest("key_alias must not hold a '..' segment", param="key_alias")
    return alias or None


@reader(**text.schema, examples=["24h"])
def _grace(value: Any, loc: Loc) -> str:
    """How long a rotated key works on; an empty one is not at all, and so is none."""
    given = text(value, loc)
    if given not in {"", "0", "0s"}:
        parse_duration(given, param="grace_period")
    return given


_COLUMNS = (
    Field("key_alias", _alias),
    Field("models", texts, empty=()),
    Field("max_budget", money),
    Field("soft_budget", money),
    Field("budget_duration", budget_duration),
    Field("budget_limits", listing(budget_window)),
    Field("budget_id", text),
    Field("end_user_budget_id", text),
    Field("user_id", text),
    Field("team_id", text),
    Field("organization_id", text),
    Field("project_id", text),
    Field("agent_id", text),
    Field("max_parallel_requests", count(MAX_PARALLEL)),
    Field("tpm_limit", count()),
    Field("rpm_limit", count()),
    Field("tpd_limit", count()),
    Field("model_max_budget", mapping(model_budget), empty={}),
    Field("budget_fallbacks", mapping(texts), empty={}),
    Field("aliases", names, empty={}),
    Field("config", document, empty={}),
    Field("permissions", document, empty={}),
    Field("metadata", document, empty={}),
    Field("allowed_routes", texts, empty=()),
    Field("key_type", choice("default", *KEY_TYPE_ROUTES), empty="default"),
    Field("allowed_cache_controls", texts, empty=()),
    Field("access_group_ids", texts, empty=()),
    Field("auto_rotate", flag, empty=False),
    Field("rotation_interval", duration),
    Field("router_settings", document, empty={}),
    Field("blocked", flag),
    Field("throttle_on_budget_exceeded", flag),
)
_METADATA = (
    *(
        Field(name, mapping(count()), Place.METADATA)
        for name in (
            "model_rpm_limit",
            "model_tpm_limit",
            "model_itpm_limit",
            "model_otpm_limit",
            "mcp_rpm_limit",
            "tag_rpm_limit",
        )
    ),
    *(
        Field(name, texts, Place.METADATA)
        for name in (
            "tags",
            "guardrails",
            "policies",
            "prompts",
            "enforced_params",
            "allowed_passthrough_routes",
            "denied_passthrough_routes",
        )
    ),
    Field("rpm_limit_type", limit_type, Place.METADATA),
    Field("tpm_limit_type", limit_type, Place.METADATA),
    Field("disable_global_guardrails", flag, Place.METADATA),
    Field("team_member_key_duration", duration, Place.METADATA),
    Field("secret_manager_settings", document, Place.METADATA),
    Field("logging", listing(document), Place.METADATA),
    Field("allowed_vector_store_indexes", listing(document), Place.METADATA),
)
_CONTROLS = (
    Field("duration", duration, Place.CONTROL),
    Field("spend", money, Place.CONTROL),
    Field("object_permission", object_permission, Place.CONTROL),
    Field("send_invite_email", flag, Place.CONTROL),
)

GENERATE_FIELDS = (*_COLUMNS, *_METADATA, *_CONTROLS, Field("key", text, Place.CONTROL))
UPDATE_FIELDS = (
    *GENERATE_FIELDS,
    Field("temp_budget_increase", amount, Place.METADATA),
    Field("temp_budget_expiry", moment, Place.METADATA),
)
DELETE_FIELDS = (
    Field("keys", texts, Place.CONTROL),
    Field("key_aliases", texts, Place.CONTROL),
)
BLOCK_FIELDS = (Field("key", text, Place.CONTROL, required=True),)
V2_INFO_FIELDS = DELETE_FIELDS
RESET_FIELDS = (Field("reset_to", money, Place.CONTROL, required=True),)
ROTATION_FIELDS = (
    Field("key", text, Place.CONTROL),
    Field("new_key", text, Place.CONTROL),
    Field("grace_period", _grace, Place.CONTROL),
    Field("new_master_key", text, Place.CONTROL),
)
BULK_FIELDS = (Field("keys", listing(document), Place.CONTROL, required=True),)
BULK_ITEM_NAMES = frozenset(
    {"key", "budget_id", "max_budget", "team_id", "tags", "object_permission"}
)
TEAM_BULK_FIELDS = (
    Field("team_id", text, Place.CONTROL, required=True),
    Field("key_ids", texts, Place.CONTROL),
    Field("all_keys_in_team", flag, Place.CONTROL),
    Field("update_fields", document, Place.CONTROL, required=True),
)

METADATA_NAMES = tuple(field.name for field in _METADATA)


def empty_columns() -> dict[str, Any]:
    """Every column of a key with what it holds when nothing was said."""
    return {field.name: copy.copy(field.empty) for field in _COLUMNS}
