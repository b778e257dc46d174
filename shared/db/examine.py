"""A look at a database from outside: what the diagnosis of an installation wants to know."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import asyncpg
from attrs import frozen

from shared.db.migrate import connected

MINIMUM_VERSION = 150000

_LISTEN_TIMEOUT_S = 2.0
_VERSION = "SELECT current_setting('server_version_num')::int"
_RECOVERS = "SELECT pg_is_in_recovery()"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_NOTIFY = "SELECT pg_notify($1, '')"


@frozen
class DatabaseFacts:
    """`version` as PostgreSQL numbers it (150020 is 15.20). `clock_offset_s` is database time
    minus ours. `listens` is whether a notification of our own came back on the direct address."""

    version: int
    read_only: bool
    clock_offset_s: float
    round_trip_s: float
    listens: bool

    @property
    def release(self) -> str:
        """The version as people write it."""
        return f"{self.version // 10000}.{self.version % 10000}"


async def examine(dsn: str, direct_dsn: str) -> DatabaseFacts:
    """Connects to both addresses. Raises `StoreUnavailable` or `ConfigError`."""
    async with connected(dsn) as connection:
        version = await connection.fetchval(_VERSION)
        read_only = await connection.fetchval(_RECOVERS)
        before = time.time()
        started = time.perf_counter()
        now = await connection.fetchval(_NOW)
        round_trip_s = time.perf_counter() - started
    async with connected(direct_dsn) as connection:
        listens = not read_only and await _hears_itself(connection)
    return DatabaseFacts(
        version=version,
        read_only=read_only,
        clock_offset_s=now - (before + round_trip_s / 2),
        round_trip_s=round_trip_s,
        listens=listens,
    )


async def _hears_itself(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """A pooler in transaction mode swallows notifications without an error."""
    channel = f"meridian_probe_{secrets.token_hex(8)}"
    heard = asyncio.Event()

    def note(*_: Any) -> None:
        heard.set()

    await connection.add_listener(channel, note)
    try:
        await connection.execute(_NOTIFY, channel)
        async with asyncio.timeout(_LISTEN_TIMEOUT_S):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        await connection.remove_listener(channel, note)
    return True
