"""How limits behave, decided at start but for the status of a budget that is spent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, time, tzinfo
from enum import StrEnum

from attrs import frozen


class OutageLimits(StrEnum):
    """Rates and slots while the database is away: this process's share, or no limit."""

    SHARE = "share"
    SERVE = "serve"


class OutageBudgets(StrEnum):
    """Money while the database is away: what is leased and then nothing, no limit, or nothing."""

    LEASE = "serve_until_lease_end"
    SERVE = "serve"
    REFUSE = "refuse"


@frozen
class LimitSettings:
    """Times are seconds.

    `window_s` is the length of a rate window. `strict` reserves the most a call can use instead
    of what calls like it have used. `zone` and `reset_time` place budget periods. An owner unseen
    for `slot_ttl_s` loses its slots, for `money_ttl_s` its money (in strict mode it keeps that).
    A scope found exhausted is asked for at most every `reask_s`. What nobody uses is given back
    after `idle_s`, slots after `slot_idle_s` to twice that. `probe_s` is how often a lost database
    is tried. `first_output` are the tokens expected of a reply when nothing is known, `output_cap`
    the most in strict mode when neither the request nor the model sets a cap.
    """

    window_s: float = 60.0
    strict: bool = False
    budget_status: Callable[[], int] = lambda: 422
    outage_limits: OutageLimits = OutageLimits.SHARE
    outage_budgets: OutageBudgets = OutageBudgets.LEASE
    zone: tzinfo = UTC
    reset_time: time = time(0)
    slot_ttl_s: float = 8.0
    money_ttl_s: float = 60.0
    reask_s: float = 0.25
    idle_s: float = 1.0
    slot_idle_s: float = 0.1
    probe_s: float = 0.5
    first_output: int = 1024
    output_cap: int = 16_384
    max_waiting: int = 10_000
