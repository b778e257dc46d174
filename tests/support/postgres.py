"""Throw-away PostgreSQL servers for tests: one shared by all workers of a run, more on demand.

Started by the launcher's own modules from the machine's binaries, or from the wheel's with
`MERIDIAN_TEST_PG=wheel`. Nothing survives the run: see `RunDirectory`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg

from shared.db import local_server
from shared.db.local_binaries import (
    Account,
    PgBinaries,
    find_binaries,
    readable_copy,
    server_account,
    wheel_binaries,
)
from shared.db.local_server import SUPERUSER, Cluster
from shared.db.migrate import migrate

TEMPLATE = "meridian_template"
RUN_VARIABLE = "MERIDIAN_TEST_RUN"
FAST_SETTINGS = MappingProxyType(
    {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_wal_size": "256MB",
        "autovacuum": "off",
    }
)

_PREFIX = "meridian-test-"
# Short, for the paths of sockets, and open to the account that servers run as; neither is true of
# the default temporary folder everywhere.
_ROOT = Path("/tmp")
# Data in memory makes a new database in 30 ms instead of up to 500 ms. Containers often have 64 MB.
_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 2 << 30


class Postgres:
    """A server and the databases on it. All methods are synchronous and safe in a running loop."""

    def __init__(
        self, cluster: Cluster, password: str, *, shared: bool, strategy: str = "wal_log"
    ) -> None:
        self.cluster = cluster
        self.shared = shared
        self.strategy = strategy
        self._password = password
        self._numbers = itertools.count(1)

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.cluster.binaries.major

    @property
    def host(self) -> str:
        """The TCP address, always loopback."""
        return self.cluster.listen

    @property
    def port(self) -> int:
        """The TCP port; the same after a restart."""
        return self.cluster.port

    @property
    def admin_dsn(self) -> str:
        """The superuser in the database `postgres`."""
        return self.dsn("postgres")

    def dsn(self, database: str) -> str:
        """A database over TCP."""
        return f"postgresql://{SUPERUSER}:{self._password}@{self.host}:{self.port}/{database}"

    def socket_dsn(self, database: str) -> str:
        """The same over the unix socket."""
        folder = quote(str(self.cluster.run_dir), safe="")
        return (
            f"postgresql://{SUPERUSER}:{self._password}@/{database}?host={folder}&port={self.port}"
        )

    def create(self) -> str:
        """A fresh database with all migrations; returns its DSN over TCP."""
        name = f"t{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY {self.strategy}")
        return self.dsn(name)

    def create_empty(self) -> str:
        """A fresh database without any table."""
        name = f"e{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.dsn(name)

    def drop(self, dsn: str) -> None:
        """Removes a database, cutting whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {urlsplit(dsn).path[1:]} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Runs one statement as the superuser, outside of a transaction."""
        _await(_execute(self.admin_dsn, statement))

    def start(self) -> None:
        """Starts the server on the port and socket that it had."""
        local_server.start(self.cluster)

    def stop(self, mode: str = "fast") -> None:
        """Stops it: `fast` cuts connections, `immediate` is a crash with recovery at next start.

        Refused for the server that the whole run shares: take the fixture `own_postgres`.
        """
        if self.shared:
            raise RuntimeError("this server is everybody's; take the fixture own_postgres")
        local_server.stop(self.cluster.data_dir, mode)

    def prepare(self) -> None:
        """Makes the database that `create` copies, and finds the quicker way to copy it."""
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        _await(migrate(self.dsn(TEMPLATE)))
        took = {}
        for strategy in ("wal_log", "file_copy"):
            started = time.perf_counter()
            self.execute(f"CREATE DATABASE probe TEMPLATE {TEMPLATE} STRATEGY {strategy}")
            took[strategy] = time.perf_counter() - started
            self.execute("DROP DATABASE probe")
        self.strategy = min(took, key=took.__getitem__)


class RunDirectory:
    """A folder that all processes of one test run share, with the servers started in it.

    The process that runs pytest owns it and holds a lock in it; at its end, and when a later run
    finds a folder whose owner is gone, the servers in it are stopped and it is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count(1)

    @classmethod
    def of_environment(cls) -> RunDirectory:
        """The folder of the run that this process belongs to."""
        return cls(Path(os.environ[RUN_VARIABLE]))

    @classmethod
    @contextlib.contextmanager
    def owned(cls) -> Iterator[RunDirectory]:
        """A new folder, removed at the end with all that runs in it."""
        _sweep()
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_ROOT))
        path.chmod(0o711)
        if _has_memory():
            (_MEMORY / path.name).mkdir(mode=0o711)
        with (path / "owner.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.environ[RUN_VARIABLE] = str(path)
            try:
                yield cls(path)
            finally:
                del os.environ[RUN_VARIABLE]
                _remove(path)

    def shared_server(self) -> Postgres:
        """The run's one server; whoever asks first starts it, the others wait and join."""
        record = self.path / "postgres.json"
        with (self.path / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not record.exists():
                server, password = self._start("shared", shared=True)
                known = {"port": server.port, "password": password, "strategy": server.strategy}
                local_server.write_private(record, json.dumps(known))
                return server
        known = json.loads(record.read_text())
        return Postgres(
            self._cluster("shared", known["port"]),
            known["password"],
            shared=True,
            strategy=known["strategy"],
        )

    @contextlib.contextmanager
    def own_server(self) -> Iterator[Postgres]:
        """A server of one test, which may stop and start it."""
        folder = f"own-{os.getpid()}-{next(self._numbers)}"
        server, _ = self._start(folder, shared=False)
        try:
            yield server
        finally:
            local_server.stop(server.cluster.data_dir, "immediate")
            shutil.rmtree(self.path / folder)
            shutil.rmtree(self._data_root() / folder, ignore_errors=True)

    def _start(self, folder: str, *, shared: bool) -> tuple[Postgres, str]:
        account = server_account()
        (self.path / folder).mkdir(mode=0o711)
        (self._data_root() / folder).mkdir(mode=0o711, exist_ok=True)
        local_server.make_private_dir(self.path / folder / "run", account)
        cluster = self._cluster(folder, free_port())
        password = secrets.token_hex(16)
        local_server.create(cluster, password, "meridian")
        local_server.start(cluster)
        server = Postgres(cluster, password, shared=shared)
        server.prepare()
        return server, password

    def _cluster(self, folder: str, port: int) -> Cluster:
        account = server_account()
        return Cluster(
            binaries=self._binaries(account),
            account=account,
            data_dir=self._data_root() / folder / "data",
            run_dir=self.path / folder / "run",
            port=port,
            listen="127.0.0.1",
            settings=FAST_SETTINGS,
        )

    def _data_root(self) -> Path:
        memory = _MEMORY / self.path.name
        return memory if memory.is_dir() else self.path

    def _binaries(self, account: Account | None) -> PgBinaries:
        if os.environ.get("MERIDIAN_TEST_PG") == "wheel":
            binaries = wheel_binaries()
            if binaries is None:
                raise RuntimeError("MERIDIAN_TEST_PG=wheel needs the extra localdb")
        else:
            binaries = find_binaries(os.environ, account)
        return readable_copy(binaries, account, self.path / "programs")


def free_port() -> int:
    """A TCP port that nothing listens on, below the range that the kernel hands out itself."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _has_memory() -> bool:
    return _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED


def _sweep() -> None:
    for path in _ROOT.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid != os.geteuid() or path.is_symlink():
                continue
            with (path / "owner.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)


def _remove(path: Path) -> None:
    for folder in (_MEMORY / path.name, path):
        for data_dir in folder.glob("*/data"):
            local_server.stop(data_dir, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _await(work: Coroutine[Any, Any, object]) -> None:
    """Runs a coroutine in a loop of its own: callers may be inside of a running one."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, work).result()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
