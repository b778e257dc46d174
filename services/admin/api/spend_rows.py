"""Calls as the spend pages show them (management contract §3.12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from services.admin.api.spend_endpoints import call_type
from shared.db.spend_log import FAILED

_MILLISECOND = timedelta(milliseconds=1)


def call_bodies(rows: Iterable[Mapping[str, Any]]) -> list[msgspec.Raw]:
    """Calls, each encoded at once: ten thousand of them are a burden otherwise."""
    return [msgspec.Raw(msgspec.json.encode(call_body(row))) for row in rows]


def call_body(row: Mapping[str, Any]) -> dict[str, Any]:
    """A call, its times aware UTC. Prompts and answers are not kept, hence empty; no reply comes
    from a cache."""
    started, ended, ttft_ms = row["started_at"], row["ended_at"], row["ttft_ms"]
    replied = None if ttft_ms is None else started + ttft_ms * _MILLISECOND
    body = {
        "request_id": str(row["id"]),
        "call_type": call_type(row["route"]),
        "api_key": row["key"],
        "spend": float(row["cost"]),
        "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "startTime": started,
        "endTime": ended,
        "completionStartTime": replied,
        "request_duration_ms": round((ended - started) / _MILLISECOND),
        "model": row["model"],
        "model_id": row["deployment_id"],
        "model_group": row["model_group"],
        "custom_llm_provider": row["provider"],
        "api_base": row["api_base"],
        "user": row["user_id"],
        "team_id": row["team_id"],
        "organization_id": row["organization_id"],
        "end_user": row["end_user"],
        "requester_ip_address": row["requester_ip"],
        "metadata": _metadata(row),
        "request_tags": row["tags"] or [],
        "cache_hit": "False",
        "cache_key": "Cache OFF",
        "session_id": row["session_id"],
        "status": _status(row),
        "messages": {},
        "response": {},
        "proxy_server_request": {},
    }
    if "session_calls" in row:
        body["session_total_count"] = row["session_calls"]
        body["session_total_spend"] = float(row["session_cost"])
    return body


def _status(row: Mapping[str, Any]) -> str:
    return "failure" if row["status"] in FAILED else "success"


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's members first, then what only this gateway knows."""
    metadata = {
        "status": _status(row),
        "user_api_key": row["key"],
        "user_api_key_alias": row["key_alias"],
        "user_api_key_user_id": row["user_id"],
        "user_api_key_team_id": row["team_id"],
        "user_api_key_org_id": row["organization_id"],
        "additional_usage_values": {
            "cache_read_input_tokens": row["cached_tokens"],
            "cache_creation_input_tokens": row["cache_write_tokens"],
            "reasoning_tokens": row["reasoning_tokens"],
        },
        "outcome": row["status"],
        "http_status": row["http_status"],
        "attempts": row["attempts"],
        "stream": row["stream"],
        "ttft_ms": row["ttft_ms"],
        "usage_estimated": row["estimated"],
        "upstream_id": row["upstream_id"],
        "region": row["region"],
        "instance": row["instance"],
    }
    if row["error_type"] is not None:
        metadata["error_information"] = {
            "error_code": str(row["http_status"]),
            "error_class": row["error_type"],
        }
    return metadata
