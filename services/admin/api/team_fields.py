"""The fields of a team and of its members in request bodies (management contract §3.3)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.body import Field, Place
from services.admin.api.common_fields import (
    budget_duration,
    budget_window,
    duration,
    limit_type,
    model_budget,
    names,
    object_permission,
    texts,
)
from services.admin.api.values import (
    MAX_PARALLEL,
    Loc,
    Wrong,
    choice,
    count,
    document,
    flag,
    instant,
    listing,
    mapping,
    members_of,
    money,
    one_of,
    reader,
    text,
)
from shared.domain.errors import InvalidRequest

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_MODELS = 10_000


@reader(**text.schema)
def identifier(value: Any, loc: Loc) -> str | None:
    """An id that may become one of the store's; an empty one counts as none."""
    given = text(value, loc)
    if _CONTROL_CHARACTERS.search(given):
        name = ".".join(map(str, loc[1:]))
        raise InvalidRequest(f"{name} must not hold control characters", param=name)
    return given or None


@reader(**text.schema, minLength=1)
def needed(value: Any, loc: Loc) -> str:
    """An id that must be there."""
    given = identifier(value, loc)
    if given is None:
        raise Wrong("missing", loc, "Field required")
    return given


@reader(**texts.schema, maxItems=_MOST_MODELS)
def models(value: Any, loc: Loc) -> list[str]:
    """Names of models, each once."""
    found = texts(value, loc)
    if len(found) > _MOST_MODELS:
        raise InvalidRequest(f"{loc[-1]} holds more than {_MOST_MODELS}", param=str(loc[-1]))
    return list(dict.fromkeys(found))


role = choice("admin", "user")


@reader(**members_of(user_id=identifier, user_email=identifier))
def member_name(value: Any, loc: Loc) -> dict[str, Any]:
    """Who is meant: an id or an email."""
    members = document(value, loc)
    found = {
        name: None if members.get(name) is None else identifier(members[name], (*loc, name))
        for name in ("user_id", "user_email")
    }
    if not any(found.values()):
        raise Wrong("value_error", loc, "Either user_id or user_email is needed")
    return found


@reader(**members_of("role", user_id=identifier, user_email=identifier, role=role))
def member(value: Any, loc: Loc) -> dict[str, Any]:
    """Somebody and the role in the team."""
    found = member_name(value, loc)
    if value.get("role") is None:
        raise Wrong("missing", (*loc, "role"), "Field required")
    return {**found, "role": role(value["role"], (*loc, "role"))}


@reader(**one_of(member, listing(member)))
def one_or_more_members(value: Any, loc: Loc) -> list[dict[str, Any]]:
    """One member or a list of them."""
    return listing(member)(value, loc) if isinstance(value, list) else [member(value, loc)]


_COLUMNS = (
    Field("team_alias", text),
    Field("organization_id", identifier),
    Field("models", models, empty=()),
    Field("max_budget", money),
    Field("soft_budget", money),
    Field("budget_duration", budget_duration),
    Field("budget_limits", listing(budget_window)),
    Field("model_max_budget", mapping(model_budget), empty={}),
    Field("tpm_limit", count()),
    Field("rpm_limit", count()),
    Field("tpd_limit", count()),
    Field("max_parallel_requests", count(MAX_PARALLEL)),
    Field("blocked", flag, empty=False),
    Field("model_aliases", names, empty={}),
    Field("metadata", document, empty={}),
    Field("router_settings", document, empty={}),
    Field("access_group_ids", texts, empty=()),
    Field("team_member_permissions", texts, empty=()),
    Field("default_team_member_models", models, empty=()),
)
_METADATA = (
    *(
        Field(name, mapping(count()), Place.METADATA)
        for name in ("model_rpm_limit", "model_tpm_limit", "mcp_rpm_limit", "tag_rpm_limit")
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
    Field("require_trace_id", flag, Place.METADATA),
    Field("team_member_key_duration", duration, Place.METADATA),
    Field("secret_manager_settings", document, Place.METADATA),
    Field("logging", listing(document), Place.METADATA),
    Field("allowed_vector_store_indexes", listing(document), Place.METADATA),
)

# What members without a budget of their own have: fields of a team, columns of a budget.
MEMBER_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "team_member_budget": "max_budget",
        "team_member_budget_duration": "budget_duration",
        "team_member_rpm_limit": "rpm_limit",
        "team_member_tpm_limit": "tpm_limit",
        "team_member_model_max_budget": "model_max_budget",
    }
)
_CONTROLS = (
    Field("object_permission", object_permission, Place.CONTROL),
    Field("team_member_budget", money, Place.CONTROL),
    Field("team_member_budget_duration", budget_duration, Place.CONTROL),
    Field("team_member_rpm_limit", count(), Place.CONTROL),
    Field("team_member_tpm_limit", count(), Place.CONTROL),
    Field("team_member_model_max_budget", mapping(model_budget), Place.CONTROL),
)
TEAM_FIELDS = (*_COLUMNS, *_METADATA, *_CONTROLS)
NEW_TEAM_FIELDS = (
    *TEAM_FIELDS,
    Field("team_id", identifier, Place.CONTROL),
    Field("members_with_roles", listing(member), Place.CONTROL),
    Field("admins", listing(needed), Place.CONTROL),
    Field("members", listing(needed), Place.CONTROL),
)
TEAM_NAME = (Field("team_id", needed, Place.CONTROL, required=True),)
DELETE_FIELDS = (Field("team_ids", texts, Place.CONTROL, required=True),)
MODELS_FIELDS = (*TEAM_NAME, Field("models", models, required=True))

# Limits of one member: fields of a body, columns of its budget.
MEMBER_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "max_budget_in_team": "max_budget",
        "tpm_limit": "tpm_limit",
        "rpm_limit": "rpm_limit",
        "budget_duration": "budget_duration",
        "allowed_models": "allowed_models",
        "model_max_budget": "model_max_budget",
        "temp_budget_increase": "temp_budget_increase",
        "temp_budget_expiry": "temp_budget_expiry",
    }
)
_LIMITS = (
    Field("max_budget_in_team", money),
    Field("budget_duration", budget_duration),
    Field("allowed_models", models),
    Field("tpm_limit", count()),
    Field("rpm_limit", count()),
)
MEMBER_ADD_FIELDS = (*TEAM_NAME, Field("member", one_or_more_members, required=True), *_LIMITS)
BULK_ADD_FIELDS = (
    *TEAM_NAME,
    Field("members", listing(member)),
    Field("all_users", flag),
    Field("max_budget_in_team", money),
)
MEMBER_NAME = (*TEAM_NAME, Field("user_id", identifier), Field("user_email", identifier))
MEMBER_UPDATE_FIELDS = (
    *MEMBER_NAME,
    *_LIMITS,
    Field("role", role),
    Field("model_max_budget", mapping(model_budget)),
    Field("temp_budget_increase", money),
    Field("temp_budget_expiry", instant),
)
PATCH_FIELDS = (Field("user_id", identifier), Field("user_email", identifier), *_LIMITS)

METADATA_NAMES = tuple(field.name for field in _METADATA)


def empty_columns() -> dict[str, Any]:
    """Every column of a team with what it holds when nothing was said."""
    return {field.name: copy.copy(field.empty) for field in _COLUMNS}
