"""Step 3: may this caller use this model now. Model access, then every limit and budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import InvalidRequest, ModelNotFound, PermissionDenied
from shared.gateway.accept import take
from shared.gateway.call import Call
from shared.gateway.enforced import check_params
from shared.limits.estimates import Demand
from shared.limits.leases import Reservation
from shared.providers.usage_extract import estimate_tokens
from shared.routing.access import aliased, denied_by, find_group, team_aliased

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime


def admit(call: Call, rt: Runtime) -> Reservation | None:
    """What the call may use; `None` when rules must be read or allowance leased first."""
    _find_model(call, rt)
    if call.principal.enforced_params:
        check_params(call.body, call.principal.enforced_params)
    return _reserve(call, rt) if rt.rules.apply(call) else None


async def lease(call: Call, rt: Runtime) -> Reservation:
    """Read and lease what is missing from the database, once for all who wait."""
    if call.scopes is None:
        await rt.rules.find(call)
        reserved = _reserve(call, rt)
        if reserved is not None:
            return reserved
    assert call.scopes is not None
    assert call.demand is not None
    return await rt.leases.acquire(call.scopes, call.demand)


def _reserve(call: Call, rt: Runtime) -> Reservation | None:
    for guard in rt.guards:
        guard.before_upstream(call)
    call.demand = demand = _demand(call)
    if demand.rates is None and rt.config.litellm.block_requests_for_models_without_pricing:
        raise InvalidRequest(
            f"The price of model `{call.model_name[:200]}` is not known, and the operator serves "
            "only models whose price is.",
            param="model",
        )
    assert call.scopes is not None
    return rt.leases.reserve(call.scopes, call.demand)


def _find_model(call: Call, rt: Runtime) -> None:
    """The model group, by the contract's precedence: the operator's, the path's, the body's."""
    asked = rt.config.general.completion_model or call.path_model or call.envelope.model
    if not asked:
        raise ModelNotFound("`model` is missing.", param="model")
    call.model_name = asked
    name = aliased(call.principal, asked)
    group = find_group(call.principal, team_aliased(call.principal, name), rt.catalog)
    denied = None if call.principal.master else denied_by(call.principal, name, group)
    if denied is not None:
        if call.others:
            _as_another(call, rt)
            return
        raise PermissionDenied(
            "This key may not use this model.", type=f"{denied}_model_access_denied", param="model"
        )
    if group is None:
        if call.others:
            _as_another(call, rt)
            return
        why = rt.catalog.why_not(name) or "GET /v1/models lists what this key may use"
        raise ModelNotFound(f"Model `{name[:200]}` is not known: {why}.", param="model")
    call.group = group


def _as_another(call: Call, rt: Runtime) -> None:
    """Go on as the next of those who the caller may be."""
    call.principal, *others = call.others
    call.others = tuple(others)
    take(call, call.body, rt)
    _find_model(call, rt)


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
