"""The operator's settings on teams."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import field, frozen

from services.admin.api.body import read_fields
from services.admin.api.team_fields import TEAM_FIELDS
from shared.domain.errors import ConfigError, RequestError

_T = TypeVar("_T")

_EDITABLE = frozenset({"max_budget", "tpm_limit", "rpm_limit"})
_DEFAULTS = "litellm_settings.default_team_params"
_AVAILABLE = "litellm_settings.default_internal_user_params.available_teams"
_KINDS: Mapping[type, str] = MappingProxyType({str: "names", dict: "objects"})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@frozen(kw_only=True)
class TeamRules:
    """Settings on teams.

    `defaults` are clean field values that fill what a new team leaves open. `available` are teams
    that anybody may join. `editable` are the fields that a team's admins may change.
    `adds_proxy_admins` says whether a proxy admin who makes a team becomes its admin, as others
    do. `metadata_schema` holds the members of metadata that a form should offer.
    """

    defaults: Mapping[str, Any] = field(factory=dict)
    available: tuple[str, ...] = ()
    editable: frozenset[str] = frozenset()
    adds_proxy_admins: bool = True
    metadata_schema: tuple[Mapping[str, Any], ...] = ()


def read_team_rules(
    *,
    defaults: Mapping[str, Any] = _NOTHING,
    user_defaults: Mapping[str, Any] = _NOTHING,
    editable: object = (),
    disable_auto_add: bool = False,
    metadata_schema: object = (),
) -> TeamRules:
    """The settings of the configuration; `ConfigError` naming the one that is wrong.

    `defaults` is `default_team_params`, `user_defaults` is `default_internal_user_params`,
    `editable` is `team_admin_editable_team_fields`. Names in the latter that are no fields of a
    team are permissions about keys and projects, and give nothing here.
    """
    known = {each.name for each in TEAM_FIELDS}
    for member in defaults:
        if member not in known:
            raise ConfigError(f"{_DEFAULTS}.{member}: no such field of a team")
    try:
        values = read_fields(defaults, TEAM_FIELDS)
    except RequestError as error:
        raise ConfigError(f"{_DEFAULTS}: {error.message}") from None
    names = _list("general_settings.team_admin_editable_team_fields", editable, str)
    schema = _list("general_settings.team_metadata_schema", metadata_schema, dict)
    return TeamRules(
        defaults={member: value for member, value in values.items() if value is not None},
        available=_list(_AVAILABLE, user_defaults.get("available_teams") or (), str),
        editable=_EDITABLE & {*names},
        adds_proxy_admins=not disable_auto_add,
        metadata_schema=schema,
    )


def _list(name: str, value: object, kind: type[_T]) -> tuple[_T, ...]:
    if isinstance(value, list | tuple) and all(isinstance(each, kind) for each in value):
        return tuple(value)
    raise ConfigError(f"{name}: is no list of {_KINDS[kind]}")
