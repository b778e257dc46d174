"""Answers to requests that a limit refuses (management contract §4.5; budgets §3.0, §0)."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from shared.domain.clock import Clock
from shared.domain.errors import BudgetExceeded, RateLimited
from shared.domain.limits import Dimension, Level, ScopeRef

_OWNERS = MappingProxyType(
    {
        Level.KEY: "key's",
        Level.MODEL_PER_KEY: "key's per-model",
        Level.PROJECT: "project's",
        Level.MODEL_PER_PROJECT: "project's per-model",
        Level.TEAM: "team's",
        Level.MODEL_PER_TEAM: "team's per-model",
        Level.ORGANIZATION: "organization's",
        Level.MODEL_PER_ORGANIZATION: "organization's per-model",
        Level.TAG: "tag's",
        Level.TAG_PER_KEY: "key's per-tag",
        Level.ACCESS_GROUP: "model access group's",
        Level.USER: "user's",
        Level.MODEL_PER_USER: "user's per-model",
        Level.MEMBER: "team member's",
        Level.MODEL_PER_MEMBER: "team member's per-model",
        Level.ORGANIZATION_MEMBER: "organization member's",
        Level.END_USER: "end user's",
        Level.MODEL_PER_END_USER: "end user's per-model",
        Level.GLOBAL: "gateway's",
    }
)
_UNITS = MappingProxyType(
    {
        Dimension.REQUESTS: "requests",
        Dimension.TOKENS: "tokens",
        Dimension.PARALLEL: "parallel requests",
    }
)


def rate_refusal(
    ref: ScopeRef, window_s: float, used: int, frees_in_s: float, clock: Clock
) -> RateLimited:
    """A window's requests or tokens are used up; it opens anew in `frees_in_s`."""
    wait_s = max(1, math.ceil(frees_in_s))
    return RateLimited(
        f"The {_owner(ref)} limit of {ref.limit:f} {_UNITS[ref.dimension]} per {window_s:g} s is "
        f"used up ({used} used); the next window opens in {wait_s} s.",
        headers=_rate_headers(ref, wait_s, clock),
    )


def share_refusal(
    ref: ScopeRef, window_s: float, share: int, frees_in_s: float, clock: Clock
) -> RateLimited:
    """The database is away, and this process's share of the limit is used up."""
    wait_s = max(1, math.ceil(frees_in_s))
    per = "" if ref.dimension is Dimension.PARALLEL else f" per {window_s:g} s"
    return RateLimited(
        f"The {_owner(ref)} limit of {ref.limit:f} {_UNITS[ref.dimension]}{per} cannot be "
        f"counted at the moment; this instance serves {share} of them and these are used up.",
        headers=_rate_headers(ref, wait_s, clock),
    )


def slots_refusal(ref: ScopeRef, used: int, clock: Clock) -> RateLimited:
    """All parallel requests are running."""
    return RateLimited(
        f"The {_owner(ref)} limit of {ref.limit:f} parallel requests is reached "
        f"({used} running or about to).",
        headers=_rate_headers(ref, 1, clock),
    )


def size_refusal(ref: ScopeRef, tokens: int) -> RateLimited:
    """One request is larger than a whole window: waiting does not help, hence no retry-after."""
    headers = (("rate_limit_type", ref.dimension.value), ("x-should-retry", "false"))
    if ref.limit < 1:
        text = f"The {_owner(ref)} limit of {ref.limit:f} {_UNITS[ref.dimension]} allows none."
        return RateLimited(text, headers=headers)
    return RateLimited(
        f"The request may use {tokens} {_UNITS[ref.dimension]}, more than the {_owner(ref)} "
        f"whole limit of {ref.limit:f}; send less or lower `max_tokens`.",
        headers=headers,
    )


def budget_refusal(
    ref: ScopeRef, spent: Decimal, reserved: Decimal, cost: Decimal, status: int, resets: str | None
) -> BudgetExceeded:
    """A budget is spent, or what is left of it does not cover the request."""
    when = f"; it resets at {resets}" if resets else ""
    return BudgetExceeded(
        f"The {_owner(ref)} budget of {_usd(ref.limit)} does not cover this request: "
        f"{_usd(spent)} spent, {_usd(reserved)} reserved by other requests, {_usd(cost)} expected "
        f"for this one{when}.",
        status=status,
        headers=(("x-should-retry", "false"),),
    )


def budget_unavailable(ref: ScopeRef) -> RateLimited:
    """The database is away and what was leased of a budget is used up."""
    return RateLimited(
        f"The {_owner(ref)} budget of {_usd(ref.limit)} cannot be checked at the moment.",
        type="budget_unavailable",
        headers=(("retry-after", "1"),),
    )


def _owner(ref: ScopeRef) -> str:
    return _OWNERS[ref.level]


def _usd(amount: Decimal) -> str:
    """At least cents, and no trailing zeros beyond them."""
    whole, _, part = f"{max(amount, Decimal(0)):.10f}".rstrip("0").partition(".")
    return f"${whole}.{part:0<2}"


def _rate_headers(ref: ScopeRef, wait_s: int, clock: Clock) -> tuple[tuple[str, str], ...]:
    at = datetime.fromtimestamp(int(clock.now()), UTC) + timedelta(seconds=wait_s)
    return (
        ("retry-after", str(wait_s)),
        ("rate_limit_type", ref.dimension.value),
        ("reset_at", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
    )
