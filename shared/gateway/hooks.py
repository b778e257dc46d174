"""Where guardrails and a response cache stand in the pipeline.

A guard refuses by raising a `GatewayError`; it sees every route and streams as well as whole
replies, so that it cannot be bypassed by choosing another way in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.domain.requests import UpstreamRequest
    from shared.gateway.call import Call
    from shared.gateway.reply import Reply


class Guard(Protocol):
    """Looks at a call before it goes upstream and at what comes back."""

    def before_upstream(self, call: Call) -> None: ...

    def after_reply(self, call: Call, data: bytes) -> None:
        """`data` is a whole body, or one event of a stream."""
        ...


class ReplyCache(Protocol):
    """Answers a call without an upstream."""

    def lookup(self, call: Call, request: UpstreamRequest) -> Reply | None:
        """A whole reply, or `None`. The call is in the journal already, so a hit has its row."""
        ...
