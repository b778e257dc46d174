"""Forward-only schema migrations: `shared/db/migrations/NNNN_slug.sql`, applied in order.

Any number of runners may start at once: each step is taken under a transaction-scoped advisory
lock (session locks do not survive a transaction-mode pooler). A file runs in one transaction with
its row in `schema_migrations`, so it is applied whole or not at all.

A file whose first line is `-- meridian: no-transaction` runs outside of one (concurrent index
builds). It needs a direct connection, must hold one statement, and must be safe to run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from attrs import field, frozen

from shared.domain.errors import ConfigError, StoreUnavailable

Connection = asyncpg.Connection | PoolConnectionProxy

NO_TRANSACTION = "-- meridian: no-transaction"

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LOCK_KEY = 0x4D455249  # "MERI"; advisory locks are per database
_STATEMENT_TIMEOUT_S = 120
_CONNECT_TIMEOUT_S = 10.0
_TURN_TIMEOUT_S = 300.0
_TURN_POLL_S = 0.1

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     integer PRIMARY KEY,
    slug        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_ms integer NOT NULL
)
"""
_HAS_TABLE = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = "SELECT version, checksum FROM schema_migrations"
_RECORD = """
INSERT INTO schema_migrations (version, slug, checksum, duration_ms)
VALUES ($1, $2, $3, $4)
"""
_NOTHING = "SELECT"
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_TIMEOUTS = """
SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)
"""


@frozen
class Migration:
    """One file. `checksum` is the SHA-256 of its text with line ends made `\\n`."""

    version: int
    slug: str
    sql: str = field(repr=False)
    checksum: str = field(repr=False)

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return f"{self.version:04d}_{self.slug}"

    @property
    def transactional(self) -> bool:
        """Whether the file runs in one transaction with its record."""
        return self.sql.split("\n", 1)[0].strip() != NO_TRANSACTION


@frozen
class SchemaState:
    """`version` is what the database has (0: nothing), `needed` what this release was made for."""

    version: int
    needed: int


