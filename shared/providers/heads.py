"""The head of an upstream request: everything but the body and its length.

A head holds the credential and is the same for every request of a deployment to an endpoint, so
it may be kept per deployment id and endpoint. What is wrong raises `ValueError`, and the model
catalog asks for every head when it is built, so that nothing is found out by a request.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from attrs import frozen

from shared.config.distribution import version
from shared.domain.deployments import Deployment
from shared.domain.errors import NotSupported
from shared.domain.requests import EndpointKind, Origin
from shared.providers.base import AuthStyle
from shared.providers.registry import PROVIDERS

_PORTS: Mapping[str, int] = {"http": 80, "https": 443, "demo": 0}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?\Z")
_TARGET = re.compile(r"[A-Za-z0-9/._~!$&'()*+,;=:@%?-]*\Z")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")

# Framing, routing and coding of the connection are the gateway's.
RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@frozen
class Base:
    """A base URL taken apart. `path` has no slash at its end; `query` has its question mark."""

    origin: Origin
    path: str
    query: str


def parse_base(api_base: str) -> Base:
    """Check and take apart a base URL; a `ValueError` says what is wrong, without the URL."""
    try:
        parts = urlsplit(api_base)
        port = parts.port
    except ValueError:
        raise ValueError("expected a URL such as `https://api.example.com/v1`") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("expected a URL such as `https://api.example.com/v1`")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must hold no user or password; use `api_key`")
    if parts.fragment or not _TARGET.match(parts.path) or not _TARGET.match(parts.query):
        raise ValueError("the URL's path holds characters that must be percent-encoded")
    host = parts.hostname
    if not _HOST.match(host):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("the URL's host is not a name or address in ASCII") from None
    origin = Origin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)
    return Base(origin, parts.path.rstrip("/"), f"?{parts.query}" if parts.query else "")


def check_header(name: str, value: str) -> None:
    """Refuse a header that could break the request or take over its framing."""
    if not _TOKEN.match(name):
        raise ValueError("is not the name of a header")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError("is set by the gateway itself")
    if not _VALUE.match(value):
        raise ValueError(
            "has a value that no header may have (empty, line break or beyond Latin-1)"
        )


def request_head(deployment: Deployment, endpoint: EndpointKind) -> tuple[Origin, bytes]:
    """Where the deployment's requests of an endpoint go, and their head.

    The head is the request line and header lines, each ended by CRLF. Headers of the deployment
    win over ours. An endpoint that the provider does not offer raises `NotSupported`.
    """
    provider = PROVIDERS[deployment.provider]
    path = provider.paths.get(endpoint)
    if path is None:
        raise NotSupported(f"{provider.label} does not offer {endpoint} requests.")
    base = parse_base(deployment.api_base)
    if base.path.endswith("/v1") and path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    fields = {
        "host": _authority(base.origin),
        "user-agent": _user_agent(),
        "content-type": "application/json",
        "accept-encoding": "identity",
    }
    if provider.auth is AuthStyle.BEARER and deployment.api_key:
        fields["authorization"] = f"Bearer {deployment.api_key}"
    if deployment.organization:
        fields["openai-organization"] = deployment.organization
    for name, value in deployment.extra_headers:
        check_header(name, value)
        fields[name.lower()] = value
    for value in fields.values():
        if not _VALUE.match(value):
            raise ValueError("a credential holds characters that no header may have")
    lines = [f"POST {base.path}{path}{base.query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return base.origin, "".join(f"{line}\r\n" for line in lines).encode("latin-1")


@functools.cache
def _user_agent() -> str:
    return f"meridian/{version()}"


def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == _PORTS[origin.scheme] else f"{host}:{origin.port}"
