"""Everything that can go wrong, as one tree.

::

    GatewayError                      status  type
    ├─ RequestError                   4xx     ours, never retried
    │  ├─ InvalidRequest              400     invalid_request_error       (names the field)
    │  ├─ ModelNotFound               400     invalid_request_error
    │  ├─ RequestTooLarge             413     invalid_request_error
    │  ├─ AuthenticationFailed        401     auth_error | token_not_found_in_db | expired_key
    │  ├─ PermissionDenied            403     key_model_access_denied | auth_error | …
    │  │  └─ RouteDenied              403     {"detail": str}, on every route
    │  ├─ RateLimited                 429     throttling_error            (retry-after)
    │  └─ BudgetExceeded              422     budget_exceeded             (x-should-retry: false)
    ├─ UpstreamError                  carries deployment id and phase
    │  ├─ UpstreamTimeout             504     connect | send | first_byte | idle | total
    │  ├─ UpstreamUnavailable         502     refused, reset, resolved to nothing
    │  ├─ UpstreamProtocolError       502     unparsable or truncated answer
    │  └─ UpstreamRejected            as sent an HTTP answer with an error status
    │     └─ CredentialRefused        502     a 401 or 403; never shown as such
    ├─ NoDeploymentAvailable          429
    ├─ NotSupported                   501
    ├─ InternalError                  500     a bug of ours
    ├─ Overloaded                     503     a bounded queue of ours is full
    └─ StoreUnavailable               503     no_db_connection            (retry-after)
    ConfigError                       start-up only: file, dotted path, fix
    ClientGone                        the client closed the connection; not an answer

Wire shape on OpenAI and management routes (management contract §3.0)::

    {"error": {"message": str, "type": str, "param": str | null, "code": "<status>"}}

Messages say what was wrong and what changes it. They never hold a secret.
"""

from __future__ import annotations

from typing import Any


class GatewayError(Exception):
    """An answer to the client: `status`, `type`, `code`, `param` and extra `headers`.

    `headers` are (lower-case name, value) pairs that go out with the answer.
    """

    status: int = 500
    type: str = "internal_server_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        type: str | None = None,  # noqa: A002 - the wire's own word
        status: int | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self._code = code
        if type is not None:
            self.type = type
        if status is not None:
            self.status = status
        self.headers = headers

    @property
    def code(self) -> str:
        """The `code` member of the wire shape: the provider's own, else the status as a string."""
        return self._code or str(self.status)

    def body(self) -> dict[str, Any]:
        """The OpenAI error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class RequestError(GatewayError):
    """The request cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of range; `param` names it."""


class ModelNotFound(RequestError):
    """No model group, alias or wildcard answers to the name."""


class RequestTooLarge(RequestError):
    """The body is over the limit, before or after decompression."""

    status = 413


class AuthenticationFailed(RequestError):
    """No key, an unknown, expired or blocked one. Never raised for a fault of ours."""

    status = 401
    type = "auth_error"


class PermissionDenied(RequestError):
    """A valid key that may not do this."""

    status = 403
    type = "auth_error"


class RouteDenied(PermissionDenied):
    """A valid key whose `allowed_routes` do not name the route (management contract §3.0)."""

    def body(self) -> dict[str, Any]:
        """A plain detail."""
        return {"detail": self.message}


class RateLimited(RequestError):
    """A request, token or parallel limit is used up."""

    status = 429
    type = "throttling_error"


class BudgetExceeded(RequestError):
    """A budget is spent. The status is configurable (management contract §0)."""

    status = 422
    type = "budget_exceeded"


class UpstreamError(GatewayError):
    """The provider failed. `phase` says when; `sent` whether any request byte left us."""

    status = 502
    type = "upstream_error"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        phase: str = "",
        sent: bool = True,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - the wire's own word
        param: str | None = None,
        code: str | None = None,
        retryable: bool | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, param=param, type=type, status=status, code=code, headers=headers)
        self.phase = phase
        self.sent = sent
        if retryable is not None:
            self.retryable = retryable


class UpstreamTimeout(UpstreamError):
    """A phase took longer than its time-out."""

    status = 504
    type = "timeout_error"


class UpstreamUnavailable(UpstreamError):
    """The provider could not be reached, or cut the connection before answering."""


class UpstreamProtocolError(UpstreamError):
    """The provider's answer is not HTTP, is truncated or is not what its type says."""


class UpstreamRejected(UpstreamError):
    """The provider answered with an error status; `status` is what the client gets."""


class CredentialRefused(UpstreamRejected):
    """The provider refused the operator's credential; another deployment may have a better one."""


class NoDeploymentAvailable(GatewayError):
    """Every deployment of the group is out of rotation."""

    status = 429
    type = "rate_limit_error"


class NotSupported(GatewayError):
    """A known route or setting that this release does not implement."""

    status = 501
    type = "not_supported"


class Overloaded(GatewayError):
    """A bounded queue of this process is full; another process may serve it."""

    status = 503
    type = "service_unavailable"


class StoreUnavailable(GatewayError):
    """The database cannot be reached and the answer depends on it."""

    status = 503
    type = "no_db_connection"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, headers=(("retry-after", str(retry_after_s)),))


class InternalError(GatewayError):
    """A bug of ours. The log has it; the client is told that it was not its fault."""


class ConfigError(Exception):
    """A setting is wrong. Shown at start-up as it is, so it names file, dotted path and fix."""


class ClientGone(Exception):
    """The client closed the connection. Thrown into the pipeline at its suspension point."""
