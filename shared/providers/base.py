"""What a provider is: where it listens, how it is paid, which parameters it takes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import frozen

from shared.domain.requests import EndpointKind


class AuthStyle(StrEnum):
    """How the credential travels."""

    BEARER = "bearer"
    NONE = "none"


OPENAI_PATHS: Mapping[EndpointKind, str] = MappingProxyType(
    {
        EndpointKind.CHAT: "/chat/completions",
        EndpointKind.COMPLETION: "/completions",
        EndpointKind.EMBEDDING: "/embeddings",
    }
)


@frozen(kw_only=True)
class Provider:
    """A provider of the OpenAI dialect, as data.

    `base_env` and `key_env` are variables, the first that is set counts. `paths` follow the base
    URL; an endpoint that is absent is not offered. `renamed` are parameters under another name
    upstream, `unsupported` those it refuses. `header_env` are headers whose value a variable
    gives. `key_required` holds at the provider's own base URL, not at one of the operator's.
    """

    name: str
    label: str
    api_base: str | None = None
    base_env: tuple[str, ...] = ()
    key_env: tuple[str, ...] = ()
    key_required: bool = True
    auth: AuthStyle = AuthStyle.BEARER
    paths: Mapping[EndpointKind, str] = OPENAI_PATHS
    renamed: tuple[tuple[str, str], ...] = ()
    unsupported: tuple[str, ...] = ()
    supports_stream_usage: bool = True
    header_env: tuple[tuple[str, tuple[str, ...]], ...] = ()
    aliases: tuple[str, ...] = ()


@frozen
class ParamRules:
    """What becomes of a request's parameters for one model of a provider."""

    renamed: tuple[tuple[str, str], ...] = ()
    unsupported: tuple[str, ...] = ()
