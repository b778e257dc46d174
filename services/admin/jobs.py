"""The admin's part in the background jobs: what the operator has asked for, and running it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from aiohttp import web

from services.admin.api.audit import clean
from services.admin.api.key_policy import KeyRules, plain_key
from services.admin.api.key_rotator import Rotator
from services.admin.api.key_writes import KEY_TABLE, no_such_key
from shared.db.audit import Action, AuditEntry, append
from shared.db.key_admin import find_key
from shared.db.key_rotation import rename_in_groups
from shared.db.pool import Store
from shared.db.rows import Connection
from shared.domain.clock import Clock
from shared.domain.keys import hash_key
from shared.fleet.jobs import ACTOR, DAY_S, JobSettings, Rotate, all_jobs
from shared.fleet.leader import Leader
from shared.gateway.build import Start
from shared.limits.windows import parse_duration

# Adding up the calls of a busy day takes its time.
_STATEMENT_TIMEOUT_S = 300.0
# Where months that are asked for are counted from.
_JANUARY = datetime(2001, 1, 1, tzinfo=UTC)


def register(app: web.Application, start: Start, rules: KeyRules, clock: Clock) -> None:
    """Makes the application offer to run the jobs while it is up."""
    jobs = all_jobs(job_settings(start, rules, clock))
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    async def offered(_: web.Application) -> AsyncIterator[None]:
        store = Store(
            start.dsn,
            application_name="meridian-admin-jobs",
            size=1,
            statement_timeout_s=_STATEMENT_TIMEOUT_S,
        )
        await store.open()
        running = asyncio.create_task(Leader(store, owner, jobs).run(), name="jobs")
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.close()

    app.cleanup_ctx.append(offered)


def job_settings(start: Start, rules: KeyRules, clock: Clock) -> JobSettings:
    """What environment and file ask for."""
    settings, general = start.settings, start.config.general
    return JobSettings(
        expired_keys_kept_s=_days(settings.expired_keys_keep_days),
        spend_kept_s=_seconds(general.maximum_spend_logs_retention_period),
        spend_dropped_every_s=_seconds(general.maximum_spend_logs_retention_interval) or DAY_S,
        audit_kept_s=_days(settings.audit_keep_days),
        rotate=key_rotation(rules, clock) if settings.key_rotation_enabled else None,
        rotation_every_s=settings.key_rotation_every_s,
    )


def key_rotation(rules: KeyRules, clock: Clock) -> Rotate:
    """Rotates one key by the operator's rules. Nobody is told the new value: what is in use until
    then works for the grace period, and clients with keys of their own rotate them by request."""

    async def rotate(connection: Connection, token: str) -> None:
        plain = plain_key(None, rules)
        await rename_in_groups(connection, token, hash_key(plain))
        before = await find_key(connection, token, lock=True)
        if before is None:
            raise no_such_key()
        after = await Rotator(rules=rules, now=clock.utc(), actor=ACTOR).rotate(
            connection, before, plain
        )
        old, new = clean(*({name: row[name] for name in _SHOWN} for row in (before, after)))
        entry = AuditEntry(
            changed_by=ACTOR,
            changed_by_api_key=None,
            source_ip=None,
            route="job:key_rotation",
            action=Action.ROTATED,
            table=KEY_TABLE,
            object_id=token,
            before=old,
            after=new,
        )
        await append(connection, entry)

    return rotate


_SHOWN = ("token", "key_name", "rotation_count", "last_rotation_at", "key_rotation_at")


def _days(count: int | None) -> float | None:
    return None if count is None else count * DAY_S


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    return (parse_duration(text).after(_JANUARY) - _JANUARY).total_seconds()
