"""One PostgreSQL cluster on this machine: make it, start it, stop it.

Everything is synchronous and meant to run before an event loop exists. Callers hold a lock over
`create` and `start`; nothing here is shared between clusters.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

from shared.db.local_binaries import Account, PgBinaries, run_as
from shared.domain.errors import ConfigError

SUPERUSER = "meridian"
STOP_SIGNALS = MappingProxyType({"fast": signal.SIGINT, "immediate": signal.SIGQUIT})

# The path of a unix socket is limited to 104 bytes on macOS, 108 on Linux; the server adds a
# `.lock` file of a longer name, which is an ordinary file.
MAX_SOCKET_PATH = 103

_INIT_TIMEOUT_S = 120.0
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_TAIL = 2000
_LEFTOVER = "pre-existing shared memory block"
_LEFTOVER_TIMEOUT_S = 10.0
_NO_PID = 2**30  # beyond every system's highest process id
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@frozen
class Cluster:
    """Where a cluster lives. `run_dir` holds its socket, 0700 and owned by who runs the server.

    `settings` override the server's configuration. `listen` is the TCP address, empty for
    sockets only.
    """

    binaries: PgBinaries
    account: Account | None
    data_dir: Path
    run_dir: Path
    port: int
    listen: str = ""
    settings: Mapping[str, str] = MappingProxyType({})

    @property
    def socket(self) -> Path:
        """The server's unix socket."""
        return self.run_dir / f".s.PGSQL.{self.port}"


