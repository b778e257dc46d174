"""What a request for a user comes to: defaults, who may give what, and the columns to store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import frozen

from services.admin.api.access import Role
from services.admin.api.body import Field, Place, placed, read_fields
from services.admin.api.user_fields import NEW_FIELDS, UPDATE_FIELDS, USER_LIMITS, empty_columns
from services.admin.api.user_rules import UserRules
from shared.db.user_members import TeamJoin

# What of a user's body the key that is made with it does not take over.
_NOT_OF_KEYS = USER_LIMITS | {"teams", "organizations", "send_invite_email"}


@frozen(kw_only=True)
class NewUser:
    """A user to be stored. `key_body` is the body of the key to make with it."""

    columns: dict[str, Any]
    object_permission: Mapping[str, Any] | None
    spend: Decimal | None
    teams: tuple[TeamJoin, ...]
    organizations: tuple[str, ...]
    key_body: Mapping[str, Any] | None
    wants_mail: bool

    @property
    def user_id(self) -> str:
        """Its id."""
        return str(self.columns["user_id"])


@frozen(kw_only=True)
class UserChange:
    """An update: `columns` are set, `metadata` is merged over what is stored or newly set."""

    user_id: str | None
    user_email: str | None
    columns: Mapping[str, Any]
    metadata: Mapping[str, Any]
    object_permission: Mapping[str, Any] | None
    spend: Decimal | None

    @property
    def fields(self) -> frozenset[str]:
        """What of the user it changes."""
        others = {"object_permission": self.object_permission, "spend": self.spend}
        sent = {name for name, value in others.items() if value is not None}
        return frozenset({*self.columns, *self.metadata, *sent})


def new_user(body: Mapping[str, Any], rules: UserRules, actor: str) -> NewUser:
    """The user that a /user/new body asks for."""
    values = _filled(read_fields(body, NEW_FIELDS), rules)
    sent = {name: value for name, value in values.items() if value is not None}
    columns = {**empty_columns(), **placed(sent, NEW_FIELDS, Place.COLUMN)}
    columns |= {
        "user_id": sent.get("user_id") or str(uuid.uuid4()),
        "metadata": {**columns["metadata"], **placed(sent, NEW_FIELDS, Place.METADATA)},
        "object_permission_id": None,
        "created_by": actor,
        "updated_by": actor,
    }
    return NewUser(
        columns=columns,
        object_permission=sent.get("object_permission"),
        spend=sent.get("spend"),
        teams=_joins(sent),
        organizations=_organizations(sent),
        key_body=_key_body(body, columns) if sent.get("auto_create_key", True) else None,
        wants_mail=bool(sent.get("send_invite_email")),
    )


def user_change(body: Mapping[str, Any], fields: tuple[Field, ...] = UPDATE_FIELDS) -> UserChange:
    """What an update's body changes. Only sent fields change; null clears a column and leaves a
    metadata-backed field as it is. Without an id the address says whose row it is."""
    values = read_fields(body, fields)
    empty = empty_columns()
    columns = {
        name: empty[name] if value is None else value
        for name, value in placed(values, fields, Place.COLUMN).items()
    }
    if values.get("user_id") is None:
        columns.pop("user_email", None)
    metadata = placed(values, fields, Place.METADATA)
    return UserChange(
        user_id=values.get("user_id"),
        user_email=values.get("user_email"),
        columns=columns,
        metadata={name: value for name, value in metadata.items() if value is not None},
        object_permission=values.get("object_permission"),
        spend=values.get("spend"),
    )


def _filled(values: dict[str, Any], rules: UserRules) -> dict[str, Any]:
    """The values with the operator's defaults, which are not for proxy admins."""
    filled = dict(values)
    if values.get("user_role") != Role.PROXY_ADMIN:
        for name, value in rules.defaults.items():
            if filled.get(name) is None:
                filled[name] = value
    if filled.get("user_role") is None:
        filled["user_role"] = Role.INTERNAL_USER.value
    if filled["user_role"] == Role.INTERNAL_USER:
        if filled.get("max_budget") is None:
            filled["max_budget"] = rules.max_budget
        if filled.get("budget_duration") is None:
            filled["budget_duration"] = rules.budget_duration
    return filled


def _joins(values: Mapping[str, Any]) -> tuple[TeamJoin, ...]:
    """The teams to join, each once; the last that is said of one counts."""
    joins: dict[str, TeamJoin] = {}
    if values.get("team_id"):
        joins[values["team_id"]] = TeamJoin(team_id=values["team_id"])
    for member in values.get("teams") or ():
        joins[member["team_id"]] = TeamJoin(
            team_id=member["team_id"],
            role=member["user_role"] or "user",
            max_budget=member["max_budget_in_team"],
        )
    return tuple(joins.values())


def _organizations(values: Mapping[str, Any]) -> tuple[str, ...]:
    named = [values.get("organization_id"), *(values.get("organizations") or ())]
    return tuple(dict.fromkeys(name for name in named if name))


def _key_body(body: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the user's key: what is not the user's alone. Limits are the user's."""
    taken = {name: value for name, value in body.items() if name not in _NOT_OF_KEYS}
    return taken | {"user_id": columns["user_id"], "models": list(columns["models"])}
