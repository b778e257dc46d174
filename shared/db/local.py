"""The PostgreSQL that both binaries start and share when no `DATABASE_URL` is set.

For a developer's machine only. The first process makes and starts it, later ones join; it is left
running when they end. It listens on a unix socket in a folder of mode 0700 and asks for a random
password, kept in the state directory with mode 0600.

As root the server runs as another user, who cannot enter root's folders: its data then lies in a
folder with a random name below `/var/lib`, and the state directory remembers which.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from attrs import field, frozen

from shared.db import local_server
from shared.db.local_binaries import (
    Account,
    PgBinaries,
    find_binaries,
    readable_copy,
    server_account,
)
from shared.db.local_server import MAX_SOCKET_PATH, SUPERUSER, Cluster
from shared.domain.errors import ConfigError

DATABASE = "meridian"

_RECORD = "local-postgres.json"
_LOCK = "local-postgres.lock"
_ROOT_BASES = ("/var/lib", "/var/tmp")  # noqa: S108 - a random name below it, made 0700 first
_BASE_PREFIX = "meridian-postgres-"
# Apart from each other, so that servers of two majors can run side by side, and from a server
# that the machine may have.
_FIRST_PORT = 54000


@frozen
class LocalPostgres:
    """A running local server. `started` says whether this call started it.

    `notice` is for the person at the terminal, e.g. that data of another major version was left
    where it is.
    """

    dsn: str = field(repr=False)
    masked_dsn: str
    bin_dir: Path
    major: int
    data_dir: Path
    started: bool
    notice: str | None = None


@frozen
class _Record:
    """What the state directory remembers: where the data is, who runs the server, the password."""

    base: Path
    account: str | None
    password: str = field(repr=False)


def ensure_local_postgres(environ: Mapping[str, str], state_dir: Path) -> LocalPostgres:
    """Starts or joins the local server. Blocks; for use before an event loop runs.

    Raises `ConfigError`, whose message says what to install or set, also in production and in
    Kubernetes, where a database that vanishes with its machine is never what is wanted.
    """
    _refuse_in_production(environ)
    account = server_account()
    _prepare_state_dir(state_dir)
    with _locked(state_dir):
        record = _read(state_dir) or _new_record(state_dir, account)
        account = _account_of(record)
        binaries = find_binaries(environ, account)
        binaries = readable_copy(binaries, account, record.base / f"programs-{binaries.major}")
        cluster = _cluster(record, account, binaries)
        if not cluster.data_dir.exists():
            local_server.create(cluster, record.password, DATABASE)
        started = _start_or_join(cluster)
    return LocalPostgres(
        dsn=_dsn(cluster, record.password),
        masked_dsn=_dsn(cluster, "***"),
        bin_dir=cluster.binaries.bin_dir,
        major=cluster.binaries.major,
        data_dir=cluster.data_dir,
        started=started,
        notice=_other_majors(record.base, cluster),
    )


def stop_local_postgres(state_dir: Path) -> bool:
    """Stops the local server of a state directory; `False` when none ran."""
    if not (state_dir / _RECORD).exists():
        return False
    with _locked(state_dir):
        record = _read(state_dir)
        return record is not None and _stop_all(record)


def reset_local_postgres(state_dir: Path) -> bool:
    """Stops the local server and deletes all its data; `False` when there was none."""
    if not (state_dir / _RECORD).exists():
        return False
    with _locked(state_dir):
        record = _read(state_dir)
        if record is None:
            return False
        _stop_all(record, "immediate")
        shutil.rmtree(_run_dir(record.base), ignore_errors=True)
        shutil.rmtree(record.base)
        (state_dir / _RECORD).unlink()
        return True


def _refuse_in_production(environ: Mapping[str, str]) -> None:
    environment = environ.get("MERIDIAN_ENV", "").strip().lower()
    if environment == "test":
        return
    for name, found in (
        ("MERIDIAN_ENV=production", environment == "production"),
        ("KUBERNETES_SERVICE_HOST", bool(environ.get("KUBERNETES_SERVICE_HOST"))),
    ):
        if found:
            raise ConfigError(
                f"DATABASE_URL is not set, and a local PostgreSQL is never started where {name} "
                "is set: set DATABASE_URL to a PostgreSQL 15 or newer"
            )


def _prepare_state_dir(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = state_dir.stat()
    except OSError as error:
        raise ConfigError(
            f"MERIDIAN_STATE_DIR: {state_dir} cannot be made: {error.strerror}"
        ) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise ConfigError(
            f"MERIDIAN_STATE_DIR: {state_dir} must belong to user id {os.geteuid()} and be "
            "writable by nobody else"
        )


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """One process at a time makes, starts, stops or deletes; the others wait."""
    descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(state_dir: Path) -> _Record | None:
    """The record, `None` when there is none or its folder is gone (then all starts anew)."""
    path = state_dir / _RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        record = _Record(Path(raw["base"]), raw["account"], raw["password"])
        found = record.base.lstat()
    except FileNotFoundError:
        path.unlink(missing_ok=True)
        return None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} is not what was written to it; restore it, or remove it together with the "
            "data to start anew"
        ) from None
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) & 0o022
    ):
        raise ConfigError(
            f"{record.base} is not a folder that belongs to user id {os.geteuid()} alone; remove "
            f"it and {path}"
        )
    return record


def _new_record(state_dir: Path, account: Account | None) -> _Record:
    base = _make_base(state_dir, account)
    record = _Record(base, account.name if account else None, secrets.token_hex(24))
    text = json.dumps(
        {"base": str(record.base), "account": record.account, "password": record.password}
    )
    fresh = state_dir / (_RECORD + ".new")
    fresh.unlink(missing_ok=True)
    local_server.write_private(fresh, text)
    fresh.rename(state_dir / _RECORD)
    return record


def _make_base(state_dir: Path, account: Account | None) -> Path:
    """The folder for data, socket and copied programs; its content's owner may pass through it."""
    if account is None:
        base = state_dir.resolve() / "postgres"
        if base.exists():
            raise ConfigError(
                f"{base} holds a database whose password is lost ({state_dir / _RECORD} is "
                "gone); move it away to start anew"
            )
        base.mkdir(mode=0o700)
        return base
    for parent in _ROOT_BASES:
        try:
            base = Path(tempfile.mkdtemp(prefix=_BASE_PREFIX, dir=parent))
        except OSError:
            continue
        base.chmod(0o711)
        return base
    raise ConfigError(
        f"no local PostgreSQL: none of {', '.join(_ROOT_BASES)} is writable; set DATABASE_URL"
    )


