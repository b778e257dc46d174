"""Whose limits a call must keep to, and under which ids they are counted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve

from shared.domain.keys import (
    Budget,
    Member,
    Organization,
    Owners,
    Principal,
    Project,
    Subject,
    SubjectKind,
    Team,
    User,
    VirtualKey,
)
from shared.domain.limits import Comparator, Dimension, Level, ScopeRef, scope_id
from shared.keys.levels import Case, Policy, scopes_of
from shared.keys.principal import build_principal

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = VirtualKey("k", user_id="u", team_id="t", project_id="p")
ONE = Decimal(1)


def budget(name: str, **more: Any) -> Budget:
    return Budget(name, max_budget=ONE, **more)


def first(entries: Collection[str]) -> str | None:
    return next(iter(entries), None)


def money(scopes: tuple[ScopeRef, ...]) -> list[tuple[str, str, str]]:
    return [
        (ref.scope, ref.level.value, ref.comparator.value)
        for ref in scopes
        if ref.dimension is Dimension.MONEY
    ]


def limits(scopes: tuple[ScopeRef, ...]) -> dict[tuple[str, str], Decimal]:
    return {(ref.scope, ref.dimension.value): ref.limit for ref in scopes}


def test_all_levels_in_the_order_of_reporting() -> None:
    """Every owner's budget is a scope, in the contract's order, with the contract's comparator,
    under the id that the ledger counts."""
    windows = ({"max_budget": 1, "budget_duration": "1d"},)
    per_model = {"m": {"max_budget": 1}}
    key = evolve(KEY, max_budget=ONE, budget_limits=windows, model_max_budget=per_model)
    case = Case(
        Owners(
            key,
            user=User("u", max_budget=ONE, budget_limits=windows, model_max_budget=per_model),
            team=Team(
                "t",
                max_budget=ONE,
                budget_limits=windows,
                model_max_budget=per_model,
                organization_id="o",
            ),
            member=Member("t", "u"),
            member_budget=budget("mb", model_max_budget=per_model),
            organization=Organization("o"),
            organization_budget=budget("ob", model_max_budget=per_model),
            organization_member_budget=budget("omb"),
            project=Project("p"),
            project_budget=budget("pb", model_max_budget=per_model),
        ),
        Policy(max_budget=ONE, user_budget_for_team_keys=True),
        pick=first,
        end_user="e",
        end_user_budget=budget("eb", model_max_budget=per_model),
        subjects=(
            Subject(SubjectKind.MODEL_ACCESS_GROUP, "g", budget("gb")),
            Subject(SubjectKind.TAG, "x", budget("tb")),
        ),
    )
    assert money(scopes_of(case)) == [
        ("key:k", "api_key", "at"),
        ("model_per_key:k:m", "model_per_key", "at"),
        ("project:p", "project", "at"),
        ("model_per_project:p:m", "model_per_project", "at"),
        ("team:t", "team", "over"),
        ("team:t\x1f1d", "team", "at"),
        ("model_per_team:t:m", "model_per_team", "at"),
        ("key:k\x1f1d", "api_key", "at"),
        ("organization:o", "organization", "at"),
        ("model_per_organization:o:m", "model_per_organization", "at"),
        ("tag:x", "tag", "over"),
        ("model_access_group:g", "access_group", "at"),
        ("user:u", "user", "at"),
        ("user:u\x1f1d", "user", "at"),
        ("model_per_user:u:m", "model_per_user", "at"),
        ("team_member:u:t", "team_member", "at"),
        ("model_per_team_member:u:t:m", "model_per_team_member", "at"),
        ("organization_member:u:o", "organization_member", "at"),
        ("end_user:e", "end_user", "over"),
        ("model_per_end_user:e:m", "model_per_end_user", "at"),
        ("global:", "global", "over"),
    ]


def test_a_rotated_key_keeps_its_counters() -> None:
    """Scopes of a key are those of its first token."""
    key = VirtualKey("new", origin="old", max_budget=ONE, model_max_budget={"m": 1})
    assert [ref.scope for ref in scopes_of(Case(Owners(key), pick=first))] == [
        "key:old",
        "model_per_key:old:m",
    ]


@pytest.mark.parametrize("counts", [False, True])
def test_a_users_budget_and_team_keys(counts: bool) -> None:
    """A user's money counts for team keys only where the operator says so; rates always do."""
    user = User(
        "u",
        max_budget=ONE,
        rpm_limit=5,
        budget_limits=({"max_budget": 1, "budget_duration": "1d"},),
        model_max_budget={"m": {"max_budget": 1, "rpm_limit": 2}},
    )
    case = Case(Owners(KEY, user=user), Policy(user_budget_for_team_keys=counts), pick=first)
    dimensions = [(ref.scope, ref.dimension.value) for ref in scopes_of(case)]
    assert ("user:u", "requests") in dimensions
    assert ("model_per_user:u:m", "requests") in dimensions
    assert (("user:u", "money") in dimensions) is counts
    assert (("user:u\x1f1d", "money") in dimensions) is counts
    assert (("model_per_user:u:m", "money") in dimensions) is counts
    own = evolve(case, owners=Owners(evolve(KEY, team_id=None), user=user))
    assert ("user:u", "money") in limits(scopes_of(own))


