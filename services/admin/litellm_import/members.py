"""Members of teams, and what they have spent there.

The source keeps members in three lists of a team's row, and their budgets and spend in a table that
may know members long gone.
"""

from __future__ import annotations

from typing import Any

from services.admin.litellm_import.cleaning import Fields, Refused
from services.admin.litellm_import.kinds import (
    LINKED_HOT,
    Circumstances,
    Kind,
    Reference,
    Taken,
    spent,
)
from services.admin.litellm_import.objects import BUDGETS, TEAMS
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceTable, linked_budget, member_facts


def _members(fields: Fields) -> list[dict[str, Any]]:
    """A row for each member of a team; the list with roles wins over the others."""
    budgets, ids = fields.document("budgets"), fields.document("ids")
    found: dict[str, dict[str, Any]] = {}
    nameless: list[dict[str, Any]] = []
    listed = fields.objects("members_with_roles")
    for role in ("admin", "user"):
        column = "admins" if role == "admin" else "members"
        listed += [{"user_id": each, "role": role} for each in fields.texts(column, guards=False)]
    for entry in listed:
        user_id = entry.get("user_id") or ids.get(str(entry.get("user_email")).lower())
        row = {**entry, "user_id": user_id, "team_id": fields.row.get("team_id")}
        if not isinstance(user_id, str) or user_id == "":
            nameless.append(row)
        elif user_id not in found:
            found[user_id] = {
                **row,
                "budget_id": budgets.get(user_id),
                "created_at": fields.row.get("created_at"),
            }
    return [*found.values(), *nameless]


def _member(fields: Fields, at: Circumstances) -> Taken:
    role = fields.row.get("role") or "user"
    if role not in {"admin", "user"}:
        raise Refused("role", "is neither admin nor user")
    created_at = fields.at("created_at", at.now)
    return Taken(
        {
            "team_id": fields.id("team_id"),
            "user_id": fields.id("user_id"),
            "user_email": fields.words("user_email"),
            "role": role,
            "budget_id": fields.link("budget_id"),
            "created_at": created_at,
            "updated_at": created_at,
        }
    )


TEAM_MEMBERS = Kind(
    name="team members",
    kind="team_member",
    source=SourceTable(
        "TeamTable",
        ("team_id",),
        ("members_with_roles", "admins", "members", "created_at"),
        linked=member_facts(),
    ),
    target=ImportTable(
        "team_member",
        ("team_id", "user_id"),
        ("team_id", "user_id", "user_email", "role", "budget_id", "created_at", "updated_at"),
    ),
    split=_members,
    read=_member,
    references=(Reference("team_id", TEAMS), Reference("budget_id", BUDGETS)),
    group=TEAMS.kind,
    label=lambda row: f"{row.get('team_id')}/{row.get('user_id')}",
)


def _membership(fields: Fields, at: Circumstances) -> Taken:
    owner = f"{fields.id('user_id')}:{fields.id('team_id')}"
    return Taken({}, spent(fields, "team_member", owner, at))


MEMBER_SPEND = Kind(
    name="team memberships",
    kind="team_membership",
    source=SourceTable(
        "TeamMembership",
        ("team_id", "user_id"),
        ("budget_id",),
        ("spend", "total_spend", *LINKED_HOT),
        linked_budget(),
    ),
    target=None,
    read=_membership,
    amounts="team_member",
)
