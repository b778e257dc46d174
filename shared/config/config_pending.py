"""Names that the reference's configuration file knows and this release does not act on.

Each says what it would do. One that is found in a file is reported, unless its value asks for
what happens anyway (`harmless`). `weakens` marks those whose absence lets more through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


@frozen
class Pending:
    """A known name without effect. `effect` completes "would …"."""

    name: str
    effect: str
    harmless: tuple[Any, ...] = _OFF
    weakens: bool = False

    def asks_for_something(self, value: object) -> bool:
        """Whether the value asks for more than what happens anyway."""
        return not any(value == off and type(value) is type(off) for off in self.harmless)


def _rows(
    texts: str, harmless: tuple[Any, ...] = _OFF, *, weakens: bool = False
) -> tuple[Pending, ...]:
    """A table written one row a line: names, a colon, the effect."""
    rows: list[Pending] = []
    for line in texts.strip().splitlines():
        names, _, effect = line.strip().partition(": ")
        rows += [Pending(name, effect, harmless, weakens) for name in names.split()]
    return tuple(rows)


_ON: tuple[Any, ...] = (None, True)

PENDING_TOP_LEVEL = (
    *_rows(
        """
        callback_settings: configure callbacks
        mcp_servers mcp_aliases mcp_settings: make MCP servers available
        search_tools: configure search tools
        vector_store_registry: configure vector stores
        files_settings finetune_settings batch_settings: configure file, tuning and batch providers
        assistant_settings: configure assistants
        prompts: keep prompt templates
        worker_registry: list workers for the UI
        agent_list: list agents
        """
    ),
    *_rows(
        """
        guardrails: check prompts and answers
        policies policy_attachments: choose guardrails by policy
        """,
        weakens=True,
    ),
)

PENDING_PARAMS = (
    *_rows(
        """
        api_version azure_ad_token tenant_id client_id client_secret azure_scope: sign in to Azure
        aws_access_key_id aws_secret_access_key aws_session_token aws_region_name: sign in to AWS
        aws_session_name aws_profile_name aws_role_name aws_web_identity_token: sign in to AWS
        aws_bedrock_runtime_endpoint aws_sts_endpoint aws_external_id: sign in to AWS
        vertex_project vertex_location vertex_credentials: sign in to Vertex AI
        watsonx_region_name wx_project_id watsonx_project_id: choose a watsonx project
        itpm otpm: weigh by input and output tokens
        order: use deployments of a higher order only as a fallback
        cooldown_time: take the deployment out of rotation after failures
        timeout_by_service_tier stream_timeout_by_service_tier: set time-outs by service tier
        tags tag_regex: choose deployments by tag
        input_cost_per_second output_cost_per_second input_cost_per_image: price by time or piece
        output_cost_per_image: price images
        input_cost_per_query input_cost_per_character output_cost_per_character: price by piece
        input_cost_per_pixel output_cost_per_pixel: price by pixel
        input_cost_per_token_batches output_cost_per_token_batches: price batches
        use_in_pass_through: lend its credential to pass-through routes
        use_litellm_proxy: call through another gateway's dialect
        allowed_openai_params: force parameters through
        configurable_clientside_auth_params: let clients bring credentials
        mock_response: answer without calling
        use_chat_completions_api merge_reasoning_content_in_choices: translate answers
        keepalive_seconds: send pings into slow streams
        default_api_key_tpm_limit default_api_key_rpm_limit: limit keys by model
        cache_control_injection_points: mark prompts for caching
        max_file_size_mb: limit files
        s3_bucket_name gcs_bucket_name: keep batch files
        model_info: hold details that belong beside `litellm_params`
        """
    ),
    *_rows(
        """
        max_parallel_requests: limit calls of the deployment at once
        rpd tpd daily_reset_time: limit the deployment by day
        max_budget budget_duration: stop the deployment at a budget
        guardrails: check prompts and answers
        """,
        weakens=True,
    ),
)

PENDING_MODEL_INFO = (
    *_rows(
        """
        allowed_fails allowed_fails_policy cooldown_time: take it out of rotation after failures
        disable_background_health_check health_check_model health_check_timeout: check its health
        health_check_max_tokens health_check_voice health_check_params: check its health
        enable_tag_filtering: choose deployments by tag
        tier: choose deployments by tier
        allow_fail_open: use it where no tag matches
        pricing_provider: look its price up under another provider
        """
    ),
    *_rows("discoverable: hide it from model lists", (None, True), weakens=True),
)

PENDING_LITELLM = (
    *_rows(
        """
        set_verbose: log more; use LITELLM_LOG
        modify_params: change requests to fit the provider
        fallbacks default_fallbacks max_fallbacks: go on to other model groups
        context_window_fallbacks content_policy_fallbacks: go on to other model groups
        allowed_fails: take deployments out of rotation after failures
        success_callback failure_callback callbacks service_callback service_callbacks: report calls
        audit_log_callbacks: report changes
        cache cache_params: answer repeated requests from a cache
        enable_caching_on_provider_specific_optional_params: cache by more parameters
        standard_logging_payload_excluded_fields log_raw_request_response: shape what is reported
        langfuse_default_tags: tag reports
        disable_end_user_cost_tracking: keep end users out of the ledger
        disable_end_user_cost_tracking_prometheus_only: keep end users out of metrics
        include_cost_in_streaming_usage: put the cost into streams
        force_ipv4: avoid IPv6
        return_response_headers: return the provider's headers
        disable_stop_sequence_limit disable_token_counter disable_hf_tokenizer_download: count less
        public_model_groups public_model_groups_links: show models to everybody
        enable_preview_features: switch on what is not finished
        forward_traceparent_to_llm_provider: hand traces on
        use_chat_completions_url_for_anthropic_messages: translate the messages API
        anthropic_sse_ping_interval_seconds sse_keepalive_ping_interval_seconds: ping in streams
        reasoning_auto_summary: ask for summaries of reasoning
        vector_store_search_failure_mode: search vector stores
        prometheus_metrics_config prometheus_initialize_budget_metrics: shape metrics
        custom_prometheus_metadata_labels custom_prometheus_tags: label metrics
        mcp_aliases: name MCP servers
        default_in_memory_ttl default_redis_ttl: keep keys in a cache
        enable_redis_auth_cache: share cached keys
        budget_rollover: carry an overspent budget over
        custom_provider_map: add providers in code
        api_base api_key organization: connect where an entry says nothing
        credential_list: name credentials; it belongs at the top level
        drop_params_by_provider: drop parameters by provider
        enable_key_alias_format_validation: check key aliases
        """
    ),
    *_rows(
        """
        max_user_budget: limit users
        max_end_user_budget: limit end users
        tag_budget_config: limit tags
        priority_reservation: keep capacity for priorities
        enable_json_schema_validation: check answers against schemas
        """,
        weakens=True,
    ),
    *_rows(
        """
        use_aiohttp_transport: choose the client library
        gemini_include_thoughts_default: ask Gemini for thoughts
        expose_router_debug_in_errors: explain routing in errors
        user_url_validation: check URLs of clients
        disable_streaming_logging disable_copilot_system_to_assistant: change logs
        turn_off_message_logging redact_user_api_key_info: keep content out of reports
        redact_messages_in_exceptions user_url_allowed_hosts: keep content out of reports
        """,
        (*_ON, False, [], ()),
    ),
    *_rows("store_audit_logs: switch the audit log off; it is always kept", _ON),
)

PENDING_ROUTER = (
    *_rows(
        """
        routing_strategy_args: tune the strategy
        retry_policy model_group_retry_policy: retry by kind of error
        allowed_fails allowed_fails_policy cooldown_time: take deployments out after failures
        fallbacks default_fallbacks max_fallbacks: go on to other model groups
        context_window_fallbacks content_policy_fallbacks: go on to other model groups
        enable_pre_call_checks enable_pre_call_check optional_pre_call_checks: filter deployments
        deployment_affinity_ttl_seconds: keep a caller on a deployment
        enable_tag_filtering tag_routing_prefix: choose deployments by tag
        routing_groups: choose over several groups
        weights: weigh deployments by request
        enable_weighted_failover: keep weights on retry
        enable_health_check_routing health_check_staleness_threshold: avoid unhealthy deployments
        health_check_ignore_transient_errors: avoid unhealthy deployments
        enable_mid_stream_fallback_continuation: go on with a broken stream elsewhere
        cache_responses cache_kwargs client_ttl: answer repeated requests from a cache
        redis_host redis_port redis_password redis_url redis_db: share state through Redis
        default_litellm_params: add parameters to all requests
        default_priority polling_interval: queue by priority
        router_general_settings ignore_invalid_deployments: change how models are loaded
        set_verbose debug_level: log more; use LITELLM_LOG
        assistants_config search_tools guardrail_list: configure other features
        """
    ),
    *_rows("fallback_on_unsupported_params tag_filtering_match_any: change fallbacks", _ON),
    *_rows("disable_cooldowns: never take deployments out of rotation", (*_ON, False)),
    *_rows(
        """
        provider_budget_config: stop a provider at a budget
        default_max_parallel_requests: limit calls of each deployment at once
        """,
        weakens=True,
    ),
)

PENDING_GENERAL = (
    *_rows(
        """
        database_connection_pool_limit database_connection_timeout database_type: size the pool
        proxy_config_reload_interval_seconds: poll for changes; they are announced here
        proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time: reset by a job
        proxy_batch_polling_interval: poll batches
        store_prompts_in_spend_logs: keep content in the ledger
        disable_spend_logs disable_spend_updates: write no ledger
        background_health_checks health_check_interval health_check_concurrency: check models
        use_shared_health_check background_health_check_model_groups: check models
        health_check_skip_disabled_background_models: check models
        image_generation_model moderation_model embedding_model: force a model
        allow_requests_on_db_unavailable: let everybody in while the database is away
        max_queued_requests_per_worker admission_queue_timeout_seconds: queue requests
        max_batch_file_size_mb allowed_file_extensions max_file_size_mb: limit files
        pass_through_endpoints pass_through_request_timeout: add routes
        use_client_credentials_pass_through_routes: take clients' credentials on added routes
        forward_client_headers_to_llm_api forward_llm_provider_auth_headers: hand headers on
        forward_openai_org_id: hand headers on
        allow_client_side_credentials: let clients bring credentials
        use_x_forwarded_for trusted_proxy_ranges: trust a proxy's word for the client
        user_header_name user_header_mappings: read the end user from a header
        alerting alerting_threshold alert_types alerting_args alert_to_webhook_url: send alerts
        spend_report_frequency: send reports
        enable_oauth2_auth enable_oauth2_proxy_auth oauth2_config_mappings: use other sign-ins
        allow_user_auth custom_sso: use other sign-ins
        coordination_redis use_redis_transaction_buffer: share state through Redis
        expose_fallback_errors_to_caller disable_fallbacks_on_per_model_rate_limits: tune fallbacks
        include_call_id_in_error_body: put the call id into errors
        enable_drain_endpoint drain_endpoint_token: drain by request; SIGTERM does it here
        responses_websocket_session_limit_seconds: limit sessions
        user_api_key_cache_ttl user_api_key_cache_max_size: size the key cache
        infer_model_from_keys return_wildcard_routes model_list_healthy_only: shape model lists
        key_management_system key_management_settings use_azure_key_vault use_google_kms: keep keys
        supported_db_objects: choose what is loaded from the database
        control_plane_url: sign in at a control plane
        encryption_algorithm: choose the encryption at rest
        custom_key_generate: make keys in code
        ui_access_mode max_ui_session_budget disable_master_key_return: change the UI
        disable_env_credential_login disable_password_login_when_sso_enabled: change sign-in
        disable_retry_on_max_parallel_request_limit_error: retry less
        disable_adding_master_key_hash_to_db disable_prisma_schema_update: change storage
        litellm_license: unlock features; none is locked here
        user_mcp_management_mode default_team_disabled: change the UI
        dangerously_allow_mock_testing_request_params: let clients ask for errors
        disable_budget_reservation: change budgets
        disable_responses_id_security: open answers to others
        """
    ),
    *_rows("health_check_details cancel_on_disconnect: change health and cancelling", _ON),
    *_rows("token_rate_limit_type: count other tokens", (None, "total")),
    *_rows("fail_closed_rate_limit_enforcement: refuse while in doubt", (None, False, True)),
    *_rows("disable_reset_budget: never reset budgets"),
    *_rows(
        """
        custom_auth: decide access in code
        allowed_routes admin_only_routes public_routes: restrict routes
        allowed_ips: restrict addresses
        max_parallel_requests global_max_parallel_requests: limit calls at once
        max_in_flight_requests_per_worker: limit calls at once
        max_response_size_mb: limit answers
        enforce_user_param: require parameters
        reject_clientside_metadata_tags: refuse clients' tags
        fail_closed_budget_enforcement: refuse while in doubt
        enforce_fallback_model_access: check access of fallbacks
        key_alias_pattern: restrict new keys
        """,
        weakens=True,
    ),
)

PENDING_SECTIONS: Mapping[str, tuple[Pending, ...]] = {
    "general_settings": PENDING_GENERAL,
    "litellm_settings": PENDING_LITELLM,
    "router_settings": PENDING_ROUTER,
}
