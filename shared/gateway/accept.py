"""Step 2: the body, whole and within the limit, and its steering members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import RequestTooLarge
from shared.gateway.call import Call
from shared.gateway.envelope import Envelope, read_envelope

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime


def accept(call: Call, rt: Runtime) -> bool:
    """Take the body if it is at hand; `False` when it must be read first."""
    body = call.x.body
    if body is None:
        return False
    _take(call, body, rt)
    return True


async def accept_late(call: Call, rt: Runtime) -> None:
    """Read a body that is chunked, compressed, large or still arriving."""
    limits = rt.limits
    _take(call, await call.x.read(limits.max_body_bytes, limits.body_idle_s), rt)


def _take(call: Call, body: bytes, rt: Runtime) -> None:
    if len(body) > rt.limits.max_body_bytes:
        raise RequestTooLarge(f"The body is larger than {rt.limits.max_body_bytes} bytes.")
    call.body = body
    call.envelope = envelope = read_envelope(call.route.kind, body)
    headers = call.x.head.headers
    call.end_user = (
        headers.get("x-litellm-customer-id")
        or headers.get("x-litellm-end-user-id")
        or _end_user(envelope)
    )
    call.tags = envelope.all_tags
    header_tags = headers.get("x-litellm-tags")
    if header_tags:
        call.tags += tuple(tag.strip() for tag in header_tags.split(",") if tag.strip())


def _end_user(envelope: Envelope) -> str | None:
    """Who the caller's own customer is, in the contract's order after the headers."""
    if envelope.user:
        return envelope.user
    for metadata in (envelope.litellm_metadata, envelope.metadata):
        if metadata is not None and isinstance(metadata.user_id, str) and metadata.user_id:
            return metadata.user_id
    return envelope.safety_identifier
