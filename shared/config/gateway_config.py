"""What the configuration file says, checked: frozen values without any provider's knowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from shared.config.config_source import Located
from shared.config.jwt_schema import JwtSettings
from shared.config.reports import Notice
from shared.config.secret import Secret


@frozen(kw_only=True)
class LitellmParams:
    """`litellm_params` of a `model_list` entry. Seconds and USD; `None` means not set.

    `organization` is a tuple: one deployment each. `prices` are the price keys of `PRICES` that
    are set. `extra` are the members that go upstream as default parameters.
    """

    model: str
    api_key: Secret | None = None
    api_base: str | None = None
    organization: tuple[str, ...] = ()
    custom_llm_provider: str | None = None
    region_name: str | None = None
    rpm: int | None = None
    tpm: int | None = None
    weight: float | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    num_retries: int | None = None
    max_retries: int | None = None
    prices: Mapping[str, Decimal] = field(factory=dict)
    extra_headers: Mapping[str, str] = field(factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(factory=dict, repr=False)
    drop_params: bool | None = None
    additional_drop_params: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class ModelInfo:
    """`model_info` of an entry. `extra` is shown by `/model/info` and steers nothing."""

    id: str | None = None
    mode: str | None = None
    base_model: str | None = None
    access_groups: tuple[str, ...] = ()
    supported_environments: tuple[str, ...] = ()
    blocked: bool = False
    max_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    prices: Mapping[str, Decimal] = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class ModelEntry:
    """An entry of `model_list`. `source` and `path` say where it stands, for messages.

    A `stored` one is from the database: every instance gets it, and one that lacks something for
    it, say a variable, leaves it out. An entry of one team is for that team's keys only.
    """

    model_name: str
    params: LitellmParams
    info: ModelInfo = ModelInfo()
    source: str = ""
    path: str = ""
    stored: bool = False
    team_id: str | None = None


@frozen(kw_only=True)
class AliasTarget:
    """What an alias of `router_settings.model_group_alias` stands for. A hidden one is not
    listed."""

    model: str
    hidden: bool = False


@frozen
class Margin:
    """What is put on a price: a part of it (0.1 is a tenth), and USD for each call that costs
    something."""

    percentage: Decimal = Decimal(0)
    fixed_amount: Decimal = Decimal(0)


@frozen(kw_only=True)
class GeneralSettings:
    """`general_settings`, the part in force."""

    master_key: Secret | None = None
    database_url: Secret | None = None
    store_model_in_db: bool | None = None
    dangerously_permit_weak_or_unset_master_key: bool | None = None
    completion_model: str | None = None
    always_include_stream_usage: bool | None = None
    max_request_size_mb: float | None = None
    proxy_batch_write_at: float | None = None
    litellm_key_header_name: str | None = None
    disable_key_name: bool | None = None
    disable_custom_api_keys: bool = False
    apply_user_budget_to_team_keys: bool = False
    enforced_params: Sequence[str] = ()
    service_account_settings: Mapping[str, Any] = field(factory=dict)
    allow_public_health_readiness_details: bool = False
    maximum_spend_logs_retention_period: str | None = None
    maximum_spend_logs_retention_interval: str = "1d"
    disable_auto_add_proxy_admin_to_teams: bool = False
    team_admin_editable_team_fields: Sequence[str] = ()
    team_metadata_schema: Sequence[Mapping[str, Any]] = ()
    enable_jwt_auth: bool = False
    litellm_jwtauth: JwtSettings = JwtSettings()


@frozen(kw_only=True)
class LitellmSettings:
    """`litellm_settings`, the part in force. `budget_reset_time` is `HH:MM:SS`."""

    request_timeout: float | None = None
    num_retries: int | None = None
    drop_params: bool = False
    budget_exceeded_status_code: int = 422
    timezone: str = "UTC"
    budget_reset_time: str = "00:00:00"
    require_auth_for_metrics_endpoint: bool = True
    max_budget: Decimal | None = None
    budget_duration: str | None = None
    max_end_user_budget_id: str | None = None
    model_alias_map: Mapping[str, str] = field(factory=dict)
    default_key_generate_params: Mapping[str, Any] = field(factory=dict)
    upperbound_key_generate_params: Mapping[str, Any] = field(factory=dict)
    key_generation_settings: Mapping[str, Any] = field(factory=dict)
    default_internal_user_params: Mapping[str, Any] = field(factory=dict)
    max_internal_user_budget: Decimal | None = None
    internal_user_budget_duration: str | None = None
    default_team_params: Mapping[str, Any] = field(factory=dict)
    cost_discount_config: Mapping[str, Decimal] = field(factory=dict)
    cost_margin_config: Mapping[str, Margin] = field(factory=dict)
    block_requests_for_models_without_pricing: bool = False
    json_logs: bool = False
    ssl_verify: bool | str | None = None


@frozen(kw_only=True)
class RouterSettings:
    """`router_settings`, the part in force."""

    routing_strategy: str = "simple-shuffle"
    num_retries: int | None = None
    retry_after: float = 0.0
    timeout: float | None = None
    stream_timeout: float | None = None
    model_group_alias: Mapping[str, AliasTarget] = field(factory=dict)


@frozen(kw_only=True)
class GatewayConfig:
    """A configuration file and its includes.

    `environment` is the process environment with the file's `environment_variables` over it:
    what references and providers' default keys are read from. `credentials` are the members of
    `credential_list` by name, `sections` those of the mapping sections, as they stand in the file;
    `stored` are the members of sections that are the database's.
    """

    source: str = ""
    models: tuple[ModelEntry, ...] = ()
    credentials: Mapping[str, Mapping[str, Located]] = field(factory=dict, repr=False)
    general: GeneralSettings = GeneralSettings()
    litellm: LitellmSettings = LitellmSettings()
    router: RouterSettings = RouterSettings()
    environment: Mapping[str, str] = field(factory=dict, repr=False)
    sections: Mapping[str, Mapping[str, Located]] = field(factory=dict, repr=False)
    stored: Mapping[str, Mapping[str, Located]] = field(factory=dict, repr=False)
    notices: tuple[Notice, ...] = ()

    def member(self, section: str, name: str) -> Located | None:
        """Where a setting is from; `None` if it has its default."""
        return self.stored.get(section, {}).get(name) or self.sections.get(section, {}).get(name)

    @property
    def num_retries(self) -> int:
        """Retries of a request after its first attempt, where nothing closer says otherwise."""
        for value in (self.router.num_retries, self.litellm.num_retries):
            if value is not None:
                return value
        return 2
