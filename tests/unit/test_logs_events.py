"""Event logs: one chain for structlog and `logging`, for machines and people; rare warnings."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from attrs import define

from shared.domain.clock import Clock
from shared.telemetry.logs import (
    LogFormat,
    LogSettings,
    OutageLog,
    configure_logs,
    get_logger,
    known_secrets,
)

SECRET = "sk-abcdef0123456789abcdef"


@define(slots=True)
class SetClock(Clock):
    """A monotonic clock that stands still until it is moved."""

    at_s: float = 0.0

    def mono(self) -> float:
        return self.at_s


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is one per process: put it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("asyncio", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def configured(level: str = "INFO", format: LogFormat = LogFormat.JSON) -> io.StringIO:  # noqa: A002
    stream = io.StringIO()
    known = known_secrets([None, "", "correct horse battery"])
    configure_logs(LogSettings(stream, level, format, "eu", "worker-1", known))
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line() -> None:
    """A line holds time, level, event, logger, region, instance and pid beside its own fields."""
    stream = configured()
    get_logger("shared.keys").info("key cache ready", entries=3)
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "info",
        "event": "key cache ready",
        "logger": "shared.keys",
        "entries": 3,
        "region": "eu",
        "instance": "worker-1",
        "pid": os.getpid(),
    }


def test_level_filters_both_ways_in() -> None:
    """Lines below the level are not written, from structlog or `logging`."""
    stream = configured("warning")
    get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    get_logger("a").warning("loud")
    logging.getLogger("b").error("loud too")
    assert [line["event"] for line in lines(stream)] == ["loud", "loud too"]


def test_logger_made_before_set_up_follows_it() -> None:
    """A module's logger, made at import, writes where main later says."""
    logger = get_logger("early")
    stream = configured()
    logger.error("hello")
    assert lines(stream)[0]["logger"] == "early"


def test_libraries_take_the_same_way() -> None:
    """Records of `logging` and Python's warnings come out as the same kind of line."""
    stream = configured()
    logging.getLogger("aiohttp.server").error("failed with %s", "password=abc")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"careless {SECRET}", UserWarning, stacklevel=1)
    first, second = lines(stream)
    assert (first["logger"], first["level"]) == ("aiohttp.server", "error")
    assert first["event"] == "failed with password=[redacted]"
    assert (second["logger"], second["level"], second["region"]) == ("py.warnings", "warning", "eu")
    assert SECRET not in second["event"]


@pytest.mark.parametrize("format", LogFormat)
def test_no_secret_in_any_place(format: LogFormat) -> None:  # noqa: A002
    """Event, fields, tracebacks, causes and foreign records are all redacted, in both formats."""
    stream = configured("DEBUG", format)
    logger = get_logger("a")
    secrets = (SECRET, "hunter22", "correct horse battery", "AIzaSyA12345678901234567890")
    event = f"event {SECRET}"
    logger.info(event, url="postgres://u:hunter22@h/d", headers={"Cookie": "hunter22"})
    logger.debug("known", text="it is correct horse battery staple", **{SECRET: 1})
    try:
        try:
            raise KeyError("password=hunter22")
        except KeyError as error:
            raise ValueError(f"calling with Bearer {SECRET}") from error
    except ValueError:
        logger.exception("failed", request={"x": [{"api_key": "hunter22"}]})
        logging.getLogger("b").exception("failed with %s", "AIzaSyA12345678901234567890")
        logging.getLogger("b").info("extra", extra={"password": "hunter22"}, stack_info=True)
    text = stream.getvalue()
    assert "ValueError" in text
    assert "KeyError" in text
    for secret in secrets:
        assert secret not in text


async def test_task_that_failed_unseen_is_redacted() -> None:
    """What asyncio reports of a forgotten exception takes the same way."""
    stream = configured()
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "boom", "exception": ValueError(f"key {SECRET}")})
    (line,) = lines(stream)
    assert line["logger"] == "asyncio"
    assert "ValueError" in line["exception"]
    assert SECRET not in stream.getvalue()


def test_second_set_up_replaces_the_first() -> None:
    """Configuring again moves everything to the new stream and writes nothing twice."""
    first, second = configured(), configured()
    get_logger("a").info("x")
    logging.getLogger("b").info("y")
    assert first.getvalue() == ""
    assert len(lines(second)) == 2


def test_console_is_for_people() -> None:
    """The console format is one readable line without colours on what is no terminal."""
    stream = configured(format=LogFormat.CONSOLE)
    get_logger("a").info("started", port=4000)
    (line,) = stream.getvalue().splitlines()
    assert "[info     ] started" in line
    assert "port=4000" in line
    assert "\x1b" not in line


def test_odd_values_are_written() -> None:
    """Surrogates, huge numbers and objects never make logging itself fail."""
    stream = configured()
    when = datetime(2026, 1, 1, tzinfo=UTC)
    get_logger("a").info("odd", text="\ud800", number=2**100, when=when, raw=b"\xff")
    (line,) = lines(stream)
    assert line["number"] == str(2**100)
    assert line["when"] == "2026-01-01 00:00:00+00:00"


def test_outage_is_told_rarely() -> None:
    """Of failures in a row one line is written in 10 s, with the number left out, and the end."""
    stream = configured()
    clock = SetClock()
    log = OutageLog(get_logger("a"), clock)
    told = []
    for second in range(25):
        clock.at_s = float(second)
        told.append(log.failed("postgres", "database unreachable", attempt=second))
    assert [second for second, line in enumerate(told) if line] == [0, 10, 20]
    assert log.failed("redis", "redis unreachable")
    assert log.recovered("postgres", "database reachable again")
    assert not log.recovered("postgres", "database reachable again")
    clock.at_s += 0.1
    assert log.failed("postgres", "database unreachable")
    found = [
        (line["dependency"], line["level"], line.get("suppressed"), line.get("outage_s"))
        for line in lines(stream)
    ]
    assert found == [
        ("postgres", "warning", 0, None),
        ("postgres", "warning", 9, None),
        ("postgres", "warning", 9, None),
        ("redis", "warning", 0, None),
        ("postgres", "info", None, 24.0),
        ("postgres", "warning", 0, None),
    ]


def test_settings_show_no_secret() -> None:
    """The settings' own repr does not show the known secrets."""
    assert "horse" not in repr(LogSettings(io.StringIO(), secrets=("correct horse",)))
