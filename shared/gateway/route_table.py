"""Every path of the API by route class, as data (management contract §2 and appendix A).

Reading the tables: a line is a prefix and what may follow it, `.` being the prefix itself; a line
that starts with `.` holds whole paths; an indented line goes on with the one above. `[/v1]` is a
path with and without it. `{x}` is one segment, `{x*}` any number of them, and text after `*}`
must end the path. `FORWARDED` prefixes own everything below them. `FAMILIES` give a class to
whatever is below a prefix and in no table, so that a management path that nobody has thought of
is refused where management is off; the longest prefix wins.

Where the reference leaves a path open on every instance, the class here is a decision: whatever
administers is management, wherever it stands; what a caller may read about its own models is
public, so that it stays on every instance.
"""

from __future__ import annotations

LLM = """
/a2a {agent_id} {agent_id}/.well-known/agent-card.json {agent_id}/.well-known/agent.json
[/v1]/a2a {agent_id}/message/send {agent_id}/message/stream
[/v1]/assistants . {assistant_id*}
[/v1]/audio speech transcriptions translations
/authorize . complete flow mcp-session
[/v1]/batches . {batch_id*} {batch_id*}/cancel
/claude_code_gateway v1/messages v1/messages/count_tokens
[/v1]/containers . {container_id} {container_id}/files {container_id}/files/{file_id}
    {container_id}/files/{file_id}/content
/cursor chat/completions models v1/models
/engines {model*}/chat/completions {model*}/completions {model*}/embeddings
[/v1]/files . {file_id*} {file_id*}/content
[/v1]/fine_tuning jobs jobs/{fine_tuning_job_id*} jobs/{fine_tuning_job_id*}/cancel
    jobs/{fine_tuning_job_id*}/events
[/v1]/images edits generations variations
/interactions . {interaction_id} {interaction_id}/cancel
/mcp . proxy sse sse/messages tools/call tools/list {subpath}
/mcp-rest tools/call tools/list
/models {model_name*}:batchEmbedContents {model_name*}:countTokens {model_name*}:embedContent
    {model_name*}:generateContent {model_name*}:streamGenerateContent
/openai/deployments/{model*} chat/completions completions embeddings images/edits
    images/generations
/openai/v1/realtime . calls client_secrets transcription_sessions
/openai/v1/responses . compact input_tokens {response_id} {response_id}/cancel
    {response_id}/input_items
[/v1]/rag ingest query
[/v1]/realtime . calls client_secrets transcription_sessions
[/v1]/responses . compact input_tokens {response_id} {response_id}/cancel
    {response_id}/input_items
[/v1]/search . tools {search_tool_name}
[/v1]/threads . {thread_id} {thread_id}/messages {thread_id}/runs
/utils model_info supported_openai_params token_counter transform_request
/v1/evals . {eval_id} {eval_id}/cancel {eval_id}/runs {eval_id}/runs/{run_id}
/v1/mcp oauth/authorize oauth/token
/v1/memory . {key*}
/v1/messages . batches batches/{batch_id} batches/{batch_id}/cancel batches/{batch_id}/results
    count_tokens
/v1/skills . {skill_id} {skill_id}/archive
/v1/traces . agents query query/help {trace_id} {trace_id}/spans/{span_id}
    {trace_id}/spans/{span_id}/error
/v1/workflows runs runs/{run_id} runs/{run_id}/events runs/{run_id}/messages
/v1beta/agents . {name} {name}/versions
/v1beta/interactions . {interaction_id} {interaction_id}/cancel
/v1beta/models . {model_name*}:batchEmbedContents {model_name*}:countTokens
    {model_name*}:embedContent {model_name*}:generateContent {model_name*}:streamGenerateContent
[/v1]/vector_stores . {vector_store_id*}/search {vector_store_id} {vector_store_id}/files
    {vector_store_id}/files/{file_id} {vector_store_id}/files/{file_id}/content
[/v1]/videos . characters characters/{character_id} edits extensions {video_id}
    {video_id}/content {video_id}/remix
/{mcp_server_name} authorize mcp register token
/{provider} v1/batches v1/batches/{batch_id*} v1/batches/{batch_id*}/cancel v1/files
    v1/files/{file_id*} v1/files/{file_id*}/content
. /agents /api/event_logging/batch /apply_guardrail /auto_router/session /callback
    [/v1]/chat/completions /claude-code/marketplace.json [/v1]/completions [/v1]/decisions
    [/v1]/embeddings /eu_jev/v1/systemone [/v1]/extraction /guardrails/apply_guardrail
    /introspect [/v1]/live/sessions [/v1]/mcp/tools [/v1]/moderations [/v1]/ocr
    /openai/v1/live/sessions /queue/chat/completions /register [/v1]/rerank /revoke
    [/v1]/systemone /token /toolset/{toolset_name}/mcp
    /v1/logs /v1/metrics /v2/rerank
    [/v1]/vector_store/list
"""

