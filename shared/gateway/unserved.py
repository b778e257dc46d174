"""Why routes of the reference's management API answer 501 here: one reason for each family.

The table in docs/compatibility.md is made from this one, and a test asks that every path that is
known and not served finds its reason.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen


@frozen
class Family:
    """Paths that are not served for one reason. A prefix covers itself and, in whole segments,
    what is below it."""

    name: str
    prefixes: tuple[str, ...]
    reason: str

    def covers(self, path: str) -> bool:
        """Whether a path is one of these."""
        return any(path == each or path.startswith(f"{each}/") for each in self.prefixes)


FAMILIES = (
    Family(
        "console logins",
        ("/login", "/v2/login", "/v3/login", "/fallback/login", "/sso", "/oauth", "/scim"),
        "people do not log in to this release; scripts use keys, and callers may use signed tokens",
    ),
    Family(
        "console settings",
        (
            "/get/background_chat_settings",
            "/get/latest_release_info",
            "/get/sso_settings",
            "/get/ui_settings",
            "/get/ui_theme_settings",
            "/get/user_banner",
            "/model_group/make_public",
            "/model_hub",
            "/telemetry",
            "/update/background_chat_settings",
            "/update/sso_settings",
            "/update/ui_settings",
            "/update/ui_theme_settings",
            "/update/user_banner",
            "/upload",
        ),
        "they dress a console that this release does not have, or report on its users",
    ),
    Family(
        "guardrails, policies, prompts",
        (
            "/compliance",
            "/guardrails",
            "/policies",
            "/policy",
            "/prompts",
            "/utils/dotprompt_json_converter",
            "/utils/test_policies_and_guardrails",
            "/v2/guardrails",
        ),
        "no content is checked or rewritten in this release, and a rule that is stored but not "
        "enforced would mislead",
    ),
    Family(
        "agents, MCP, search and vector stores",
        (
            "/claude-code",
            "/get/mcp_semantic_filter_settings",
            "/get/mcp_tool_search_settings",
            "/get/websearch_interception_settings",
            "/mcp-rest",
            "/search_tools",
            "/update/mcp_semantic_filter_settings",
            "/update/mcp_tool_search_settings",
            "/update/websearch_interception_settings",
            "/v1/a2a",
            "/v1/agents",
            "/v1/indexes",
            "/v1/mcp",
            "/v1/memory",
            "/v1/tool",
            "/v1/workflows",
            "/vector_store",
        ),
        "the gateway serves models, not yet tools and agents",
    ),
    Family(
        "response cache",
        ("/cache", "/coordination_redis", "/cost/predict-cache", "/cost_optimization"),
        "there is no response cache, and limits need no Redis",
    ),
    Family(
        "pass-through endpoints",
        ("/config/pass_through_endpoint", "/config/pass_through_endpoints"),
        "no instance passes requests through yet, and a registered endpoint that answers nothing "
        "would mislead",
    ),
    Family("fallbacks", ("/fallback",), "a failed call is retried within its model group only"),
    Family(
        "automatic routing",
        ("/adaptive_router", "/auto_router"),
        "a model group is chosen by its name",
    ),
    Family(
        "alerts and e-mail",
        ("/alerting", "/email"),
        "nothing is sent from here; /metrics is what alerts are made of",
    ),
    Family(
        "logging callbacks of the process",
        ("/active/callbacks", "/log-event", "/otel-spans"),
        "calls are in the request log, in /metrics and in the ledger",
    ),
    Family(
        "introspection of a process",
        (
            "/debug",
            "/lazy",
            "/memory-usage",
            "/memory-usage-in-mem-cache",
            "/memory-usage-in-mem-cache-items",
            "/settings",
        ),
        "memory and tasks are read with tools of the machine, /metrics and "
        "/health/readiness/details",
    ),
    Family(
        "reloads by schedule",
        ("/model/cost_map", "/reload", "/schedule"),
        "prices come with the package, so that instances cannot disagree",
    ),
    Family(
        "analytics of user agents and models",
        (
            "/gateway",
            "/model-insights",
            "/model/deprecations",
            "/model/metrics",
            "/model/settings",
            "/model/streaming_metrics",
            "/model/{model_id}/kubernetes_pods",
            "/tag/dau",
            "/tag/distinct",
            "/tag/mau",
            "/tag/summary",
            "/tag/user-agent",
            "/tag/wau",
            "/user/daily/activity/aggregated/cache_leakage_keys",
            "/user/daily/activity/aggregated/users",
            "/v1/model/deprecations",
        ),
        "the ledger keeps no user agents; latency and errors are in /metrics",
    ),
    Family(
        "spend forecasts",
        ("/global/predict", "/spend/capture_rate"),
        "what is shown is what was spent",
    ),
    Family(
        "secret managers",
        ("/config_overrides",),
        "secrets come from the environment or are sealed in the database",
    ),
    Family(
        "products of the reference's vendor and its partners",
        (
            "/api/plugins",
            "/cloudzero",
            "/enabled",
            "/lens",
            "/managed",
            "/moyai",
            "/plugin-proxy",
            "/roi-calculator",
            "/subscription_accounts",
            "/v1/rust_control_plane",
            "/vantage",
        ),
        "they belong to services outside the gateway",
    ),
    Family(
        "mapping of signed tokens to keys",
        ("/jwt/key/mapping",),
        "a signed token stands for its user and team, not for a key",
    ),
    Family(
        "names of permissions",
        ("/auto_router/manage", "/key/access_group_assignment"),
        "they are permissions to be granted, not routes to be called",
    ),
    Family(
        "bulk user management, second form",
        ("/management/v1/users",),
        "/user/bulk_update and /user/delete do the same",
    ),
    Family(
        "allowed addresses",
        ("/add/allowed_ip", "/delete/allowed_ip", "/get/allowed_ips"),
        "addresses are filtered in front of the gateway, which sees only its peer",
    ),
)


def reason_for(path: str) -> str | None:
    """Why a path is not served; `None` where no family covers it."""
    return next((family.reason for family in FAMILIES if family.covers(path)), None)


def table() -> Iterator[str]:
    """The rows of docs/compatibility.md."""
    for family in FAMILIES:
        paths = ", ".join(f"`{prefix}`" for prefix in family.prefixes)
        yield f"| {family.name} | {paths} | {family.reason} |"
