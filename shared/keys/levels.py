"""Whose limits a call must keep to: one row for each level, in the order of reporting.

A row turns a `Case`, that is a key's owners and what one call names, into scopes. Of the owners
each may have rates (requests, tokens, parallel) and budgets; of several windows of one owner each
is a budget of its own (management contract §4.3, §4.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

from attrs import evolve, frozen

from shared.domain.keys import Budget, Owners, Subject, SubjectKind, VirtualKey
from shared.domain.limits import Comparator, Dimension, Level, ScopeRef, scope_id
from shared.keys import model_limits as models
from shared.keys.amounts import (
    Limits,
    budget_limits,
    count,
    first,
    increased,
    key_increase,
    mapping,
    own_limits,
    window_limits,
)
from shared.keys.model_limits import ModelLimits, Pick


@frozen
class Policy:
    """What the operator says of everybody's limits. Money is USD.

    `enforced_params` are what every body must have, `service_params` those of service accounts.
    `end_user_budget_id` is the budget of end users that have none.
    """

    max_budget: Decimal | None = None
    budget_duration: str | None = None
    user_budget_for_team_keys: bool = False
    end_user_budget_id: str | None = None
    enforced_params: tuple[str, ...] = ()
    service_params: tuple[str, ...] = ()


NO_POLICY = Policy()


@frozen
class Case:
    """A key with its owners, and what is known of a call.

    `now_s` is the epoch. `pick` finds the entry for the call's model among names and patterns;
    without a call it finds none. `end_user_budget` is the end user's or its default.
    """

    owners: Owners
    policy: Policy = NO_POLICY
    now_s: float = 0.0
    pick: Pick | None = None
    end_user: str | None = None
    end_user_budget: Budget | None = None
    tags: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()


Found = Iterable[tuple[str, Limits]]


@frozen
class LevelRule:
    """How a level finds its owners' scope ids and limits; nothing where it does not apply."""

    level: Level
    comparator: Comparator
    find: Callable[[Case], Found]


def scopes_of(case: Case) -> tuple[ScopeRef, ...]:
    """One scope for every limit that is set, in the order of `LEVELS`; of two that count the same
    the smaller one."""
    found: dict[tuple[str, Dimension, str | None], ScopeRef] = {}
    for rule in LEVELS:
        for scope, limits in rule.find(case):
            for ref in _scopes(rule, scope, limits):
                name = (ref.scope, ref.dimension, ref.duration)
                known = found.get(name)
                if known is None or ref.limit < known.limit:
                    found[name] = ref
    return tuple(found.values())


def varies_by_tag(owners: Owners) -> bool:
    """Whether the key has limits for single tags."""
    return bool(mapping(owners.key.metadata.get("tag_rpm_limit")))


def next_expiry_s(owners: Owners, now_s: float) -> float:
    """When an increase of a budget ends next (epoch); infinity without one."""
    budgets = (
        owners.budget,
        owners.member_budget,
        owners.organization_budget,
        owners.organization_member_budget,
        owners.project_budget,
    )
    end = key_increase(owners.key)[1]
    end_s = math.inf if end is None or end.timestamp() <= now_s else end.timestamp()
    return min(end_s, expiry_s(budgets, now_s))


def expiry_s(budgets: Iterable[Budget | None], now_s: float) -> float:
    """When an increase of one of these budgets ends next (epoch); infinity without one."""
    ends = (each.temp_budget_expiry for each in budgets if each is not None)
    later = (end.timestamp() for end in ends if end is not None)
    return min((end_s for end_s in later if end_s > now_s), default=math.inf)


def _scopes(rule: LevelRule, scope: str, limits: Limits) -> Iterator[ScopeRef]:
    amounts = (
        (Dimension.REQUESTS, limits.requests, None),
        (Dimension.TOKENS, limits.tokens, None),
        (Dimension.PARALLEL, limits.parallel, None),
        (Dimension.MONEY, limits.money, limits.duration),
    )
    for dimension, amount, duration in amounts:
        if amount is not None:
            yield ScopeRef(scope, dimension, Decimal(amount), rule.level, rule.comparator, duration)


def _key_scope(key: VirtualKey) -> str:
    return scope_id("key", key.counter_id)


def _key(case: Case) -> Found:
    key, budget = case.owners.key, case.owners.budget
    limits = own_limits(key)
    if budget is not None:
        # The linked budget fills what the key leaves open (contract §3.1.1, budget_id).
        linked = budget_limits(budget, case.now_s)
        limits = Limits(
            requests=first(limits.requests, linked.requests),
            tokens=first(limits.tokens, linked.tokens),
            parallel=first(limits.parallel, linked.parallel),
            money=limits.money if limits.money is not None else linked.money,
            duration=limits.duration or linked.duration,
        )
    increase, expiry = key_increase(key)
    return ((_key_scope(key), increased(limits, increase, expiry, case.now_s)),)


def _key_windows(case: Case) -> Found:
    return window_limits(_key_scope(case.owners.key), case.owners.key.budget_limits)


def _project(case: Case) -> Found:
    return _linked("project", case.owners.key.project_id, case.owners.project_budget, case)


def _team(case: Case) -> Found:
    team = case.owners.team
    return () if team is None else ((scope_id("team", team.team_id), own_limits(team)),)


def _team_windows(case: Case) -> Found:
    team = case.owners.team
    return () if team is None else window_limits(scope_id("team", team.team_id), team.budget_limits)


