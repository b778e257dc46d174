"""The record of each request: one JSON line, encoded and written by a thread in batches.

A record is a list append on the way of a request. It holds no body, no header and no key, only
the first 8 hex digits of a key's hash. When the output is slower than the requests, records are
dropped and counted rather than kept without bound or waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from queue import SimpleQueue

import msgspec

from shared.telemetry.logs import LogFormat

BATCH_S = 0.1
"""A record is handed to the writer at most this long after its request."""

_BATCH_RECORDS = 128
_WRITE_BYTES = 64 * 1024
# Writes of up to this size are not mixed with those of others on the same pipe.
_PIPE_BYTES = 4096
_POLL_MS = 100


class RequestRecord(msgspec.Struct, tag_field="event", tag="request", omit_defaults=True, gc=False):
    """What is told of a request; a field without a value is left out of the line.

    `time` is seconds since the epoch, `key` the first 8 hex digits of the key's hash, `cost` USD
    as text, `error` an error's type. `level`, `region` and `instance` are filled in by the log.
    """

    time: float | str
    request_id: str
    call_id: str
    route: str
    method: str
    status: int
    model_group: str | None = None
    model: str | None = None
    deployment: str | None = None
    provider: str | None = None
    key: str | None = None
    team: str | None = None
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: str | None = None
    duration_ms: float = 0.0
    ttft_ms: float | None = None
    overhead_ms: float | None = None
    attempts: int = 0
    error: str | None = None
    client_ip: str | None = None
    level: str = ""
    region: str = ""
    instance: str = ""


class RequestLog:
    """Takes records from the loop, writes them from a thread of its own.

    `dropped` is told of lost records from the loop's thread. At most `capacity` records wait.
    """

    __slots__ = (
        "_capacity",
        "_dropped",
        "_handed",
        "_loop",
        "_pending",
        "_refused",
        "_timer",
        "_told",
        "_writer",
    )

    def __init__(
        self, writer: BatchWriter, dropped: Callable[[int], None], capacity: int = 10_000
    ) -> None:
        self._writer = writer
        self._dropped = dropped
        self._capacity = capacity
        self._pending: list[RequestRecord] = []
        self._handed = 0
        self._refused = 0
        self._told = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From within the loop, after any fork."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    def add(self, record: RequestRecord) -> None:
        """Log a request. Never waits."""
        pending = self._pending
        waiting = len(pending)
        if waiting + self._handed - self._writer.done >= self._capacity:
            self._refused += 1
            return
        pending.append(record)
        if waiting >= _BATCH_RECORDS:
            self._hand_over()
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(BATCH_S, self._hand_over)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits. What the output has not taken after the time-out is dropped."""
        self._hand_over()
        await asyncio.to_thread(self._writer.stop, timeout_s)
        self._tell(self._handed - self._writer.written + self._refused)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            batch, self._pending = self._pending, []
            self._handed += len(batch)
            self._writer.put(batch)
        self._tell(self._writer.done - self._writer.written + self._refused)

    def _tell(self, lost: int) -> None:
        if lost > self._told:
            self._dropped(lost - self._told)
            self._told = lost


class BatchWriter:
    """Encodes and writes batches in a daemon thread, whole lines at a time.

    `done` counts records that left the queue, `written` those whose line went out. A broken
    output loses records; a slow one is waited for, but not beyond `stop`.
    """

    __slots__ = (
        "_encode",
        "_fd",
        "_instance",
        "_queue",
        "_region",
        "_stop_at_s",
        "_thread",
        "_write_bytes",
        "done",
        "written",
    )

    def __init__(
        self,
        fd: int,
        region: str = "",
        instance: str = "",
        format: LogFormat = LogFormat.JSON,  # noqa: A002 - the setting's own word
    ) -> None:
        self._fd = fd
        self._region = region
        self._instance = instance
        self._encode = _json_line if format is LogFormat.JSON else _console_line
        self._write_bytes = _PIPE_BYTES if stat.S_ISFIFO(os.fstat(fd).st_mode) else _WRITE_BYTES
        self._queue: SimpleQueue[list[RequestRecord] | None] = SimpleQueue()
        self._stop_at_s = math.inf
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self.done = 0
        self.written = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, batch: list[RequestRecord]) -> None:
        """Queue a batch; the caller bounds how many wait."""
        self._queue.put(batch)

    def stop(self, timeout_s: float) -> None:
        """Wait for the queue to be written, at most so long."""
        self._stop_at_s = time.monotonic() + timeout_s
        self._queue.put(None)
        self._thread.join(timeout_s + 0.5)

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            part: list[bytes] = []
            size = 0
            for record in batch:
                line = self._line(record)
                if part and size + len(line) > self._write_bytes:
                    self._write(part)
                    part, size = [], 0
                part.append(line)
                size += len(line)
            self._write(part)

    def _line(self, record: RequestRecord) -> bytes:
        record.level = "error" if record.status >= 500 else "info"
        record.region = self._region
        record.instance = self._instance
        if isinstance(record.time, float):
            moment = datetime.fromtimestamp(record.time, UTC)
            record.time = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            return self._encode(record)
        except UnicodeEncodeError:
            # Headers may hold bytes that are no UTF-8.
            for name in record.__struct_fields__:
                if isinstance(value := getattr(record, name), str):
                    setattr(record, name, value.encode("utf-8", "backslashreplace").decode())
            return self._encode(record)

    def _write(self, lines: list[bytes]) -> None:
        data = memoryview(b"".join(lines))
        try:
            while data and self._writable():
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(self._fd, data[: self._write_bytes]) :]
            if not data:
                self.written += len(lines)
        except OSError:
            # Nobody reads any more; the loop's side counts what is lost.
            pass
        self.done += len(lines)

    def _writable(self) -> bool:
        """Wait until the output takes something; false when it is time to give up."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(_POLL_MS):
            if time.monotonic() >= self._stop_at_s:
                return False
        return True


def _json_line(record: RequestRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _console_line(record: RequestRecord) -> bytes:
    parts = [
        str(record.time),
        record.method,
        record.route,
        str(record.status),
        record.model_group or "-",
        f"{record.duration_ms:.1f}ms",
        f"{record.prompt_tokens}+{record.completion_tokens} tokens",
        record.error or "",
        record.call_id,
    ]
    return (" ".join(part for part in parts if part) + "\n").encode()
