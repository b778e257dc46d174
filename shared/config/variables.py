"""Every environment variable, declared once. `docs/configuration.md` is made from this table.

Names are those of the reference where it has one; `MERIDIAN_…` is for what it has no name for.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from shared.config.kinds import (
    DURATION,
    FLAG,
    HOST,
    PATH,
    PORT,
    POSTGRES,
    ROOT_PATH,
    SECRET,
    TEXT,
    URLS,
    VERIFY,
    Kind,
    number,
    one_of,
    whole,
)

FLAGS_FIELD = "flags"


@frozen
class Variable:
    """One variable. `field` is where `Settings` holds it; those of `FLAGS_FIELD` share one
    mapping. `shown_default` is for the documentation where the default is computed. `pending`
    says what holds instead where nothing acts on the value yet."""

    name: str
    field: str
    kind: Kind
    default: Any
    help: str
    unit: str = ""
    shown_default: str = ""
    pending: str = ""


VARIABLES: tuple[Variable, ...] = (
    # -- where to listen
    Variable(
        "HOST",
        "listen_host",
        HOST,
        None,
        "Address to listen on. Local mode listens on this machine only, unless a master key "
        "that is not publicly known is set.",
        shown_default="0.0.0.0, in local mode 127.0.0.1",
    ),
    Variable("PORT", "port", PORT, None, "Port.", shown_default="worker 4000, admin 4001"),
    Variable(
        "SERVER_ROOT_PATH",
        "root_path",
        ROOT_PATH,
        "",
        "Prefix under which a proxy serves the gateway; taken off every path before routing.",
    ),
    # -- what to serve
    Variable(
        "CONFIG_FILE_PATH",
        "config_file",
        PATH,
        None,
        "The configuration file; `--config` wins over it.",
        shown_default="the example in the package",
    ),
    Variable("DISABLE_ADMIN_UI", FLAGS_FIELD, FLAG, False, "Takes away the admin UI."),
    Variable("DISABLE_ADMIN_ENDPOINTS", FLAGS_FIELD, FLAG, False, "Takes away the management API."),
    Variable("DISABLE_LLM_API_ENDPOINTS", FLAGS_FIELD, FLAG, False, "Takes away the LLM APIs."),
    Variable(
        "DISABLE_LLM_ENDPOINTS", FLAGS_FIELD, FLAG, False, "The documented spelling of the same."
    ),
    Variable(
        "DISABLE_HEALTH_CHECKS",
        FLAGS_FIELD,
        FLAG,
        False,
        "Takes away health checks that call models; liveness and readiness stay.",
    ),
    Variable(
        "MERIDIAN_REGION",
        "region",
        TEXT,
        "default",
        "The region's name: on the instance, its metrics and its ledger rows.",
    ),
    Variable(
        "MERIDIAN_ENV",
        "env",
        one_of("local", "production", "test"),
        None,
        "`production` refuses to start without a database. `test` allows the local database "
        "in places where it is otherwise refused.",
        shown_default="`local` without `DATABASE_URL`, else `production`",
    ),
    Variable(
        "LITELLM_ENVIRONMENT",
        "environment_name",
        TEXT,
        None,
        "Only deployments whose `model_info.supported_environments` is absent or has this name "
        "are served.",
    ),
    # -- identity and storage
    Variable(
        "DATABASE_URL",
        "database_url",
        POSTGRES,
        None,
        "The shared Postgres; may be a transaction-mode pooler. Without it the instance is in "
        "local mode and starts or joins a Postgres of its own.",
    ),
    Variable(
        "MERIDIAN_DATABASE_URL_DIRECT",
        "database_url_direct",
        POSTGRES,
        None,
        "The same database without a pooler, for LISTEN and migrations.",
        shown_default="`DATABASE_URL`",
    ),
    Variable(
        "DATABASE_URL_READ_REPLICA",
        "database_url_read_replica",
        POSTGRES,
        None,
        "A replica for the admin's reads.",
        pending="all reads go to DATABASE_URL",
    ),
    Variable(
        "LITELLM_MASTER_KEY",
        "master_key",
        SECRET,
        None,
        "The root bearer. In local mode, when absent, one is made and kept in the state "
        "directory; otherwise an absent or publicly known one refuses to start.",
    ),
    Variable(
        "LITELLM_SALT_KEY",
        "salt_key",
        SECRET,
        None,
        "Encrypts secrets at rest. Must not change after the first write: an instance with another "
        "one does not start.",
        shown_default="the master key",
    ),
    Variable(
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY",
        "permit_weak_master_key",
        FLAG,
        False,
        "Starts with an absent or publicly known master key all the same.",
    ),
    Variable(
        "MERIDIAN_PUBLIC_API_DOCS",
        "public_api_docs",
        FLAG,
        False,
        "Anybody may read `/openapi.json` and `/docs` of the admin; else any valid key may.",
    ),
    Variable(
        "STORE_MODEL_IN_DB",
        "store_model_in_db",
        FLAG,
        True,
        "Models made through the management API are kept in the database and served beside those "
        "of the configuration file.",
    ),
    Variable(
        "MERIDIAN_STATE_DIR",
        "state_dir",
        PATH,
        None,
        "Journal, generated master key and local Postgres. One per pod or machine.",
        shown_default="`${XDG_STATE_HOME:-~/.local/state}/meridian`",
    ),
    Variable(
        "MERIDIAN_PG_BIN",
        "postgres_bin",
        PATH,
        None,
        "Folder of Postgres binaries for local mode.",
        shown_default="found on the machine, else in the wheel of the `localdb` extra",
    ),
    Variable(
        "DISABLE_KEY_NAME",
        "disable_key_name",
        FLAG,
        False,
        "Keeps no masked name of new keys.",
    ),
    Variable(
        "LENGTH_OF_LITELLM_GENERATED_KEY",
        "key_bytes",
        whole(16, 128),
        32,
        "Random bytes in a new key.",
        "bytes",
    ),
    Variable(
        "MINIMUM_CUSTOM_KEY_LENGTH",
        "minimum_custom_key_length",
        whole(8, 512),
        16,
        "Least length of a key that the caller chooses.",
        "characters",
    ),
    # -- sign-in and upkeep
    Variable(
        "JWT_PUBLIC_KEY_URL",
        "jwt_public_key_url",
        URLS,
        None,
        "Where the keys are that sign JSON Web Tokens (JWKS, or the provider's OpenID "
        "configuration); several are separated by commas.",
    ),
    Variable(
        "JWT_AUDIENCE",
        "jwt_audience",
        TEXT,
        None,
        "Audience that tokens must be for; several are separated by commas.",
        shown_default="not checked",
    ),
    Variable(
        "JWT_ISSUER",
        "jwt_issuer",
        TEXT,
        None,
        "Issuer that tokens must be from; several are separated by commas.",
        shown_default="not checked",
    ),
    Variable(
        "LITELLM_KEY_ROTATION_ENABLED",
        "key_rotation_enabled",
        FLAG,
        False,
        "Rotates keys that have `auto_rotate` when they are due.",
    ),
    Variable(
        "LITELLM_KEY_ROTATION_CHECK_INTERVAL_SECONDS",
        "key_rotation_every_s",
        whole(1, 31_536_000),
        86_400,
        "How often the admins look for keys to rotate.",
        "s",
    ),
    Variable(
        "LITELLM_KEY_ROTATION_GRACE_PERIOD",
        "key_rotation_grace",
        DURATION,
        "",
        "How long the old value of a rotated key works on, for example `24h`.",
        shown_default="not at all",
    ),
    Variable(
        "MERIDIAN_EXPIRED_KEYS_KEEP_DAYS",
        "expired_keys_keep_days",
        whole(0, 36_500),
        None,
        "Keys that expired so many days ago are moved to the archive.",
        "days",
        shown_default="for ever",
    ),
    Variable(
        "MERIDIAN_AUDIT_KEEP_DAYS",
        "audit_keep_days",
        whole(1, 36_500),
        None,
        "Entries of the audit log that are so many days old are deleted.",
        "days",
        shown_default="for ever",
    ),
    # -- limits
    Variable(
        "LITELLM_RATE_LIMIT_WINDOW_SIZE",
        "rate_window_s",
        whole(1, 3600),
        60,
        "Length of a rate window.",
        "s",
    ),
    Variable(
        "MERIDIAN_LIMIT_MODE",
        "limit_mode",
        one_of("default", "strict"),
        "default",
        "`strict` reserves the most a call can use and is never over a token limit or budget.",
    ),
    Variable(
        "MERIDIAN_STALE_LIMIT_S",
        "stale_limit_s",
        number(1, 86_400),
        900.0,
        "How long an instance that cannot reach the database serves known keys.",
        "s",
    ),
    Variable(
        "MERIDIAN_OUTAGE_LIMITS",
        "outage_limits",
        one_of("share", "serve"),
        "share",
        "Rate limits while the database is away: the instance's share, or no limit.",
    ),
    Variable(
        "MERIDIAN_OUTAGE_BUDGET",
        "outage_budget",
        one_of("serve_until_lease_end", "serve", "refuse"),
        "serve_until_lease_end",
        "Budgets while the database is away.",
    ),
    # -- process
    Variable(
        "MERIDIAN_DRAIN_DELAY_S",
        "drain_delay_s",
        number(0, 600),
        None,
        "After SIGTERM, how long new requests are still accepted while readiness fails.",
        "s",
        shown_default="5, in local mode 0",
    ),
    Variable(
        "MERIDIAN_DRAIN_TIMEOUT_S",
        "drain_timeout_s",
        number(0, 86_400),
        25.0,
        "Then, how long running calls may take to finish.",
        "s",
    ),
    Variable(
        "MERIDIAN_EVENT_LOOP",
        "event_loop",
        one_of("uvloop", "asyncio"),
        "uvloop",
        "The event loop.",
    ),
    Variable(
        "MERIDIAN_CLIENT_TIMEOUT_S",
        "client_timeout_s",
        number(0.1, 3600),
        60.0,
        "How long a client may pause while it sends a request's body.",
        "s",
    ),
    Variable(
        "MERIDIAN_MAX_REQUEST_SIZE_MB",
        "max_request_size_mb",
        number(0.001, 2048),
        100.0,
        "Largest request body, also after decompression; "
        "`general_settings.max_request_size_mb` wins over it.",
        "MiB",
    ),
    Variable(
        "PROXY_BATCH_WRITE_AT",
        "flush_interval_s",
        number(0.05, 60),
        1.0,
        "How often the journal is posted to the database.",
        "s",
    ),
    Variable(
        "MERIDIAN_JOURNAL_MAX_MB",
        "journal_max_mb",
        whole(16, 1_048_576),
        1024,
        "Most disk space for calls not yet posted; beyond it requests are refused.",
        "MiB",
    ),
    Variable(
        "LITELLM_LOG",
        "log_level",
        one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", upper=True),
        "INFO",
        "Least level of log lines.",
    ),
    Variable(
        "MERIDIAN_LOG_FORMAT",
        "log_format",
        one_of("json", "console", "auto"),
        "auto",
        "`auto` is `console` on a terminal, else `json`.",
    ),
    Variable(
        "JSON_LOGS", "json_logs", FLAG, False, "The reference's way to ask for JSON log lines."
    ),
    Variable(
        "MERIDIAN_PRICES_FILE",
        "prices_file",
        PATH,
        None,
        "A file of prices that win over those in the package.",
    ),
    # -- upstream connections
    Variable(
        "MERIDIAN_UPSTREAM_MAX_CONNECTIONS",
        "upstream_max_connections",
        whole(1, 100_000),
        2000,
        "Most connections to one upstream host and port.",
    ),
    Variable(
        "MERIDIAN_UPSTREAM_MAX_IDLE",
        "upstream_max_idle",
        whole(0, 100_000),
        200,
        "Most idle connections kept to one upstream host and port.",
    ),
    Variable(
        "MERIDIAN_UPSTREAM_MAX_WAITING",
        "upstream_max_waiting",
        whole(0, 1_000_000),
        2000,
        "Most requests that wait for a connection to one upstream host and port.",
    ),
    Variable(
        "MERIDIAN_UPSTREAM_KEEPALIVE_S",
        "upstream_keepalive_s",
        number(0, 3600),
        55.0,
        "How long an idle upstream connection is kept.",
        "s",
    ),
    Variable(
        "SSL_CERT_FILE",
        "ssl_cert_file",
        PATH,
        None,
        "Certificate authorities to trust upstream.",
        shown_default="those of the machine",
    ),
    Variable(
        "SSL_VERIFY",
        "ssl_verify",
        VERIFY,
        True,
        "`false` does not verify upstream certificates; a path is a file of authorities.",
    ),
)
