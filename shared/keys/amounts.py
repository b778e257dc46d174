"""What rows and JSON columns say of limits, read with care: nobody checks what SQL has written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from attrs import evolve, frozen

from shared.domain.keys import Budget, Team, User, VirtualKey
from shared.domain.limits import window_scope


@frozen
class Limits:
    """What one owner may use; `None` is no limit. Rates count per window, money is USD."""

    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None
    money: Decimal | None = None
    duration: str | None = None


def own_limits(holder: VirtualKey | Team | User) -> Limits:
    """Those of an owner that has them in its own row."""
    return Limits(
        requests=holder.rpm_limit,
        tokens=holder.tpm_limit,
        parallel=holder.max_parallel_requests,
        money=holder.max_budget,
        duration=holder.budget_duration,
    )


def budget_limits(budget: Budget, now_s: float) -> Limits:
    """Those of a budget row as of `now_s` (epoch)."""
    limits = Limits(
        requests=budget.rpm_limit,
        tokens=budget.tpm_limit,
        parallel=budget.max_parallel_requests,
        money=budget.max_budget,
        duration=budget.budget_duration,
    )
    return increased(limits, budget.temp_budget_increase, budget.temp_budget_expiry, now_s)


def window_limits(scope: str, limits: tuple[Any, ...] | None) -> Iterator[tuple[str, Limits]]:
    """Budgets that run side by side, each with a period."""
    for entry in limits or ():
        members = mapping(entry)
        amount, duration = money(members.get("max_budget")), members.get("budget_duration")
        if amount is not None and isinstance(duration, str):
            yield window_scope(scope, duration), Limits(money=amount, duration=duration)


def model_budget(entry: Any) -> Limits:
    """`{max_budget | budget_limit, budget_duration | time_period, rpm_limit, tpm_limit}`, or the
    budget alone."""
    if not isinstance(entry, Mapping):
        return Limits(money=money(entry))
    amount = money(entry.get("max_budget"))
    duration = entry.get("budget_duration") or entry.get("time_period")
    return Limits(
        requests=count(entry.get("rpm_limit")),
        tokens=count(entry.get("tpm_limit")),
        money=amount if amount is not None else money(entry.get("budget_limit")),
        duration=duration if isinstance(duration, str) else None,
    )


def key_increase(key: VirtualKey) -> tuple[Decimal | None, datetime | None]:
    """By how much a key's budget is raised, and until when."""
    increase = money(key.metadata.get("temp_budget_increase"))
    expiry = key.metadata.get("temp_budget_expiry")
    if increase is None or not isinstance(expiry, str):
        return None, None
    try:
        end = datetime.fromisoformat(expiry)
    except ValueError:
        return None, None
    return increase, end if end.tzinfo is not None else end.replace(tzinfo=UTC)


def increased(
    limits: Limits, increase: Decimal | None, expiry: datetime | None, now_s: float
) -> Limits:
    """A budget is raised until the expiry; an increase without one is none."""
    if limits.money is None or increase is None or expiry is None or expiry.timestamp() <= now_s:
        return limits
    return evolve(limits, money=limits.money + increase)


def first(own: int | None, other: int | None) -> int | None:
    """The closer limit, where there is one."""
    return own if own is not None else other


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def count(value: Any) -> int | None:
    """A whole number, 0 or more, out of a JSON column."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if whole and 0 <= value < 2**53 else None


def money(value: Any) -> Decimal | None:
    """An amount out of a JSON column; what is no finite number limits nothing (contract §4.3)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None
