"""What `meridian` does beside the two services on their machine: the schema, the configuration, the
local PostgreSQL.

Loaded only when one of these commands is asked for: they need the database's modules.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from services.admin.doctor import Verdict, diagnose
from services.admin.litellm_import.command import import_litellm
from services.cli.status import DONE, FAILED, UNREACHABLE, WRONG
from shared.config.distribution import check_distribution, version
from shared.config.settings import Settings
from shared.config.startup import read_configuration
from shared.db.local import ensure_local_postgres, reset_local_postgres, stop_local_postgres
from shared.db.migrate import load_migrations, migrate
from shared.domain.capabilities import Binary
from shared.domain.errors import ConfigError, StoreUnavailable

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]


def run(name: str, options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """One of `COMMANDS`; answers the exit status."""
    command = COMMANDS[name]
    try:
        if command is not _doctor:
            check_distribution()
        return command(options, environ)
    except ConfigError as error:
        _complain(str(error))
        return WRONG
    except StoreUnavailable as error:
        _complain(str(error))
        return UNREACHABLE


def _settings(environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """What holds for the admin; a file is read only where one is named."""
    if config is not None or environ.get("CONFIG_FILE_PATH"):
        return read_configuration(environ, Binary.ADMIN, config).settings
    return Settings.from_environ(environ, Binary.ADMIN)


def _migrate(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = _settings(environ, options.config)
    if settings.direct_dsn is not None:
        dsn = settings.direct_dsn.reveal()
    else:
        dsn = ensure_local_postgres(environ, settings.state_dir).dsn
    applied = asyncio.run(migrate(dsn, to=options.to, dry_run=options.dry_run))
    names = [migration.name for migration in applied]
    if options.json:
        _print_json({"dry_run": options.dry_run, "migrations": names})
    elif names:
        _say(*(f"{'would apply' if options.dry_run else 'applied'} {name}" for name in names))
    else:
        _say("nothing to apply")
    return DONE


def _config_check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    configuration = read_configuration(environ, Binary(options.binary), options.path)
    gateway = configuration.gateway
    _say(*(f"notice: {notice}" for notice in configuration.notices))
    _say(f"{gateway.source}: valid")
    return DONE


def _doctor(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings: Settings | ConfigError
    try:
        settings = _settings(environ, options.config)
    except ConfigError as error:
        settings = error
    findings = []
    for finding in diagnose(settings, environ):
        findings.append(finding)
        if not options.json:
            _say(f"{finding.verdict:<5} {finding.check}: {finding.text}")
            if finding.fix is not None:
                _say(f"      fix: {finding.fix}")
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    if options.json:
        _print_json({"ok": not failed, "checks": [attrs.asdict(finding) for finding in findings]})
    return FAILED if failed else DONE


def _version(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    facts = {
        "version": version(),
        "python": platform.python_version(),
        "schema": len(load_migrations()),
    }
    if options.json:
        _print_json(facts)
    else:
        _say(f"meridian {facts['version']} (Python {facts['python']}, schema {facts['schema']})")
    return DONE


def _db_up(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    local = ensure_local_postgres(environ, _local_state_dir(environ))
    applied = asyncio.run(migrate(local.dsn))
    state = "started" if local.started else "was running"
    _say(f"PostgreSQL {local.major} {state}: {local.masked_dsn}")
    if local.notice is not None:
        _say(local.notice)
    _say(*(f"applied {migration.name}" for migration in applied))
    return DONE


def _db_stop(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    stopped = stop_local_postgres(_settings(environ).state_dir)
    _say("stopped" if stopped else "none was running")
    return DONE


def _db_reset(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    state_dir = _settings(environ).state_dir
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("db reset deletes all data of the local PostgreSQL: add --yes")
        sys.stdout.write(f"Delete all data of the local PostgreSQL of {state_dir}? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return FAILED
    _say("deleted" if reset_local_postgres(state_dir) else "there was none")
    return DONE


def _db_dsn(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    _say(ensure_local_postgres(environ, _local_state_dir(environ)).dsn)
    return DONE


def _local_state_dir(environ: Mapping[str, str]) -> Path:
    settings = _settings(environ)
    if not settings.local_mode:
        raise ConfigError("DATABASE_URL is set, so there is no local PostgreSQL: unset it first")
    return settings.state_dir


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _print_json(value: Mapping[str, Any]) -> None:
    _say(json.dumps(value, indent=2))


def _complain(text: str) -> None:
    sys.stderr.write(f"meridian: {text}\n")


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "migrate": _migrate,
        "config check": _config_check,
        "doctor": _doctor,
        "version": _version,
        "db up": _db_up,
        "db stop": _db_stop,
        "db reset": _db_reset,
        "db dsn": _db_dsn,
        "import litellm": import_litellm,
    }
)
