"""Budgets, permissions, organizations, users, teams and what else has limits but keys."""

from __future__ import annotations

from typing import Any

from services.admin.api.common_fields import amount, budget_window, model_budget
from services.admin.api.team_logging import sealed
from services.admin.api.values import Loc, count
from services.admin.litellm_import.callbacks import open_callbacks
from services.admin.litellm_import.cleaning import Fields, LeftOut
from services.admin.litellm_import.kinds import (
    LIMIT_COLUMNS,
    LINKED_HOT,
    STAMP_COLUMNS,
    Circumstances,
    Kind,
    Reference,
    Taken,
    Unique,
    columns_of,
    limits,
    spent,
    stamps,
)
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceTable, linked_budget, model_aliases
from shared.keys.passwords import outdated

GLOBAL_BUDGET_USER = "litellm-proxy-budget"

_HOT = ("spend", "total_spend", "budget_reset_at", "updated_at")
_REGIONS = frozenset({"eu", "us"})
_PERMISSION_LISTS = (
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


def model_limits(value: Any, loc: Loc) -> Any:
    """What may be spent on one model: an object, or the amount alone."""
    return model_budget(value, loc) if isinstance(value, dict) else amount(value, loc)


def with_policies(fields: Fields, metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata with what the source has in a column of its own."""
    policies = fields.texts("policies")
    return {"policies": policies, **metadata} if policies else metadata


def _budget(fields: Fields, at: Circumstances) -> Taken:
    return Taken(
        {
            "budget_id": fields.id("budget_id"),
            **limits(fields),
            "model_max_budget": fields.entries("model_max_budget", model_limits),
            "allowed_models": fields.texts("allowed_models"),
            "temp_budget_increase": fields.money("temp_budget_increase"),
            "temp_budget_expiry": fields.moment("temp_budget_expiry"),
            **stamps(fields, at),
        }
    )


BUDGETS = Kind(
    name="budgets",
    kind="budget",
    source=SourceTable(
        "BudgetTable",
        ("budget_id",),
        columns_of(
            LIMIT_COLUMNS,
            ("model_max_budget", "allowed_models", "temp_budget_increase", "temp_budget_expiry"),
            ("created_at", "created_by", "updated_by"),
        ),
        ("updated_at",),
    ),
    target=ImportTable(
        "budget",
        ("budget_id",),
        columns_of(
            ("budget_id",),
            LIMIT_COLUMNS,
            ("model_max_budget", "allowed_models", "temp_budget_increase", "temp_budget_expiry"),
            STAMP_COLUMNS,
        ),
    ),
    read=_budget,
)


def _permission(fields: Fields, _at: Circumstances) -> Taken:
    return Taken(
        {
            "object_permission_id": fields.id("object_permission_id"),
            **{name: fields.texts(name) for name in _PERMISSION_LISTS},
            "mcp_tool_permissions": fields.document("mcp_tool_permissions", limits=True),
            "mcp_tool_search_enabled": fields.flag("mcp_tool_search_enabled", None),
        }
    )


PERMISSIONS = Kind(
    name="object permissions",
    kind="object_permission",
    source=SourceTable(
        "ObjectPermissionTable",
        ("object_permission_id",),
        (*_PERMISSION_LISTS, "mcp_tool_permissions", "mcp_tool_search_enabled"),
    ),
    target=ImportTable(
        "object_permission",
        ("object_permission_id",),
        ("object_permission_id", *_PERMISSION_LISTS, "mcp_tool_permissions",
         "mcp_tool_search_enabled"),
    ),
    read=_permission,
)  # fmt: skip

_BUDGET = Reference("budget_id", BUDGETS)
_PERMISSION = Reference("object_permission_id", PERMISSIONS)


def _organization(fields: Fields, at: Circumstances) -> Taken:
    organization_id = fields.id("organization_id")
    return Taken(
        {
            "organization_id": organization_id,
            "organization_alias": fields.words("organization_alias") or organization_id,
            "budget_id": fields.link("budget_id"),
            "models": fields.texts("models"),
            "metadata": fields.document("metadata", limits=True),
            "object_permission_id": fields.link("object_permission_id"),
            **stamps(fields, at),
        },
        spent(fields, "organization", organization_id, at),
    )


_ORGANIZATION_COLUMNS = (
    "organization_id",
    "organization_alias",
    "budget_id",
    "models",
    "metadata",
    "object_permission_id",
)
ORGANIZATIONS = Kind(
    name="organizations",
    kind="organization",
    source=SourceTable(
        "OrganizationTable",
        ("organization_id",),
        columns_of(_ORGANIZATION_COLUMNS[1:], ("created_at", "created_by", "updated_by")),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "organization", ("organization_id",), columns_of(_ORGANIZATION_COLUMNS, STAMP_COLUMNS)
    ),
    read=_organization,
    references=(_BUDGET, _PERMISSION),
    amounts="organization",
)


def _organization_member(fields: Fields, at: Circumstances) -> Taken:
    organization_id, user_id = fields.id("organization_id"), fields.id("user_id")
    made = stamps(fields, at)
    return Taken(
        {
            "organization_id": organization_id,
            "user_id": user_id,
            "user_role": fields.words("user_role"),
            "budget_id": fields.link("budget_id"),
            "created_at": made["created_at"],
            "updated_at": made["updated_at"],
        },
        spent(fields, "organization_member", f"{user_id}:{organization_id}", at),
    )


ORGANIZATION_MEMBERS = Kind(
    name="organization members",
    kind="organization_member",
    source=SourceTable(
        "OrganizationMembership",
        ("organization_id", "user_id"),
        ("user_role", "budget_id", "created_at"),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "organization_member",
        ("organization_id", "user_id"),
        ("organization_id", "user_id", "user_role", "budget_id", "created_at", "updated_at"),
    ),
    read=_organization_member,
    references=(_BUDGET, Reference("organization_id", ORGANIZATIONS)),
    amounts="organization_member",
)


def _user(fields: Fields, at: Circumstances) -> Taken:
    user_id = fields.id("user_id")
    if user_id == GLOBAL_BUDGET_USER:
        raise LeftOut("what the global budget has spent", spent(fields, "global", "", at))
    password = fields.row.get("password")
    if isinstance(password, str) and password and outdated(password):
        fields.note("password", "is hashed in a form that cannot be verified here: invite the user")
        password = None
    return Taken(
        {
            "user_id": user_id,
            "user_email": fields.words("user_email") or None,
            "user_alias": fields.words("user_alias"),
            "user_role": fields.words("user_role"),
            "sso_user_id": fields.words("sso_user_id") or None,
            "password_hash": password if isinstance(password, str) and password else None,
            "models": fields.texts("models"),
            "metadata": with_policies(fields, fields.document("metadata", limits=True)),
            **limits(fields),
            "budget_limits": fields.listing("budget_limits", budget_window),
            "model_max_budget": fields.entries("model_max_budget", model_limits),
            "allowed_cache_controls": fields.texts("allowed_cache_controls"),
            "object_permission_id": fields.link("object_permission_id"),
            **stamps(fields, at),
        },
        spent(fields, "user", user_id, at),
    )


_USER_COLUMNS = (
    "user_email",
    "user_alias",
    "user_role",
    "sso_user_id",
    "models",
    "metadata",
    *LIMIT_COLUMNS,
    "budget_limits",
    "model_max_budget",
    "allowed_cache_controls",
    "object_permission_id",
)
USERS = Kind(
    name="users",
    kind="user",
    source=SourceTable(
        "UserTable",
        ("user_id",),
        (*_USER_COLUMNS, "password", "policies", "created_at"),
        _HOT,
    ),
    target=ImportTable(
        "app_user", ("user_id",), ("user_id", *_USER_COLUMNS, "password_hash", *STAMP_COLUMNS)
    ),
    read=_user,
    references=(_PERMISSION,),
    unique=(Unique("user_email", folded=True), Unique("sso_user_id")),
    amounts="user",
)


def team_columns(fields: Fields, at: Circumstances) -> dict[str, Any]:
    """What stands of a team in its own row, live or archived."""
    team_id = fields.id("team_id")
    metadata = with_policies(fields, fields.document("metadata", limits=True))
    metadata, _ = open_callbacks(metadata, at.opener, fields)
    return {
        "team_id": team_id,
        "team_alias": fields.words("team_alias"),
        "organization_id": fields.link("organization_id"),
        "models": fields.texts("models"),
        "model_aliases": fields.names("model_aliases"),
        "metadata": sealed(metadata, team_id, at.sealer),
        "router_settings": fields.document("router_settings"),
        "blocked": fields.flag("blocked"),
        **limits(fields),
        "budget_limits": fields.listing("budget_limits", budget_window),
        "model_max_budget": fields.entries("model_max_budget", model_limits),
        "access_group_ids": fields.texts("access_group_ids"),
        "team_member_permissions": fields.texts("team_member_permissions"),
        "default_team_member_models": fields.texts("default_team_member_models"),
        "object_permission_id": fields.link("object_permission_id"),
        **stamps(fields, at),
    }


def _team(fields: Fields, at: Circumstances) -> Taken:
    columns = team_columns(fields, at)
    return Taken(columns, spent(fields, "team", columns["team_id"], at))


TEAM_COLUMNS = (
    "team_alias",
    "organization_id",
    "models",
    "metadata",
    "router_settings",
    "blocked",
    *LIMIT_COLUMNS,
    "budget_limits",
    "model_max_budget",
    "access_group_ids",
    "team_member_permissions",
    "default_team_member_models",
    "object_permission_id",
)
TEAMS = Kind(
    name="teams",
    kind="team",
    source=SourceTable(
        "TeamTable",
        ("team_id",),
        (*TEAM_COLUMNS, "policies", "created_at"),
        _HOT,
        model_aliases("TeamTable"),
    ),
    target=ImportTable(
        "team", ("team_id",), ("team_id", *TEAM_COLUMNS, "model_aliases", *STAMP_COLUMNS)
    ),
    read=_team,
    references=(_PERMISSION,),
    amounts="team",
)


def _project(fields: Fields, at: Circumstances) -> Taken:
    project_id = fields.id("project_id")
    per_model = {
        name: limit
        for name in ("model_rpm_limit", "model_tpm_limit")
        if (limit := fields.entries(name, count()))
    }
    return Taken(
        {
            "project_id": project_id,
            "project_alias": fields.words("project_alias"),
            "description": _prose(fields, "description"),
            "team_id": fields.link("team_id"),
            "models": fields.texts("models"),
            "metadata": {**fields.document("metadata", limits=True), **per_model},
            "blocked": fields.flag("blocked"),
            "budget_id": fields.link("budget_id"),
            "object_permission_id": fields.link("object_permission_id"),
            **stamps(fields, at),
        },
        spent(fields, "project", project_id, at),
    )


_PROJECT_COLUMNS = (
    "project_alias",
    "description",
    "team_id",
    "models",
    "metadata",
    "blocked",
    "budget_id",
    "object_permission_id",
)
PROJECTS = Kind(
    name="projects",
    kind="project",
    source=SourceTable(
        "ProjectTable",
        ("project_id",),
        columns_of(
            _PROJECT_COLUMNS,
            ("model_rpm_limit", "model_tpm_limit", "created_at", "created_by", "updated_by"),
        ),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "project", ("project_id",), ("project_id", *_PROJECT_COLUMNS, *STAMP_COLUMNS)
    ),
    read=_project,
    references=(_BUDGET, _PERMISSION),
    amounts="project",
)


def _tag(fields: Fields, at: Circumstances) -> Taken:
    name = fields.id("tag_name")
    made = stamps(fields, at)
    made.pop("updated_by")
    return Taken(
        {
            "name": name,
            "description": _prose(fields, "description"),
            "models": fields.texts("models"),
            "budget_id": fields.link("budget_id"),
            **made,
        },
        spent(fields, "tag", name, at),
    )


TAGS = Kind(
    name="tags",
    kind="tag",
    source=SourceTable(
        "TagTable",
        ("tag_name",),
        ("description", "models", "budget_id", "created_at", "created_by"),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "tag",
        ("name",),
        ("name", "description", "models", "budget_id", "created_at", "created_by", "updated_at"),
    ),
    read=_tag,
    references=(_BUDGET,),
    amounts="tag",
)


def _end_user(fields: Fields, at: Circumstances) -> Taken:
    end_user_id = fields.id("user_id")
    region = fields.words("allowed_model_region")
    if region is not None and region not in _REGIONS:
        fields.note("allowed_model_region", "is neither eu nor us: left empty")
        region = None
    made = stamps(fields, at)
    return Taken(
        {
            "end_user_id": end_user_id,
            "alias": fields.words("alias"),
            "blocked": fields.flag("blocked"),
            "budget_id": fields.link("budget_id"),
            "default_model": fields.words("default_model"),
            "allowed_model_region": region,
            "models": fields.texts("models"),
            "metadata": fields.document("metadata"),
            "object_permission_id": fields.link("object_permission_id"),
            "created_at": made["created_at"],
            "updated_at": made["updated_at"],
        },
        spent(fields, "end_user", end_user_id, at),
    )


_END_USER_COLUMNS = (
    "alias",
    "blocked",
    "budget_id",
    "default_model",
    "allowed_model_region",
    "models",
    "metadata",
    "object_permission_id",
)
END_USERS = Kind(
    name="end users",
    kind="end_user",
    source=SourceTable(
        "EndUserTable",
        ("user_id",),
        (*_END_USER_COLUMNS, "created_at"),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "end_user",
        ("end_user_id",),
        ("end_user_id", *_END_USER_COLUMNS, "created_at", "updated_at"),
    ),
    read=_end_user,
    references=(_BUDGET, _PERMISSION),
    amounts="end_user",
)

_GROUP_LISTS = (
    "access_model_names",
    "access_mcp_server_ids",
    "access_agent_ids",
    "access_skill_names",
    "assigned_team_ids",
    "assigned_key_ids",
)


def _access_group(fields: Fields, at: Circumstances) -> Taken:
    return Taken(
        {
            "access_group_id": fields.id("access_group_id"),
            "access_group_name": fields.id("access_group_name"),
            "description": _prose(fields, "description"),
            **{name: fields.texts(name) for name in _GROUP_LISTS},
            "mcp_tool_permissions": fields.document("mcp_tool_permissions", limits=True),
            **stamps(fields, at),
        }
    )


ACCESS_GROUPS = Kind(
    name="access groups",
    kind="access_group",
    source=SourceTable(
        "AccessGroupTable",
        ("access_group_id",),
        ("access_group_name", "description", *_GROUP_LISTS, "mcp_tool_permissions",
         "created_at", "created_by", "updated_by"),
        ("updated_at",),
    ),
    target=ImportTable(
        "access_group",
        ("access_group_id",),
        ("access_group_id", "access_group_name", "description", *_GROUP_LISTS,
         "mcp_tool_permissions", *STAMP_COLUMNS),
    ),
    read=_access_group,
    unique=(Unique("access_group_name", needed=True),),
)  # fmt: skip


def _model_access_group(fields: Fields, at: Circumstances) -> Taken:
    name = fields.id("access_group_name")
    return Taken(
        {"access_group": name, "budget_id": fields.link("budget_id"), **stamps(fields, at)},
        spent(fields, "model_access_group", name, at),
    )


MODEL_ACCESS_GROUPS = Kind(
    name="model access groups",
    kind="model_access_group",
    source=SourceTable(
        "ModelAccessGroupBudgetTable",
        ("access_group_name",),
        ("budget_id", "created_at", "created_by", "updated_by"),
        (*_HOT, *LINKED_HOT),
        linked_budget(),
    ),
    target=ImportTable(
        "model_access_group", ("access_group",), ("access_group", "budget_id", *STAMP_COLUMNS)
    ),
    read=_model_access_group,
    references=(_BUDGET,),
    amounts="model_access_group",
)


def _prose(fields: Fields, name: str) -> str | None:
    """A description, which may be long."""
    found = fields.row.get(name)
    if isinstance(found, str) and "\x00" not in found:
        return found
    return fields.words(name)
