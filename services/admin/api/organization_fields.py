"""The fields of an organization in request bodies (management contract §3.4), as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.common_fields import object_permission, texts
from services.admin.api.linked_budgets import LINK_FIELDS
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.team_fields import identifier, member_name, needed
from services.admin.api.values import (
    Loc,
    Wrong,
    choice,
    count,
    document,
    listing,
    mapping,
    members_of,
    money,
    one_of,
    reader,
    text,
)
from shared.domain.errors import InvalidRequest

_ALIAS = Field("organization_alias", text)
_OWN = (
    Field("models", texts, empty=()),
    Field("metadata", document, empty={}),
    Field("model_rpm_limit", mapping(count()), Place.METADATA),
    Field("model_tpm_limit", mapping(count()), Place.METADATA),
    Field("object_permission", object_permission, Place.CONTROL),
    *LINK_FIELDS,
)
NEW_FIELDS = (
    Field("organization_alias", text, required=True),
    Field("organization_id", identifier, Place.CONTROL),
    *_OWN,
)
PATCH_FIELDS = (_ALIAS, *_OWN)
UPDATE_FIELDS = (Field("organization_id", needed, Place.CONTROL, required=True), *PATCH_FIELDS)
IDS_FIELDS = (Field("organization_ids", texts, Place.CONTROL, required=True),)
INFO_FIELDS = (Field("organizations", texts, Place.CONTROL, required=True),)

_ROLE = choice("org_admin", "internal_user", "internal_user_viewer")
_PATCH_NAMES = frozenset(field.name for field in PATCH_FIELDS)


@reader(**members_of("role", user_id=identifier, user_email=identifier, role=_ROLE))
def _member(value: Any, loc: Loc) -> dict[str, Any]:
    found = member_name(value, loc)
    if value.get("role") is None:
        raise Wrong("missing", (*loc, "role"), "Field required")
    return {**found, "role": _ROLE(value["role"], (*loc, "role"))}


@reader(**one_of(_member, listing(_member)))
def _members(value: Any, loc: Loc) -> list[dict[str, Any]]:
    several: list[dict[str, Any]] = (
        listing(_member)(value, loc) if isinstance(value, list) else [_member(value, loc)]
    )
    return several


_ORGANIZATION = Field("organization_id", needed, required=True)
_MEMBER_BUDGET = Field("max_budget_in_organization", money)
_WHO = (_ORGANIZATION, Field("user_id", identifier), Field("user_email", identifier))
MEMBER_ADD_FIELDS = (_ORGANIZATION, Field("member", _members, required=True), _MEMBER_BUDGET)
MEMBER_UPDATE_FIELDS = (*_WHO, Field("role", _ROLE), _MEMBER_BUDGET)
MEMBER_DELETE_FIELDS = _WHO


def read_patch(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sent fields of the strict update: every field must be known and be of use."""
    issues = [
        Issue("extra_forbidden", ("body", name), "Extra inputs are not permitted")
        for name in body
        if name not in _PATCH_NAMES
    ]
    if body.get("organization_alias", "") is None:
        issues.append(
            Issue("string_type", ("body", "organization_alias"), "Input should be a valid string")
        )
    if issues:
        raise Unprocessable(issues)
    try:
        return read_fields(body, PATCH_FIELDS)
    except InvalidRequest as error:
        if error.param != "budget_duration":
            raise
        issue = Issue("value_error", ("body", "budget_duration"), error.message)
        raise Unprocessable([issue]) from error
