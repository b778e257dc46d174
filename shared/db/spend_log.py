"""Single calls of the spend log: which ones are asked for, how many there are, and their rows.

Times are aware UTC, money is USD as `Decimal`. A call belongs to the instant at which it started;
its id was drawn at most `_ID_SLACK` away from that, so that ids bound what is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from attrs import frozen

from shared.domain.ids import id_floor

EARLIEST = datetime.fromtimestamp(0, UTC)
_ID_SLACK = timedelta(seconds=1)

FAILED = ("failure", "interrupted")
"""Statuses that count as failures; the others are successes, as in the roll-ups."""
_SUCCEEDED = ("success", "client_closed")

SORTABLE: Mapping[str, str] = {
    "startTime": "l.id",
    "endTime": "l.ended_at",
    "spend": "l.cost",
    "total_tokens": "l.prompt_tokens::bigint + l.completion_tokens",
    "prompt_tokens": "l.prompt_tokens",
    "completion_tokens": "l.completion_tokens",
    "request_duration_ms": "l.ended_at - l.started_at",
    "ttft_ms": "l.ttft_ms",
    "status": "l.status",
}
"""What lists of calls can be sorted by, and the expression that does it."""
BY_TIME = "startTime"


@frozen(kw_only=True)
class CallFilter:
    """Which calls are meant: those that started from `start` to before `end`, and fit whatever
    else is set.

    `error` and `search` are parts of names: of the kind of error; of a key's alias, its user or
    team, of a model. `search` may also be the whole id of a call, a session or an end user, or a
    key's token.
    """

    start: datetime = EARLIEST
    end: datetime
    token: str | None = None
    key_alias: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    model: str | None = None
    model_group: str | None = None
    deployment_id: str | None = None
    end_user: str | None = None
    session_id: str | None = None
    call_id: UUID | None = None
    failed: bool | None = None
    http_status: int | None = None
    least_cost: Decimal | None = None
    most_cost: Decimal | None = None
    error: str | None = None
    search: str | None = None

    @property
    def few(self) -> bool:
        """Whether an index finds the calls, however long the time is."""
        return (self.call_id or self.session_id or self.end_user) is not None


class Where:
    """Conditions on `spend_log l`, with their parameters numbered from one."""

    def __init__(self, chosen: CallFilter) -> None:
        self.args: list[Any] = []
        self._parts: list[str] = []
        self._bounds(chosen)
        self._names("payer_id", "call_payer", _payer(chosen))
        self._names("path_id", "call_path", _path(chosen))
        for condition, value in _columns(chosen):
            self.add(condition, value)
        if chosen.search is not None:
            self.add(_SEARCH, chosen.search)
            self.add("or l.id = {}::uuid)", _uuid(chosen.search), joined=True)

    @property
    def text(self) -> str:
        """The conditions as one expression."""
        return " ".join(self._parts)

    def add(self, condition: str, value: Any, *, joined: bool = False) -> None:
        """One more condition, or the end of the last one; `{}` stands for its parameter."""
        self.args.append(value)
        glue = "and " if self._parts and not joined else ""
        self._parts.append(glue + condition.replace("{}", f"${len(self.args)}"))

    def next(self, value: Any) -> str:
        """One more parameter, by its number."""
        self.args.append(value)
        return f"${len(self.args)}"

    def _bounds(self, chosen: CallFilter) -> None:
        start = max(chosen.start, EARLIEST)
        low = max(start.timestamp() - _ID_SLACK.total_seconds(), 0.0)
        high = max(chosen.end.timestamp() + _ID_SLACK.total_seconds(), 0.0)
        self.add("l.id >= {}::uuid", id_floor(low))
        self.add("l.id < {}::uuid", id_floor(high))
        self.add("l.started_at >= {}::timestamptz", start)
        self.add("l.started_at < {}::timestamptz", chosen.end)

    def _names(self, column: str, table: str, wanted: Mapping[str, str | None]) -> None:
        names = {name: value for name, value in wanted.items() if value is not None}
        if names:
            named = " and ".join(f"n.{name} = {self.next(value)}" for name, value in names.items())
            # An array, so that the calls are looked up by the few numbers that stand for the names.
            self._parts.append(
                f"and l.{column} = any(array(select n.id from {table} n where {named}))"  # noqa: S608 - only constants of this module
            )


_SEARCH = """(
    l.session_id = {} or l.end_user = {}
    or l.payer_id = any(array(
        select o.id from call_payer o
        where o.key = {} or strpos(lower(o.key_alias), lower({})) > 0
           or strpos(lower(o.user_id), lower({})) > 0 or strpos(lower(o.team_id), lower({})) > 0))
    or l.path_id = any(array(
        select p.id from call_path p
        where strpos(lower(p.model), lower({})) > 0 or strpos(lower(p.model_group), lower({})) > 0))
"""


def _payer(chosen: CallFilter) -> dict[str, str | None]:
    return {
        "key": chosen.token,
        "key_alias": chosen.key_alias,
        "user_id": chosen.user_id,
        "team_id": chosen.team_id,
    }


def _path(chosen: CallFilter) -> dict[str, str | None]:
    return {
        "model": chosen.model,
        "model_group": chosen.model_group,
        "deployment_id": chosen.deployment_id,
    }


def _columns(chosen: CallFilter) -> list[tuple[str, Any]]:
    statuses = {None: None, True: list(FAILED), False: list(_SUCCEEDED)}[chosen.failed]
    conditions = [
        ("l.id = {}::uuid", chosen.call_id),
        ("l.session_id = {}", chosen.session_id),
        ("l.end_user = {}", chosen.end_user),
        ("l.status = any({}::text[])", statuses),
        ("l.http_status = {}::smallint", chosen.http_status),
        ("l.cost >= {}::numeric", chosen.least_cost),
        ("l.cost <= {}::numeric", chosen.most_cost),
        ("strpos(lower(l.error_type), lower({})) > 0", chosen.error),
    ]
    if chosen.failed or chosen.error is not None:
        # Repeated for the sake of the index on what did not succeed.
        conditions.append(("l.status <> 'success' and {}::boolean", True))
    return [(condition, value) for condition, value in conditions if value is not None]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
