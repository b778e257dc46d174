"""What a request for a team comes to: defaults, what stays, and what its sender may not set."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from services.admin.api.auth import Caller
from services.admin.api.body import Place, placed, read_fields
from services.admin.api.team_caps import outside
from services.admin.api.team_fields import (
    MEMBER_DEFAULTS,
    NEW_TEAM_FIELDS,
    TEAM_FIELDS,
    empty_columns,
)
from services.admin.api.team_logging import unmasked
from services.admin.api.team_rules import TeamRules
from shared.db.key_list import UI_SESSION_TEAM
from shared.db.table import Row
from shared.domain.errors import InvalidRequest, PermissionDenied

MEMBER_BUDGET = "team_member_budget_id"
"""The member of metadata that names the budget of members who have none of their own."""

_ADMINS_ONLY = (
    "allowed_passthrough_routes",
    "denied_passthrough_routes",
    "disable_global_guardrails",
    "allow_client_mock_response",
)


@frozen(kw_only=True)
class NewTeam:
    """A team to be stored. `members` hold `role`, `user_id` and `user_email`; `member_budget` has
    the columns of its members' default budget."""

    team_id: str
    columns: dict[str, Any]
    members: list[dict[str, Any]]
    member_budget: Mapping[str, Any]
    object_permission: Mapping[str, Any] | None


@frozen(kw_only=True)
class TeamChange:
    """An update: only what was sent."""

    columns: Mapping[str, Any]
    metadata: Mapping[str, Any]
    member_budget: Mapping[str, Any]
    object_permission: Mapping[str, Any] | None


def new_team(body: Mapping[str, Any], rules: TeamRules, caller: Caller) -> NewTeam:
    """The team that a /team/new body asks for."""
    values = read_fields(body, NEW_TEAM_FIELDS)
    for name, value in rules.defaults.items():
        if values.get(name) is None:
            values[name] = value
    team_id = values.get("team_id") or str(uuid.uuid4())
    if team_id == UI_SESSION_TEAM:
        raise InvalidRequest(f"team_id {UI_SESSION_TEAM!r} is reserved", param="team_id")
    sent = {name: value for name, value in values.items() if value is not None}
    columns = {**empty_columns(), **placed(sent, NEW_TEAM_FIELDS, Place.COLUMN)}
    change = _change(sent)
    columns["metadata"] = merged_metadata({}, change)
    check_team(columns)
    columns |= {"team_id": team_id, "created_by": caller.actor, "updated_by": caller.actor}
    return NewTeam(
        team_id=team_id,
        columns=columns,
        members=_members(values, rules, caller),
        member_budget=change.member_budget,
        object_permission=change.object_permission,
    )


def team_change(body: Mapping[str, Any]) -> TeamChange:
    """What a body changes. Null clears a column and leaves a metadata-backed field as it is."""
    return _change(read_fields(body, TEAM_FIELDS))


def merged_metadata(stored: Mapping[str, Any], change: TeamChange) -> dict[str, Any]:
    """The metadata after a change: a sent object replaces the stored one, fields are merged into
    it, and what the gateway keeps in it stays."""
    kept = {name: stored[name] for name in (MEMBER_BUDGET,) if name in stored}
    merged = dict(stored)
    if "metadata" in change.columns:
        merged = dict(change.columns["metadata"])
        merged.pop(MEMBER_BUDGET, None)
    return unmasked({**merged, **change.metadata, **kept}, stored)


def changed_columns(row: Row, change: TeamChange) -> dict[str, Any]:
    """The columns that a change sets to something else, by what is stored."""
    columns = {**change.columns, "metadata": merged_metadata(row["metadata"], change)}
    changed = {
        name: list(value) if isinstance(value, tuple) else value for name, value in columns.items()
    }
    return {name: value for name, value in changed.items() if value != row[name]}


def check_team(columns: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for values that do not go together."""
    soft, hard = columns["soft_budget"], columns["max_budget"]
    if soft is not None and hard is not None and soft >= hard:
        raise InvalidRequest("soft_budget must be below max_budget", param="soft_budget")
    beyond = outside(columns["default_team_member_models"], columns["models"])
    if beyond:
        name = "default_team_member_models"
        raise InvalidRequest(f"{name}: the team does not have {beyond[0]!r}", param=name)


def check_sender(caller: Caller, stored: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Raises `PermissionDenied` for members of metadata that only proxy admins may change."""
    if caller.is_admin:
        return
    for name in _ADMINS_ONLY:
        if stored.get(name) != metadata.get(name):
            raise PermissionDenied(f"Only a proxy admin may set {name}", param=name)


def check_team_admin(
    row: Row, changed: Mapping[str, Any], sent: TeamChange, rules: TeamRules
) -> None:
    """Raises `PermissionDenied` for what a team's own admin may not change."""
    if not rules.editable:
        raise PermissionDenied("Here, admins of teams may not change their settings")
    defaults = {name for name, column in MEMBER_DEFAULTS.items() if column in sent.member_budget}
    beyond = {*changed, *defaults} - rules.editable
    if sent.object_permission is not None:
        beyond.add("object_permission")
    if beyond:
        first = min(beyond)
        raise PermissionDenied(f"Admins of teams may not change {first}", param=first)
    if "max_budget" in changed:
        before, after = row["max_budget"], changed["max_budget"]
        if before is not None and (after is None or after > before):
            message = "Admins of teams may neither raise nor remove max_budget"
            raise PermissionDenied(message, param="max_budget")


def caller_edit_access(row: Row, caller: Caller, rules: TeamRules) -> dict[str, Any]:
    """What of the team's settings the caller may change, for forms."""
    if caller.is_admin or row["organization_id"] in caller.admin_organizations:
        return {"kind": "unrestricted", "editable_fields": []}
    if row["team_id"] not in caller.admin_teams:
        return {"kind": "none", "editable_fields": []}
    kind = "team_admin" if rules.editable else "team_admin_disabled"
    return {"kind": kind, "editable_fields": sorted(rules.editable)}


def _change(values: Mapping[str, Any]) -> TeamChange:
    empty = empty_columns()
    columns = placed(values, TEAM_FIELDS, Place.COLUMN)
    metadata = placed(values, TEAM_FIELDS, Place.METADATA)
    return TeamChange(
        columns={n: empty[n] if value is None else value for n, value in columns.items()},
        metadata={name: value for name, value in metadata.items() if value is not None},
        member_budget={
            column: values[name] for name, column in MEMBER_DEFAULTS.items() if name in values
        },
        object_permission=values.get("object_permission"),
    )


def _members(values: Mapping[str, Any], rules: TeamRules, caller: Caller) -> list[dict[str, Any]]:
    members = list(values.get("members_with_roles") or ())
    for name, role in (("admins", "admin"), ("members", "user")):
        members += [
            {"user_id": user_id, "user_email": None, "role": role}
            for user_id in values.get(name) or ()
        ]
    joins = rules.adds_proxy_admins or not caller.is_admin
    if caller.user_id is not None and joins:
        members.append({"user_id": caller.user_id, "user_email": None, "role": "admin"})
    return members
