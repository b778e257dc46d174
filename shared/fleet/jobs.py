"""The background jobs: what of the database would otherwise grow, go stale or drift apart.

Any number of admins offers to run them (see `leader`). What a fleet of workers alone needs so as
not to grow without bound is in `housekeeping`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import structlog
from attrs import frozen

from shared.db import rollups, upkeep
from shared.db.audit import Action, AuditEntry, append
from shared.db.audit_log import drop_before
from shared.db.key_admin import delete_keys
from shared.db.key_rotation import due_tokens
from shared.db.rows import Connection
from shared.domain.errors import RequestError
from shared.fleet.leader import Job, Term

DAY_S = 86_400.0
HOUR_S = 3_600.0

# Whom the log names for what the jobs do.
ACTOR = "meridian"

_ROWS = 500
# Every archived key is an entry in the audit log, whose end is locked meanwhile.
_KEYS = 100
# Of a run; what is left over is due again at the next one.
_ROTATIONS = 10_000
_INVITATIONS_KEPT_S = 7 * DAY_S
_SESSIONS_KEPT_S = DAY_S
_REPAIRED_DAYS = 3

_log = structlog.get_logger(__name__)

Step: TypeAlias = Callable[[Connection], Awaitable[int]]
Rotate: TypeAlias = Callable[[Connection, str], Awaitable[None]]


@frozen(kw_only=True)
class JobSettings:
    """What the operator wants done; durations are seconds, `None` is never.

    `expired_keys_kept_s` after they expired, keys are archived and deleted. Of the ledger whole
    days are dropped. `rotate` makes a new plain value for the key of a token, in the transaction
    that it is given, with the audit entry that belongs to it.
    """

    expired_keys_kept_s: float | None = None
    spend_kept_s: float | None = None
    spend_dropped_every_s: float = DAY_S
    audit_kept_s: float | None = None
    rotate: Rotate | None = None
    rotation_every_s: float = DAY_S


def all_jobs(settings: JobSettings) -> tuple[Job, ...]:
    """The jobs that are wanted."""
    jobs = [
        Job(name="expired_logins", every_s=HOUR_S, work=_drop_logins),
        Job(name="old_tokens", every_s=HOUR_S, work=_drop_old_tokens),
        Job(name="rollup_repair", every_s=6 * HOUR_S, work=_repair_rollups),
    ]
    if (kept_s := settings.expired_keys_kept_s) is not None:
        jobs.append(Job(name="expired_keys", every_s=HOUR_S, work=_archive_keys(kept_s)))
    if (kept_s := settings.spend_kept_s) is not None:
        every_s = settings.spend_dropped_every_s
        jobs.append(Job(name="spend_retention", every_s=every_s, work=_drop_spend(kept_s)))
    if (kept_s := settings.audit_kept_s) is not None:
        jobs.append(Job(name="audit_retention", every_s=HOUR_S, work=_drop_audit(kept_s)))
    if settings.rotate is not None:
        every_s = settings.rotation_every_s
        jobs.append(Job(name="key_rotation", every_s=every_s, work=_rotate_keys(settings.rotate)))
    return tuple(jobs)


async def _drop_logins(term: Term) -> dict[str, Any]:
    """Browser sessions with their keys, and invitations."""
    return {
        "keys": await _in_steps(term, lambda c: upkeep.drop_ui_keys(c, _ROWS)),
        "sessions": await _in_steps(
            term, lambda c: upkeep.drop_sessions(c, _SESSIONS_KEPT_S, _ROWS)
        ),
        "invitations": await _in_steps(
            term, lambda c: upkeep.drop_invitations(c, _INVITATIONS_KEPT_S, _ROWS)
        ),
    }


async def _drop_old_tokens(term: Term) -> dict[str, Any]:
    return {"tokens": await _in_steps(term, lambda c: upkeep.drop_old_tokens(c, _ROWS))}


async def _repair_rollups(term: Term) -> dict[str, Any]:
    days = await rollups.complete_days(term.store, _REPAIRED_DAYS)
    corrected = 0
    for day in days:
        async with term.transaction() as connection:
            repair = await rollups.repair_day(connection, day)
        if repair.rows:
            corrected += repair.rows
            _log.warning(
                "rollups_corrected",
                day=day.isoformat(),
                rows=repair.rows,
                spend=str(repair.spend),
                calls=repair.calls,
            )
    return {"days": len(days), "corrected": corrected}


def _archive_keys(kept_s: float) -> Callable[[Term], Awaitable[dict[str, Any]]]:
    async def step(connection: Connection) -> int:
        tokens = await upkeep.expired_keys(connection, kept_s, _KEYS)
        gone = await delete_keys(connection, tokens, ACTOR, ACTOR, None)
        for token in gone:
            await append(connection, _entry("expired_keys", token, {"token": token}))
        return len(gone)

    async def work(term: Term) -> dict[str, Any]:
        return {"keys": await _in_steps(term, step, _KEYS)}

    return work


def _drop_spend(kept_s: float) -> Callable[[Term], Awaitable[dict[str, Any]]]:
    async def work(term: Term) -> dict[str, Any]:
        async with term.transaction() as connection:
            return {"days": await upkeep.drop_spend(connection, kept_s)}

    return work


def _drop_audit(kept_s: float) -> Callable[[Term], Awaitable[dict[str, Any]]]:
    async def work(term: Term) -> dict[str, Any]:
        return {"entries": await _in_steps(term, lambda c: drop_before(c, kept_s, _ROWS))}

    return work


def _rotate_keys(rotate: Rotate) -> Callable[[Term], Awaitable[dict[str, Any]]]:
    async def work(term: Term) -> dict[str, Any]:
        async with term.transaction() as connection:
            due = await due_tokens(connection, _ROTATIONS)
        rotated = 0
        for token in due:
            try:
                async with term.transaction() as connection:
                    await rotate(connection, token)
                rotated += 1
            except RequestError as error:
                # A key that cannot be rotated must not keep the others from it.
                _log.warning("key_not_rotated", token=token, reason=error.message)
        return {"keys": rotated, "refused": len(due) - rotated}

    return work


async def _in_steps(term: Term, step: Step, most: int = _ROWS) -> int:
    """All that there is to do, each step in a transaction of its own."""
    total = 0
    while True:
        async with term.transaction() as connection:
            count = await step(connection)
        total += count
        if count < most:
            return total


def _entry(job: str, token: str, before: dict[str, Any]) -> AuditEntry:
    return AuditEntry(
        changed_by=ACTOR,
        changed_by_api_key=None,
        source_ip=None,
        route=f"job:{job}",
        action=Action.DELETED,
        table="LiteLLM_VerificationToken",
        object_id=token,
        before=before,
        after=None,
    )
