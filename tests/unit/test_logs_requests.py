"""The request log: whole lines, in batches, never waiting for a slow reader."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.telemetry.logs import LogFormat
from shared.telemetry.request_log import BatchWriter, RequestLog, RequestRecord


def record(number: int = 0, **changes: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "time": 1_780_000_000.25,
        "request_id": f"r{number}",
        "call_id": "c",
        "route": "/chat/completions",
        "method": "POST",
        "status": 200,
    }
    return RequestRecord(**(fields | changes))


class Losses:
    """Adds up what the log says it lost."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, lost: int) -> None:
        self.count += lost


def read_all(fd: int) -> tuple[threading.Thread, list[bytes]]:
    """Read a pipe to its end in a thread."""
    parts: list[bytes] = []

    def run() -> None:
        while data := os.read(fd, 65536):
            parts.append(data)
        os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, parts


async def test_lines_come_out_whole_and_in_order() -> None:
    """Thousands of records arrive through a pipe, each as one JSON line, none missing."""
    reader, writer = os.pipe()
    thread, parts = read_all(reader)
    lost = Losses()
    log = RequestLog(BatchWriter(writer, "eu", "w1"), lost)
    log.start()
    for number in range(5000):
        log.add(record(number, model_group="chat" * (number % 7)))
    await log.close()
    os.close(writer)
    await asyncio.to_thread(thread.join)
    lines = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert [line["request_id"] for line in lines] == [f"r{number}" for number in range(5000)]
    assert lost.count == 0


async def test_fields(tmp_path: Path) -> None:
    """A line has the record's fields, an ISO time, a level, region and instance, and no blanks."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        log = RequestLog(BatchWriter(file.fileno(), "eu", "w1"), Losses())
        log.start()
        log.add(record(1, key="0123abcd", cost="0.0012", stream=True, ttft_ms=12.5))
        log.add(record(2, status=502, error="UpstreamUnavailable"))
        await log.close()
    first, second = (json.loads(line) for line in path.read_bytes().splitlines())
    assert first == {
        "event": "request",
        "time": "2026-05-28T20:26:40.250000Z",
        "level": "info",
        "request_id": "r1",
        "call_id": "c",
        "route": "/chat/completions",
        "method": "POST",
        "status": 200,
        "key": "0123abcd",
        "cost": "0.0012",
        "stream": True,
        "ttft_ms": 12.5,
        "region": "eu",
        "instance": "w1",
    }
    assert (second["level"], second["error"]) == ("error", "UpstreamUnavailable")


async def test_console_lines(tmp_path: Path) -> None:
    """The console format is one short readable line."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = BatchWriter(file.fileno(), format=LogFormat.CONSOLE)
        log = RequestLog(writer, Losses())
        log.start()
        log.add(record(1, model_group="chat", duration_ms=12.345, prompt_tokens=3))
        await log.close()
    assert path.read_text() == (
        "2026-05-28T20:26:40.250000Z POST /chat/completions 200 chat 12.3ms 3+0 tokens c\n"
    )


async def test_written_soon_without_closing() -> None:
    """A single record is out within the batch time: nobody has to push it."""
    reader, writer = os.pipe()
    log = RequestLog(BatchWriter(writer), Losses())
    log.start()
    log.add(record())
    line = await asyncio.wait_for(asyncio.to_thread(os.read, reader, 4096), 5)
    assert json.loads(line)["request_id"] == "r0"
    await log.close()
    os.close(writer)
    os.close(reader)


async def test_slow_reader_costs_records_not_time() -> None:
    """With nobody reading, adding never blocks; what does not fit is counted; the rest comes."""
    reader, writer = os.pipe()
    lost = Losses()
    log = RequestLog(BatchWriter(writer), lost, capacity=500)
    log.start()
    for number in range(20_000):
        log.add(record(number))
        if number % 1000 == 0:
            await asyncio.sleep(0)
    thread, parts = read_all(reader)
    await log.close(timeout_s=10)
    os.close(writer)
    await asyncio.to_thread(thread.join)
    lines = b"".join(parts).splitlines()
    assert all(json.loads(line)["event"] == "request" for line in lines)
    assert lost.count > 0
    assert len(lines) + lost.count == 20_000


async def test_close_gives_up_on_a_blocked_output() -> None:
    """Shutting down does not wait for a reader that never comes; the loss is counted."""
    reader, writer = os.pipe()
    lost = Losses()
    log = RequestLog(BatchWriter(writer), lost)
    log.start()
    for number in range(2000):
        log.add(record(number))
    async with asyncio.timeout(5):
        await log.close(timeout_s=0.2)
    assert 0 < lost.count < 2000
    os.close(reader)
    os.close(writer)


async def test_broken_output_is_survived() -> None:
    """When the reader is gone records are lost and counted, and nothing fails."""
    reader, writer = os.pipe()
    os.close(reader)
    lost = Losses()
    log = RequestLog(BatchWriter(writer), lost)
    log.start()
    for number in range(300):
        log.add(record(number))
    await log.close()
    assert lost.count == 300
    os.close(writer)


@pytest.mark.parametrize("spoil", [lambda fd: os.set_blocking(fd, False), lambda fd: None])
async def test_blocking_and_nonblocking_outputs(spoil: Callable[[int], None]) -> None:
    """An output that somebody made non-blocking loses nothing either."""
    reader, writer = os.pipe()
    spoil(writer)
    lost = Losses()
    log = RequestLog(BatchWriter(writer), lost)
    log.start()
    for number in range(3000):
        log.add(record(number))
    thread, parts = read_all(reader)
    await log.close(timeout_s=10)
    os.close(writer)
    await asyncio.to_thread(thread.join)
    assert len(b"".join(parts).splitlines()) == 3000
    assert lost.count == 0


async def test_bytes_that_are_no_text_are_written(tmp_path: Path) -> None:
    """Headers with stray bytes, decoded to lone surrogates, do not stop the writer."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        log = RequestLog(BatchWriter(file.fileno()), Losses())
        log.start()
        log.add(record(1, client_ip="\udcff"))
        log.add(record(2))
        await log.close()
    assert [json.loads(line)["request_id"] for line in path.read_bytes().splitlines()] == [
        "r1",
        "r2",
    ]
