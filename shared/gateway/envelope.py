"""The few members of a request body that steer the gateway; everything else is not looked at.

Bodies are OpenAI's chat completions, completions and embeddings requests (LLM contract §1.1, §8.3
of the management contract for the members that the gateway consumes). Values stay raw bytes, so
what is forwarded is what was received.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from shared.domain.errors import InvalidRequest
from shared.domain.requests import EndpointKind

RawBody = dict[str, msgspec.Raw]

_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class StreamOptions(msgspec.Struct, gc=False):
    """`stream_options` of OpenAI."""

    include_usage: bool | None = None


class RequestMetadata(msgspec.Struct, gc=False):
    """Gateway members of `metadata`. The object is the client's own, so any type may stand here."""

    tags: Any = None
    user: Any = None
    user_id: Any = None
    session_id: Any = None


class Envelope(msgspec.Struct, gc=False):
    """What steers, common to all endpoints."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    metadata: RequestMetadata | None = None
    litellm_metadata: RequestMetadata | None = None
    tags: list[str] | None = None
    num_retries: Count | None = None
    timeout: Seconds | None = None
    stream_timeout: Seconds | None = None
    guardrails: Any = None

    @property
    def output_cap(self) -> int | None:
        """The most output tokens the client allows, over all choices."""
        cap = self.max_completion_tokens
        if cap is None:
            cap = self.max_tokens
        if cap is None:
            return None
        return cap * max(1, self.n or 1)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage chunk of a stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def all_tags(self) -> tuple[str, ...]:
        """Request tags from all three places, in order of first appearance."""
        if self.tags is None and self.metadata is None and self.litellm_metadata is None:
            return ()
        found: dict[str, None] = dict.fromkeys(self.tags or ())
        for metadata in (self.metadata, self.litellm_metadata):
            if metadata is not None and isinstance(metadata.tags, list):
                found.update(dict.fromkeys(tag for tag in metadata.tags if isinstance(tag, str)))
        return tuple(found)


class ChatRequest(Envelope, gc=False, kw_only=True):
    """The body of a chat completion."""

    messages: list[msgspec.Raw]


class CompletionRequest(Envelope, gc=False, kw_only=True):
    """The body of a completion."""

    prompt: str | list[msgspec.Raw]


class EmbeddingRequest(Envelope, gc=False, kw_only=True):
    """The body of an embedding."""

    input: str | list[msgspec.Raw]


_DECODERS: Mapping[EndpointKind, msgspec.json.Decoder[Any]] = {
    EndpointKind.CHAT: msgspec.json.Decoder(ChatRequest),
    EndpointKind.COMPLETION: msgspec.json.Decoder(CompletionRequest),
    EndpointKind.EMBEDDING: msgspec.json.Decoder(EmbeddingRequest),
}
_RAW_BODY = msgspec.json.Decoder(RawBody)

# Members that would let a caller choose where its request goes, or fake an answer.
_REFUSED = frozenset({"api_key", "api_base", "base_url", "model_list", "user_config"})


def read_envelope(kind: EndpointKind, body: bytes) -> Envelope:
    """Decode and check the steering members; `InvalidRequest` names the member that is wrong."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        envelope: Envelope = _DECODERS[kind].decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (byte {error.start}).") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    if envelope.guardrails not in (None, []):
        raise InvalidRequest(
            "`guardrails` are not supported by this release; the request was not sent.",
            param="guardrails",
        )
    return envelope


def read_members(body: bytes) -> RawBody:
    """The top-level members as raw bytes, in order; of duplicates the last one counts."""
    members = _RAW_BODY.decode(body)
    if not _REFUSED.isdisjoint(members) or b"mock_testing_" in body or b"\\u" in body:
        _refuse(members)
    return members


def _refuse(members: RawBody) -> None:
    for name in members:
        if name in _REFUSED or name.startswith("mock_testing_"):
            raise InvalidRequest(
                f"`{name}` may not be set by a client of this gateway.", param=name
            )


def _invalid(message: str) -> InvalidRequest:
    missing = re.match(r"Object missing required field `(?P<name>[^`]+)`", message)
    at = _PATH.search(message)
    path = at["path"] if at else ""
    text = message[: at.start()] if at else message
    if missing:
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(f"`{param}` is missing.", param=param)
    if not path:
        return InvalidRequest(f"The body is wrong: {text}.")
    return InvalidRequest(f"`{path}` is wrong: {text}.", param=path)