def load_migrations(folder: Traversable | None = None) -> tuple[Migration, ...]:
    """The packaged migrations in order; their numbers run from 1 without a gap."""
    if folder is None:
        folder = resources.files("shared.db") / "migrations"
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".sql"):
            continue
        match = _NAME.fullmatch(entry.name)
        if match is None:
            raise ConfigError(f"migration {entry.name}: the name must be NNNN_slug.sql")
        sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(int(match.group(1)), match.group(2), sql, checksum))
    numbers = [migration.version for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ConfigError(f"migrations must be numbered 1, 2, 3, … once each, found {numbers}")
    return tuple(found)


async def migrate(
    dsn: str,
    *,
    to: int | None = None,
    dry_run: bool = False,
    migrations: tuple[Migration, ...] | None = None,
    lock_timeout_s: float = 5.0,
) -> tuple[Migration, ...]:
    """Applies what is missing, up to `to`, and returns what this call applied.

    With `dry_run` nothing changes and what would be applied is returned. `dsn` should be the
    direct one. A statement that waits longer than `lock_timeout_s` for a lock fails, because the
    traffic that queues up behind it would wait as well. Raises `ConfigError` when a file fails or
    the history differs from the files, and `StoreUnavailable` when the database cannot be
    reached; earlier files stay applied.
    """
    known = load_migrations() if migrations is None else migrations
    wanted = _up_to(known, to)
    async with connected(dsn) as connection:
        if dry_run:
            return _missing(known, wanted, await _applied(connection))
        async with _turn(connection):
            await connection.execute(_CREATE_TABLE)
        applied = []
        while (done := await _step(dsn, connection, known, wanted, lock_timeout_s)) is not None:
            applied.append(done)
        return tuple(applied)


async def check_schema(
    where: str | Connection, *, migrations: tuple[Migration, ...] | None = None
) -> SchemaState:
    """Refuses a schema older than this release needs; a newer one is fine (N serves N−1)."""
    known = load_migrations() if migrations is None else migrations
    if isinstance(where, str):
        async with connected(where) as connection:
            applied = await _applied(connection)
    else:
        applied = await _applied(where)
    state = SchemaState(version=max(applied, default=0), needed=len(known))
    if state.version < state.needed:
        raise ConfigError(
            f"the database schema is at version {state.version}, this release needs "
            f"{state.needed}: run `meridian migrate`"
        )
    return state


async def _step(
    dsn: str,
    connection: asyncpg.Connection,
    known: tuple[Migration, ...],
    wanted: tuple[Migration, ...],
    lock_timeout_s: float,
) -> Migration | None:
    """Applies the next missing file and returns it; `None` when there is none."""
    async with _turn(connection):
        missing = _missing(known, wanted, await _applied(connection))
        if not missing:
            return None
        following = missing[0]
        if following.transactional:
            limits_s = (lock_timeout_s, _STATEMENT_TIMEOUT_S)
            await connection.execute(_TIMEOUTS, *(f"{limit * 1000:.0f}ms" for limit in limits_s))
            await _run(connection, following)
        else:
            # This transaction only holds the lock; the statement runs on a second connection. A
            # simple query ends the last portal here, whose snapshot an index build would wait for.
            await connection.execute(_NOTHING)
            async with connected(dsn) as second:
                await _run(second, following)
    return following


async def _run(connection: asyncpg.Connection, migration: Migration) -> None:
    started = time.monotonic()
    try:
        await connection.execute(migration.sql)
    except asyncpg.PostgresError as error:
        raise ConfigError(_failure(migration, error)) from error
    duration_ms = round((time.monotonic() - started) * 1000)
    await connection.execute(
        _RECORD, migration.version, migration.slug, migration.checksum, duration_ms
    )


def _failure(migration: Migration, error: asyncpg.PostgresError) -> str:
    text = f"migration {migration.name} failed"
    position = getattr(error, "position", None)
    if position is not None:
        line = migration.sql.count("\n", 0, int(position) - 1) + 1
        text += f" at line {line}"
    left = "nothing of it remains" if migration.transactional else "it is not recorded"
    return f"{text}: {error} ({left})"


@asynccontextmanager
async def _turn(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that holds the runners' lock.

    Asked for again and again instead of waited for: a waiting statement holds a snapshot, on
    which a concurrent index build of the runner in front would wait in turn, for ever.
    """
    deadline = time.monotonic() + _TURN_TIMEOUT_S
    while True:
        async with connection.transaction():
            if await connection.fetchval(_TRY_LOCK, _LOCK_KEY):
                yield
                return
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"another migration has been running for {_TURN_TIMEOUT_S:.0f} s"
            )
        await asyncio.sleep(_TURN_POLL_S)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection without cached statements, so that it works through a pooler as well."""
    try:
        connection = await asyncpg.connect(dsn, statement_cache_size=0, timeout=_CONNECT_TIMEOUT_S)
    except (ValueError, asyncpg.ClientConfigurationError):
        # The cause may quote a part of the password.
        raise ConfigError("the database address is not a valid PostgreSQL URL") from None
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
        raise StoreUnavailable(f"the database cannot be reached: {error or 'time-out'}") from error
    except asyncpg.PostgresError as error:
        raise ConfigError(f"the database refuses the connection: {error}") from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"the connection to the database was lost: {error}") from error
    except asyncpg.PostgresError as error:
        raise ConfigError(f"the database refuses: {error}") from error
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)


async def _applied(connection: Connection) -> Mapping[int, str]:
    """The checksum of each version that is applied."""
    if not await connection.fetchval(_HAS_TABLE):
        return {}
    return {row["version"]: row["checksum"] for row in await connection.fetch(_APPLIED)}


def _up_to(known: tuple[Migration, ...], to: int | None) -> tuple[Migration, ...]:
    if to is None:
        return known
    if not 0 < to <= len(known):
        raise ConfigError(f"there is no migration {to}: the last one is {len(known)}")
    return known[:to]


def _missing(
    known: tuple[Migration, ...], wanted: tuple[Migration, ...], applied: Mapping[int, str]
) -> tuple[Migration, ...]:
    """What is wanted and not applied, after a check that the past is the files' past."""
    for migration in known:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise ConfigError(
                f"migration {migration.name} was changed after it was applied; restore the file "
                "and put the change into a new one"
            )
    last = max(applied, default=0)
    if len(wanted) < len(known) and last > len(wanted):
        raise ConfigError(
            f"the schema is at version {last}; migrations only go forward, not to {len(wanted)}"
        )
    missing = tuple(item for item in wanted if item.version not in applied)
    if missing and missing[0].version < last:
        raise ConfigError(
            f"the database has version {last} but not {missing[0].name}: it belongs to another "
            "line of releases"
        )
    return missing
