"""The caches of a worker over a real store and feed, with a look at what they read."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from attrs import define

from shared.db.feed import FEED_CHANNEL, transaction_version
from shared.db.keys import load_principals
from shared.db.link import Link
from shared.db.pool import Store
from shared.db.subjects import Name, load_subjects, subject_names
from shared.domain.clock import Clock
from shared.domain.keys import Principal, Subject, SubjectKind
from shared.fleet.applied import Notifier
from shared.fleet.follower import Follower
from shared.keys.cache import KeyCache
from shared.keys.changes import together
from shared.keys.subjects import SubjectCache


def token(name: object) -> str:
    """The stored form of a key of that name."""
    return hashlib.sha256(str(name).encode()).hexdigest()


@define
class Shifted(Clock):
    """A clock that a test may put forward."""

    shift_s: float = 0.0

    def mono(self) -> float:
        """Seconds that only go forward."""
        return time.monotonic() + self.shift_s


class CacheFleet:
    """A worker's caches with its two connections and its follower, and an admin's store."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.clock = Shifted()
        self.store = Store(dsn, application_name="admin", size=8)
        self.ask = Link("ask", dsn, application_name="worker-ask")
        self.listen = Link("listen", dsn, application_name="listen", listen=(FEED_CHANNEL,))
        self.loads: list[tuple[str, ...]] = []
        self.gate: asyncio.Event | None = None
        self.reading = asyncio.Event()
        subject_options = options.pop("subjects", {})
        self.cache = KeyCache(self._load, self.clock, **options)
        self.subject_loads: list[tuple[Name, ...]] = []
        self.lists = 0
        self.subjects = SubjectCache(self._load_subjects, self._list, **subject_options)
        self.follower = Follower(
            self.listen,
            self.clock,
            together(self.cache.subscribers(), self.subjects.subscribers()),
            on_contact=self.cache.contact,
        )
        self.notifier = Notifier(self.store)
        self._tasks: list[asyncio.Task[None]] = []

    async def _load(self, tokens: Sequence[str]) -> bytes:
        self.loads.append(tuple(tokens))
        data = await load_principals(self.ask, tokens)
        self.reading.set()
        if self.gate is not None:
            # A slow network: the answer was made, and is on its way.
            await self.gate.wait()
        return data

    async def _load_subjects(self, names: Iterable[Name]) -> Mapping[Name, Subject]:
        names = tuple(names)
        self.subject_loads.append(names)
        found = await load_subjects(self.ask, names)
        self.reading.set()
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def _list(self, most: int) -> Mapping[SubjectKind, frozenset[str] | None]:
        self.lists += 1
        return await subject_names(self.ask, most)

    async def start(self) -> None:
        """Open, and follow the feed."""
        await asyncio.gather(self.store.open(), self.ask.open(), self.listen.open())
        self._tasks = [
            asyncio.create_task(self.follower.run()),
            asyncio.create_task(self.notifier.run()),
        ]
        assert await self.follower.wait_version(1, 5.0)

    async def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.cache.close()
        await self.subjects.close()
        await asyncio.gather(self.store.close(), self.ask.close(), self.listen.close())

    async def write(self, sql: str, *args: Any) -> int:
        """Commits a change as the admin does; returns its version."""
        async with self.store.transaction() as connection:
            await connection.execute(sql, *args)
            version = await transaction_version(connection)
        self.notifier.poke()
        return version

    async def apply(self, sql: str, *args: Any) -> None:
        """Commits a change and waits until this worker has applied it."""
        assert await self.follower.wait_version(await self.write(sql, *args), 5.0)

    async def add(self, name: object, **columns: Any) -> str:
        """A key, applied; its token."""
        names = ["token", *columns]
        marks = ", ".join(f"${number + 1}" for number in range(len(names)))
        hashed = token(name)
        await self.apply(
            f"insert into virtual_key ({', '.join(names)}) values ({marks})",
            hashed,
            *columns.values(),
        )
        return hashed

    async def known(self, hashed: str) -> Principal:
        """The principal of a key that exists."""
        principal = await self.cache.find(hashed)
        assert principal is not None
        return principal


@asynccontextmanager
async def running_caches(dsn: str, **options: Any) -> AsyncIterator[CacheFleet]:
    """A fleet; options are those of the key cache, `subjects` those of the other one."""
    made = CacheFleet(dsn, **options)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def eventually(check: Callable[[], bool], within_s: float = 5.0) -> float:
    """Seconds until a check of the cache held."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not check():  # noqa: ASYNC110 - what is timed is the product's own state
            await asyncio.sleep(0.005)
    return time.monotonic() - started
