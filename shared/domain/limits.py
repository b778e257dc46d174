"""What a request must be granted before it may go upstream.

A *scope* is one owner seen through one dimension (`key:<hash>` × requests). All limit checks
iterate a `tuple[ScopeRef, …]`: level order and comparators are data, so that a further level is
a row and not code (management contract §4.3, §4.5).
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from enum import StrEnum

from attrs import frozen

# Bytes; with kind and period a scope stays within what a journal's record keeps of a text.
_LONGEST_SCOPE = 190
_WINDOW_MARK = "\x1f"


class Dimension(StrEnum):
    """What is counted. The values are stored and appear in answers."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "max_parallel_requests"
    MONEY = "money"


class Level(StrEnum):
    """Whose limit it is, named as in the contract's `x-ratelimit-<level>-…` headers."""

    KEY = "api_key"
    MODEL_PER_KEY = "model_per_key"
    PROJECT = "project"
    MODEL_PER_PROJECT = "model_per_project"
    TEAM = "team"
    MODEL_PER_TEAM = "model_per_team"
    ORGANIZATION = "organization"
    MODEL_PER_ORGANIZATION = "model_per_organization"
    TAG = "tag"
    TAG_PER_KEY = "tag_per_key"
    ACCESS_GROUP = "access_group"
    USER = "user"
    MODEL_PER_USER = "model_per_user"
    MEMBER = "team_member"
    MODEL_PER_MEMBER = "model_per_team_member"
    ORGANIZATION_MEMBER = "organization_member"
    END_USER = "end_user"
    MODEL_PER_END_USER = "model_per_end_user"
    GLOBAL = "global"


class Comparator(StrEnum):
    """When a budget refuses: spend ≥ budget, or only spend > budget (contract §4.3)."""

    AT = "at"
    OVER = "over"


@frozen
class ScopeRef:
    """One limit of one owner.

    `scope` is the owner's id in counters (`key:<hash>`); `limit` is a whole number for rates and
    USD for money. `duration` is the budget's reset period, `None` for a lifetime budget and for
    rates. Two refs that differ in `limit` are different, so a changed limit voids local blocks.
    """

    scope: str
    dimension: Dimension
    limit: Decimal
    level: Level = Level.KEY
    comparator: Comparator = Comparator.AT
    duration: str | None = None


def scope_id(kind: str, owner: str) -> str:
    """An owner's id in counters. One that is very long, that the database could not hold as text,
    or that looks like one of several budgets, is known by its digest."""
    data = owner.encode("utf-8", "surrogatepass")
    odd = "\x00" in owner or _WINDOW_MARK in owner or data.decode("utf-8", "replace") != owner
    if odd or len(data) > _LONGEST_SCOPE:
        owner = f"sha256-{hashlib.sha256(data).hexdigest()}"
    return f"{kind}:{owner}"


def window_scope(scope: str, duration: str) -> str:
    """The scope of one of several budgets of an owner. What it holds is its own; what is spent is
    read from the owner's counter of that window (`budget_owner` in 0003_ledger.sql)."""
    return f"{scope}{_WINDOW_MARK}{duration[:32]}"
