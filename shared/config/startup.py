"""From environment and files to the one set of values that a binary starts with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from shared.config.config_file import load
from shared.config.gateway_config import GatewayConfig
from shared.config.reports import Notice
from shared.config.secret import Secret
from shared.config.settings import EXAMPLE_CONFIG, Settings
from shared.domain.capabilities import Binary

# Names of the file that set a process setting, and the variable each stands for.
FILE_SETTINGS: Mapping[str, str] = {
    "general_settings.master_key": "LITELLM_MASTER_KEY",
    "general_settings.database_url": "DATABASE_URL",
    "general_settings.store_model_in_db": "STORE_MODEL_IN_DB",
    "general_settings.dangerously_permit_weak_or_unset_master_key": (
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"
    ),
    "general_settings.max_request_size_mb": "MERIDIAN_MAX_REQUEST_SIZE_MB",
    "general_settings.proxy_batch_write_at": "PROXY_BATCH_WRITE_AT",
    "general_settings.disable_key_name": "DISABLE_KEY_NAME",
    "litellm_settings.json_logs": "JSON_LOGS",
    "litellm_settings.ssl_verify": "SSL_VERIFY",
}


@frozen
class Configuration:
    """Settings with the file's say in them, the file itself, and what is not in force."""

    settings: Settings
    gateway: GatewayConfig
    notices: tuple[Notice, ...] = ()


def read_configuration(
    environ: Mapping[str, str], binary: Binary, config_path: Path | None = None
) -> Configuration:
    """Read everything; raises `ConfigError` for the file, else for the environment.

    `config_path` (`--config`) wins over `CONFIG_FILE_PATH`. What the file's
    `environment_variables`, `general_settings` and `litellm_settings` say of process settings
    wins over the process environment, as in the reference.
    """
    named = environ.get("CONFIG_FILE_PATH")
    path = config_path or (Path(named).expanduser() if named else EXAMPLE_CONFIG)
    gateway = load(path, environ)
    variables = dict(gateway.environment)
    if config_path is not None:
        variables["CONFIG_FILE_PATH"] = str(config_path)
    origins: dict[str, tuple[str, str]] = {}
    for name, variable in FILE_SETTINGS.items():
        text = _said(gateway, name)
        if text is not None:
            variables[variable] = text
            origins[variable] = (gateway.source, name)
    settings = Settings.from_environ(variables, binary, origins)
    notices = dict.fromkeys((*settings.notices, *gateway.notices))
    return Configuration(settings, gateway, tuple(notices))


def _said(gateway: GatewayConfig, name: str) -> str | None:
    """What the file says of a setting, in the form of a variable; `None` when nothing."""
    section, _, member = name.partition(".")
    value = getattr(gateway.general if section == "general_settings" else gateway.litellm, member)
    if value is None or (member == "json_logs" and not value):
        return None
    if isinstance(value, Secret):
        return value.reveal()
    return str(value).lower() if isinstance(value, bool) else str(value)
