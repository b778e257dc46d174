"""The admin's connections: an ordinary pool with the codecs and time-outs of every connection.

Workers have no pool: a released connection is reset, which costs a round trip (see `Link`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from shared.db.rows import (
    DRIVER_ERRORS,
    POOLER_ERRORS,
    TIMEOUT_MARGIN_S,
    Connection,
    RawConnection,
    breaks_connection,
    dial,
    is_fault,
    prepare,
    server_settings,
    unavailable,
)
from shared.domain.errors import StoreUnavailable

_CLOSE_TIMEOUT_S = 2.0


class Store:
    """A pool that opens connections on demand, so it can be made while the database is away.

    `acquire_timeout_s` bounds the wait for a free connection. Every fault of the infrastructure,
    that wait included, is `StoreUnavailable`; errors of a statement pass as they are.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        size: int = 10,
        statement_timeout_s: float = 5.0,
        acquire_timeout_s: float = 5.0,
        pooled: bool = False,
    ) -> None:
        self.pooled = pooled
        self._dsn = dsn
        self._application_name = application_name
        self._size = size
        self._statement_timeout_s = statement_timeout_s
        self._acquire_timeout_s = acquire_timeout_s
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Makes the pool and connects nowhere."""
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._size,
            connect=self._connect,
            init=prepare,
        )

    async def close(self) -> None:
        """Closes all connections; statements that take longer than two seconds are cut."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the caller's own. Raises `StoreUnavailable` as `Store` says.

        The block does nothing but database work: a time-out in it counts as the connection's.
        """
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("The database connections are closed.")
        try:
            async with pool.acquire(timeout=self._acquire_timeout_s) as connection:
                try:
                    yield connection
                except DRIVER_ERRORS as error:
                    if breaks_connection(error):
                        # One that closed itself has already left the pool and refuses all calls.
                        with suppress(asyncpg.InterfaceError):
                            connection.terminate()
                    raise
        except DRIVER_ERRORS as error:
            if isinstance(error, POOLER_ERRORS):
                self.pooled = True
                await pool.expire_connections()
            if is_fault(error) or _is_closed(error):
                raise unavailable(error) from error
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction: committed at the end, rolled back on an exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Runs a statement for its effect."""
        async with self.connection() as connection:
            return await connection.execute(query, *args, timeout=timeout)

    async def fetch(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        """All rows."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args, timeout=timeout)

    async def fetchrow(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> asyncpg.Record | None:
        """The first row, if any."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args, timeout=timeout)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *args, timeout=timeout)

    async def _connect(self, dsn: str | None = None, **_options: Any) -> RawConnection:
        assert dsn is not None
        try:
            return await self._dial(dsn)
        except asyncpg.ProtocolViolationError:
            # How poolers refuse start-up parameters that they do not know.
            if self.pooled:
                raise
            self.pooled = True
            return await self._dial(dsn)

    async def _dial(self, dsn: str) -> RawConnection:
        settings = server_settings(
            self._application_name, self._statement_timeout_s, pooled=self.pooled
        )
        limit_s = self._statement_timeout_s + TIMEOUT_MARGIN_S
        return await dial(dsn, settings, limit_s, pooled=self.pooled)


def _is_closed(error: BaseException) -> bool:
    # The driver has no class of its own for a call on a connection that has gone.
    return isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)
