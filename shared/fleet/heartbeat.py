"""Who this process is, that it lives, and what the database's clock says."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import structlog

from shared.db.instances import (
    LIVE_S,
    Beat,
    InstanceFacts,
    acknowledge,
    heartbeat,
    mark_stopped,
    register,
)
from shared.db.rows import Queryable
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable

INTERVAL_S = 2.0

# Processes of a machine that may share one state directory.
_MAX_SLOTS = 1024
_ID = re.compile(r"[0-9a-f]{16}")
# How much of a clock measurement that agrees with the estimate goes into it.
_SMOOTHING = 0.2

FleetObserver = Callable[[int, int, float], None]

_log = structlog.get_logger(__name__)


class Identity:
    """An instance id that no other live process of the machine uses.

    It is kept in the state directory, so that a restarted process takes up its row; processes
    that run side by side take files of their own. The lock lasts as long as this object.
    """

    def __init__(self, instance_id: str, descriptor: int) -> None:
        self.id = instance_id
        self._descriptor = descriptor

    @classmethod
    def claim(cls, state_dir: Path) -> Identity:
        """Takes the first id that is free. Raises `ConfigError` if the directory is of no use."""
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for slot in range(1, _MAX_SLOTS + 1):
                name = "instance_id" if slot == 1 else f"instance_id.{slot}"
                descriptor = os.open(state_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    continue
                return cls(_stored_id(descriptor), descriptor)
        except OSError as error:
            raise ConfigError(
                f"MERIDIAN_STATE_DIR: {state_dir} cannot be written ({error.strerror}); "
                "name a directory that this user owns."
            ) from error
        raise ConfigError(f"MERIDIAN_STATE_DIR: {_MAX_SLOTS} processes already use {state_dir}.")

    def replace(self) -> None:
        """Takes a new id and keeps it: another machine runs with a copy of this file."""
        self.id = _new_id(self._descriptor)

    def release(self) -> None:
        """Lets the next process have the id."""
        os.close(self._descriptor)


class Heartbeat:
    """Writes this process's row every two seconds and keeps what comes back.

    `live_servers` is the last known number of live instances that serve LLM traffic, never less
    than 1. `boot` is 0 until the row is taken; id + boot name this life of the process. `applied`
    gives the feed version to report.
    """

    def __init__(
        self,
        link: Queryable,
        clock: Clock,
        identity: Identity,
        facts: InstanceFacts,
        *,
        applied: Callable[[], int] = lambda: 0,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.boot = 0
        self.live_servers = 1
        self.head_version = 0
        self.server_started_s = 0.0
        self.lapses = 0
        self._link = link
        self._clock = clock
        self._identity = identity
        self._facts = facts
        self._applied = applied
        self._interval_s = interval_s
        self._contact_mono: float | None = None
        self._offset_known = False
        self._on_beat: list[FleetObserver] = []
        self._on_lapsed: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        """The instance id. It changes only if another process is found to use it."""
        return self._identity.id

    @property
    def staleness_s(self) -> float:
        """Seconds since the database last answered; infinite before the first time."""
        if self._contact_mono is None:
            return float("inf")
        return self._clock.mono() - self._contact_mono

    def on_beat(self, callback: FleetObserver) -> None:
        """Adds a plain call made after each beat with the live servers, this one's rank among
        them (from 0, by id) and the monotonic time at which the beat was sent."""
        self._on_beat.append(callback)

    def on_lapsed(self, callback: Callable[[], None]) -> None:
        """Adds a plain call made when others may have taken this process for dead.

        Its parallel slots may have been given away since; `boot` may be new. Leases that are
        still meant have to be taken again.
        """
        self._on_lapsed.append(callback)

    async def run(self) -> None:
        """Beats until cancelled. An unreachable database is waited for."""
        while True:
            try:
                await self.beat()
            except StoreUnavailable:
                _log.debug("heartbeat_missed", staleness_s=self.staleness_s)
            except Exception:  # noqa: BLE001 - supervisor: without beats all leases are lost
                _log.exception("heartbeat_failed")
            await asyncio.sleep(self._interval_s)

    async def beat(self) -> None:
        """One heartbeat; the first one takes the row. Raises `StoreUnavailable`."""
        if not self.boot:
            self.boot = await register(self._link, self.id, self._facts)
        sent_s, sent_mono = self._local_s(), self._clock.mono()
        beat = await heartbeat(self._link, self.id, self.boot, self._applied())
        self._adjust_clock(beat.now_s, sent_s, self._local_s())
        self._contact_mono = sent_mono
        self.live_servers = max(1, beat.live_servers)
        self.head_version = beat.head_version
        self.server_started_s = beat.server_started_s
        for callback in self._on_beat:
            callback(self.live_servers, beat.rank, sent_mono)
        if not beat.beaten:
            await self._take_row_again(beat)
        elif beat.silent_s is not None and beat.silent_s > LIVE_S:
            self._lapsed()

    async def acknowledge(self, version: int) -> None:
        """Reports an applied version before the next beat is due."""
        if self.boot:
            await acknowledge(self._link, self.id, self.boot, version)

    async def stop(self) -> None:
        """Says that this process ends in order. An unreachable database is not waited for."""
        if self.boot:
            with contextlib.suppress(StoreUnavailable):
                await mark_stopped(self._link, self.id, self.boot)

    async def _take_row_again(self, beat: Beat) -> None:
        if beat.boot is not None:
            _log.warning("instance_id_taken", id=self.id)
            self._identity.replace()
        self.boot = await register(self._link, self.id, self._facts)
        self._lapsed()

    def _lapsed(self) -> None:
        self.lapses += 1
        _log.warning("instance_lapsed", id=self.id, boot=self.boot)
        for callback in self._on_lapsed:
            callback()

    def _local_s(self) -> float:
        return self._clock.now() - self._clock.offset_s

    def _adjust_clock(self, database_s: float, sent_s: float, received_s: float) -> None:
        # The database read its clock between sending and receiving, so the offset is certain to
        # lie in this interval; within it the estimate moves slowly, a slow answer moves it little.
        lowest, highest = database_s - received_s, database_s - sent_s
        middle = (lowest + highest) / 2
        if not self._offset_known:
            self._clock.offset_s, self._offset_known = middle, True
            return
        estimate = self._clock.offset_s
        smoothed = estimate + _SMOOTHING * (middle - estimate)
        self._clock.offset_s = min(max(smoothed, lowest), highest)


def _stored_id(descriptor: int) -> str:
    text = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
    return text if _ID.fullmatch(text) else _new_id(descriptor)


def _new_id(descriptor: int) -> str:
    instance_id = secrets.token_hex(8)
    os.pwrite(descriptor, f"{instance_id}\n".encode(), 0)
    os.ftruncate(descriptor, len(instance_id) + 1)
    return instance_id