def test_increases_hold_until_they_expire() -> None:
    """A key's and a member's budget are raised until the expiry, and the principal knows when."""
    later = NOW + timedelta(hours=1)
    key = evolve(
        KEY,
        max_budget=ONE,
        metadata={"temp_budget_increase": 2.5, "temp_budget_expiry": later.isoformat()},
    )
    expiry = NOW + timedelta(minutes=30)
    member = budget("b", temp_budget_increase=Decimal(4), temp_budget_expiry=expiry)
    owners = Owners(key, team=Team("t"), member_budget=member)
    before = build_principal(owners, now_s=NOW.timestamp())
    assert limits(before.scopes) == {
        ("key:k", "money"): Decimal("3.5"),
        ("team_member:u:t", "money"): Decimal(5),
    }
    assert before.until_s == expiry.timestamp()
    between = build_principal(owners, now_s=expiry.timestamp())
    assert limits(between.scopes)["team_member:u:t", "money"] == 1
    assert between.until_s == later.timestamp()
    after = build_principal(owners, now_s=later.timestamp())
    assert limits(after.scopes)["key:k", "money"] == 1
    assert after.until_s == float("inf")


@pytest.mark.parametrize(
    "metadata",
    [
        {"temp_budget_increase": 5},
        {"temp_budget_increase": 5, "temp_budget_expiry": "soon"},
        {"temp_budget_increase": "much", "temp_budget_expiry": "2100-01-01T00:00:00Z"},
        {"temp_budget_increase": float("nan"), "temp_budget_expiry": "2100-01-01T00:00:00Z"},
    ],
)
def test_half_an_increase_is_none(metadata: dict[str, Any]) -> None:
    """Without a readable amount and expiry the budget is what it was."""
    scopes = scopes_of(Case(Owners(VirtualKey("k", max_budget=ONE, metadata=metadata))))
    assert limits(scopes) == {("key:k", "money"): 1}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"max_budget": 2, "budget_duration": "1d"}, (Decimal(2), "1d")),
        ({"budget_limit": 0.1, "time_period": "7d"}, (Decimal("0.1"), "7d")),
        (3, (Decimal(3), None)),
        ("0.5", (Decimal("0.5"), None)),
        ({"max_budget": float("inf")}, None),
        ({"max_budget": -1}, None),
        ({"max_budget": True}, None),
        ({}, None),
        (None, None),
    ],
)
def test_budgets_of_a_model(entry: Any, expected: tuple[Decimal, str | None] | None) -> None:
    """Both spellings and plain amounts are read; what is no finite amount limits nothing."""
    key = VirtualKey("k", model_max_budget={"m": entry})
    found = [(ref.limit, ref.duration) for ref in scopes_of(Case(Owners(key), pick=first))]
    assert found == ([] if expected is None else [expected])


