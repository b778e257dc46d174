"""Readers of the values that several objects have: durations, budgets, permissions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.values import (
    Loc,
    Reader,
    Wrong,
    choice,
    count,
    document,
    flag,
    instant,
    listing,
    mapping,
    members_of,
    money,
    reader,
    text,
)
from shared.limits.windows import parse_budget_duration, parse_duration

_PERIOD_NAMES = ("budget_duration", "time_period")


@reader(**text.schema, examples=["30d"])
def duration(value: Any, loc: Loc) -> str:
    """A duration, or `-1` for ever."""
    given = text(value, loc)
    if given != "-1":
        parse_duration(given, param=str(loc[-1]))
    return given


@reader(**text.schema, examples=["30d"])
def budget_duration(value: Any, loc: Loc) -> str:
    """A period after which a budget starts anew."""
    given = text(value, loc)
    parse_budget_duration(given, param=".".join(map(str, loc[1:])))
    return given


@reader(**money.schema)
def amount(value: Any, loc: Loc) -> float:
    """An amount in USD as it goes into a JSON column."""
    return float(money(value, loc))


@reader(
    **members_of(
        "budget_duration", "max_budget", budget_duration=budget_duration, max_budget=amount
    )
)
def budget_window(value: Any, loc: Loc) -> dict[str, Any]:
    """One of several budgets that run at once."""
    members = document(value, loc)
    for name in ("budget_duration", "max_budget"):
        if members.get(name) is None:
            raise Wrong("missing", (*loc, name), "Field required")
    members["budget_duration"] = budget_duration(
        members["budget_duration"], (*loc, "budget_duration")
    )
    members["max_budget"] = amount(members["max_budget"], (*loc, "max_budget"))
    return members


@reader(
    **members_of(
        max_budget=amount, budget_duration=budget_duration, tpm_limit=count(), rpm_limit=count()
    )
)
def model_budget(value: Any, loc: Loc) -> dict[str, Any]:
    """What may be spent on one model, and its rates."""
    members = document(value, loc)
    for name in ("budget_limit", "max_budget"):
        if members.get(name) is not None:
            members[name] = amount(members[name], (*loc, name))
    for name in _PERIOD_NAMES:
        if members.get(name) is not None:
            members[name] = budget_duration(members[name], (*loc, name))
    for name in ("tpm_limit", "rpm_limit"):
        if members.get(name) is not None:
            members[name] = count()(members[name], (*loc, name))
    return members


@reader(**instant.schema)
def moment(value: Any, loc: Loc) -> str:
    """A time as it goes into a JSON column."""
    return instant(value, loc).isoformat()


texts = listing(text)
names = mapping(text)
limit_type = choice("guaranteed_throughput", "best_effort_throughput", "dynamic")

_OBJECT_PERMISSION_LISTS = (
    "mcp_servers",
    "mcp_access_groups",
    "mcp_toolsets",
    "blocked_tools",
    "vector_stores",
    "agents",
    "agent_access_groups",
    "models",
    "search_tools",
    "skills",
)


_OBJECT_PERMISSION: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(_OBJECT_PERMISSION_LISTS, texts),
        "mcp_tool_permissions": mapping(texts),
        "mcp_tool_search_enabled": flag,
    }
)


@reader(**members_of(**_OBJECT_PERMISSION))
def object_permission(value: Any, loc: Loc) -> dict[str, Any]:
    """What its holder may reach besides models."""
    members = document(value, loc)
    return {
        name: read(members[name], (*loc, name))
        for name, read in _OBJECT_PERMISSION.items()
        if members.get(name) is not None
    }