MANAGEMENT = """
/access_group list new {access_group}/budget {access_group}/delete {access_group}/info
    {access_group}/update
/agent/daily/activity . aggregated aggregated/keys aggregated/model_top_keys aggregated/search
    export
/api plugins plugins/auth-token
/audit . {id}
/auto_router availability benchmarks classifier/default_prompt manage shadow_eval
    shadow_eval/start shadow_eval/{job_id} shadow_eval/{job_id}/stop test_routing
    validate_complexity_router_config
/budget delete info list new settings update
/cache delete flushall ping redis/info settings settings/test
/callbacks configs list
/claude-code plugins plugins/{plugin_name} plugins/{plugin_name}/disable
    plugins/{plugin_name}/enable
/cloudzero delete dry-run export init settings
/compliance eu-ai-act gdpr
/config block_requests_for_models_without_pricing callback/delete cost_discount_config
    cost_margin_config field/delete field/info field/update list pass_through_endpoint
    pass_through_endpoint/team/{team_id} pass_through_endpoint/{endpoint_id}
    pass_through_endpoints/settings update yaml
/config_overrides cyberark cyberark/test_connection hashicorp_vault
    hashicorp_vault/test_connection
/coordination_redis settings settings/test
/cost estimate predict-cache
/credentials . by_model/{model_id} by_name/{credential_name*} migrate-encryption
    migrate-encryption/check user_connections {credential_name*} {credential_name*}/jwks
    {credential_name*}/user_connection {credential_name*}/user_connection/poll
    {credential_name*}/user_connection/start
/customer block delete info list new unblock update
/customer/daily/activity . aggregated aggregated/keys aggregated/model_top_keys
    aggregated/search export
/debug asyncio-tasks memory/details memory/gc/configure memory/summary report
/email event_settings event_settings/reset
/end_user block delete info list new unblock update
/end_user/daily/activity . aggregated aggregated/keys aggregated/model_top_keys
    aggregated/search export
/fallback . login {model}
/get allowed_ips background_chat_settings config/callbacks default_team_settings
    internal_user_settings latest_release_info mcp_semantic_filter_settings
    mcp_tool_search_settings sso_settings ui_settings ui_theme_settings user_banner
    websearch_interception_settings
/global activity activity/cache_hits activity/exceptions activity/exceptions/deployment
    activity/model all_end_users predict/spend/logs
/global/spend . all_tag_names end_users keys logs models provider refresh report reset tags
    teams
/guardrails . list register submissions submissions/{guardrail_id}
    submissions/{guardrail_id}/approve submissions/{guardrail_id}/reject test_custom_code
    ui/add_guardrail_settings ui/category_yaml/{category_name} ui/major_airlines
    ui/provider_specific_params usage/detail/{guardrail_id} usage/logs usage/overview
    validate_blocked_words_file {guardrail_id} {guardrail_id}/info
/invitation delete info new update
/jwt key/mapping/delete key/mapping/info key/mapping/list key/mapping/new key/mapping/update
/key access_group_assignment aliases block bulk_update delete generate health info list
    regenerate service-account/generate spend/report unblock update {key*}/regenerate
    {key*}/reset_spend
/lens . service {path*}
/management/v1/spend_logs end_users users
/management/v1/teams {team_id}/members/bulk_delete {team_id}/members/bulk_update
/management/v1/users bulk bulk_delete me
/mcp-rest test/connection test/tools/list
/model-insights . tasks
/model block cost_map/source delete metrics metrics/exceptions metrics/slow_responses new
    settings streaming_metrics unblock update {model_id}/kubernetes_pods {model_id}/update
/moyai connect/exchange connect/start
/oauth device_authorization revoke token
/onboarding claim_token get_token
/organization/daily/activity . aggregated aggregated/keys aggregated/model_top_keys
    aggregated/search export
/organization delete info list member_add member_delete member_update new spend/report update
/policies . attachments attachments/estimate-impact attachments/list attachments/{attachment_id}
    compare list name/{policy_name}/all-versions name/{policy_name}/versions resolve
    test-pipeline usage/overview {policy_id} {policy_id}/resolved-guardrails {policy_id}/status
/policy info/{policy_name} list templates templates/enrich templates/enrich/stream
    templates/suggest templates/test test validate
/project delete info list new update
/prompts . list test {prompt_id} {prompt_id}/info {prompt_id}/versions
/reload anthropic_beta_headers model_cost_map
/roi-calculator connections/test identity-map observed/apps observed/identities
    observed/oauth/github/installed observed/oauth/{provider}/callback
    observed/oauth/{provider}/start observed/report observed/repositories observed/settings
    observed/sync report repositories settings setup/reset sync
/router fields settings
/schedule anthropic_beta_headers_reload anthropic_beta_headers_reload/status
    model_cost_map_reload model_cost_map_reload/status
/scim/v2 . Groups Groups/{group_id} ResourceTypes ResourceTypes/{resource_type_id} Schemas
    Schemas/{schema_id*} ServiceProviderConfig Users Users/{user_id} placeholders
    placeholders/{user_id}/merge
/search_tools . list test_connection ui/available_providers {search_tool_id}
/spend calculate capture_rate keys logs logs/session/ui logs/ui logs/ui/{request_id} logs/v2
    tags users
/sso callback cli/complete/{login_id} cli/poll/{key_id} cli/start debug/callback debug/login
    get/ui_settings key/generate readiness saml/callback saml/login saml/metadata
/subscription_accounts delete new update usage
/tag/daily/activity . aggregated aggregated/keys aggregated/model_top_keys aggregated/search
    export
/tag dau delete distinct info list mau new summary update user-agent/per-user-analytics wau
/team available block bulk_member_add delete filter/ui info key/bulk_update list member_add
    member_delete member_update metadata_schema model/add model/delete new
    permissions_bulk_update permissions_list permissions_update spend/by_user spend/report
    unblock update {team_id*}/callback {team_id*}/callback/{callback_name} {team_id}
    {team_id}/disable_logging {team_id}/member/{user_id}/reset_budget
    {team_id}/member/{user_id}/reset_spend {team_id}/members/me
/team/daily/activity . aggregated aggregated/keys aggregated/model_top_keys aggregated/search
    export
/telemetry reports settings ui_events ui_events/enabled
/update background_chat_settings default_team_settings internal_user_settings
    mcp_semantic_filter_settings mcp_tool_search_settings sso_settings ui_settings
    ui_theme_settings user_banner websearch_interception_settings
/user available_roles available_users bulk_update delete filter/ui info list new password/change
    spend/report update
/user/daily/activity . aggregated aggregated/cache_leakage_keys aggregated/keys
    aggregated/model_top_keys aggregated/search aggregated/users export
/utils dotprompt_json_converter test_policies_and_guardrails
/v1/access_group . {access_group_id}
/v1/agents . identity/providers make_public {agent_id} {agent_id}/identity
    {agent_id}/kill_switch {agent_id}/make_public
/v1/mcp access_groups discover make_public network/client-ip openapi-registry sessions toolset
    toolset/{toolset_id} user-credentials user-env-vars/status
/v1/mcp/server . health import oauth/session oauth/{server_id}/authorize
    oauth/{server_id}/register oauth/{server_id}/token register submissions {server_id}
    {server_id}/approve {server_id}/oauth-user-credential
    {server_id}/oauth-user-credential/status {server_id}/pin {server_id}/reject
    {server_id}/user-credential {server_id}/user-credentials {server_id}/user-env-vars
/v1/tool list policy policy/options spend {tool_name*} {tool_name*}/detail {tool_name*}/logs
    {tool_name*}/overrides
/v1/unified_access_group . {access_group_id}
/v3/login . exchange
/vantage delete dry-run export init settings
/vector_store delete info new update
. /active/callbacks /adaptive_router/state /add/allowed_ip /alerting/settings
    /cost_optimization/prompt_caching/requests /delete/allowed_ip /docs /enabled
    /gateway/daily/activity /gateway/errors/activity /lazy/warm/{name} /log-event /login
    /managed/settings /management/v1/budgets /memory-usage /memory-usage-in-mem-cache
    /memory-usage-in-mem-cache-items [/v1]/model/deprecations /model_group/make_public
    /model_hub/update_useful_links /openapi.json /otel-spans /plugin-proxy/{plugin_name}/{path*}
    /provider/budgets /session/logout /settings /upload/logo /v1/a2a/discover /v1/indexes
    /v1/rust_control_plane/logs /v2/guardrails/list /v2/key/info /v2/login /v2/model/info
    /v2/organization/{organization_id} /v2/team/list /v2/user/info
"""

