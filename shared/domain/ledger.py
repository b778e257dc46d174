"""The two records of a call: written before its first byte goes upstream, and when it settles.

Made and encoded for every call, hence msgspec's structs: they cost a fifth of other frozen classes.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import msgspec


class CallStatus(StrEnum):
    """How a call ended. The values are stored."""

    SUCCESS = "success"
    FAILURE = "failure"
    CLIENT_CLOSED = "client_closed"
    INTERRUPTED = "interrupted"


class BudgetCharge(msgspec.Struct, frozen=True, gc=False):
    """A budget window that a call belongs to: that of its admission, wherever the call ends.

    `window_start_s` is seconds since the epoch, 0 for a lifetime budget. `scope` is the budget's
    own where an owner has several (`window_scope`).
    """

    scope: str
    window_start_s: int = 0


class CallOpened(msgspec.Struct, frozen=True, gc=False):
    """What a successor needs to account for a call whose process died.

    Times are seconds since the epoch on the database-corrected clock; `estimate` is USD.
    """

    id: UUID
    started_s: float
    route: str
    model: str
    model_group: str
    deployment_id: str
    provider: str
    region: str
    key: str
    key_alias: str | None
    user_id: str | None
    team_id: str | None
    organization_id: str | None
    end_user: str | None
    api_base: str
    stream: bool
    estimate: Decimal
    charges: tuple[BudgetCharge, ...] = ()
    tags: tuple[str, ...] = ()
    session_id: str | None = None
    requester_ip: str | None = None
    project_id: str | None = None


class CallClosed(msgspec.Struct, frozen=True, gc=False):
    """How it ended. `cost` is USD, durations are seconds, `http_status` what the client got.

    `model`, `deployment_id`, `provider`, `api_base` are set when another deployment answered than
    the one named at `CallOpened`.
    """

    id: UUID
    ended_s: float
    status: CallStatus
    http_status: int
    cost: Decimal
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    ttft_s: float | None = None
    attempts: int = 1
    error_type: str | None = None
    upstream_id: str | None = None
    model: str | None = None
    deployment_id: str | None = None
    provider: str | None = None
    api_base: str | None = None
