"""What budgets that run side by side have spent in their windows."""

from __future__ import annotations

from services.admin.litellm_import.cleaning import Fields, LeftOut, Refused, after
from services.admin.litellm_import.kinds import Circumstances, Kind, Taken
from shared.db.import_spend import Amount
from shared.db.litellm_source import SourceTable
from shared.domain.errors import InvalidRequest
from shared.limits.windows import parse_budget_duration

_KINDS = frozenset({"key", "team", "user"})


def _window(fields: Fields, at: Circumstances) -> Taken:
    kind = (fields.words("entity_type") or "").lower()
    if kind not in _KINDS:
        raise LeftOut("windows of budgets that there are not here")
    try:
        duration = parse_budget_duration(fields.id("window_duration"))
    except InvalidRequest:
        raise Refused("window_duration", "is no period of a budget") from None
    start = fields.moment("window_start")
    if start is None or not after(duration.after(start), at.now):
        raise LeftOut("windows that are over")
    owner, spend = fields.id("entity_id"), fields.spend("spend")
    return Taken({}, (Amount(kind, owner, at.window_s(duration), spend),))


BUDGET_WINDOWS = Kind(
    name="budget windows",
    kind="budget_window",
    source=SourceTable(
        "BudgetWindowSpend",
        ("entity_type", "entity_id", "window_duration"),
        hot=("window_start", "spend"),
    ),
    target=None,
    read=_window,
)
