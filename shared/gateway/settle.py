"""Step 8: price, journal, leases, metrics, log; then the client's last bytes.

Runs in every outcome and does not await: a call that went upstream is in the ledger before the
client has all of its answer.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from shared.domain.ledger import CallClosed, CallStatus
from shared.domain.usage import Usage
from shared.gateway.call import Call
from shared.gateway.relay import delivered_usage
from shared.providers.prices.cost import cost as cost_of

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

_NOTHING = Usage()
_ZERO = Decimal(0)


def settle(call: Call, rt: Runtime) -> None:
    """Account for the call, once, and end the exchange."""
    usage = _usage(call)
    cost = _ZERO
    now = rt.clock.mono()
    if call.opened:
        cost = call.cost if call.cost is not None else price_of(call, usage, rt)
        rt.journal.close(_record(call, usage, cost, now))
    if call.reservation is not None:
        if call.opened:
            rt.leases.settle(call.reservation, usage.total_tokens, cost)
        else:
            rt.leases.release(call.reservation)
    rt.meters.settled(call, usage, cost, now)
    if call.status is CallStatus.CLIENT_CLOSED:
        call.x.abort()
    else:
        call.x.end(call.tail)


def price_of(call: Call, usage: Usage, rt: Runtime) -> Decimal:
    """What the call costs in USD; nothing where no price is known."""
    assert call.deployment is not None
    price = rt.deployments.price(call.deployment)
    return _ZERO if price is None else cost_of(price, usage)


def _usage(call: Call) -> Usage:
    """The provider's figures when there are any, also explicit zeros; else delivered text."""
    if call.usage is not None:
        return call.usage
    if call.started_reply or call.http_status == 200:
        return delivered_usage(call)
    return _NOTHING


def _record(call: Call, usage: Usage, cost: Decimal, now: float) -> CallClosed:
    return CallClosed(
        id=call.id,
        ended_s=call.started_epoch_s + (now - call.started_s),
        status=call.status,
        http_status=call.http_status,
        cost=cost,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
        ttft_s=call.first_byte_s - call.started_s if call.started_reply else None,
        attempts=call.attempts,
        error_type=type(call.error).__name__ if call.error is not None else None,
        upstream_id=call.upstream_id,
    )
