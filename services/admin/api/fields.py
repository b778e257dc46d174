"""The fields of a key in request bodies (management contract §3.1.1, §4.7), as a table.

`read_fields` gives only the fields that were sent; an explicit null is a sent `None`. Fields that
no table knows are ignored, as the reference does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from attrs import frozen

from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.values import (
    MAX_PARALLEL,
    Loc,
    Reader,
    Wrong,
    choice,
    count,
    document,
    flag,
    instant,
    listing,
    mapping,
    money,
    text,
)
from shared.domain.errors import InvalidRequest
from shared.limits.windows import parse_budget_duration, parse_duration

KEY_TYPE_ROUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "llm_api": ("llm_api_routes",),
        "management": ("management_routes",),
        "read_only": ("info_routes",),
    }
)
_UNSAFE_ALIAS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PERIOD_NAMES = ("budget_duration", "time_period")


class Place(Enum):
    """Where a field's value goes."""

    COLUMN = "a column of the key"
    METADATA = "a member of its metadata"
    CONTROL = "steers the call"


@frozen
class Field:
    """A field of a body. `empty` is what null stores in a column that is never null."""

    name: str
    read: Reader
    place: Place = Place.COLUMN
    empty: Any = None


def _alias(value: Any, loc: Loc) -> str | None:
    alias = text(value, loc)
    if _UNSAFE_ALIAS.search(alias):
        raise InvalidRequest("key_alias must not hold control characters", param="key_alias")
    if ".." in re.split(r"[/\\]", alias):
        raise InvalidRequest("key_alias must not hold a '..' segment", param="key_alias")
    return alias or None


def _duration(value: Any, loc: Loc) -> str:
    duration = text(value, loc)
    if duration != "-1":
        parse_duration(duration, param=str(loc[-1]))
    return duration


def _budget_duration(value: Any, loc: Loc) -> str:
    duration = text(value, loc)
    parse_budget_duration(duration, param=".".join(map(str, loc[1:])))
    return duration


def _amount(value: Any, loc: Loc) -> float:
    return float(money(value, loc))


def _budget_window(value: Any, loc: Loc) -> dict[str, Any]:
    members = document(value, loc)
    for name in ("budget_duration", "max_budget"):
        if members.get(name) is None:
            raise Wrong("missing", (*loc, name), "Field required")
    members["budget_duration"] = _budget_duration(
        members["budget_duration"], (*loc, "budget_duration")
    )
    members["max_budget"] = _amount(members["max_budget"], (*loc, "max_budget"))
    return members


def _model_budget(value: Any, loc: Loc) -> dict[str, Any]:
    members = document(value, loc)
    for name in ("budget_limit", "max_budget"):
        if members.get(name) is not None:
            members[name] = _amount(members[name], (*loc, name))
    for name in _PERIOD_NAMES:
        if members.get(name) is not None:
            members[name] = _budget_duration(members[name], (*loc, name))
    for name in ("tpm_limit", "rpm_limit"):
        if members.get(name) is not None:
            members[name] = count()(members[name], (*loc, name))
    return members


def _moment(value: Any, loc: Loc) -> str:
    return instant(value, loc).isoformat()


_texts = listing(text)
_permission = mapping(text)
_limit_type = choice("guaranteed_throughput", "best_effort_throughput", "dynamic")

_OBJECT_PERMISSION_LISTS = (
    "mcp_servers",
    "mcp_access_groups",
    "mcp_toolsets",
    "blocked_tools",
    "vector_stores",
    "agents",
    "agent_access_groups",
    "models",
    "search_tools",
    "skills",
)


def _object_permission(value: Any, loc: Loc) -> dict[str, Any]:
    members = document(value, loc)
    readers: dict[str, Reader] = dict.fromkeys(_OBJECT_PERMISSION_LISTS, _texts)
    readers["mcp_tool_permissions"] = mapping(_texts)
    readers["mcp_tool_search_enabled"] = flag
    return {
        name: read(members[name], (*loc, name))
        for name, read in readers.items()
        if members.get(name) is not None
    }


_COLUMNS = (
    Field("key_alias", _alias),
    Field("models", _texts, empty=()),
    Field("max_budget", money),
    Field("soft_budget", money),
    Field("budget_duration", _budget_duration),
    Field("budget_limits", listing(_budget_window)),
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
    Field("model_max_budget", mapping(_model_budget), empty={}),
    Field("budget_fallbacks", mapping(_texts), empty={}),
    Field("aliases", _permission, empty={}),
    Field("config", document, empty={}),
    Field("permissions", document, empty={}),
    Field("metadata", document, empty={}),
    Field("allowed_routes", _texts, empty=()),
    Field("key_type", choice("default", *KEY_TYPE_ROUTES), empty="default"),
    Field("allowed_cache_controls", _texts, empty=()),
    Field("access_group_ids", _texts, empty=()),
    Field("auto_rotate", flag, empty=False),
    Field("rotation_interval", _duration),
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
        Field(name, _texts, Place.METADATA)
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
    Field("rpm_limit_type", _limit_type, Place.METADATA),
    Field("tpm_limit_type", _limit_type, Place.METADATA),
    Field("disable_global_guardrails", flag, Place.METADATA),
    Field("team_member_key_duration", _duration, Place.METADATA),
    Field("secret_manager_settings", document, Place.METADATA),
    Field("logging", listing(document), Place.METADATA),
    Field("allowed_vector_store_indexes", listing(document), Place.METADATA),
)
_CONTROLS = (
    Field("duration", _duration, Place.CONTROL),
    Field("spend", money, Place.CONTROL),
    Field("object_permission", _object_permission, Place.CONTROL),
    Field("send_invite_email", flag, Place.CONTROL),
)

GENERATE_FIELDS = (*_COLUMNS, *_METADATA, *_CONTROLS, Field("key", text, Place.CONTROL))
UPDATE_FIELDS = (
    *GENERATE_FIELDS,
    Field("temp_budget_increase", _amount, Place.METADATA),
    Field("temp_budget_expiry", _moment, Place.METADATA),
)
DELETE_FIELDS = (
    Field("keys", _texts, Place.CONTROL),
    Field("key_aliases", _texts, Place.CONTROL),
)
BLOCK_FIELDS = (Field("key", text, Place.CONTROL),)

METADATA_NAMES = tuple(field.name for field in _METADATA)


def empty_columns() -> dict[str, Any]:
    """Every column of a key with what it holds when nothing was said."""
    return {field.name: copy.copy(field.empty) for field in _COLUMNS}


def read_fields(body: Mapping[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    """The sent fields, clean. Raises `Unprocessable` with all of the wrong type, else
    `InvalidRequest` for the first that is out of range."""
    values: dict[str, Any] = {}
    issues: list[Issue] = []
    first: InvalidRequest | None = None
    for field in fields:
        if field.name not in body:
            continue
        sent = body[field.name]
        try:
            values[field.name] = None if sent is None else field.read(sent, ("body", field.name))
        except Wrong as wrong:
            issues.append(wrong.issue)
        except InvalidRequest as error:
            first = first or error
    if issues:
        raise Unprocessable(issues)
    if first is not None:
        raise first
    return values


def placed(values: Mapping[str, Any], fields: tuple[Field, ...], place: Place) -> dict[str, Any]:
    """Those of the values that go to one place."""
    names = {field.name for field in fields if field.place is place}
    return {name: value for name, value in values.items() if name in names}