UI = """
/ui . {page*}
. /get_favicon /get_image /get_logo_url
"""

HEALTH = """
/health . backlog deployment_warnings deployment_warnings/{warning_id} drain history latest
    license liveliness liveness readiness readiness/details services shared-status
    test_connection
. /metrics
"""

PUBLIC = """
/.well-known agent-skills/index.json jwks.json litellm-cli-auth litellm-ui-config
    oauth-authorization-server oauth-authorization-server/{root_path*}/v1/mcp/oauth
    oauth-protected-resource openid-configuration skills/index.json
[/v1]/models . {model_id*}
/public/complexity_router fuse_presets scorer_defaults
/public/model_hub . info
/public/providers . fields
/public/v1 model_hub model_hub/{facet}
. / /claude_code_gateway/v1/models /favicon.ico /litellm/.well-known/litellm-ui-config
    [/v1]/model/info /model_group/info /public/agent_hub /public/agents/fields
    /public/autorouter_presets /public/endpoints /public/litellm_blog_posts
    /public/litellm_model_cost_map /public/mcp_hub /public/skill_hub /redoc /robots.txt /routes
    /test /v1/mcp/registry.json
"""

FORWARDED = """
/anthropic /assemblyai /azure /azure_ai /azure_speech /backend-api/codex /bedrock /bespoke /cohere
/comprehendmedical /cursor /deepgram /eu.assemblyai /fal_ai /gemini /gigachat /langfuse /laya
/milvus /mistral /nvidia_nim /openai /openai_passthrough /openrouter /tinyfish /transcribe
/typesafe /vertex-ai /vertex_ai /vllm /watsonx
"""

LLM_FAMILIES = "/v1 /v1beta"

MANAGEMENT_FAMILIES = """
/access_group /active /adaptive_router /add /agent /alerting /api /audit /auto_router /budget
/cache /callbacks /claude-code /cloudzero /compliance /config /config_overrides
/coordination_redis /cost /cost_optimization /credentials /customer /debug /delete /email /enabled
/end_user /fallback /gateway /get /global /guardrails /invitation /jwt /key /lazy /lens /log-event
/login /managed /management /mcp-rest /memory-usage /memory-usage-in-mem-cache
/memory-usage-in-mem-cache-items /model /model-insights /model_group /model_hub /moyai /oauth
/onboarding /organization /otel-spans /plugin-proxy /policies /policy /project /prompts /provider
/reload /roi-calculator /router /schedule /scim /search_tools /session /settings /spend /sso
/subscription_accounts /tag /team /telemetry /update /upload /user /utils /v2 /v3 /vantage
/vector_store /v1/a2a/discover /v1/access_group /v1/agents /v1/indexes /v1/mcp /v1/model
/v1/rust_control_plane /v1/tool /v1/unified_access_group
"""

HEALTH_FAMILIES = "/health"

PUBLIC_FAMILIES = "/.well-known /public"
