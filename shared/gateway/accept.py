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
    take(call, body, rt)
    return True


async def accept_late(call: Call, rt: Runtime) -> None:
    """Read a body that is chunked, compressed, large or still arriving."""
    limits = rt.limits
    take(call, await call.x.read(limits.max_body_bytes, limits.body_idle_s), rt)


def take(call: Call, body: bytes, rt: Runtime) -> None:
    """Take what the body says, again if need be for another principal."""
    if len(body) > rt.limits.max_body_bytes:
        raise RequestTooLarge(f"The body is larger than {rt.limits.max_body_bytes} bytes.")
    call.body = body
    call.envelope = envelope = read_envelope(call.route.kind, body)
    call.stream = bool(envelope.stream)
    headers = call.x.head.headers
    # A signed token has said who it is, or nobody has yet.
    call.end_user = (
        call.end_user
        or headers.get("x-litellm-customer-id")
        or headers.get("x-litellm-end-user-id")
        or _end_user(envelope)
    )
    tags = envelope.all_tags
    header_tags = headers.get("x-litellm-tags")
    if header_tags:
        tags += tuple(tag.strip() for tag in header_tags.split(",") if tag.strip())
    tags += call.principal.tags
    call.tags = tuple(dict.fromkeys(tags)) if tags else tags


def _end_user(envelope: Envelope) -> str | None:
    """Who the caller's own customer is, in the contract's order after the headers."""
    if envelope.user:
        return envelope.user
    if envelope.litellm_metadata is None and envelope.metadata is None:
        return envelope.safety_identifier
    ours, theirs = envelope.litellm_metadata, envelope.metadata
    places = (ours and ours.user, ours and ours.user_id, theirs and theirs.user_id)
    found = (name for name in places if isinstance(name, str) and name)
    return next(found, envelope.safety_identifier)