def create(cluster: Cluster, password: str, database: str) -> None:
    """Makes the cluster with one superuser, its password and an empty database.

    All or nothing: the data folder appears under its name only when it is complete.
    """
    fresh = cluster.data_dir.with_name(cluster.data_dir.name + ".new")
    password_file = cluster.data_dir.with_name(cluster.data_dir.name + ".password")
    shutil.rmtree(fresh, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    make_private_dir(fresh, cluster.account)
    write_private(password_file, password + "\n", cluster.account)
    try:
        made = _run(cluster, _initdb(cluster, fresh, password_file), _INIT_TIMEOUT_S)
    finally:
        password_file.unlink(missing_ok=True)
    if made.returncode != 0:
        raise ConfigError(f"local PostgreSQL: initdb failed: {made.stderr.strip()[-_TAIL:]}")
    _create_database(cluster, fresh, database)
    fresh.rename(cluster.data_dir)


def start(cluster: Cluster) -> None:
    """Starts the server detached and returns once it takes connections.

    It outlives this process. A server that was killed, or went down with the machine, recovers.
    """
    if server_pid(cluster.data_dir) is None:
        _disown_stale_pid(cluster.data_dir)
        cluster.socket.with_name(cluster.socket.name + ".lock").unlink(missing_ok=True)
    settings = {
        "listen_addresses": cluster.listen,
        "port": str(cluster.port),
        "unix_socket_directories": str(cluster.run_dir),
        "unix_socket_permissions": "0700",
        "dynamic_shared_memory_type": "mmap",
        "max_connections": "200",
        "log_min_messages": "warning",
        "log_checkpoints": "off",
        **cluster.settings,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [cluster.binaries.tool("pg_ctl"), "start", "-w", "-t", str(_START_TIMEOUT_S), "-s"]
    command += ["-D", str(cluster.data_dir), "-l", str(_log_file(cluster))]
    command += ["-o", shlex.join(options)]
    deadline = time.monotonic() + _LEFTOVER_TIMEOUT_S
    while _run(cluster, command, _START_TIMEOUT_S + 10, detached=True).returncode != 0:
        log = _log_tail(cluster)
        # Processes of a killed server take a moment to notice.
        if _LEFTOVER not in log or time.monotonic() > deadline:
            raise ConfigError(
                f"the local PostgreSQL in {cluster.data_dir} did not start; the end of its log "
                f"{_log_file(cluster)}:\n{log}"
            )
        time.sleep(_POLL_S)


def answers(socket_path: Path) -> bool:
    """Whether a server takes connections on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(socket_path))
            probe.sendall(_SSL_REQUEST)
            return probe.recv(1) in (b"N", b"S")
        except OSError:
            return False


def stop(data_dir: Path, mode: str = "fast") -> bool:
    """Stops the server of a data folder and waits for its end; `False` when none ran.

    Needs no binaries. `fast` cuts connections and writes a checkpoint, `immediate` is a crash.
    """
    pid = server_pid(data_dir)
    if pid is None:
        return False
    os.kill(pid, STOP_SIGNALS[mode])
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while server_pid(data_dir) == pid:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the local PostgreSQL in {data_dir} (process {pid}) did not stop within "
                f"{_STOP_TIMEOUT_S:.0f} s"
            )
        time.sleep(_POLL_S)
    return True


def server_pid(data_dir: Path) -> int | None:
    """The process id of the server that runs on the data folder."""
    pid = _recorded_pid(data_dir)
    if pid is None:
        return None
    command = _command_of(pid)
    if command is None:
        return None
    return pid if str(data_dir) in command else None


def make_private_dir(path: Path, account: Account | None) -> None:
    """A new folder of mode 0700 owned by the account; an existing path is an error."""
    path.mkdir(mode=0o700)
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def own_private_dir(path: Path, account: Account | None) -> None:
    """A folder of mode 0700 and ours (or the account's): made, or checked without following links.

    Names in world-writable folders can be taken first by somebody else; such a path is refused.
    """
    owner = account.uid if account else os.geteuid()
    try:
        make_private_dir(path, account)
    except FileExistsError:
        found = path.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != owner
            or stat.S_IMODE(found.st_mode) & 0o077
        ):
            raise ConfigError(
                f"{path} exists and is not a folder of mode 0700 owned by user id {owner}; "
                "remove it or set MERIDIAN_STATE_DIR to another folder"
            ) from None


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """A new file of mode 0600, owned by the account if one is given."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)


def _initdb(cluster: Cluster, data_dir: Path, password_file: Path) -> list[str]:
    command = [cluster.binaries.tool("initdb"), "-D", str(data_dir), "--username", SUPERUSER]
    command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8"]
    command.append("--no-sync")
    if cluster.binaries.major >= 17:
        command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        command.append("--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C")
    return command


def _create_database(cluster: Cluster, data_dir: Path, database: str) -> None:
    # Single-user mode needs no running server, hence no second state to recover from.
    command = [cluster.binaries.tool("postgres"), "--single", "-D", str(data_dir)]
    command += ["-c", "dynamic_shared_memory_type=mmap", "-c", "fsync=off", "postgres"]
    made = _run(cluster, command, _INIT_TIMEOUT_S, text=f"CREATE DATABASE {database};\n")
    if made.returncode != 0 or "ERROR" in made.stderr:
        raise ConfigError(
            f"local PostgreSQL: its database could not be made: {made.stderr.strip()[-_TAIL:]}"
        )


def _run(
    cluster: Cluster,
    command: list[str],
    timeout_s: float,
    *,
    text: str | None = None,
    detached: bool = False,
) -> subprocess.CompletedProcess[str]:
    try:
        return run_as(cluster.account, command, timeout_s, text=text, detached=detached)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"local PostgreSQL: {Path(command[0]).name}: {error}") from error


def _recorded_pid(data_dir: Path) -> int | None:
    try:
        first = (data_dir / "postmaster.pid").read_text().split("\n", 1)[0]
        return int(first)
    except (OSError, ValueError):
        return None


def _disown_stale_pid(data_dir: Path) -> None:
    """Makes a recorded process that is not our server look dead, as it is.

    The server takes any process of that number for a rival, be it another program or one that is
    dead and not yet waited for. Only the number is replaced: by the rest of the file the server
    finds out whether some of its former processes still live.
    """
    try:
        file = os.open(data_dir / "postmaster.pid", os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(file, "r+", encoding="utf-8") as stream:
        if os.fstat(file).st_nlink != 1:
            raise ConfigError(f"{data_dir / 'postmaster.pid'} has a second name: remove it")
        rest = stream.read().partition("\n")[2]
        stream.seek(0)
        stream.write(f"{_NO_PID}\n{rest}")
        stream.truncate()


def _command_of(pid: int) -> str | None:
    """The command line of a live process, `None` when it is gone, dead or cannot be told."""
    proc = Path("/proc") / str(pid) / "cmdline"
    try:
        # A process that is dead and not yet waited for has an empty command line.
        return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace") or None
    except OSError:
        if Path("/proc/self").exists():
            return None
    ps = shutil.which("ps") or "/bin/ps"
    try:
        result = run_as(None, [ps, "-o", "command=", "-p", str(pid)], 10.0)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _log_file(cluster: Cluster) -> Path:
    return cluster.data_dir / "server.log"


def _log_tail(cluster: Cluster) -> str:
    try:
        descriptor = os.open(_log_file(cluster), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        return str(error)
    with os.fdopen(descriptor, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return file.read().decode(errors="replace").strip()
