"""The command `meridian import litellm`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from services.admin.litellm_import.ciphers import Opener
from services.admin.litellm_import.kinds import Circumstances
from services.admin.litellm_import.report import Report
from services.admin.litellm_import.run import Import, NotASource
from services.cli.status import DONE, FAILED
from shared.config.gateway_config import GatewayConfig
from shared.config.master_keys import resolve_master_key
from shared.config.secret import Secret
from shared.config.settings import Settings
from shared.config.startup import read_configuration
from shared.db.imports import open_target
from shared.db.litellm_source import open_source
from shared.db.local import ensure_local_postgres
from shared.domain.capabilities import Binary
from shared.domain.errors import ConfigError
from shared.secrets.sealing import Sealer

_SALT_VARIABLES = ("LITELLM_SALT_KEY", "LITELLM_MASTER_KEY")


def import_litellm(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Imports and prints the report. Raises `ConfigError` and `StoreUnavailable`."""
    settings, gateway = _configuration(environ, options.config)
    at = Circumstances(
        now=datetime.now(UTC),
        opener=Opener(_salt_key(environ, options.salt_key_env)),
        sealer=_sealer(settings, gateway),
        gateway=gateway,
    )
    report = Report(dry_run=options.dry_run)
    asyncio.run(_import(options.source, _target(settings, environ), at, report))
    if options.json:
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in report.text())
    sys.stdout.flush()
    return DONE if report.equal else FAILED


async def _import(source_dsn: str, target_dsn: str, at: Circumstances, report: Report) -> None:
    try:
        async with (
            open_source(source_dsn) as source,
            open_target(target_dsn, dry_run=report.dry_run) as target,
        ):
            await Import(source, target, at, report, _progress).run()
    except NotASource:
        raise ConfigError("--from: the database has no tables of a LiteLLM proxy") from None


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _configuration(
    environ: Mapping[str, str], config: Path | None
) -> tuple[Settings, GatewayConfig]:
    """What holds for the admin; a file is read only where one is named."""
    if config is None and not environ.get("CONFIG_FILE_PATH"):
        return Settings.from_environ(environ, Binary.ADMIN), GatewayConfig()
    configuration = read_configuration(environ, Binary.ADMIN, config)
    return configuration.settings, configuration.gateway


def _target(settings: Settings, environ: Mapping[str, str]) -> str:
    if settings.direct_dsn is not None:
        return settings.direct_dsn.reveal()
    return ensure_local_postgres(environ, settings.state_dir).dsn


def _salt_key(environ: Mapping[str, str], name: str | None) -> Secret | None:
    if name is not None and not environ.get(name):
        raise ConfigError(f"--salt-key-env: the variable {name} is not set")
    for each in (name,) if name is not None else _SALT_VARIABLES:
        if environ.get(each):
            return Secret(environ[each])
    return None


def _sealer(settings: Settings, gateway: GatewayConfig) -> Callable[[], Sealer]:
    @cache
    def sealer() -> Sealer:
        key = settings.salt_key or resolve_master_key(settings, gateway.general).key
        if key is None:
            raise ConfigError(
                "environment: LITELLM_SALT_KEY: is needed for the secrets in the database, since "
                "there is no master key either; set it."
            )
        return Sealer(key)

    return sealer
