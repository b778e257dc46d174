"""Event logs: structlog for everything that does not happen once per request.

`configure_logs` is called once by a program's main. Records of the standard library's `logging`
(aiohttp, asyncio, asyncpg) take the same way. Redaction is the last step before the text is made,
so nothing added on the way gets past it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, MutableMapping
from enum import StrEnum
from typing import Any, TextIO

import msgspec
import structlog
from attrs import define, field, frozen
from structlog.typing import FilteringBoundLogger, Processor

from shared.domain.clock import Clock
from shared.telemetry.redact import Redactor

WARNING_INTERVAL_S = 10.0
"""Of an outage that goes on, a line is written once in this time."""

# structlog reserves `logger` for itself until the fields are complete.
_NAME = "logger_name"
_EventDict = MutableMapping[str, Any]
# Loud at INFO without telling an operator anything.
_QUIET = ("asyncio", "aiohttp.access")


class LogFormat(StrEnum):
    """JSON for machines, console for people."""

    JSON = "json"
    CONSOLE = "console"


@frozen
class LogSettings:
    """`level` is a name of `logging`; `secrets` are values that must never appear."""

    stream: TextIO
    level: str = "INFO"
    format: LogFormat = LogFormat.JSON
    region: str = ""
    instance: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog and `logging` for this process; a later call replaces the earlier one."""
    chain = _chain(settings)
    structlog.configure(
        processors=[*chain, _renderer(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings.level)),
        logger_factory=structlog.WriteLoggerFactory(settings.stream),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *chain],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _renderer(settings),
        ],
    )
    handler = logging.StreamHandler(settings.stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_level(settings.level))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(_level(settings.level), logging.WARNING))
    # Warnings of Python's own would go to stderr past the redaction.
    logging.captureWarnings(True)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry the name; usable before `configure_logs`."""
    logger: FilteringBoundLogger = structlog.get_logger(**{_NAME: name})
    return logger


class OutageLog:
    """Tells of a dependency's outage without flooding: a first line, then one in 10 s, then one
    when it is over. Owned by whoever talks to the dependency; not for several threads."""

    __slots__ = ("_clock", "_logger", "_outages")

    def __init__(self, logger: FilteringBoundLogger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._outages: dict[str, _Outage] = {}

    def failed(self, dependency: str, event: str, **fields: object) -> bool:
        """Note a failure; whether a line was written. The line says how many went without."""
        now = self._clock.mono()
        outage = self._outages.get(dependency)
        if outage is None:
            outage = self._outages[dependency] = _Outage(since_s=now)
        elif now - outage.told_s < WARNING_INTERVAL_S:
            outage.suppressed += 1
            return False
        suppressed, outage.suppressed, outage.told_s = outage.suppressed, 0, now
        self._logger.warning(event, dependency=dependency, suppressed=suppressed, **fields)
        return True

    def recovered(self, dependency: str, event: str, **fields: object) -> bool:
        """Note that it works; whether that ended an outage, which is told with its length."""
        outage = self._outages.pop(dependency, None)
        if outage is None:
            return False
        lasted_s = round(self._clock.mono() - outage.since_s, 3)
        self._logger.info(event, dependency=dependency, outage_s=lasted_s, **fields)
        return True


@define
class _Outage:
    since_s: float
    told_s: float = 0.0
    suppressed: int = 0


def _chain(settings: LogSettings) -> list[Processor]:
    """From a call's arguments to finished, redacted fields."""
    named = {"region": settings.region, "instance": settings.instance}
    constants = {name: value for name, value in named.items() if value} | {"pid": os.getpid()}
    redactor = Redactor(settings.secrets)

    def add_constants(_logger: object, _method: str, event: _EventDict) -> _EventDict:
        if _NAME in event:
            event["logger"] = event.pop(_NAME)
        for name, value in constants.items():
            event.setdefault(name, value)
        return event

    def redact(_logger: object, _method: str, event: _EventDict) -> _EventDict:
        # The formatter of foreign records keeps its own two entries and takes them out later.
        meta = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
        return redactor.fields(event) | meta

    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        add_constants,
        redact,
    ]


def _renderer(settings: LogSettings) -> Processor:
    if settings.format is LogFormat.JSON:
        return _to_json
    return structlog.dev.ConsoleRenderer(
        colors=settings.stream.isatty(),
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,
    )


def _to_json(_logger: object, _method: str, event: _EventDict) -> str:
    """One line, the fields that everybody looks for in front."""
    first = {name: event[name] for name in ("time", "level", "event", "logger") if name in event}
    return msgspec.json.encode({**first, **event}).decode()


def _level(name: str) -> int:
    levels = logging.getLevelNamesMapping()
    return levels.get(name.upper(), logging.INFO)


def known_secrets(values: Iterable[str | None]) -> tuple[str, ...]:
    """The values that are there, for `LogSettings.secrets`."""
    return tuple(value for value in values if value)
