"""Models as answers show them: rows without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.admin.api.wire_rows import wire_row
from shared.secrets.members import model_params

_HIDDEN = frozenset({"secret_key_id"})


def model_body(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model's row with a mask for every secret."""
    body = wire_row(row, _HIDDEN)
    body["litellm_params"] = model_params(row["model_id"]).masked(row["litellm_params"])
    return body


def audited(row: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The row for the audit log. Secrets look alike there, so it is said when one has changed."""
    body = model_body(row)
    if before is not None and before["litellm_params"] != row["litellm_params"]:
        body["rewritten"] = sorted(
            name
            for name, value in row["litellm_params"].items()
            if value != before["litellm_params"].get(name)
            and body["litellm_params"][name] == model_body(before)["litellm_params"].get(name)
        )
    return body