def _organization(case: Case) -> Found:
    owners = case.owners
    return _linked("organization", owners.organization_id, owners.organization_budget, case)


def _tags(case: Case) -> Found:
    return _of_subjects(case, SubjectKind.TAG)


def _access_groups(case: Case) -> Found:
    return _of_subjects(case, SubjectKind.MODEL_ACCESS_GROUP)


def _user(case: Case) -> Found:
    user = case.owners.user
    if user is None:
        return ()
    limits = own_limits(user)
    if not _pays_as_user(case):
        limits = evolve(limits, money=None)
    return ((scope_id("user", user.user_id), limits),)


def _user_windows(case: Case) -> Found:
    user = case.owners.user
    if user is None or not _pays_as_user(case):
        return ()
    return window_limits(scope_id("user", user.user_id), user.budget_limits)


def _member(case: Case) -> Found:
    key = case.owners.key
    return _linked("team_member", _pair(key, key.team_id), case.owners.member_budget, case)


def _organization_member(case: Case) -> Found:
    owners = case.owners
    pair = _pair(owners.key, owners.organization_id)
    return _linked("organization_member", pair, owners.organization_member_budget, case)


def _end_user(case: Case) -> Found:
    return _linked("end_user", case.end_user, case.end_user_budget, case)


def _global(case: Case) -> Found:
    policy = case.policy
    return (("global:", Limits(money=policy.max_budget, duration=policy.budget_duration)),)


def _per_model(find: Callable[[Owners], ModelLimits], level: Level) -> Callable[[Case], Found]:
    def found(case: Case) -> Found:
        limits = find(case.owners)
        return limits.find(level.value, case.pick) if limits.any and case.pick else ()

    return found


def _per_user_model(case: Case) -> Found:
    found = _per_model(models.of_user, Level.MODEL_PER_USER)(case)
    if _pays_as_user(case):
        return found
    return [(scope, evolve(limits, money=None)) for scope, limits in found]


def _per_end_user_model(case: Case) -> Found:
    if case.end_user is None or case.end_user_budget is None or case.pick is None:
        return ()
    limits = models.of_end_user(case.end_user, case.end_user_budget)
    return limits.find(Level.MODEL_PER_END_USER.value, case.pick) if limits.any else ()


def _tags_per_key(case: Case) -> Iterator[tuple[str, Limits]]:
    key = case.owners.key
    limits = mapping(key.metadata.get("tag_rpm_limit")) if case.tags else {}
    for tag in case.tags:
        if tag in limits:
            scope = scope_id("tag_per_key", f"{key.counter_id}:{tag}")
            yield scope, Limits(requests=count(limits[tag]))


def _model_rule(level: Level, find: Callable[[Owners], ModelLimits]) -> LevelRule:
    return LevelRule(level, Comparator.AT, _per_model(find, level))


LEVELS: tuple[LevelRule, ...] = (
    LevelRule(Level.KEY, Comparator.AT, _key),
    _model_rule(Level.MODEL_PER_KEY, models.of_key),
    LevelRule(Level.PROJECT, Comparator.AT, _project),
    _model_rule(Level.MODEL_PER_PROJECT, models.of_project),
    LevelRule(Level.TEAM, Comparator.OVER, _team),
    LevelRule(Level.TEAM, Comparator.AT, _team_windows),
    _model_rule(Level.MODEL_PER_TEAM, models.of_team),
    LevelRule(Level.KEY, Comparator.AT, _key_windows),
    LevelRule(Level.ORGANIZATION, Comparator.AT, _organization),
    _model_rule(Level.MODEL_PER_ORGANIZATION, models.of_organization),
    LevelRule(Level.TAG, Comparator.OVER, _tags),
    LevelRule(Level.TAG_PER_KEY, Comparator.AT, _tags_per_key),
    LevelRule(Level.ACCESS_GROUP, Comparator.AT, _access_groups),
    LevelRule(Level.USER, Comparator.AT, _user),
    LevelRule(Level.USER, Comparator.AT, _user_windows),
    LevelRule(Level.MODEL_PER_USER, Comparator.AT, _per_user_model),
    LevelRule(Level.MEMBER, Comparator.AT, _member),
    _model_rule(Level.MODEL_PER_MEMBER, models.of_member),
    LevelRule(Level.ORGANIZATION_MEMBER, Comparator.AT, _organization_member),
    LevelRule(Level.END_USER, Comparator.OVER, _end_user),
    LevelRule(Level.MODEL_PER_END_USER, Comparator.AT, _per_end_user_model),
    LevelRule(Level.GLOBAL, Comparator.OVER, _global),
)


def _linked(kind: str, owner: str | None, budget: Budget | None, case: Case) -> Found:
    """The limits of an owner that has them in a budget row."""
    if owner is None or budget is None:
        return ()
    return ((scope_id(kind, owner), budget_limits(budget, case.now_s)),)


def _of_subjects(case: Case, kind: SubjectKind) -> Iterator[tuple[str, Limits]]:
    for subject in case.subjects:
        if subject.kind is kind:
            yield from _linked(kind.value, subject.id, subject.budget, case)


def _pays_as_user(case: Case) -> bool:
    """Whether a user's budget counts: calls with a team's key are the team's (contract §4.3)."""
    return case.owners.key.team_id is None or case.policy.user_budget_for_team_keys


def _pair(key: VirtualKey, group_id: str | None) -> str | None:
    return None if key.user_id is None or group_id is None else f"{key.user_id}:{group_id}"
