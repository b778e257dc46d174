"""One named connection that keeps itself open.

A worker has no pool: each of its few connections has a job, one statement in flight and its
statements cached, so that a call costs one round trip. A lost connection is reopened in the
background; meanwhile calls fail at once with `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import asyncpg
import structlog

from shared.db.rows import (
    CONNECT_TIMEOUT_S,
    DRIVER_ERRORS,
    POOLER_ERRORS,
    TIMEOUT_MARGIN_S,
    RawConnection,
    breaks_connection,
    dial,
    is_fault,
    prepare,
    server_settings,
    unavailable,
)
from shared.domain.errors import ConfigError, StoreUnavailable

Setup = Callable[[RawConnection], Awaitable[None]]
Mode = Literal["listen", "poll"]

_T = TypeVar("_T")

_FIRST_DELAY_S = 0.05
_MAX_DELAY_S = 1.0
_PROBE_TIMEOUT_S = 0.25
_CLOSE_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


class Link:
    """A connection with a name, for one event loop.

    `setup` runs on every new connection, e.g. to prepare statements; its errors count as a failed
    attempt. `listen` names channels whose notifications go to the `on_notify` callbacks; whether
    they arrive at all is tried at each connect (`mode`), since poolers swallow them in silence.
    `pooled` says that the DSN is a transaction-mode pooler; it is also found out.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        *,
        application_name: str,
        statement_timeout_s: float = 5.0,
        setup: Setup | None = None,
        listen: Sequence[str] = (),
        pooled: bool = False,
    ) -> None:
        self.name = name
        self.pooled = pooled
        self.mode: Mode = "poll"
        self.last_error: str | None = None
        self._dsn = dsn
        self._application_name = application_name
        self._statement_timeout_s = statement_timeout_s
        self._setup = setup
        self._channels = tuple(listen)
        self._connection: RawConnection | None = None
        self._lock = asyncio.Lock()
        self._reopening: asyncio.Task[None] | None = None
        self._closed = False
        self._on_change: list[Callable[[bool], None]] = []
        self._on_notify: list[Callable[[str, str], None]] = []

    @property
    def up(self) -> bool:
        """Whether a statement can be tried now."""
        return self._connection is not None

    def on_change(self, callback: Callable[[bool], None]) -> None:
        """Adds a plain call made with `True` after each connect and `False` after each loss."""
        self._on_change.append(callback)

    def on_notify(self, callback: Callable[[str, str], None]) -> None:
        """Adds a plain call made with channel and payload of each notification."""
        self._on_notify.append(callback)

    async def open(self) -> None:
        """Tries to connect once; failing that, goes on trying in the background.

        Raises `ConfigError` only for a DSN that cannot be read.
        """
        try:
            await self._connect()
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever keeps us from connecting may pass
            self._failed(error)
            self._reopen()

    async def close(self) -> None:
        """Closes the connection and stops reopening it."""
        self._closed = True
        if self._reopening is not None:
            self._reopening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reopening
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                # A statement in flight may end first.
                async with asyncio.timeout(_CLOSE_TIMEOUT_S), self._lock:
                    await connection.close()
            except DRIVER_ERRORS:
                connection.terminate()

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Runs a statement for its effect. All calls wait for their turn on the connection.

        `timeout` in seconds replaces the link's own; a connection that let it pass is given up.
        """
        limit = self._limit(timeout)
        return await self._run(lambda c: c.execute(query, *args, timeout=limit))

    async def fetch(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        """All rows."""
        limit = self._limit(timeout)
        return await self._run(lambda c: c.fetch(query, *args, timeout=limit))

    async def fetchrow(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> asyncpg.Record | None:
        """The first row, if any."""
        limit = self._limit(timeout)
        return await self._run(lambda c: c.fetchrow(query, *args, timeout=limit))

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row."""
        limit = self._limit(timeout)
        return await self._run(lambda c: c.fetchval(query, *args, timeout=limit))

    def _limit(self, timeout: float | None) -> float:
        return self._statement_timeout_s + TIMEOUT_MARGIN_S if timeout is None else timeout

    async def _run(self, call: Callable[[RawConnection], Awaitable[_T]]) -> _T:
        async with self._lock:
            connection = self._connection
            if connection is None:
                raise StoreUnavailable("The database cannot be reached.")
            try:
                return await call(connection)
            except DRIVER_ERRORS as error:
                if connection.is_closed() or breaks_connection(error):
                    self._lost(connection, error)
                elif not is_fault(error):
                    raise
                raise unavailable(error) from error

    async def _connect(self) -> None:
        connection = await self._new_connection()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + self._statement_timeout_s):
                await prepare(connection)
                if self._channels:
                    await self._listen(connection)
                if self._setup is not None:
                    await self._setup(connection)
        except BaseException as error:
            self.pooled = self.pooled or isinstance(error, POOLER_ERRORS)
            connection.terminate()
            raise
        connection.add_termination_listener(self._terminated)
        if connection.is_closed():
            raise ConnectionResetError
        self._connection = connection
        self.last_error = None
        _log.info("store_connected", link=self.name, mode=self.mode, pooled=self.pooled)
        self._tell(up=True)

    async def _new_connection(self) -> RawConnection:
        try:
            return await self._dial()
        except asyncpg.ProtocolViolationError:
            # How poolers refuse start-up parameters that they do not know.
            if self.pooled:
                raise
            self.pooled = True
            return await self._dial()

    async def _dial(self) -> RawConnection:
        settings = server_settings(
            self._application_name, self._statement_timeout_s, pooled=self.pooled
        )
        return await dial(self._dsn, settings, self._limit(None), pooled=self.pooled)

    async def _listen(self, connection: RawConnection) -> None:
        probe = f"meridian_probe_{secrets.token_hex(8)}"
        heard = asyncio.Event()

        def hear(*_: object) -> None:
            heard.set()

        await connection.add_listener(probe, hear)
        await connection.execute("select pg_notify($1, '')", probe)
        self.mode = "listen"
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await heard.wait()
        except TimeoutError:
            self.mode = "poll"
        await connection.remove_listener(probe, hear)
        if self.mode == "listen":
            for channel in self._channels:
                await connection.add_listener(channel, self._notified)

    def _notified(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        for callback in self._on_notify:
            callback(channel, str(payload))

    def _terminated(self, connection: Any) -> None:
        self._lost(connection, ConnectionResetError())

    def _lost(self, connection: RawConnection, error: BaseException) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self.pooled = self.pooled or isinstance(error, POOLER_ERRORS)
        connection.terminate()
        self._failed(error)
        self._tell(up=False)
        self._reopen()

    def _reopen(self) -> None:
        if not self._closed:
            self._reopening = asyncio.get_running_loop().create_task(self._keep_trying())

    async def _keep_trying(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spreads load
            try:
                await self._connect()
            except Exception as error:  # noqa: BLE001 - whatever keeps us from connecting may pass
                self._failed(error)
                delay_s = min(_MAX_DELAY_S, delay_s * 2)
            else:
                return

    def _failed(self, error: BaseException) -> None:
        kind = type(error).__name__
        if kind != self.last_error:
            _log.warning("store_unavailable", link=self.name, error=kind)
        self.last_error = kind

    def _tell(self, *, up: bool) -> None:
        for callback in self._on_change:
            callback(up)
