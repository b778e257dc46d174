"""`?wait=applied` on writes: the answer says which instances have put the change in force.

The answer's body then has one more member::

    "propagation": {"applied": 5, "unreachable": 1, "elapsed_ms": 84}

`unreachable` counts instances that vanished or did not confirm in time (`timeout`, seconds); they
may serve what they knew until the staleness limit. It is null when the change is committed but
the database could not be asked. A write that is refused waits for nothing.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, frozen

from services.admin.api.commits import Commits, Committed
from services.admin.api.parameters import choice_parameter, parameter
from services.admin.api.query import Query

_DEFAULT_S = 5.0
_LONGEST_S = 60.0

WAIT_PARAMETERS = (
    choice_parameter("wait", "applied"),
    parameter("timeout", type="number", minimum=0, maximum=_LONGEST_S, default=_DEFAULT_S),
)


@frozen
class Wait:
    """How long a write waits to be in force; `None` is not at all."""

    timeout_s: float | None

    @property
    def wanted(self) -> bool:
        """Whether the write's feed version is needed."""
        return self.timeout_s is not None


def read_wait(query: Query) -> Wait:
    """What the query asks for, checked before anything is written."""
    timeout_s = query.seconds("timeout", default=_DEFAULT_S, high=_LONGEST_S)
    return Wait(timeout_s if query.choice("wait", ("applied",)) else None)


async def with_propagation(
    body: dict[str, Any], committed: Committed[Any], wait: Wait, commits: Commits
) -> dict[str, Any]:
    """The body of a write's answer, after the wait that was asked for."""
    if wait.timeout_s is None or committed.version is None:
        return body
    applied = await commits.confirm(committed.version, wait.timeout_s)
    return {**body, "propagation": None if applied is None else asdict(applied)}
