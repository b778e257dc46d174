"""A process that offers to run one job, for tests that kill and pause it.

    python -m tests.support.leader_process DSN OWNER LEASE_S HOLD_S

The job writes a row into `deed`, holds on, and writes another; each says who under which epoch.
"""

from __future__ import annotations

import asyncio
import sys

from shared.db.pool import Store
from shared.fleet.leader import Job, Leader, Term

TABLE = """
create table deed (
    owner text, epoch bigint, step text, at timestamptz default clock_timestamp())
"""
_WRITE = "insert into deed (owner, epoch, step) values ($1, $2, $3)"


async def deed(term: Term, step: str) -> None:
    """A step of the job."""
    async with term.transaction() as connection:
        await connection.execute(_WRITE, term.run.owner, term.run.epoch, step)


async def main(dsn: str, owner: str, lease_s: float, hold_s: float) -> None:
    """Offers until the process is ended."""

    async def work(term: Term) -> dict[str, str]:
        await deed(term, "begun")
        await asyncio.sleep(hold_s)
        await deed(term, "ended")
        return {}

    store = Store(dsn, application_name="test-leader", size=1)
    await store.open()
    job = Job(name="deed", every_s=3600, work=work)
    await Leader(store, owner, [job], lease_s=lease_s, poll_s=0.05).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
