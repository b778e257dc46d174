"""What may be told of deployments and groups: no credential, no secret, no header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from shared.config.config_schema import OPENAI_PARAMS
from shared.config.gateway_config import ModelEntry
from shared.domain.deployments import Deployment
from shared.domain.usage import Rates
from shared.providers.openai_compatible import param_rules
from shared.providers.registry import PROVIDERS
from shared.routing.catalog import ModelGroup
from shared.telemetry.redact import is_secret

_SHOWN_PARAMS = (
    "custom_llm_provider",
    "region_name",
    "rpm",
    "tpm",
    "weight",
    "timeout",
    "stream_timeout",
    "num_retries",
    "max_retries",
)
_COSTS: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
}
_SUPPORTS = (
    "supports_function_calling",
    "supports_parallel_function_calling",
    "supports_vision",
    "supports_web_search",
    "supports_reasoning",
)
# Members of requests that are no matter of a provider's.
_NOT_PARAMS = frozenset({"input", "messages", "prompt", "include", "instructions", "provider"})


def entry_facts(entry: ModelEntry, deployment: Deployment | None) -> dict[str, Any]:
    """A row of `/model/info`. `deployment` is `None` for an entry that is not served here."""
    params = entry.params
    model, api_base = params.model, params.api_base
    if deployment is not None:
        model = f"{deployment.provider}/{deployment.upstream_model}"
        api_base = deployment.api_base
    shown = {name: getattr(params, name) for name in _SHOWN_PARAMS}
    return {
        "model_name": entry.model_name,
        "litellm_params": {
            "model": model,
            # What follows the path may be a key.
            "api_base": None if api_base is None else api_base.partition("?")[0],
            **{name: value for name, value in shown.items() if value is not None},
        },
        "model_info": _info(entry, deployment),
    }


def _info(entry: ModelEntry, deployment: Deployment | None) -> dict[str, Any]:
    info = entry.info
    facts: dict[str, Any] = {
        name: value for name, value in info.extra.items() if not is_secret(name)
    }
    facts |= {
        "id": info.id if deployment is None else deployment.id,
        "db_model": entry.stored,
        "mode": info.mode or "chat",
        "base_model": info.base_model,
        "access_groups": list(info.access_groups),
        "max_tokens": info.max_tokens,
        "max_input_tokens": info.max_input_tokens,
        "max_output_tokens": info.max_output_tokens or info.max_tokens,
        **_costs(() if deployment is None or deployment.rates is None else (deployment.rates,)),
        "direct_access": entry.team_id is None,
        "access_via_team_ids": [] if entry.team_id is None else [entry.team_id],
    }
    if deployment is not None:
        facts["litellm_provider"] = deployment.provider
        facts["key"] = deployment.upstream_model
    if entry.team_id is not None:
        facts |= {"team_id": entry.team_id, "team_public_model_name": entry.model_name}
    return facts


def group_facts(
    group: ModelGroup, entries: Iterable[ModelEntry], *, public: bool = False
) -> dict[str, Any]:
    """A row of `/model_group/info`: what the deployments have in common, or the most of any."""
    deployments = group.deployments
    known = tuple(entries)
    return {
        "model_group": group.name,
        "providers": sorted({each.provider for each in deployments}),
        "mode": deployments[0].mode if deployments else None,
        "max_input_tokens": _most(each.max_input_tokens for each in deployments),
        "max_output_tokens": _most(each.max_output_tokens for each in deployments),
        **_costs(each.rates for each in deployments if each.rates is not None),
        "tpm": _sum(entry.params.tpm for entry in known),
        "rpm": _sum(entry.params.rpm for entry in known),
        **{name: any(entry.info.extra.get(name) is True for entry in known) for name in _SUPPORTS},
        "supported_openai_params": _params(deployments),
        "configurable_clientside_auth_params": None,
        "is_public_model_group": public,
        "health_status": None,
        "health_response_time": None,
        "health_checked_at": None,
    }


def _costs(rates: Iterable[Rates]) -> dict[str, float | None]:
    known = tuple(rates)
    return {
        name: _price(
            max((r for each in known if (r := getattr(each, attr)) is not None), default=None)
        )
        for name, attr in _COSTS.items()
    }


def _price(rate: Decimal | None) -> float | None:
    return None if rate is None else float(rate)


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _params(deployments: Iterable[Deployment]) -> list[str]:
    """The parameters that every deployment takes."""
    params = OPENAI_PARAMS - _NOT_PARAMS
    for each in deployments:
        provider = PROVIDERS[each.provider]
        params -= {*param_rules(provider, each.upstream_model).unsupported, *each.drop_params}
    return sorted(params)
