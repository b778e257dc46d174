"""Step 3: may this caller use this model now. Model access, then every limit and budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import ModelNotFound, PermissionDenied
from shared.gateway.call import Call
from shared.limits.estimates import Demand
from shared.limits.leases import Reservation
from shared.providers.usage_extract import estimate_tokens
from shared.routing.access import aliased, allowed

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime


def admit(call: Call, rt: Runtime) -> Reservation | None:
    """What the call may use; `None` when allowance must be leased first."""
    _find_model(call, rt)
    for guard in rt.guards:
        guard.before_upstream(call)
    call.demand = _demand(call)
    return rt.leases.reserve(call.principal.scopes, call.demand)


async def lease(call: Call, rt: Runtime) -> Reservation:
    """Lease what is missing from the database, once for all who wait."""
    assert call.demand is not None
    return await rt.leases.acquire(call.principal.scopes, call.demand)


def _find_model(call: Call, rt: Runtime) -> None:
    """The model group, by the contract's precedence: the operator's, the path's, the body's."""
    asked = rt.forced_model or call.path_model or call.envelope.model
    if not asked:
        raise ModelNotFound("`model` is missing.", param="model")
    call.model_name = asked
    name = aliased(call.principal, asked)
    group = rt.catalog.resolve(name)
    if not call.principal.master and not allowed(call.principal, name, group):
        raise PermissionDenied(
            "This key may not use this model.", type="key_model_access_denied", param="model"
        )
    if group is None:
        why = rt.catalog.why_not(name) or "GET /v1/models lists what this key may use"
        raise ModelNotFound(f"Model `{name[:200]}` is not known: {why}.", param="model")
    call.group = group


def _demand(call: Call) -> Demand:
    """What limits need to know. Deployments of a group are alike, so the first one's price and
    cap stand for all of them."""
    deployment = call.group.deployments[0] if call.group.deployments else None
    size = len(call.body)
    return Demand(
        input_tokens=estimate_tokens(size),
        # No tokenizer makes more tokens than there are bytes.
        input_bound=size,
        max_output_tokens=call.envelope.output_cap,
        model=call.group.label,
        rates=deployment.rates if deployment is not None else None,
        output_cap=deployment.max_output_tokens if deployment is not None else None,
    )
