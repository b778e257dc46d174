"""`meridian doctor`: what an installation needs, checked one by one, each with its fix."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from attrs import frozen

from shared.config.distribution import check_distribution, version
from shared.config.master_keys import KEY_FILE, is_weak
from shared.config.settings import Settings
from shared.db.examine import MINIMUM_VERSION, DatabaseFacts, examine
from shared.db.local import ensure_local_postgres
from shared.db.local_binaries import find_binaries, server_account
from shared.db.migrate import SchemaState, check_schema
from shared.domain.errors import ConfigError, GatewayError

MINIMUM_PYTHON = (3, 11)
CLOCK_WARN_S = 1.0
SYNC_WARN_S = 0.05
_SYNCS = 5


class Verdict(StrEnum):
    """How a check ended; only `fail` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Finding:
    """One line of the report. `fix` says what to do about a warning or a failure."""

    check: str
    verdict: Verdict
    text: str
    fix: str | None = None


def diagnose(settings: Settings | ConfigError, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every check that can be made; what rests on a failed one is left out.

    With no `DATABASE_URL` the local PostgreSQL is started, as the binaries would.
    """
    yield _python()
    yield _packages()
    if isinstance(settings, ConfigError):
        yield Finding("configuration", Verdict.FAIL, str(settings), "correct it and run again")
        return
    yield Finding("configuration", Verdict.OK, f"{settings.env}, region {settings.region}")
    yield _master_key(settings)
    yield _state_dir(settings.state_dir)
    if settings.local_mode:
        yield _programs(environ)
    yield from _database(settings, environ)


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("python", Verdict.FAIL, found, "install Python 3.11 or newer")
    return Finding("python", Verdict.OK, found)


def _packages() -> Finding:
    try:
        folder = check_distribution()
    except ConfigError as error:
        return Finding("packages", Verdict.FAIL, str(error), "see above")
    return Finding("packages", Verdict.OK, f"version {version()} in {folder}")


def _master_key(settings: Settings) -> Finding:
    fix = "set LITELLM_MASTER_KEY to a long random secret"
    if settings.master_key and not is_weak(settings.master_key):
        return Finding("master key", Verdict.OK, "set")
    if settings.local_mode and not settings.master_key:
        return Finding("master key", Verdict.OK, f"a random one in {settings.state_dir / KEY_FILE}")
    what = "a publicly known sample" if settings.master_key else "not set"
    tolerated = settings.permit_weak_master_key or settings.local_mode
    return Finding("master key", Verdict.WARN if tolerated else Verdict.FAIL, what, fix)


def _state_dir(path: Path) -> Finding:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        slowest_s = _slowest_sync_s(path)
    except OSError as error:
        return Finding(
            "state directory",
            Verdict.FAIL,
            f"{path}: {error.strerror}",
            "set MERIDIAN_STATE_DIR to a directory on a disk that this user can write",
        )
    text = f"{path}, a sync takes up to {slowest_s * 1000:.1f} ms"
    if slowest_s > SYNC_WARN_S:
        fix = "put MERIDIAN_STATE_DIR on a faster disk: a loss of power costs what is not synced"
        return Finding("state directory", Verdict.WARN, text, fix)
    return Finding("state directory", Verdict.OK, text)


def _slowest_sync_s(path: Path) -> float:
    slowest_s = 0.0
    with tempfile.TemporaryFile(dir=path) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            slowest_s = max(slowest_s, time.perf_counter() - started)
    return slowest_s


def _programs(environ: Mapping[str, str]) -> Finding:
    try:
        binaries = find_binaries(environ, server_account())
    except ConfigError as error:
        return Finding("postgres programs", Verdict.FAIL, str(error), "see above")
    where = f"PostgreSQL {binaries.major} in {binaries.bin_dir}"
    return Finding("postgres programs", Verdict.OK, where)


def _database(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        if settings.database_url is None or settings.direct_dsn is None:
            dsn = direct = ensure_local_postgres(environ, settings.state_dir).dsn
        else:
            dsn, direct = settings.database_url.reveal(), settings.direct_dsn.reveal()
        facts = asyncio.run(examine(dsn, direct))
    except (ConfigError, GatewayError) as error:
        fix = "check DATABASE_URL and MERIDIAN_DATABASE_URL_DIRECT, and that the server runs"
        yield Finding("database", Verdict.FAIL, str(error), fix)
        return
    yield _reachable(facts, local=settings.local_mode)
    yield _schema(direct)
    yield _listen(facts)
    yield _clock(facts)


def _reachable(facts: DatabaseFacts, *, local: bool) -> Finding:
    where = "local" if local else "reachable"
    text = f"{where}, PostgreSQL {facts.release}, {facts.round_trip_s * 1000:.1f} ms away"
    if facts.version < MINIMUM_VERSION:
        return Finding("database", Verdict.FAIL, text, "use PostgreSQL 15 or newer")
    if facts.read_only:
        fix = "point DATABASE_URL at the primary; a replica goes in DATABASE_URL_READ_REPLICA"
        return Finding("database", Verdict.FAIL, f"{text}, read-only", fix)
    return Finding("database", Verdict.OK, text)


def _schema(dsn: str) -> Finding:
    try:
        state: SchemaState = asyncio.run(check_schema(dsn))
    except (ConfigError, GatewayError) as error:
        return Finding("schema", Verdict.FAIL, str(error), "run `meridian migrate`")
    newer = f" (this release knows {state.needed})" if state.version > state.needed else ""
    return Finding("schema", Verdict.OK, f"version {state.version}{newer}")


def _listen(facts: DatabaseFacts) -> Finding:
    if facts.listens:
        return Finding("notifications", Verdict.OK, "a notification came back")
    return Finding(
        "notifications",
        Verdict.WARN,
        "none came back: changes are found by polling",
        "set MERIDIAN_DATABASE_URL_DIRECT to an address that is no transaction-mode pooler",
    )


def _clock(facts: DatabaseFacts) -> Finding:
    text = f"{facts.clock_offset_s:+.3f} s to the database's"
    if abs(facts.clock_offset_s) > CLOCK_WARN_S:
        fix = "synchronise this machine's clock (NTP); the gateway corrects for it meanwhile"
        return Finding("clock", Verdict.WARN, text, fix)
    return Finding("clock", Verdict.OK, text)
