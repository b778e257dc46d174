"""One request on its way through the eight steps: the one mutable object of a request."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from attrs import define, field

from shared.domain.deployments import Deployment
from shared.domain.errors import GatewayError
from shared.domain.keys import Principal
from shared.domain.ledger import CallStatus
from shared.domain.limits import ScopeRef
from shared.domain.usage import Usage
from shared.gateway.exchange import Exchange
from shared.gateway.route import Route

if TYPE_CHECKING:
    from shared.gateway.envelope import Envelope
    from shared.limits.estimates import Demand
    from shared.limits.leases import Reservation
    from shared.routing.catalog import ModelGroup
    from shared.upstream.base import Flight


@define(slots=True, eq=False)
class Call:
    """Filled step by step; times are seconds on the monotonic clock unless they say epoch.

    `others` is who else the caller may be, in order, should the principal lack the model: a token
    may name several teams. `tail` holds the last bytes for the client, which go out after the
    ledger has the call.
    """

    x: Exchange
    route: Route
    id: UUID
    id_text: str
    started_s: float
    started_epoch_s: float
    path_model: str | None = None
    known: Principal | None = None

    # accept
    body: bytes = b""
    envelope: Envelope = field(default=None)
    stream: bool = False
    end_user: str | None = None
    tags: tuple[str, ...] = ()

    # authenticate, admit
    principal: Principal = field(default=None)
    others: tuple[Principal, ...] = ()
    scopes: tuple[ScopeRef, ...] | None = None
    token: str = ""
    model_name: str = ""
    group: ModelGroup = field(default=None)
    demand: Demand | None = None
    reservation: Reservation | None = None

    # plan, send
    deployment: Deployment | None = None
    attempts: int = 0
    max_retries: int = 0
    opened: bool = False
    sent_s: float = 0.0
    flight: Flight | None = None

    # relay, settle
    started_reply: bool = False
    http_status: int = 0
    status: CallStatus = CallStatus.SUCCESS
    error: GatewayError | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    delivered_bytes: int = 0
    upstream_id: str | None = None
    first_byte_s: float = 0.0
    upstream_end_s: float = 0.0
    tail: bytes = b""
