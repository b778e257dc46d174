#!/usr/bin/env python3
"""Keys at scale: pages of the list, the look-up of a key that a worker does not know, and new keys.

Starts an admin over a Postgres of its own (durable, in a temporary folder), fills it with keys by
COPY, then prints the median and the 99th percentile of /key/list over HTTP and of the statement
behind a worker's cache miss, and how many keys 32 callers make per second.

Loopback only; bounded in count and time; stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import asyncpg

from bench.run import BIN, free_port, process, wait_for
from shared.db.ask import Asker
from shared.db.link import Link
from shared.db.local import ensure_local_postgres

CHUNK = 50_000
USERS, TEAMS = 10_000, 500
COLUMNS = ("token", "key_name", "key_alias", "user_id", "team_id", "max_budget", "created_at",
           "created_by", "updated_by")  # fmt: skip


def token_of(number: int) -> str:
    """The stored form of the key of a number."""
    return hashlib.sha256(f"sk-bench-{number}".encode()).hexdigest()


def row_of(number: int, since: datetime) -> tuple[object, ...]:
    """A key as a user of the gateway has it."""
    return (
        token_of(number),
        f"sk-...{number % 10000:04}",
        f"bench-{number}" if number % 2 else None,
        f"user-{number % USERS}",
        f"team-{number % TEAMS}" if number % 3 else None,
        None,
        since + timedelta(seconds=number),
        "default_user_id",
        "default_user_id",
    )


async def fill(dsn: str, keys: int) -> None:
    """So many keys, and statistics as autovacuum would have them."""
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    since = datetime.now(UTC) - timedelta(seconds=keys)
    try:
        for first in range(0, keys, CHUNK):
            rows = [row_of(number, since) for number in range(first, min(first + CHUNK, keys))]
            await connection.copy_records_to_table("virtual_key", records=rows, columns=COLUMNS)
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


async def times(work: Callable[[], Awaitable[object]], count: int) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds, after a few calls that do not count."""
    taken = []
    for n in range(count + 10):
        started = time.perf_counter()
        await work()
        if n >= 10:
            taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


@contextlib.asynccontextmanager
async def client(port: int, master: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Calls of the admin with the master key."""
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}",
        headers={"authorization": f"Bearer {master}"},
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        yield session


async def measure_lists(session: aiohttp.ClientSession, keys: int, count: int) -> None:
    """Pages as the UI asks for them."""
    pages = max(1, min(1000, keys // 10))
    asked: dict[str, Callable[[], dict[str, str]]] = {
        "first page": dict,
        "one of the first 1000 pages": lambda: {"page": str(random.randint(1, pages))},
        "whole rows, 100": lambda: {"return_full_object": "true", "size": "100"},
        "of a user": lambda: {"user_id": f"user-{random.randrange(USERS)}"},
        "of a team": lambda: {"team_id": f"team-{random.randrange(TEAMS)}"},
        "by alias": lambda: {"key_alias": f"bench-{random.randrange(keys)}"},
    }
    for name, params in asked.items():

        async def page(params: Callable[[], dict[str, str]] = params) -> None:
            async with session.get("/key/list", params=params()) as response:
                assert response.status == 200, await response.text()
                await response.read()

        show(f"/key/list, {name}", await times(page, count), 50)


async def measure_misses(dsn: str, keys: int, count: int) -> None:
    """The statement that a worker sends for a key it has not seen."""
    link = Link("ask", dsn, application_name="bench")
    await link.open()
    asker = Asker(link)

    async def miss() -> None:
        await asker.principals([token_of(random.randrange(keys))])

    try:
        show("key cache miss", await times(miss, count * 10), 5)
    finally:
        await asker.close()
        await link.close()


async def measure_making(session: aiohttp.ClientSession, callers: int, seconds: float) -> None:
    """How many keys a second so many callers get made, one after the other each."""
    end = time.perf_counter() + seconds

    async def call() -> int:
        made = 0
        while time.perf_counter() < end:
            async with session.post("/key/generate", json={"user_id": "user-1"}) as response:
                assert response.status == 200, await response.text()
                await response.read()
            made += 1
        return made

    started = time.perf_counter()
    made = sum(await asyncio.gather(*(call() for _ in range(callers))))
    rate = made / (time.perf_counter() - started)
    print(f"{f'/key/generate, {callers} callers':<46} {rate:>8.0f} per s   target ≥ 500")


def show(name: str, figures: tuple[float, float], target: float) -> None:
    """A line of the answer."""
    print(f"{name:<46} {figures[0]:>8.2f} ms p50 {figures[1]:>8.2f} ms p99   target ≤ {target} ms")


async def measure(dsn: str, port: int, master: str, options: argparse.Namespace) -> None:
    """Everything, in turn."""
    started = time.perf_counter()
    await fill(dsn, options.keys)
    print(f"{f'{options.keys} keys filled in':<46} {time.perf_counter() - started:>8.1f} s")
    async with client(port, master) as session:
        await measure_lists(session, options.keys, options.count)
        await measure_misses(dsn, options.keys, options.count)
        await measure_making(session, options.callers, options.seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000, help="in the database")
    parser.add_argument("--count", type=int, default=200, help="pages of each kind")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="of making keys")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meridian-bench-") as folder:
        Path(folder).chmod(0o755)
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Everything within one temporary folder."""
    master, port = "sk-" + secrets.token_urlsafe(24), free_port()
    env = {
        **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        "MERIDIAN_STATE_DIR": str(folder / "state"),
        "MERIDIAN_ENV": "test",
        "LITELLM_MASTER_KEY": master,
        "HOST": "127.0.0.1",
    }
    manage = [str(BIN / "meridian-admin"), "--port", str(port)]
    try:
        with process(manage, 0, env, folder / "admin.log"):
            wait_for(f"http://127.0.0.1:{port}/health/readiness", 60)
            local = ensure_local_postgres(env, folder / "state")
            asyncio.run(measure(local.dsn, port, master, options))
    finally:
        subprocess.run([str(BIN / "meridian"), "db", "stop"], env=env, capture_output=True)


if __name__ == "__main__":
    main()
