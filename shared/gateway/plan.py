"""Step 4: which deployments to try, in which order, decided lazily.

The strategy is `simple-shuffle` (LLM contract §4.3): weighted random, and a deployment that has
failed is not drawn again while another one is left. Waits between attempts follow §5.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from shared.domain.deployments import Deployment
from shared.domain.errors import NoDeploymentAvailable
from shared.gateway.call import Call

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

# Python refuses to read numbers of thousands of digits.
_NUMBER = re.compile(r"[0-9]{1,9}")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_JITTER_S = 0.75


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try at one deployment. `alone`: no other one is left to try next."""

    deployment: Deployment
    number: int
    last: bool
    alone: bool = True


def plan(call: Call, rt: Runtime) -> Iterator[Attempt]:
    """Attempts, the next one drawn only after the one before it has failed."""
    deployments = call.group.deployments
    if len(deployments) > 1:
        kind = call.route.kind
        deployments = tuple(each for each in deployments if each.mode == kind) or deployments
    if not deployments:
        raise NoDeploymentAvailable(
            f"Model group `{call.group.name}` has no deployment; add one to the model list."
        )
    call.max_retries = _retries(call, rt)
    retries = call.max_retries
    if len(deployments) == 1:
        for number in range(retries + 1):
            yield Attempt(deployments[0], number, number == retries)
        return
    left = list(deployments)
    for number in range(retries + 1):
        deployment = draw(left, rt.random)
        left.remove(deployment)
        alone = not left
        left = left or list(deployments)
        yield Attempt(deployment, number, number == retries, alone)


def draw(deployments: Sequence[Deployment], source: random.Random) -> Deployment:
    """One deployment at random, by weight; uniformly when all weights are zero."""
    if len(deployments) == 1:
        return deployments[0]
    weights = [deployment.weight for deployment in deployments]
    if not any(weights):
        return source.choice(deployments)
    return source.choices(deployments, weights)[0]


def _retries(call: Call, rt: Runtime) -> int:
    """Request, then deployment, then router (LLM contract §5, count precedence)."""
    asked = call.envelope.num_retries
    if asked is None:
        header = call.x.head.headers.get("x-litellm-num-retries")
        if header is not None and _NUMBER.fullmatch(header):
            asked = int(header)
    if asked is None:
        for deployment in call.group.deployments:
            own = deployment.num_retries
            if own is not None and (asked is None or own > asked):
                asked = own
    return rt.config.num_retries if asked is None else min(asked, rt.limits.max_retries)


def wait_after(attempt: Attempt, asked_s: float | None, rt: Runtime) -> float:
    """Seconds before the attempt that follows a failed one; `asked_s` is the upstream's wish.

    Another deployment is tried at once; the same one again only after a growing wait.
    """
    if not attempt.alone:
        return 0.0
    pause_s = asked_s
    if pause_s is None:
        pause_s = min(_FIRST_PAUSE_S * 2.0**attempt.number, _LONGEST_PAUSE_S)
    return max(pause_s, rt.config.router.retry_after) + rt.random.random() * _JITTER_S
