"""Credentials as answers show them: their names and where they lead, never a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.admin.api.wire_rows import wire_row
from shared.config.gateway_config import GatewayConfig, LitellmParams
from shared.config.secret import MASK, Secret
from shared.domain.errors import ConfigError
from shared.secrets.members import Members, credential_values
from shared.secrets.sealing import Sealer

# What of a model's parameters says whom to call as whom.
_CONNECTION = (
    "api_key",
    "api_base",
    "api_version",
    "organization",
    "region_name",
    "custom_llm_provider",
    "extra_headers",
    "vertex_project",
    "vertex_location",
    "vertex_credentials",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region_name",
    "azure_ad_token",
    "tenant_id",
    "client_id",
    "client_secret",
    "watsonx_region_name",
)
_HIDDEN = frozenset({"secret_key_id", "credential_id"})


def credential_body(row: Mapping[str, Any], sealer: Callable[[], Sealer]) -> dict[str, Any]:
    """A credential's row. Of the values only those are shown whose names are no secret's, and
    none that this process cannot open."""
    body = wire_row(row, _HIDDEN)
    credential_id, values = row["credential_id"], row["credential_values"]
    try:
        opened = credential_values(credential_id).open(values, sealer)
    except ConfigError:
        body["credential_values"] = credential_values(credential_id).masked(values)
        return body
    body["credential_values"] = masked_values(opened)
    return body


def file_credentials(file: GatewayConfig) -> list[dict[str, Any]]:
    """The credentials of the configuration file."""
    return [
        {
            "credential_name": name,
            "credential_values": masked_values({key: each.value for key, each in members.items()}),
            "credential_info": {},
        }
        for name, members in file.credentials.items()
    ]


def model_credential(params: Mapping[str, Any] | LitellmParams) -> dict[str, Any]:
    """What a model connects with, as it is given: opened, sealed or masked."""
    found: dict[str, Any] = {}
    for name in _CONNECTION:
        if isinstance(params, LitellmParams):
            value = getattr(params, name, None)
            value = value.reveal() if isinstance(value, Secret) else value
            value = list(value) if isinstance(value, tuple) else value
        else:
            value = params.get(name)
        if value:
            found[name] = value
    return found


def audited(row: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The row for the audit log, every value masked; it is said which ones have changed."""
    body = wire_row(row, _HIDDEN)
    values = row["credential_values"]
    body["credential_values"] = dict.fromkeys(values, MASK)
    if before is not None:
        old = before["credential_values"]
        changed = [name for name, value in values.items() if value != old.get(name)]
        body["rewritten"] = sorted(changed)
    return body


def masked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Opened values with a mask where the name is a secret's."""
    return Members("", "", "").masked(values)
