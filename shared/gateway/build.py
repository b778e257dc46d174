"""Wiring: from settings to a `Runtime`, in the order of dependence; and back at the end.

A process holds three connections with a job each (design note F8): `listen` for the feed and the
heartbeat, `ask` for leases and unknown keys, `bulk` for the ledger. Background tasks belong to one
group; each is a supervisor of its own and ends only when cancelled.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from functools import cache, partial
from random import Random
from typing import Any

import structlog
from attrs import define, field, frozen

from shared.config.distribution import version
from shared.config.gateway_config import GatewayConfig
from shared.config.secret import Secret
from shared.config.settings import Settings
from shared.db.ask import Asker
from shared.db.feed import FEED_CHANNEL, cluster_id
from shared.db.instances import InstanceFacts
from shared.db.link import Link
from shared.db.migrate import SchemaState, check_schema, migrate
from shared.db.models import MODEL_KINDS, load_stored
from shared.db.subjects import load_subjects, subject_names
from shared.domain.capabilities import Binary, Capabilities, decide
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable
from shared.domain.ids import CallIds
from shared.domain.keys import hash_key
from shared.fleet.follower import Follower
from shared.fleet.heartbeat import Heartbeat, Identity
from shared.fleet.housekeeping import keep_house
from shared.fleet.reload import Reload
from shared.gateway.drain import Drain
from shared.gateway.gauges import Gauges
from shared.gateway.live_models import LiveModels
from shared.gateway.meters import Meters
from shared.gateway.rules import CallRules, limit_policy
from shared.gateway.runtime import Deployments, Limits, Runtime
from shared.keys.bearers import Bearers
from shared.keys.cache import KeyCache
from shared.keys.changes import together
from shared.keys.jwt_start import open_bearers
from shared.keys.presented import LONGEST_KEY, LONGEST_TOKEN
from shared.keys.subjects import SubjectCache
from shared.limits.leases import Leases
from shared.limits.settings import LimitSettings, OutageBudgets, OutageLimits
from shared.limits.windows import parse_reset_time, zone
from shared.providers.prices.overrides import PriceOverrides
from shared.providers.prices.table import PriceTable
from shared.routing.whole import Wholes
from shared.secrets.sealing import Sealer
from shared.spend.adoption import Adopter
from shared.spend.flusher import Flusher
from shared.spend.journal import Journal
from shared.telemetry import catalogue
from shared.telemetry.logs import LogFormat
from shared.telemetry.metrics import LoopLag, Metrics
from shared.telemetry.render import Exposition
from shared.telemetry.request_log import BatchWriter, RequestLog
from shared.upstream.demo import DemoUpstream
from shared.upstream.pool import HttpPool, PoolLimits, verifying_context
from shared.upstream.timers import TimerWheel

_DATABASE_AT_START_S = 30.0
_LOOK_AGAIN_S = 0.5
_FLUSH_AT_END_S = 15.0

_log = structlog.get_logger("meridian")


@frozen
class Start:
    """What a binary starts with. The DSNs hold passwords."""

    binary: Binary
    settings: Settings
    config: GatewayConfig
    master_key: Secret | None
    dsn: str = field(repr=False)
    direct_dsn: str = field(repr=False)

    @property
    def capabilities(self) -> Capabilities:
        """What the instance serves."""
        return decide(self.binary, self.settings.flags)

    @property
    def master_token(self) -> str | None:
        """The master key's stored form."""
        return None if self.master_key is None else hash_key(self.master_key.reveal())

    def sealer(self) -> Sealer:
        """What seals and opens secrets at rest. Raises `ConfigError` if there is no key for it."""
        key = self.settings.salt_key or self.master_key
        if key is None:
            raise ConfigError(
                "environment: LITELLM_SALT_KEY: is needed for the secrets in the database, since "
                "there is no master key either; set it."
            )
        return Sealer(key)


@define
class _Links:
    """The three connections, and how fresh what they brought is."""

    listen: Link
    ask: Link
    bulk: Link
    follower: Follower | None = None

    @property
    def all(self) -> tuple[Link, ...]:
        return (self.listen, self.ask, self.bulk)

    @property
    def up(self) -> bool:
        return self.listen.up and self.ask.up

    @property
    def stale_s(self) -> float:
        return float("inf") if self.follower is None else self.follower.staleness_s

    @property
    def in_force(self) -> int:
        return 0 if self.follower is None else self.follower.in_force


@frozen(eq=False)
class _Fleet:
    """This process among the others: its row, its clock, its place in the feed."""

    clock: Clock
    links: _Links
    heartbeat: Heartbeat
    follower: Follower
    keys: KeyCache
    bearers: Bearers | None
    rules: CallRules
    leases: Leases
    models: LiveModels


