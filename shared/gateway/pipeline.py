"""A request's path in eight steps. The only caller of the steps; every LLM endpoint takes it.

authenticate → accept → admit → plan → translate → send → relay → settle

A body is accepted, that is read and parsed, only from a caller that is known. A step is a plain
call, or answers that it cannot go on without waiting and has a way out that runs in a task
(`slow`). Until the reply's first byte has gone to the client, a failed
attempt is followed by the next one; after it there is no failover, only an error event. Settle
runs in every outcome and is plain code: it cannot be interrupted.
"""

from __future__ import annotations

from shared.domain.errors import ClientGone, GatewayError
from shared.domain.keys import Principal
from shared.gateway.accept import accept, accept_late
from shared.gateway.admit import admit, lease
from shared.gateway.authenticate import authenticate, find_principal
from shared.gateway.call import Call
from shared.gateway.drive import slow
from shared.gateway.exchange import Exchange
from shared.gateway.plan import plan
from shared.gateway.refuse import broken, closed_by_client, refuse
from shared.gateway.relay import relay
from shared.gateway.route import Route
from shared.gateway.runtime import Runtime
from shared.gateway.send import pause, send
from shared.gateway.settle import settle
from shared.gateway.translate import translate


async def serve(
    x: Exchange,
    route: Route,
    rt: Runtime,
    path_model: str | None = None,
    principal: Principal | None = None,
) -> None:
    """Serve one request.

    `path_model` is the model that the path names, if it does. `principal` is given by callers
    inside the gateway, which present no key.
    """
    call_id = rt.ids.next()
    call = Call(
        x, route, call_id, str(call_id), rt.clock.mono(), rt.clock.now(), path_model, principal
    )
    try:
        if not authenticate(call, rt):  # 1
            await slow(find_principal(call, rt))
        if not accept(call, rt):  # 2
            await slow(accept_late(call, rt))
        call.reservation = admit(call, rt)  # 3
        if call.reservation is None:
            call.reservation = await slow(lease(call, rt), rt.leases.release)
        for attempt in plan(call, rt):  # 4
            request = translate(call, attempt, rt)  # 5
            reply = await send(call, attempt, request, rt)  # 6
            if reply.settles_the_matter:
                break
            await pause(attempt, reply, rt)
        await relay(call, reply, rt)  # 7
    except GatewayError as error:
        refuse(call, error, rt)
    except ClientGone:
        closed_by_client(call)
    except Exception as bug:  # noqa: BLE001 - boundary: a bug costs its own call a 500, not a hang
        broken(call, bug, rt)
    finally:
        settle(call, rt)  # 8
