"""What all connections to the store have in common: codecs, time-outs and the faults they show.

JSON passes as bytes in both directions, money as `Decimal`, times as aware datetimes. Arrays of
the common types are made known at connect, so that no statement pays round trips for them later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.domain.errors import ConfigError, StoreUnavailable

RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connection: TypeAlias = "RawConnection | PoolConnectionProxy[asyncpg.Record]"

# A client gives up this much later than the server is told to, so that the server's word wins.
TIMEOUT_MARGIN_S = 1.0
CONNECT_TIMEOUT_S = 3.0
_STATEMENTS_KEPT = 256

# Names of prepared statements mean nothing behind a pooler that hands out another server session.
POOLER_ERRORS = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)

# All that a call on a connection may raise.
DRIVER_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_FAULTS = (
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,  # a driver that lost track, e.g. after a cancelled call
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that became a standby
    *POOLER_ERRORS,
)
# These leave the connection as good as it was.
_HARMLESS = (asyncpg.QueryCanceledError, asyncpg.InsufficientResourcesError)

_JSONB_FORMAT = b"\x01"
_WARM_ARRAYS = """
select $1::text[], $2::bigint[], $3::integer[], $4::smallint[], $5::numeric[], $6::uuid[],
       $7::boolean[], $8::timestamptz[], $9::float8[], $10::jsonb[], $11::bytea[]
"""


class Queryable(Protocol):
    """Whatever runs a statement: a `Link`, a `Store`, or a connection inside a transaction."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Runs a statement for its effect."""

    async def fetch(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        """All rows."""

    async def fetchrow(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> asyncpg.Record | None:
        """The first row, if any."""

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row."""


def is_fault(error: BaseException) -> bool:
    """Whether an error is the infrastructure's and not the statement's."""
    return isinstance(error, _FAULTS)


def breaks_connection(error: BaseException) -> bool:
    """Whether a connection is of no more use after a fault."""
    return is_fault(error) and not isinstance(error, _HARMLESS)


def unavailable(error: BaseException) -> StoreUnavailable:
    """What callers see of a fault. Only the kind of it: texts of the driver may hold addresses."""
    return StoreUnavailable(f"The database cannot be reached ({type(error).__name__}).")


def server_settings(
    application_name: str, statement_timeout_s: float, *, pooled: bool
) -> dict[str, str]:
    """Start-up parameters. Poolers refuse all but a few, so behind one the client alone counts."""
    if pooled:
        return {"application_name": application_name}
    return {
        "application_name": application_name,
        "statement_timeout": str(int(statement_timeout_s * 1000)),
        "idle_in_transaction_session_timeout": str(int(statement_timeout_s * 4000)),
        "jit": "off",
        "timezone": "UTC",
    }


async def dial(
    dsn: str, settings: Mapping[str, str], command_timeout_s: float, *, pooled: bool
) -> RawConnection:
    """A bare new connection. Statements stay prepared for its life, behind a pooler not at all.

    Raises `ConfigError` for a DSN that cannot be read, without repeating any of it.
    """
    try:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            statement_cache_size=0 if pooled else _STATEMENTS_KEPT,
            max_cached_statement_lifetime=0,
            server_settings=dict(settings),
        )
    except (ValueError, asyncpg.ClientConfigurationError):
        raise ConfigError("The database URL cannot be read: check DATABASE_URL.") from None


async def prepare(connection: RawConnection) -> None:
    """Sets the codecs of a new connection and makes it learn the array types."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=_encode_jsonb,
        decoder=_decode_jsonb,
        format="binary",
    )
    await connection.fetchrow(_WARM_ARRAYS, *([[]] * 11))


def _encode_jsonb(value: bytes) -> bytes:
    return _JSONB_FORMAT + value


def _decode_jsonb(data: bytes) -> bytes:
    return bytes(data[1:])