@frozen(eq=False)
class _Ledger:
    """Where calls are accounted."""

    journal: Journal
    flusher: Flusher
    adopter: Adopter


@frozen(eq=False)
class _Outlets:
    """What goes out of the process: upstream calls, metrics, log lines."""

    timers: TimerWheel
    pool: HttpPool
    metrics: Metrics
    meters: Meters


@asynccontextmanager
async def open_runtime(start: Start) -> AsyncIterator[Runtime]:
    """The running data plane; on the way out everything is flushed and closed.

    Raises `ConfigError` for what an operator must change, among it a database that does not
    answer at start.
    """
    clock = Clock()
    listen = _listen_link(start)
    models = _models(start, clock, listen)
    schema = await _ready_schema(start)
    async with AsyncExitStack() as stack:
        links = await _open_links(start, listen, stack)
        heartbeat = await _open_heartbeat(start, links, clock, schema, stack)
        tasks = _Tasks(stack)
        ledger = await _open_ledger(start, links, clock, heartbeat, stack, tasks)
        fleet = await _join_fleet(start, links, clock, heartbeat, models, stack, tasks)
        outlets = await _open_outlets(start, heartbeat.id, stack)
        gauges = _gauges(fleet, ledger, outlets)
        yield _runtime(start, fleet, ledger, outlets, gauges)
        await ledger.flusher.drain(_FLUSH_AT_END_S)
        # What was posted last; counters outlive the process.
        gauges.read()


def _gauges(fleet: _Fleet, ledger: _Ledger, outlets: _Outlets) -> Gauges:
    gauges = Gauges(
        outlets.metrics,
        Drain(),
        ledger.journal,
        (ledger.flusher.stats, ledger.adopter.stats),
        ledger.flusher,
        fleet.follower,
        fleet.keys,
        fleet.leases.tally,
        outlets.pool,
        fleet.links.all,
        fleet.models,
    )
    # Siblings on this machine are scraped through us, so every process keeps its own up to date.
    fleet.heartbeat.on_beat(lambda *_: gauges.read())
    return gauges


def _runtime(
    start: Start,
    fleet: _Fleet,
    ledger: _Ledger,
    outlets: _Outlets,
    gauges: Gauges,
) -> Runtime:
    settings, general = start.settings, fleet.models.config.general
    loop = asyncio.get_running_loop()
    identity = f"x-litellm-version: {version()}\r\n"
    pool = outlets.pool
    return Runtime(
        loop=loop,
        binary=start.binary,
        capabilities=start.capabilities,
        region=settings.region,
        version=version(),
        root_path=settings.root_path,
        log_level=settings.log_level,
        master_token=start.master_token,
        key_header=general.litellm_key_header_name,
        identity=identity,
        clock=fleet.clock,
        ids=CallIds(fleet.clock),
        random=Random(),  # noqa: S311 - spreads load, decides nothing secret
        limits=Limits(
            settings.max_request_bytes,
            settings.client_timeout_s,
            stale_limit_s=settings.stale_limit_s,
        ),
        models=fleet.models,
        deployments=Deployments(
            usage_in_streams=general.always_include_stream_usage is not False, identity=identity
        ),
        always_usage=bool(general.always_include_stream_usage),
        keys=fleet.keys,
        bearers=fleet.bearers,
        longest_key=LONGEST_KEY if fleet.bearers is None else LONGEST_TOKEN,
        rules=fleet.rules,
        leases=fleet.leases,
        journal=ledger.journal,
        upstreams={"http": pool, "https": pool, "demo": DemoUpstream(loop, outlets.timers)},
        timers=outlets.timers,
        drain=gauges.drain,
        meters=outlets.meters,
        store=fleet.links,
        scrape=_scraper(gauges, Exposition(outlets.metrics.directory, fleet.clock)),
        details=gauges.details,
    )


def _scraper(gauges: Gauges, exposition: Exposition) -> Callable[[], Awaitable[tuple[bytes, str]]]:
    async def scrape() -> tuple[bytes, str]:
        gauges.read()
        return await exposition.scrape()

    return scrape


class _Tasks:
    """The background tasks, cancelled together at the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(self._stop)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)
        return task

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    """A supervisor that ends has a bug; the process is worth nothing without it."""
    if not task.cancelled():
        _log.critical("background_task_ended", task=task.get_name(), exc_info=task.exception())


def _models(start: Start, clock: Clock, link: Link) -> LiveModels:
    """The file's models; those stored are taken over once the database is there."""
    file = start.settings.prices_file
    overrides = None if file is None else PriceOverrides.read(file)
    today: date = datetime.now(UTC).date()
    prices = PriceTable.load(today, overrides)

    def rates(provider: str, model: str) -> Any:
        entry = prices.rates(provider, model)
        return None if entry is None else entry.rates

    wholes = Wholes(start.config, rates, cache(start.sealer))
    stored = partial(load_stored, link) if start.settings.store_model_in_db else None
    models = LiveModels(wholes, clock, stored)
    for name in overrides.unused if overrides is not None else ():
        _log.warning("setting", notice=f"MERIDIAN_PRICES_FILE: no model uses the price of {name}")
    for notice in models.catalog.notices:
        _log.warning("setting", notice=str(notice))
    return models