def _account_of(record: _Record) -> Account | None:
    if record.account is None:
        return None
    try:
        entry = pwd.getpwnam(record.account)
    except KeyError:
        raise ConfigError(
            f"the local PostgreSQL in {record.base} belongs to user {record.account}, who is gone"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _cluster(record: _Record, account: Account | None, binaries: PgBinaries) -> Cluster:
    run_dir = _run_dir(record.base)
    local_server.own_private_dir(run_dir, account)
    return Cluster(
        binaries=binaries,
        account=account,
        data_dir=record.base / f"data-{binaries.major}",
        run_dir=run_dir,
        port=_FIRST_PORT + binaries.major,
    )


def _run_dir(base: Path) -> Path:
    """The socket's folder: beside the data, or elsewhere where that path is too long.

    It follows from `base` alone, so that processes with different environments meet.
    """
    beside = base / "run"
    if len(os.fsencode(beside / f".s.PGSQL.{_FIRST_PORT}")) <= MAX_SOCKET_PATH:
        return beside
    digest = hashlib.sha256(os.fsencode(base)).hexdigest()[:12]
    return Path("/tmp") / f"meridian-{os.geteuid()}-{digest}"  # noqa: S108 - checked before use


def _start_or_join(cluster: Cluster) -> bool:
    if local_server.answers(cluster.socket):
        return False
    # A server without its socket (a cleaner of temporary folders took it) serves nobody.
    local_server.stop(cluster.data_dir)
    local_server.start(cluster)
    return True


def _stop_all(record: _Record, mode: str = "fast") -> bool:
    running = [path for path in _data_dirs(record.base) if local_server.stop(path, mode)]
    return bool(running)


def _data_dirs(base: Path) -> list[Path]:
    return sorted(path for path in base.glob("data-*") if path.name[5:].isdigit())


def _other_majors(base: Path, cluster: Cluster) -> str | None:
    others = [path for path in _data_dirs(base) if path != cluster.data_dir]
    if not others:
        return None
    names = ", ".join(str(path) for path in others)
    return (
        f"this is PostgreSQL {cluster.binaries.major}; data of another major version stays in "
        f"{names} and is not used (MERIDIAN_PG_BIN chooses the programs)"
    )


def _dsn(cluster: Cluster, password: str) -> str:
    folder = quote(str(cluster.run_dir), safe="")
    return f"postgresql://{SUPERUSER}:{password}@/{DATABASE}?host={folder}&port={cluster.port}"
