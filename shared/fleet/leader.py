"""Background jobs of the fleet: any number of processes offer to run them, one at a time does.

A job is run once per period by whoever takes it first. It works in short transactions
(`Term.transaction`), each of which checks that the job has not been taken over meanwhile: a process
that was killed is replaced when its lease ends, one that was paused and wakes up late commits
nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import structlog
from attrs import frozen

from shared.db.leader import Run, add_jobs, finish, give_back, renew, take_due
from shared.db.pool import Store
from shared.db.rows import Connection
from shared.domain.errors import StoreUnavailable

LEASE_S = 15.0
POLL_S = 5.0
_GIVE_BACK_S = 2.0

_log = structlog.get_logger(__name__)


class TakenOver(Exception):
    """Another process runs the job now; nothing of this transaction is kept."""


@frozen(eq=False)
class Term:
    """A run of a job, as the job sees it."""

    store: Store
    run: Run
    lease_s: float

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that is committed only while the job is this process's; raises
        `TakenOver`. It prolongs the lease, and nobody takes the job before it has ended."""
        async with self.store.transaction() as connection:
            if not await renew(connection, self.run, self.lease_s):
                raise TakenOver(self.run.job)
            yield connection


Work: TypeAlias = Callable[[Term], Awaitable[Mapping[str, Any]]]


@frozen(kw_only=True)
class Job:
    """Work to be done every `every_s` seconds. It is to be idempotent and to go in steps: a run
    that fails or dies is begun anew. What it gives is what it did, for the log."""

    name: str
    every_s: float
    work: Work


class Leader:
    """Runs jobs when they are due and nobody else does. `owner` names this life of the process.

    `store` is for the jobs alone: their statements may take long.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        jobs: Sequence[Job],
        *,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._store = store
        self._owner = owner
        self._jobs = {job.name: job for job in jobs}
        self._periods = {job.name: job.every_s for job in jobs}
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._added = False

    async def run(self) -> None:
        """Offers to run the jobs until cancelled; a run that is under way then is given back."""
        while True:
            try:
                while await self.run_one():
                    pass
            except StoreUnavailable:
                _log.debug("jobs_wait_for_database")
            except Exception:  # noqa: BLE001 - supervisor: the jobs must go on being offered
                _log.exception("jobs_not_offered")
            await asyncio.sleep(self._poll_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    async def run_one(self) -> bool:
        """Takes a job that is due and runs it; false when none is. Raises `StoreUnavailable`."""
        if not self._added:
            await add_jobs(self._store, list(self._jobs))
            self._added = True
        run = await take_due(self._store, self._owner, self._periods, self._lease_s)
        if run is None:
            return False
        await self._do(run)
        return True

    async def _do(self, run: Run) -> None:
        job = self._jobs[run.job]
        try:
            did = await job.work(Term(self._store, run, self._lease_s))
        except TakenOver:
            _log.warning("job_taken_over", job=run.job, epoch=run.epoch)
        except asyncio.CancelledError:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(_GIVE_BACK_S):
                    await give_back(self._store, run)
            raise
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001 - supervisor: the other jobs; this one is due when its lease ends
            _log.exception("job_failed", job=run.job, epoch=run.epoch)
        else:
            await finish(self._store, run)
            _log.info("job_done", job=run.job, epoch=run.epoch, **did)
