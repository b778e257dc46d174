"""Daily figures: the source's tables of them into `daily_spend`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType

from attrs import define, frozen

from services.admin.litellm_import.cleaning import Fields, Refused, decode
from services.admin.litellm_import.report import Report
from shared.db.import_spend import DailyFigure, stage_daily
from shared.db.litellm_source import Source, SourceTable
from shared.db.rows import Connection

_COLUMNS = (
    "date",
    "api_key",
    "model",
    "model_group",
    "custom_llm_provider",
    "endpoint",
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "api_requests",
    "successful_requests",
    "failed_requests",
    "total_response_time_ms",
)
# The owner's column of each table. Every call is in the users' table, whoever made it.
_OWNERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "user": ("DailyUserSpend", "user_id"),
        "team": ("DailyTeamSpend", "team_id"),
        "organization": ("DailyOrganizationSpend", "organization_id"),
        "end_user": ("DailyEndUserSpend", "end_user_id"),
        "tag": ("DailyTagSpend", "tag"),
    }
)
_NAMES = MappingProxyType(
    {
        "key": "keys",
        "user": "users",
        "team": "teams",
        "organization": "organizations",
        "end_user": "end users",
        "tag": "tags",
    }
)


@define
class _Sums:
    """What the source says and what of it is not taken over: USD and calls."""

    spend: Decimal = Decimal(0)
    calls: int = 0
    left_spend: Decimal = Decimal(0)
    left_calls: int = 0

    def add(self, spend: Decimal, calls: int, *, taken: bool) -> None:
        self.spend += spend
        self.calls += calls
        if not taken:
            self.left_spend += spend
            self.left_calls += calls


@frozen
class DailyFigures:
    """What was read of the source, by kind; to be compared once it is applied."""

    sums: Mapping[str, _Sums]

    def compare(self, here: Mapping[str, tuple[Decimal, int]], report: Report) -> None:
        """Says side by side what is here of it."""
        for kind, sums in self.sums.items():
            spend, calls = here.get(kind, (Decimal(0), 0))
            name = f"daily figures of {_NAMES[kind]}"
            report.total(f"{name}: spend", sums.spend, sums.left_spend, spend)
            report.count(f"{name}: calls", sums.calls, sums.left_calls, calls)


async def stage_all(source: Source, target: Connection, report: Report) -> DailyFigures:
    """Reads all daily figures and stages them."""
    sums = {kind: _Sums() for kind in _NAMES}
    for kind, (table, column) in _OWNERS.items():
        wanted = SourceTable(table, ("id",), (column, *_COLUMNS))
        async for batch in source.batches(wanted):
            figures: list[DailyFigure] = []
            for row in batch:
                fields = Fields(decode(row.steady))
                figures += _figures(kind, column, fields, sums, report)
            await stage_daily(target, figures)
    return DailyFigures(sums)


def _figures(
    kind: str, column: str, fields: Fields, sums: Mapping[str, _Sums], report: Report
) -> list[DailyFigure]:
    """A row of the users' table is one of its key's too. A call without an owner of the kind is
    in the table all the same, and is nobody's."""
    label = str(fields.row.get("id"))
    kinds = ("key", kind) if kind == "user" else (kind,)
    try:
        spend, calls = fields.spend("spend"), fields.tally("api_requests")
    except Refused as refused:
        report.refuse("daily figures", label, refused.name, refused.what)
        return []
    try:
        day = _day(fields)
        owners = {"key": fields.link("api_key") or "", kind: fields.link(column)}
        names = {name: fields.link(name) or "" for name in _NAMING}
    except Refused as refused:
        report.refuse("daily figures", label, refused.name, refused.what)
        for each in kinds:
            sums[each].add(spend, calls, taken=True)
        return []
    figures = []
    for each in kinds:
        owner = owners[each]
        taken = each == "key" or owner is not None
        sums[each].add(spend, calls, taken=taken)
        if taken:
            figures.append(_figure(each, owner or "", owners["key"] or "", day, names, fields))
        else:
            report.leave(f"daily figures of {_NAMES[each]}", "calls without one")
    return figures


_NAMING = ("model_group", "model", "custom_llm_provider", "endpoint")


def _figure(
    kind: str, owner: str, key: str, day: date, names: Mapping[str, str], fields: Fields
) -> DailyFigure:
    return DailyFigure(
        kind=kind,
        id=owner,
        day=day,
        key=key,
        model_group=names["model_group"] or names["model"],
        model=names["model"],
        provider=names["custom_llm_provider"],
        route=names["endpoint"],
        spend=fields.spend("spend"),
        prompt_tokens=fields.tally("prompt_tokens"),
        completion_tokens=fields.tally("completion_tokens"),
        cached_tokens=fields.tally("cache_read_input_tokens"),
        cache_write_tokens=fields.tally("cache_creation_input_tokens"),
        calls=fields.tally("api_requests"),
        successes=fields.tally("successful_requests"),
        failures=fields.tally("failed_requests"),
        duration_ms=fields.tally("total_response_time_ms"),
    )


def _day(fields: Fields) -> date:
    found = fields.row.get("date")
    try:
        return date.fromisoformat(found[:10])  # type: ignore[index]
    except (TypeError, ValueError):
        raise Refused("date", "is no day") from None