def test_rates_of_a_model() -> None:
    """`model_rpm_limit` and `model_tpm_limit` win over those of the budget's entry."""
    key = VirtualKey(
        "k",
        model_max_budget={"m": {"max_budget": 1, "rpm_limit": 5, "tpm_limit": 50}},
        metadata={"model_rpm_limit": {"m": 4}, "model_tpm_limit": {"m": "many"}},
    )
    assert limits(scopes_of(Case(Owners(key), pick=first))) == {
        ("model_per_key:k:m", "requests"): 4,
        ("model_per_key:k:m", "tokens"): 50,
        ("model_per_key:k:m", "money"): 1,
    }
    principal = build_principal(Owners(key))
    assert principal.per_model
    assert principal.scopes == ()


def test_windows_that_cannot_be_read_limit_nothing() -> None:
    """Entries without an amount or a period are passed over."""
    windows = (1, None, {"max_budget": 1}, {"budget_duration": "1d"}, {"max_budget": "x"})
    assert scopes_of(Case(Owners(VirtualKey("k", budget_limits=windows)))) == ()


def test_of_two_budgets_of_one_period_the_smaller_counts() -> None:
    """Two entries with the same period are one scope."""
    windows = tuple({"max_budget": n, "budget_duration": "1d"} for n in (3, 2, 4))
    (ref,) = scopes_of(Case(Owners(VirtualKey("k", budget_limits=windows))))
    assert (ref.limit, ref.duration) == (2, "1d")


def test_requests_of_a_keys_tags() -> None:
    """`tag_rpm_limit` is for the tags of the call that it names."""
    key = VirtualKey("k", metadata={"tag_rpm_limit": {"a": 3, "b": 4}})
    assert build_principal(Owners(key)).per_tag
    (ref,) = scopes_of(Case(Owners(key), tags=("b", "c")))
    assert (ref.scope, ref.limit, ref.level) == ("tag_per_key:k:b", 4, Level.TAG_PER_KEY)


@pytest.mark.parametrize("owner", ["x" * 191, "\x00", "a\udc80", "é" * 96, "a\x1f1d"])
def test_ids_that_counters_cannot_hold_are_digests(owner: str) -> None:
    """Odd ids are told apart by a digest, which the database takes."""
    scope = scope_id("end_user", owner)
    assert scope.startswith("end_user:sha256-")
    assert len(scope.encode()) < 100
    assert scope != scope_id("end_user", owner + "x")


def test_ids_are_otherwise_what_the_ledger_counts() -> None:
    """An ordinary id stands as it is."""
    for owner in ("x" * 190, "a:b", "é", "", "\U0001f600"):
        assert scope_id("tag", owner) == f"tag:{owner}"


def test_params_and_tags_of_every_call() -> None:
    """Enforced parameters are everybody's, a service account's and the key's; tags the key's and
    the team's; each once, and only texts."""
    policy = Policy(enforced_params=("user",), service_params=("metadata.job",))
    metadata = {
        "enforced_params": ["user", "seed", 1],
        "service_account_id": "s",
        "tags": ["a", "b", None],
    }
    owners = Owners(
        VirtualKey("k", metadata=metadata), team=Team("t", metadata={"tags": ["b", "c"]})
    )
    principal = build_principal(owners, policy)
    assert principal.enforced_params == ("user", "metadata.job", "seed")
    assert principal.tags == ("a", "b", "c")
    assert build_principal(Owners(VirtualKey("k")), policy).enforced_params == ("user",)


def test_a_key_without_limits_has_none_whatever_its_owners() -> None:
    """Owners without limits add no scope, so that their calls cost nothing more."""
    owners = Owners(
        KEY,
        user=User("u"),
        team=Team("t", organization_id="o"),
        member=Member("t", "u"),
        member_budget=Budget("b"),
        organization=Organization("o"),
        project=Project("p"),
    )
    principal = build_principal(owners)
    assert isinstance(principal, Principal)
    assert (principal.scopes, principal.per_model, principal.per_tag) == ((), False, False)


def test_comparators_are_the_contracts() -> None:
    """Team, tag, end user and global refuse above their budget, all others at it."""
    team = Owners(VirtualKey("k", team_id="t"), team=Team("t", max_budget=ONE))
    (ref,) = scopes_of(Case(team))
    assert ref.comparator is Comparator.OVER