async def _ready_schema(start: Start) -> SchemaState:
    """The schema, migrated where that is this process's business.

    Locally either binary migrates; with a database of the operator's the admin does, and a worker
    that comes first waits for it.
    """
    migrates = start.settings.local_mode or start.binary is Binary.ADMIN
    end = asyncio.get_running_loop().time() + _DATABASE_AT_START_S
    while True:
        try:
            if migrates:
                for migration in await migrate(start.direct_dsn):
                    _log.info("migrated", migration=migration.name)
            return await check_schema(start.direct_dsn)
        except StoreUnavailable as error:
            reason = f"The database does not answer: {error.message}"
        except ConfigError as error:
            if migrates:
                raise
            reason = str(error)
        if asyncio.get_running_loop().time() > end:
            raise ConfigError(reason)
        _log.warning("waiting_for_database", reason=reason)
        await asyncio.sleep(_LOOK_AGAIN_S)


def _listen_link(start: Start) -> Link:
    name = f"meridian-{start.binary}-listen"
    return Link("listen", start.direct_dsn, application_name=name, listen=(FEED_CHANNEL,))


async def _open_links(start: Start, listen: Link, stack: AsyncExitStack) -> _Links:
    name = f"meridian-{start.binary}"
    links = _Links(
        listen,
        Link("ask", start.dsn, application_name=f"{name}-ask"),
        Link("bulk", start.dsn, application_name=f"{name}-bulk", statement_timeout_s=30.0),
    )
    for link in links.all:
        stack.push_async_callback(link.close)
    await asyncio.gather(*(link.open() for link in links.all))
    return links


async def _open_heartbeat(
    start: Start, links: _Links, clock: Clock, schema: SchemaState, stack: AsyncExitStack
) -> Heartbeat:
    """The heartbeat with its first beat done: without a boot number nothing can be accounted."""
    identity = Identity.claim(start.settings.state_dir)
    stack.callback(identity.release)
    facts = InstanceFacts(
        binary=start.binary.value,
        region=start.settings.region,
        host=f"{socket.gethostname()}:{os.getpid()}",
        version=version(),
        schema_version=schema.version,
        capabilities=start.capabilities.held(),
    )
    heartbeat = Heartbeat(links.listen, clock, identity, facts, applied=lambda: links.in_force)
    stack.push_async_callback(heartbeat.stop)
    end = clock.mono() + _DATABASE_AT_START_S
    while True:
        try:
            await heartbeat.beat()
        except StoreUnavailable as error:
            if clock.mono() > end:
                raise ConfigError(f"The database does not answer: {error.message}") from None
            await asyncio.sleep(_LOOK_AGAIN_S)
        else:
            return heartbeat


async def _open_ledger(
    start: Start,
    links: _Links,
    clock: Clock,
    heartbeat: Heartbeat,
    stack: AsyncExitStack,
    tasks: _Tasks,
) -> _Ledger:
    settings = start.settings
    root = settings.state_dir / "journal"
    store = await cluster_id(links.bulk)
    journal = Journal(
        root,
        instance=heartbeat.id,
        boot=heartbeat.boot,
        clock=clock,
        store=store,
        max_bytes=settings.journal_max_mb * 1024 * 1024,
    )
    flusher = Flusher(journal, links.bulk, interval_s=settings.flush_interval_s)
    posting = tasks.start(flusher.run(), "ledger")
    adopter = Adopter(root, links.bulk, own=journal.id, store=store)
    tasks.start(adopter.run(), "adoption")
    tasks.start(
        keep_house(links.bulk, keep_dead_money=settings.limit_mode == "strict"), "housekeeping"
    )

    async def retire() -> None:
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        await flusher.retire()

    stack.push_async_callback(retire)
    return _Ledger(journal, flusher, adopter)


