"""What is taken over of one table: how its rows are read, and where they go."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, time, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

from attrs import frozen

from services.admin.litellm_import.ciphers import Opener
from services.admin.litellm_import.cleaning import Fields, Refused
from shared.config.gateway_config import GatewayConfig
from shared.db.import_spend import Amount
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceRow, SourceTable
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest
from shared.limits.windows import Duration, parse_budget_duration, window
from shared.secrets.sealing import Sealer

Columns: TypeAlias = "dict[str, Any]"

# Grows when rows are read in another way, so that all are taken over anew.
_FORM = b"1"


@frozen
class Circumstances:
    """What holds for a whole import. `sealer` raises `ConfigError` where there is no key; `gateway`
    is what the configuration file says, with which models and settings have to go together."""

    now: datetime
    opener: Opener
    sealer: Callable[[], Sealer]
    timezone: tzinfo = UTC
    reset_time: time = time(0)
    gateway: GatewayConfig = GatewayConfig()

    def window_s(self, duration: Duration) -> int:
        """The start of the budget window that is open now (seconds since the epoch)."""
        return _start_s(duration, self.now.timestamp(), self.timezone, self.reset_time)


@frozen
class Taken:
    """A row of ours, with what was spent. `id` is needed where no columns make it up."""

    columns: Columns
    amounts: tuple[Amount, ...] = ()
    last_active: datetime | None = None
    id: str | None = None


@frozen
class Item:
    """A row of ours on its way. `digest` is of the source's row, `fields` the notes on it."""

    id: str
    label: str
    digest: bytes
    taken: Taken
    fields: Fields


Read: TypeAlias = "Callable[[Fields, Circumstances], Taken]"
Split: TypeAlias = "Callable[[Fields], list[dict[str, Any]]]"
Screen: TypeAlias = (
    "Callable[[Connection, Circumstances, list[Item]], Awaitable[dict[str, tuple[str, str]]]]"
)


@frozen
class Reference:
    """A column that names an object of another kind, which has to be there."""

    column: str
    kind: Kind

    @property
    def table(self) -> ImportTable:
        """Where it has to be."""
        assert self.kind.target is not None
        return self.kind.target


@frozen
class Unique:
    """A column that no two rows share; `folded`: not even in another case. Whoever comes second
    goes without, or, where it is `needed`, is not taken over."""

    column: str
    folded: bool = False
    needed: bool = False


@frozen(kw_only=True)
class Kind:
    """A kind of objects. `name` is what reports call it, `kind` what the memory of imports does;
    `label` names an object for people.

    `split` makes several rows of one, before they are read. `amounts` is the kind in
    `spend_counter`. Without a `target` only amounts are taken over.
    `screen` says of items, by id, what field of theirs is wrong and how. Members go with their
    group: they are taken away here when the `group`, another kind, has them no longer.
    """

    name: str
    kind: str
    source: SourceTable
    target: ImportTable | None
    read: Read
    split: Split | None = None
    references: tuple[Reference, ...] = ()
    unique: tuple[Unique, ...] = ()
    amounts: str | None = None
    screen: Screen | None = None
    group: str | None = None
    label: Callable[[Mapping[str, Any]], str] | None = None

    def label_of(self, row: Mapping[str, Any]) -> str:
        """What to call a row of the source in a report."""
        if self.label is not None:
            return self.label(row)
        return "/".join(str(row.get(name)) for name in self.source.key)


@lru_cache(maxsize=256)
def _start_s(duration: Duration, now_s: float, timezone: tzinfo, reset_time: time) -> int:
    """Asked for each of very many owners, who share a few periods."""
    return window(duration, now_s, timezone, reset_time).start_s


def digest(row: SourceRow) -> bytes:
    """Changes when a row does, but for what traffic changes in it."""
    return hashlib.sha256(_FORM + row.steady.encode("utf-8", "surrogatepass")).digest()


LINKED_HOT = ("linked_budget_duration", "linked_budget_reset_at")


def spent(fields: Fields, kind: str, owner: str, at: Circumstances) -> tuple[Amount, ...]:
    """What an owner has spent: in its lifetime, as far as the source knows it, and in the window
    of its budget, unless the source has merely not got round to starting that anew."""
    amount = fields.spend("spend")
    total = max(amount, fields.spend("total_spend"))
    own = fields.row.get("budget_duration")
    prefix = "" if own else "linked_"
    text = own or fields.row.get("linked_budget_duration")
    knows_total = fields.row.get("total_spend") is not None
    lifetime = Amount(kind, owner, 0, total, restarts=bool(text) and not knows_total)
    try:
        duration = parse_budget_duration(str(text)) if text else None
    except InvalidRequest:
        duration = None
    if duration is None:
        return (lifetime,)
    try:
        reset_at = fields.moment(f"{prefix}budget_reset_at")
    except Refused:
        reset_at = None
    current = amount if reset_at is None or reset_at > at.now else Decimal(0)
    return (lifetime, Amount(kind, owner, at.window_s(duration), current))


def stamps(fields: Fields, at: Circumstances) -> Columns:
    """When a row was made and changed, and by whom."""
    created_at = fields.at("created_at", at.now)
    return {
        "created_at": created_at,
        "created_by": fields.words("created_by"),
        "updated_at": fields.at("updated_at", created_at),
        "updated_by": fields.words("updated_by"),
    }


def limits(fields: Fields) -> Columns:
    """The limits that keys, users, teams and budgets have alike."""
    return {
        "max_budget": fields.money("max_budget"),
        "soft_budget": fields.money("soft_budget"),
        "budget_duration": fields.duration("budget_duration"),
        "rpm_limit": fields.count("rpm_limit"),
        "tpm_limit": fields.count("tpm_limit"),
        "tpd_limit": fields.count("tpd_limit"),
        "max_parallel_requests": fields.count("max_parallel_requests", 2**31 - 1),
    }


LIMIT_COLUMNS = (
    "max_budget",
    "soft_budget",
    "budget_duration",
    "rpm_limit",
    "tpm_limit",
    "tpd_limit",
    "max_parallel_requests",
)
STAMP_COLUMNS = ("created_at", "created_by", "updated_at", "updated_by")


def columns_of(*parts: Iterable[str]) -> tuple[str, ...]:
    """Names of columns, put together."""
    return tuple(name for part in parts for name in part)
