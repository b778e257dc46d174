"""The operator's settings on internal users."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from services.admin.api.body import read_fields
from services.admin.api.user_fields import NEW_FIELDS
from services.admin.api.values import money
from shared.domain.errors import ConfigError, RequestError
from shared.limits.windows import parse_budget_duration

# What is one user's and cannot be a default. `available_teams` is the teams' own setting.
_OWN = frozenset({"user_id", "user_email", "user_alias", "sso_user_id", "password", "spend"})
_TEAMS_SETTING = "available_teams"
_DEFAULTS = "litellm_settings.default_internal_user_params"


@frozen(kw_only=True)
class UserRules:
    """The operator's settings on users. `defaults` are clean field values and fill what a new
    user leaves open; `max_budget` (USD) and `budget_duration` do so for internal users."""

    defaults: Mapping[str, Any] = field(factory=dict)
    max_budget: Decimal | None = None
    budget_duration: str | None = None


def read_user_rules(
    defaults: Mapping[str, Any], max_budget: Decimal | None, budget_duration: str | None
) -> UserRules:
    """The settings of the configuration file; `ConfigError` naming the one that is wrong."""
    known = {each.name for each in NEW_FIELDS} - _OWN
    for member in defaults:
        if member not in known | {_TEAMS_SETTING}:
            raise ConfigError(f"{_DEFAULTS}.{member}: cannot be a user's default")
    try:
        values = read_fields(defaults, NEW_FIELDS)
    except RequestError as error:
        raise ConfigError(f"{_DEFAULTS}: {error.message}") from None
    try:
        amount = None if max_budget is None else money(max_budget, ("max_internal_user_budget",))
        if budget_duration is not None:
            parse_budget_duration(budget_duration, param="internal_user_budget_duration")
    except (RequestError, ValueError) as error:
        raise ConfigError(f"litellm_settings: {error}") from None
    return UserRules(
        defaults={name: value for name, value in values.items() if value is not None},
        max_budget=amount,
        budget_duration=budget_duration,
    )
