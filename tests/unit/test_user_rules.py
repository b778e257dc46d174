"""The operator's settings on users: what can be a default, and what cannot."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.admin.api.user_rules import UserRules, read_user_rules
from shared.domain.errors import ConfigError


def test_clean_values() -> None:
    """Members are read as a request's are; nulls say nothing."""
    rules = read_user_rules(
        {"models": ["m"], "max_budget": "5", "user_role": "internal_user", "rpm_limit": None},
        Decimal("2.5"),
        "1mo",
    )
    assert rules.defaults == {
        "models": ["m"],
        "max_budget": Decimal(5),
        "user_role": "internal_user",
    }
    assert (rules.max_budget, rules.budget_duration) == (Decimal("2.5"), "1mo")
    assert read_user_rules({}, None, None) == UserRules()


@pytest.mark.parametrize(
    ("defaults", "budget", "duration", "named"),
    [
        ({"user_id": "u"}, None, None, "user_id"),
        ({"password": "x"}, None, None, "password"),
        ({"nonsense": 1}, None, None, "nonsense"),
        ({"max_budget": -1}, None, None, "max_budget"),
        ({"teams": "t1"}, None, None, "default_internal_user_params"),
        ({"user_role": "king"}, None, None, "default_internal_user_params"),
        ({}, Decimal(-1), None, "max_internal_user_budget"),
        ({}, None, "2mo", "internal_user_budget_duration"),
    ],
)
def test_what_no_user_could_have(
    defaults: dict[str, Any], budget: Decimal | None, duration: str | None, named: str
) -> None:
    """A setting that is wrong stops the start and is named."""
    with pytest.raises(ConfigError, match=named):
        read_user_rules(defaults, budget, duration)
