"""Step 6: the call is in the journal before its first byte goes upstream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shared.domain.deployments import Deployment
from shared.domain.errors import CredentialRefused
from shared.domain.ledger import CallOpened
from shared.domain.requests import UpstreamRequest
from shared.gateway.call import Call
from shared.gateway.drive import Drive, suspend
from shared.gateway.plan import Attempt, wait_after
from shared.gateway.reply import Inbound, Reply, retry_after_s

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime


async def send(call: Call, attempt: Attempt, request: UpstreamRequest, rt: Runtime) -> Reply:
    """One attempt: the reply's head and first event or its whole body, or why there is none."""
    call.deployment = attempt.deployment
    rt.journal.open(_record(call, attempt.deployment, rt))
    call.opened = True
    if not call.attempts:
        call.sent_s = rt.clock.mono()
    call.attempts += 1
    reply = rt.cache.lookup(call, request) if rt.cache is not None else None
    if reply is None:
        reply = await suspend(partial(_launch, call, request, rt))
    call.first_byte_s = rt.clock.mono()
    reply.final = attempt.last
    if reply.error is not None:
        call.flight = None
        call.upstream_end_s = call.first_byte_s
        if isinstance(reply.error, CredentialRefused):
            reply.error.retryable = not attempt.alone
        rt.meters.attempt_failed(call, reply.error)
    else:
        rt.meters.attempt_succeeded(call)
    return reply


async def pause(attempt: Attempt, reply: Reply, rt: Runtime) -> None:
    """Wait before the next attempt, as long as the upstream asks or the plan says."""
    asked_s = retry_after_s(reply.error) if reply.error is not None else None
    pause_s = wait_after(attempt, asked_s, rt)
    if pause_s <= 0:
        return

    def arm(drive: Drive, turn: int) -> None:
        rt.timers.start(pause_s, partial(drive.resume, turn, None))

    await suspend(arm)


def _launch(call: Call, request: UpstreamRequest, rt: Runtime, drive: Drive, turn: int) -> None:
    inbound = Inbound(
        drive,
        turn,
        wants_stream=call.stream,
        max_body=rt.limits.max_reply_bytes,
        max_event=rt.limits.max_event_bytes,
    )
    flight = rt.upstreams[request.origin.scheme].start(request, inbound)
    # A sink that has failed already resumed the pipeline, which has gone on without this flight.
    if drive.turn == turn:
        inbound.flight = call.flight = flight


def _record(call: Call, deployment: Deployment, rt: Runtime) -> CallOpened:
    key = call.principal.key
    reservation = call.reservation
    assert reservation is not None
    return CallOpened(
        id=call.id,
        started_s=call.started_epoch_s,
        route=call.route.name,
        model=deployment.upstream_model,
        model_group=call.group.name,
        deployment_id=deployment.id,
        provider=deployment.provider,
        region=rt.region,
        key=key.token,
        key_alias=key.key_alias,
        user_id=key.user_id,
        team_id=key.team_id,
        organization_id=call.principal.owners.organization_id,
        end_user=call.end_user,
        api_base=deployment.api_base,
        stream=call.stream,
        estimate=reservation.estimate,
        charges=reservation.charges,
        tags=call.tags,
        session_id=_session_id(call),
        requester_ip=call.x.head.peer or None,
        project_id=key.project_id,
    )


def _session_id(call: Call) -> str | None:
    header = call.x.head.headers.get("x-litellm-session-id")
    if header:
        return header[:256]
    metadata = call.envelope.litellm_metadata or call.envelope.metadata
    if metadata is not None and isinstance(metadata.session_id, str):
        return metadata.session_id[:256]
    return None
