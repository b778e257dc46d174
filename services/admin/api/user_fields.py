"""The fields of an internal user in request bodies (management contract §3.2), as tables.

Fields that keys have too are those of keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.access import Role
from services.admin.api.body import Field, Place
from services.admin.api.common_fields import texts
from services.admin.api.key_fields import GENERATE_FIELDS
from services.admin.api.values import (
    Loc,
    Reader,
    Wrong,
    choice,
    flag,
    listing,
    members_of,
    money,
    reader,
    text,
)
from shared.domain.errors import InvalidRequest

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEY_COLUMNS = frozenset(
    {
        "models",
        "aliases",
        "permissions",
        "metadata",
        "max_budget",
        "soft_budget",
        "budget_duration",
        "budget_limits",
        "model_max_budget",
        "rpm_limit",
        "tpm_limit",
        "tpd_limit",
        "max_parallel_requests",
        "allowed_cache_controls",
    }
)
_SHARED_CONTROLS = frozenset({"spend", "object_permission"})

# Amounts and rates of a user; the key that is made with it has none of its own.
USER_LIMITS = frozenset(
    {
        "max_budget",
        "soft_budget",
        "budget_duration",
        "budget_limits",
        "model_max_budget",
        "rpm_limit",
        "tpm_limit",
        "tpd_limit",
        "max_parallel_requests",
        "spend",
    }
)


@reader(**text.schema)
def _name(value: Any, loc: Loc) -> str | None:
    """An id or an address; an empty one counts as not given."""
    name = text(value, loc)
    if _UNSAFE.search(name):
        raise InvalidRequest(f"{loc[-1]} must not hold control characters", param=str(loc[-1]))
    return name if name.strip() else None


@reader(**{"not": {}})
def _password(_value: Any, loc: Loc) -> str:
    raise Wrong("value_error", loc, "A password is set through an invitation (/invitation/new)")


_MEMBERSHIP: Mapping[str, Reader] = MappingProxyType(
    {"team_id": text, "max_budget_in_team": money, "user_role": choice("user", "admin")}
)


@reader(anyOf=[text.schema, members_of("team_id", **_MEMBERSHIP)])
def _membership(value: Any, loc: Loc) -> dict[str, Any]:
    """A team to join: its id, or an object."""
    if isinstance(value, str):
        value = {"team_id": value}
    if not isinstance(value, Mapping):
        raise Wrong("dict_type", loc, "Input should be a team's id or an object with team_id")
    members = {
        name: None if value.get(name) is None else read(value[name], (*loc, name))
        for name, read in _MEMBERSHIP.items()
    }
    if not members["team_id"]:
        raise Wrong("missing", (*loc, "team_id"), "Field required")
    return members


_COLUMNS = (
    Field("user_email", _name),
    Field("user_alias", text),
    Field("user_role", choice(*Role)),
    Field("sso_user_id", _name),
    *(field for field in GENERATE_FIELDS if field.name in _KEY_COLUMNS),
)
_OTHERS = (
    *(
        field
        for field in GENERATE_FIELDS
        if field.place is Place.METADATA or field.name in _SHARED_CONTROLS
    ),
    Field("user_id", _name, Place.CONTROL),
    Field("password", _password, Place.CONTROL),
)

NEW_FIELDS = (
    *_COLUMNS,
    *_OTHERS,
    Field("teams", listing(_membership), Place.CONTROL),
    Field("organizations", texts, Place.CONTROL),
    Field("organization_id", text, Place.CONTROL),
    Field("team_id", text, Place.CONTROL),
    Field("auto_create_key", flag, Place.CONTROL),
    Field("send_invite_email", flag, Place.CONTROL),
)
UPDATE_FIELDS = (*_COLUMNS, *_OTHERS)
DELETE_FIELDS = (Field("user_ids", texts, Place.CONTROL, required=True),)

# What a user may change of itself; the rest would let it raise its own limits.
OWN_FIELDS = frozenset({"user_email", "user_alias"})
# What a proxy admin viewer may change of itself.
VIEWER_FIELDS = frozenset({"user_email"})


def empty_columns() -> dict[str, Any]:
    """Every column of a user with what it holds when nothing was said."""
    return {field.name: field.empty for field in _COLUMNS}
