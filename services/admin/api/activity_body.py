"""Daily activity as answers show it (management contract §3.12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

import msgspec
from attrs import define, field

from services.admin.api.spend_endpoints import endpoint
from shared.db.activity import Activity, Metrics, Slot

# Names of models, routes and owners in the breakdown of a day.
_MODEL_NAMES: tuple[tuple[str, Callable[[Slot], str]], ...] = (
    ("models", lambda slot: slot.model),
    ("model_groups", lambda slot: slot.model_group),
    ("providers", lambda slot: slot.provider),
    ("endpoints", lambda slot: endpoint(slot.route)),
)
_NAMES = (*_MODEL_NAMES, ("entities", lambda slot: slot.owner))
# What this release has nothing to say of.
_EMPTY = ("mcp_servers", "guardrails")


@define
class _Sums:
    """The sums of one name, and of the keys in it."""

    metrics: Metrics = field(factory=Metrics)
    keys: dict[str, Metrics] = field(factory=dict)


@define
class _Day:
    """A day in the making: breakdown → name → sums."""

    metrics: Metrics = field(factory=Metrics)
    parts: dict[str, dict[str, _Sums]] = field(
        factory=lambda: {name: {} for name in (*dict(_NAMES), "api_keys")}
    )

    def add(self, part: str, name: str, metrics: Metrics) -> None:
        self._sums(part, name).metrics.add(metrics)

    def add_key(self, part: str, name: str, slot: Slot) -> None:
        keys = self._sums(part, name).keys
        metrics = keys.get(slot.key)
        if metrics is None:
            metrics = keys[slot.key] = Metrics()
        metrics.add(slot.metrics)

    def _sums(self, part: str, name: str) -> _Sums:
        found = self.parts[part].get(name)
        if found is None:
            found = self.parts[part][name] = _Sums()
        return found


def activity_body(
    activity: Activity, owner_member: str, *, page: int, total_pages: int
) -> dict[str, Any]:
    """The days, newest first. `owner_member` is what the name of an owner is called."""
    days = _days(activity)
    total = _sum(day.metrics for day in days.values())
    newest = sorted(days, reverse=True)
    return {
        "results": [_day_body(each, days[each], activity, owner_member) for each in newest],
        "metadata": {
            **{f"total_{name}": value for name, value in _headline(total).items()},
            "page": page,
            "total_pages": total_pages,
            "has_more": page < total_pages,
        },
    }


def _day_body(each: date, day: _Day, activity: Activity, owner_member: str) -> msgspec.Raw:
    """A day, encoded at once: a year of them is a burden otherwise."""
    body = {
        "date": each.isoformat(),
        "metrics": metrics_body(day.metrics),
        "breakdown": _breakdown(day, activity, owner_member),
    }
    return msgspec.Raw(msgspec.json.encode(body))


def metrics_body(metrics: Metrics) -> dict[str, Any]:
    """Sums under the reference's names; a cost that is no call's is not known here."""
    return {
        "spend": float(metrics.spend),
        "flat_cost": 0.0,
        "ptu_hours": 0.0,
        "prompt_tokens": metrics.prompt_tokens,
        "completion_tokens": metrics.completion_tokens,
        "cache_read_input_tokens": metrics.cached_tokens,
        "cache_creation_input_tokens": metrics.cache_write_tokens,
        "total_tokens": metrics.prompt_tokens + metrics.completion_tokens,
        "api_requests": metrics.calls,
        "successful_requests": metrics.successes,
        "failed_requests": metrics.failures,
        "total_response_time_ms": metrics.duration_ms,
        "timed_requests": metrics.calls,
    }


def key_body(token: str, metrics: Metrics, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A key in a ranking."""
    return {"api_key": token, "metrics": metrics_body(metrics), "metadata": _known(token, keys)}


def _days(activity: Activity) -> dict[date, _Day]:
    days: dict[date, _Day] = {}
    for slot in activity.by_model:
        day = days.setdefault(slot.day, _Day())
        day.metrics.add(slot.metrics)
        for part, name in _MODEL_NAMES:
            day.add(part, name(slot), slot.metrics)
    for slot in activity.by_owner:
        days.setdefault(slot.day, _Day()).add("entities", slot.owner, slot.metrics)
    for slot in activity.by_key:
        day = days.setdefault(slot.day, _Day())
        day.add("api_keys", slot.key, slot.metrics)
        for part, name in _NAMES:
            if name(slot):
                day.add_key(part, name(slot), slot)
    return days


def _breakdown(day: _Day, activity: Activity, owner_member: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        part: {
            name: {
                "metrics": metrics_body(sums.metrics),
                "metadata": _called(name, activity, owner_member) if part == "entities" else {},
                "api_key_breakdown": {
                    token: _key(token, metrics, activity) for token, metrics in sums.keys.items()
                },
            }
            for name, sums in day.parts[part].items()
        }
        for part in dict(_NAMES)
    }
    shown["api_keys"] = {
        token: _key(token, sums.metrics, activity) for token, sums in day.parts["api_keys"].items()
    }
    return shown | {name: {} for name in _EMPTY}


def _key(token: str, metrics: Metrics, activity: Activity) -> dict[str, Any]:
    return {"metrics": metrics_body(metrics), "metadata": _known(token, activity.keys)}


def _known(token: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    return dict(keys.get(token) or {"key_alias": None, "team_id": None})


def _called(name: str, activity: Activity, owner_member: str) -> dict[str, Any]:
    alias = activity.aliases.get(name)
    return {} if alias is None else {owner_member: alias}


def _headline(total: Metrics) -> dict[str, Any]:
    return {
        "spend": float(total.spend),
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "tokens": total.prompt_tokens + total.completion_tokens,
        "api_requests": total.calls,
        "successful_requests": total.successes,
        "failed_requests": total.failures,
        "cache_read_input_tokens": total.cached_tokens,
        "cache_creation_input_tokens": total.cache_write_tokens,
    }


def _sum(metrics: Iterable[Metrics]) -> Metrics:
    total = Metrics()
    for each in metrics:
        total.add(each)
    return total
