"""How a call ends that is not a success: as an answer, as the last event of a stream, or silently.

Error answers have the OpenAI shape, also of the auth phase (management contract §3.0); in a
stream that has begun, one `data: {"error": …}` event and `[DONE]` (LLM contract §5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.domain.errors import GatewayError, InternalError
from shared.domain.ledger import CallStatus
from shared.gateway.call import Call
from shared.gateway.headers import head_of

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

_JSON = "content-type: application/json\r\n"
_CLIENT_CLOSED_STATUS = 499


def refuse(call: Call, error: GatewayError, rt: Runtime) -> None:
    """Prepare the error answer; its bytes go out when the call has settled."""
    call.error = error
    call.status = CallStatus.FAILURE
    if call.flight is not None:
        call.flight.cancel()
    body = msgspec.json.encode(error.body())
    if call.started_reply:
        call.tail = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        return
    call.http_status = error.status
    head = f"{_JSON}x-litellm-call-id: {call.id_text}\r\n{rt.identity}{head_of(error.headers)}"
    call.x.start(error.status, head, len(body))
    call.tail = body


def broken(call: Call, bug: Exception, rt: Runtime) -> None:
    """A bug of ours: told in the log, and answered as any other failure."""
    rt.loop.call_exception_handler({"message": "A request met a bug", "exception": bug})
    refuse(call, InternalError("The gateway failed; its log says why."), rt)


def closed_by_client(call: Call) -> None:
    """The client went: the upstream is cancelled, what was delivered is accounted for."""
    call.status = CallStatus.CLIENT_CLOSED
    call.http_status = _CLIENT_CLOSED_STATUS
    if call.flight is not None:
        call.flight.cancel()
