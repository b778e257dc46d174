"""From a key and its owners to a `Principal`: whose limits apply, and may it be used at all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from attrs import frozen

from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import Budget, Principal, Team, User, VirtualKey
from shared.domain.limits import Comparator, Dimension, Level, ScopeRef


@frozen
class Limits:
    """What one owner may use; `None` is no limit. Rates count per window, money is USD."""

    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None
    money: Decimal | None = None
    duration: str | None = None


@frozen
class Owners:
    """A key with all that it refers to."""

    key: VirtualKey
    user: User | None = None
    team: Team | None = None
    budget: Budget | None = None


@frozen
class LevelRule:
    """How a level finds its owner's scope id and limits; `None` if it does not apply."""

    level: Level
    comparator: Comparator
    find: Callable[[Owners], tuple[str, Limits] | None]


def _key_limits(owners: Owners) -> tuple[str, Limits]:
    key, budget = owners.key, owners.budget
    limits = Limits(
        requests=key.rpm_limit,
        tokens=key.tpm_limit,
        parallel=key.max_parallel_requests,
        money=key.max_budget,
        duration=key.budget_duration,
    )
    if budget is not None:
        # The linked budget fills what the key leaves open (contract §3.1.1, budget_id).
        limits = Limits(
            requests=_first(limits.requests, budget.rpm_limit),
            tokens=_first(limits.tokens, budget.tpm_limit),
            parallel=_first(limits.parallel, budget.max_parallel_requests),
            money=limits.money if limits.money is not None else budget.max_budget,
            duration=limits.duration or budget.budget_duration,
        )
    return f"key:{key.token}", limits


# In the order in which refusals are reported (contract §4.3).
LEVELS: tuple[LevelRule, ...] = (LevelRule(Level.KEY, Comparator.AT, _key_limits),)


def build_principal(owners: Owners) -> Principal:
    """The principal of a key, with one scope for every limit that is set."""
    scopes: list[ScopeRef] = []
    for rule in LEVELS:
        found = rule.find(owners)
        if found is not None:
            scopes.extend(_scopes(rule, *found))
    return Principal(key=owners.key, user=owners.user, team=owners.team, scopes=tuple(scopes))


def unknown_key() -> AuthenticationFailed:
    """What a key that nobody has made, or that is gone, is answered with (contract §3.0)."""
    return AuthenticationFailed(
        "This key is not known. It may have been deleted or regenerated.",
        type="token_not_found_in_db",
        param="key",
    )


def check_usable(principal: Principal, now_s: float) -> None:
    """Raises `AuthenticationFailed` for a blocked or expired key and for a blocked team.

    To be called on every use, with seconds since the epoch on the database's clock: an expiry is
    no change that the feed would tell of. Types and params are those of contract §3.0.
    """
    key = principal.key
    if key.blocked:
        raise AuthenticationFailed("This key is blocked. An administrator can unblock it.")
    if key.expires is not None and key.expires.timestamp() <= now_s:
        raise AuthenticationFailed(
            f"This key expired at {key.expires.isoformat()}. Use a new key.",
            type="expired_key",
            param=key.key_name or "sk-...",
        )
    if principal.team is not None and principal.team.blocked:
        raise AuthenticationFailed(
            f"The team '{principal.team.team_id}' of this key is blocked. "
            "An administrator can unblock it."
        )


def _scopes(rule: LevelRule, scope: str, limits: Limits) -> list[ScopeRef]:
    amounts = (
        (Dimension.REQUESTS, limits.requests, None),
        (Dimension.TOKENS, limits.tokens, None),
        (Dimension.PARALLEL, limits.parallel, None),
        (Dimension.MONEY, limits.money, limits.duration),
    )
    return [
        ScopeRef(scope, dimension, Decimal(amount), rule.level, rule.comparator, duration)
        for dimension, amount, duration in amounts
        if amount is not None
    ]


def _first(own: int | None, other: int | None) -> int | None:
    return own if own is not None else other
