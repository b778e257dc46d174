"""Running a service: from the command line to the exit code, the same for both binaries.

SIGTERM and SIGINT drain: readiness fails at once, the listener stays open for
`MERIDIAN_DRAIN_DELAY_S` so that load balancers notice, then it closes, calls in flight end within
`MERIDIAN_DRAIN_TIMEOUT_S`, the journal is posted, and the process exits with 0. A second signal
exits at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from shared.config.distribution import check_distribution, version
from shared.config.master_keys import MasterKey, resolve_master_key
from shared.config.settings import Settings
from shared.config.startup import Configuration, read_configuration
from shared.db.local import ensure_local_postgres
from shared.domain.capabilities import Binary
from shared.domain.errors import ConfigError
from shared.gateway import client_faults
from shared.gateway.build import Start, open_runtime
from shared.gateway.front_direct import Front
from shared.gateway.routes import hot_routes
from shared.gateway.runtime import Runtime
from shared.telemetry.logs import LogFormat, LogSettings, configure_logs

BuildApp = Callable[[Runtime, Start], web.Application]

_EXIT_CONFIG = 2
_BACKLOG = 4096
_KEEPALIVE_S = 75.0
# aiohttp waits this long, twice, before it cancels handlers that outlast the drain's deadline.
_CANCEL_S = 0.1
# Allocations before a young collection, young ones before a middle one, middle ones before a full
# one.
_COLLECT_AFTER = (10_000, 20, 50)

_log = structlog.get_logger("meridian")


def main(binary: Binary, build_app: BuildApp, argv: Sequence[str] | None = None) -> int:
    """Run a service until it is told to stop; the process's exit code."""
    options = _parse(binary, argv)
    try:
        start = _prepare(binary, options, os.environ)
    except ConfigError as error:
        print(f"meridian-{binary}: {error}", file=sys.stderr)  # noqa: T201 - before logs exist
        return _EXIT_CONFIG
    loop_factory = uvloop.new_event_loop if start.settings.event_loop == "uvloop" else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            return runner.run(_serve(start, build_app))
        except ConfigError as error:
            _log.error("cannot_start", reason=str(error))
            return _EXIT_CONFIG


def _parse(binary: Binary, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"meridian-{binary}",
        description=f"The {binary} of the Meridian LLM gateway. Settings come from the "
        "environment; docs/configuration.md lists them.",
    )
    parser.add_argument("--config", type=Path, help="configuration file (CONFIG_FILE_PATH)")
    parser.add_argument("--host", help="address to listen on (HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (PORT)")
    parser.add_argument("--version", action="version", version=version())
    return parser.parse_args(argv)


def _prepare(binary: Binary, options: argparse.Namespace, environ: Mapping[str, str]) -> Start:
    check_distribution()
    given = {"HOST": options.host, "PORT": options.port}
    environ = {**environ, **{name: str(value) for name, value in given.items() if value}}
    configuration = read_configuration(environ, binary, options.config)
    settings, config = configuration.settings, configuration.gateway
    master = resolve_master_key(settings, config.general)
    configure_logs(_log_settings(settings, master))
    client_faults.install()
    dsn, direct = _dsns(settings, environ)
    _tell(configuration, master)
    return Start(binary, settings, config, master.key, dsn, direct)


def _log_settings(settings: Settings, master: MasterKey) -> LogSettings:
    form = settings.log_as
    if form == "auto":
        form = LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON
    known = (master.key, settings.salt_key, settings.database_url, settings.database_url_direct)
    return LogSettings(
        stream=sys.stderr,
        level=settings.log_level,
        format=LogFormat(form),
        region=settings.region,
        secrets=tuple(secret.reveal() for secret in known if secret),
    )


def _dsns(settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    if settings.database_url is not None and settings.direct_dsn is not None:
        return settings.database_url.reveal(), settings.direct_dsn.reveal()
    local = ensure_local_postgres(environ, settings.state_dir)
    _log.info(
        "local_postgres",
        version=local.major,
        dsn=local.masked_dsn,
        data=str(local.data_dir),
        started=local.started,
        to_leave_it_behind="set DATABASE_URL",
    )
    if local.notice is not None:
        _log.warning("local_postgres", notice=local.notice)
    return local.dsn, local.dsn


def _tell(configuration: Configuration, master: MasterKey) -> None:
    """Say what an operator should know before the first request."""
    _log.info(
        "configuration",
        file=str(configuration.settings.config_path),
        models=len(configuration.gateway.models),
    )
    for notice in configuration.notices:
        _log.warning("setting", notice=str(notice))
    if master.file is not None:
        _log.info("master_key", kept_in=str(master.file), created=master.created)
    if master.key is None:
        _log.warning("no_master_key", meaning="every caller is let in")


async def _serve(start: Start, build_app: BuildApp) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    settings = start.settings
    async with open_runtime(start) as rt:
        runner = web.AppRunner(
            build_app(rt, start),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=_CANCEL_S,
            # It would go on decompressing a body that has been refused.
            auto_decompress=False,
        )
        await runner.setup()
        front = Front(rt, hot_routes(rt), lambda: _aiohttp(runner), idle_s=_KEEPALIVE_S)
        try:
            try:
                server = await loop.create_server(
                    front, settings.host, settings.port, backlog=_BACKLOG
                )
            except OSError as error:
                raise ConfigError(
                    f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                    "set HOST and PORT."
                ) from None
            _log.info(
                "serving",
                host=settings.host,
                port=settings.port,
                capabilities=list(rt.capabilities.held()),
                off=dict(rt.capabilities.reasons),
            )
            _spare_the_collector()
            await stop.wait()
            await _drain(rt, server, front, settings)
        finally:
            front.close()
            await runner.cleanup()
    _log.info("stopped")
    return 0


def _spare_the_collector() -> None:
    """Keep the garbage collector off what start-up made and off the garbage of single requests.

    Requests leave next to no cycles; looking for them as often as by default costs a fifth of a
    small request's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _aiohttp(runner: web.AppRunner) -> asyncio.Protocol:
    assert runner.server is not None
    return runner.server()


async def _drain(
    rt: Runtime, server: asyncio.AbstractServer, front: Front, settings: Settings
) -> None:
    rt.drain.begin()
    _log.info("draining", in_flight=rt.drain.in_flight, delay_s=settings.drain_delay_s)
    await asyncio.sleep(settings.drain_delay_s)
    server.close()
    front.close_idle()
    left = await rt.drain.empty(settings.drain_timeout_s)
    if left:
        _log.warning("drain_deadline", cut_off=left)
        rt.drain.cut()
        await rt.drain.empty(_CANCEL_S)
