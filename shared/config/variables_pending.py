"""Variables that the reference reads and this release does not act on."""

from __future__ import annotations

from attrs import frozen


@frozen
class PendingVariable:
    """One such variable; `text` says what holds instead.

    `harmless` are its values (lower case) that ask for what happens anyway.
    """

    name: str
    text: str
    harmless: tuple[str, ...] = ("false", "0", "no", "off")
    weakens: bool = False


_ON = ("true", "1", "yes", "on")
_REDIS = "Redis is not used by this release; limits are shared through Postgres"
_UI_LOGIN = "the UI login is not part of this release"

PENDING_VARIABLES: tuple[PendingVariable, ...] = (
    PendingVariable("NUM_WORKERS", "one process per command; start several instances", ("1",)),
    PendingVariable("SERVER_ROOT_PATHS", "only one prefix, SERVER_ROOT_PATH"),
    PendingVariable("REDIS_URL", _REDIS),
    PendingVariable("REDIS_HOST", _REDIS),
    PendingVariable("UI_USERNAME", _UI_LOGIN),
    PendingVariable("UI_PASSWORD", _UI_LOGIN),
    PendingVariable("PROXY_BASE_URL", "the UI's sign-in is not part of this release"),
    PendingVariable("PROXY_LOGOUT_URL", "the UI's sign-in is not part of this release"),
    PendingVariable("LITELLM_UI_SESSION_DURATION", _UI_LOGIN),
    PendingVariable("AUTO_REDIRECT_UI_LOGIN_TO_SSO", _UI_LOGIN),
    PendingVariable("EXPERIMENTAL_UI_LOGIN", _UI_LOGIN),
    PendingVariable(
        "LITELLM_KEY_ROTATION_LOCK_TTL_SECONDS", "a run of the job is taken for a few seconds", ()
    ),
    PendingVariable("LITELLM_STORE_AUDIT_LOGS", "the audit log is always kept", _ON),
    PendingVariable(
        "LITELLM_EXPIRED_UI_SESSION_KEY_CLEANUP_ENABLED",
        "expired keys of UI sessions are always deleted",
        _ON,
    ),
    PendingVariable(
        "LITELLM_EXPIRED_UI_SESSION_KEY_CLEANUP_INTERVAL_SECONDS",
        "expired keys of UI sessions are deleted every hour",
    ),
    PendingVariable(
        "LITELLM_EXPIRED_UI_SESSION_KEY_CLEANUP_BATCH_SIZE",
        "all expired keys of UI sessions are deleted",
    ),
    PendingVariable(
        "PROXY_CONFIG_RELOAD_INTERVAL_SECONDS", "changes are announced, not polled for"
    ),
    PendingVariable(
        "PROXY_BUDGET_RESCHEDULER_MIN_TIME", "budgets reset by calculation, not by a job"
    ),
    PendingVariable(
        "PROXY_BUDGET_RESCHEDULER_MAX_TIME", "budgets reset by calculation, not by a job"
    ),
    PendingVariable("DEFAULT_COOLDOWN_TIME_SECONDS", "cooldowns are not part of this release"),
    PendingVariable(
        "LITELLM_DETAILED_TIMING", "detailed timing headers are not part of this release"
    ),
    PendingVariable("LITELLM_CONFIG_BUCKET_NAME", "the configuration is read from a file only"),
    PendingVariable(
        "LITELLM_LOCAL_MODEL_COST_MAP", "prices are never fetched", ("true", "1", "false")
    ),
    PendingVariable("PROMETHEUS_MULTIPROC_DIR", "metrics need no directory"),
    PendingVariable("OTEL_EXPORTER_OTLP_ENDPOINT", "traces are not part of this release"),
    PendingVariable("OTEL_ENDPOINT", "traces are not part of this release"),
    PendingVariable("HTTP_PROXY", "outbound proxies are not part of this release"),
    PendingVariable("HTTPS_PROXY", "outbound proxies are not part of this release"),
    PendingVariable("LITELLM_LICENSE", "no licence is needed for any feature", ()),
)
