"""Building principals from keys and owners, and refusing the unusable ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from attrs import evolve

from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import Budget, Principal, Project, Team, User, VirtualKey
from shared.domain.limits import Comparator, Dimension, Level, ScopeRef
from shared.keys.principal import Owners, build_principal, check_usable

TOKEN = "a" * 64
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def scope(dimension: Dimension, limit: str, duration: str | None = None) -> ScopeRef:
    return ScopeRef(f"key:{TOKEN}", dimension, Decimal(limit), Level.KEY, Comparator.AT, duration)


def test_every_limit_of_a_key_becomes_a_scope_in_fixed_order() -> None:
    """Rates, parallel calls and money of a key are its scopes, money with its reset period."""
    key = VirtualKey(
        TOKEN,
        rpm_limit=60,
        tpm_limit=1000,
        max_parallel_requests=3,
        max_budget=Decimal("12.5"),
        budget_duration="30d",
    )
    assert build_principal(Owners(key)).scopes == (
        scope(Dimension.REQUESTS, "60"),
        scope(Dimension.TOKENS, "1000"),
        scope(Dimension.PARALLEL, "3"),
        scope(Dimension.MONEY, "12.5", "30d"),
    )


def test_a_key_without_limits_has_no_scopes_and_zero_is_a_limit() -> None:
    """An absent limit makes no scope; a limit of zero does, for it refuses everything."""
    assert build_principal(Owners(VirtualKey(TOKEN))).scopes == ()
    blocked = VirtualKey(TOKEN, rpm_limit=0, max_budget=Decimal(0))
    assert build_principal(Owners(blocked)).scopes == (
        scope(Dimension.REQUESTS, "0"),
        scope(Dimension.MONEY, "0"),
    )


def test_a_linked_budget_fills_only_what_the_key_leaves_open() -> None:
    """Each null limit comes from the budget row; what the key sets itself, zero included, stays."""
    key = VirtualKey(TOKEN, rpm_limit=0, max_budget=Decimal(1), budget_id="b")
    budget = Budget(
        "b",
        max_budget=Decimal(100),
        budget_duration="7d",
        rpm_limit=9,
        tpm_limit=90,
        max_parallel_requests=2,
    )
    assert build_principal(Owners(key, budget=budget)).scopes == (
        scope(Dimension.REQUESTS, "0"),
        scope(Dimension.TOKENS, "90"),
        scope(Dimension.PARALLEL, "2"),
        scope(Dimension.MONEY, "1", "7d"),
    )


def test_a_principal_refers_to_its_owners() -> None:
    """User and team are at hand where they exist."""
    user, team = User("u"), Team("t")
    principal = build_principal(Owners(VirtualKey(TOKEN, user_id="u", team_id="t"), user, team))
    assert (principal.user, principal.team) == (user, team)
    assert not principal.master


@pytest.mark.parametrize(
    ("principal", "error_type", "param"),
    [
        (Principal(VirtualKey(TOKEN, blocked=True)), "auth_error", None),
        (
            Principal(VirtualKey(TOKEN, key_name="sk-...x9Aa", expires=NOW)),
            "expired_key",
            "sk-...x9Aa",
        ),
        (
            Principal(VirtualKey(TOKEN, expires=NOW - timedelta(days=1))),
            "expired_key",
            "sk-...",
        ),
        (Principal(VirtualKey(TOKEN), team=Team("t", blocked=True)), "auth_error", None),
        (
            build_principal(Owners(VirtualKey(TOKEN), project=Project("p", blocked=True))),
            "auth_error",
            None,
        ),
    ],
    ids=["blocked", "expired", "expired without a name", "team blocked", "project blocked"],
)
def test_unusable_keys_are_refused_as_the_contract_says(
    principal: Principal, error_type: str, param: str | None
) -> None:
    """Blocked and expired keys, and those of a blocked team or project, are 401 with the
    contract's type and param."""
    with pytest.raises(AuthenticationFailed) as refused:
        check_usable(principal, NOW.timestamp())
    assert (refused.value.status, refused.value.type, refused.value.param) == (
        401,
        error_type,
        param,
    )
    assert TOKEN not in refused.value.message


def test_block_comes_before_expiry_and_a_usable_key_passes_until_its_last_moment() -> None:
    """The order of refusals is the contract's, and expiry is exact."""
    key = VirtualKey(TOKEN, blocked=True, expires=NOW)
    with pytest.raises(AuthenticationFailed) as refused:
        check_usable(Principal(key), NOW.timestamp())
    assert refused.value.type == "auth_error"
    check_usable(Principal(evolve(key, blocked=False)), NOW.timestamp() - 0.001)