async def _join_fleet(
    start: Start,
    links: _Links,
    clock: Clock,
    heartbeat: Heartbeat,
    models: LiveModels,
    stack: AsyncExitStack,
    tasks: _Tasks,
) -> _Fleet:
    """Keys, models and limits, with the feed applied to its head and this process counted in."""
    asker = Asker(links.ask)
    stack.push_async_callback(asker.close)
    policy = limit_policy(models.config)
    keys = KeyCache(asker.principals, clock, policy, stale_limit_s=start.settings.stale_limit_s)
    stack.push_async_callback(keys.close)
    subjects = SubjectCache(partial(load_subjects, links.ask), partial(subject_names, links.ask))
    stack.push_async_callback(subjects.close)
    rules = CallRules(subjects, policy, clock)
    bearers = open_bearers(start.settings, models.config.general, clock, links.ask, policy)
    callers: list[KeyCache | Bearers] = [keys]
    if bearers is not None:
        callers.append(bearers)
        stack.push_async_callback(bearers.close)
    models.on_config(partial(_prepared_policy, (*callers, rules)))
    reload = Reload("models", MODEL_KINDS, models.take_over)
    links.follower = follower = Follower(
        links.listen,
        clock,
        together(*(each.subscribers() for each in callers), subjects.subscribers()),
        reloads=(reload,),
        ack=heartbeat.acknowledge,
        on_contact=partial(_contact, callers),
    )
    await follower.catch_up()
    await _first_models(reload, follower)
    leases = Leases(
        asker, clock, _limit_settings(start, models), instance=heartbeat.id, boot=heartbeat.boot
    )
    stack.push_async_callback(leases.close)
    heartbeat.on_beat(leases.observe_fleet)
    heartbeat.on_lapsed(lambda: leases.lapsed(heartbeat.id, heartbeat.boot))
    await heartbeat.beat()
    tasks.start(heartbeat.run(), "heartbeat")
    tasks.start(follower.run(), "feed")
    tasks.start(reload.run(lambda: follower.applied, follower.wake), "models")
    return _Fleet(clock, links, heartbeat, follower, keys, bearers, rules, leases, models)


def _contact(callers: Sequence[KeyCache | Bearers], mono: float) -> None:
    for each in callers:
        each.contact(mono)


def _prepared_policy(
    obeying: Sequence[KeyCache | Bearers | CallRules], config: GatewayConfig
) -> Callable[[], None]:
    policy = limit_policy(config)

    def put() -> None:
        for each in obeying:
            each.obey(policy)

    return put


async def _first_models(reload: Reload, follower: Follower) -> None:
    """The stored models before the first request, or no start."""
    end = asyncio.get_running_loop().time() + _DATABASE_AT_START_S
    while True:
        try:
            return await reload.once(lambda: follower.applied)
        except StoreUnavailable as error:
            if asyncio.get_running_loop().time() > end:
                raise ConfigError(f"The database does not answer: {error.message}") from None
            await asyncio.sleep(_LOOK_AGAIN_S)


async def _open_outlets(start: Start, instance: str, stack: AsyncExitStack) -> _Outlets:
    settings = start.settings
    loop = asyncio.get_running_loop()
    metrics = Metrics.open(settings.state_dir, settings.region, version())
    stack.callback(metrics.close)
    timers = TimerWheel(loop)
    stack.callback(timers.close)
    pool = _pool(settings, loop, timers)
    stack.push_async_callback(pool.close)
    log = await _request_log(start, metrics, instance, stack)
    lag = LoopLag(metrics)
    lag.start()
    stack.callback(lag.stop)
    return _Outlets(timers, pool, metrics, Meters(metrics, log))


def _limit_settings(start: Start, models: LiveModels) -> LimitSettings:
    settings, litellm = start.settings, models.config.litellm
    return LimitSettings(
        window_s=settings.rate_window_s,
        strict=settings.limit_mode == "strict",
        budget_status=lambda: models.config.litellm.budget_exceeded_status_code,
        outage_limits=OutageLimits(settings.outage_limits),
        outage_budgets=OutageBudgets(settings.outage_budget),
        zone=zone(litellm.timezone),
        reset_time=parse_reset_time(litellm.budget_reset_time),
    )


def _pool(settings: Settings, loop: asyncio.AbstractEventLoop, timers: TimerWheel) -> HttpPool:
    limits = PoolLimits(
        max_connections=settings.upstream_max_connections,
        max_idle=settings.upstream_max_idle,
        max_waiting=settings.upstream_max_waiting,
        idle_s=settings.upstream_keepalive_s,
    )
    ca_file = str(settings.ca_file) if settings.ca_file is not None else None
    return HttpPool(
        loop,
        timers,
        limits,
        (lambda: verifying_context(ca_file)) if settings.verify_upstream else _trusting_context,
    )


def _trusting_context() -> ssl.SSLContext:
    """TLS without verification, for those who set `ssl_verify: false`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _request_log(
    start: Start, metrics: Metrics, instance: str, stack: AsyncExitStack
) -> RequestLog:
    form = LogFormat(start.settings.log_as) if start.settings.log_as != "auto" else LogFormat.JSON
    dropped = metrics.counter(catalogue.LOG_DROPPED)
    log = RequestLog(BatchWriter(1, start.settings.region, instance, form), dropped.add)
    log.start()
    stack.push_async_callback(log.close)
    return log
