"""What a request must be granted before it may go upstream.

A *scope* is one owner seen through one dimension (`key:<hash>` × requests). All limit checks
iterate a `tuple[ScopeRef, …]`: level order and comparators are data, so that a further level is
a row and not code (management contract §4.3, §4.5).
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from attrs import frozen


class Dimension(StrEnum):
    """What is counted. The values are stored and appear in answers."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "max_parallel_requests"
    MONEY = "money"


class Level(StrEnum):
    """Whose limit it is, named as in the contract's `x-ratelimit-<level>-…` headers."""

    KEY = "api_key"
    USER = "user"
    TEAM = "team"
    MEMBER = "team_member"
    ORGANIZATION = "organization"
    END_USER = "end_user"
    TAG = "tag"
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
