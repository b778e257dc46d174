"""Who runs which background job: rows with a lease and a fencing epoch, by the database's clock.

A run of a job is taken for a while under a new epoch. Every transaction of the run checks its
epoch and holds the row until it ends, so that nobody else can take the job meanwhile, and one that
was overtaken commits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from shared.db.rows import Queryable

_ADD = """
insert into leader (job) select unnest($1::text[]) on conflict do nothing
"""
# The job that has waited longest, of those that are due and that nobody runs.
_TAKE = """
with due as (
    select l.job from leader l
    join unnest($1::text[], $2::float8[]) as j (job, every_s) on j.job = l.job
    where l.until <= clock_timestamp()
      and (l.done_at is null
           or l.done_at <= clock_timestamp() - make_interval(secs => j.every_s))
    order by l.done_at nulls first, l.job
    limit 1
    for update of l skip locked
)
update leader l set owner = $3, epoch = l.epoch + 1,
    until = clock_timestamp() + make_interval(secs => $4::float8)
from due where l.job = due.job
returning l.job, l.epoch
"""
# A process that stops in the middle of a transaction must not keep the row for ever.
_RENEW = """
update leader set until = clock_timestamp() + make_interval(secs => $4::float8)
where job = $1 and owner = $2 and epoch = $3
returning set_config(
    'idle_in_transaction_session_timeout', ceil($4::float8 * 1000)::integer::text, true)
"""
_DONE = """
update leader set until = clock_timestamp(), done_at = clock_timestamp()
where job = $1 and owner = $2 and epoch = $3
"""
_GIVE_BACK = """
update leader set until = clock_timestamp() where job = $1 and owner = $2 and epoch = $3
"""


@frozen
class Run:
    """A taken run of a job. `owner` is of one process's life."""

    job: str
    owner: str
    epoch: int


async def add_jobs(store: Queryable, jobs: list[str]) -> None:
    """Makes the rows of jobs that have none yet."""
    await store.execute(_ADD, jobs)


async def take_due(
    store: Queryable, owner: str, every_s: Mapping[str, float], lease_s: float
) -> Run | None:
    """Takes one of the jobs that is due, for `lease_s`; `None` when none is free. `every_s` says
    how long after a run each is due again. Waits for no lock."""
    row = await store.fetchrow(_TAKE, list(every_s), list(every_s.values()), owner, lease_s)
    return None if row is None else Run(row["job"], owner, row["epoch"])


async def renew(connection: Queryable, run: Run, lease_s: float) -> bool:
    """Prolongs a run and keeps others from taking it until the transaction ends; false if it has
    been taken over."""
    renewed = await connection.fetchval(_RENEW, run.job, run.owner, run.epoch, lease_s)
    return renewed is not None


async def finish(store: Queryable, run: Run) -> None:
    """Says that a run is done. One that was taken over says nothing."""
    await store.execute(_DONE, run.job, run.owner, run.epoch)


async def give_back(store: Queryable, run: Run) -> None:
    """Lets others take a run that was not finished."""
    await store.execute(_GIVE_BACK, run.job, run.owner, run.epoch)
