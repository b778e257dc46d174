"""What the demo reads: request bodies of the OpenAI dialect, and the knobs in their text."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from attrs import field, frozen

from shared.domain.errors import InvalidRequest

MODELS = ("echo", "slow", "tool", "embed", "fail", "fail-429", "fail-midstream")

_KNOB = re.compile(r"\[\[(status|retry-after|delay-ms|chunk-delay-ms|chunks|cut):(\d{1,6})\]\]")
_PATH = re.compile(r"at `\$\.([\w]+)")

Count = Annotated[int, msgspec.Meta(ge=1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=8)]
Dimensions = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Content = str | list[dict[str, Any]] | None


@frozen
class Knobs:
    """What a request's text asks of the demo; times in seconds."""

    status: int | None = None
    retry_after_s: int | None = None
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    chunks: int | None = None
    cut: int | None = None


@frozen
class StreamOptions:
    """`stream_options`."""

    include_usage: bool = False


@frozen
class Message:
    """One of `messages`."""

    role: str
    content: Content = None
    tool_calls: list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """Its text parts."""
        if isinstance(self.content, list):
            texts = (part.get("text") for part in self.content)
            return " ".join(text for text in texts if isinstance(text, str))
        return self.content or ""


@frozen
class ToolFunction:
    """A function that may be called."""

    name: str
    parameters: dict[str, Any] | None = None


@frozen
class Tool:
    """One of `tools`. Those that are no functions are never called."""

    type: str = "function"
    function: ToolFunction | None = None


@frozen
class ChatBody:
    """A body of `/v1/chat/completions`."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Choices | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @property
    def cap(self) -> int | None:
        """Completion tokens allowed."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def asked(self) -> str:
        """The text of the last user message."""
        texts = (message.text for message in reversed(self.messages) if message.role == "user")
        return next(texts, "")


@frozen
class CompletionBody:
    """A body of `/v1/completions`."""

    model: str
    prompt: str | list[Any]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: Choices | None = None


@frozen
class EmbeddingBody:
    """A body of `/v1/embeddings`."""

    model: str
    input: str | list[Any]
    dimensions: Dimensions | None = None
    encoding_format: str = field(default="float")


def decode(body: bytes, kind: type[Any]) -> Any:
    """The body as `kind`; raises `InvalidRequest` naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error)) or re.search(r"field `(\w+)`", str(error))
        raise InvalidRequest(str(error), param=found[1] if found else None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None


def texts_of(given: str | list[Any], name: str) -> list[str]:
    """`prompt` or `input` in any of its four forms, as texts; token ids become words."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, str) for item in given):
        return [str(item) for item in given]
    if given and all(isinstance(item, int) for item in given):
        return [" ".join(map(str, given))]
    if given and all(isinstance(item, list) and item for item in given):
        return [" ".join(map(str, item)) for item in given]
    raise InvalidRequest(
        f"`{name}` must be a text, a list of texts, a list of token ids or a list of those lists",
        param=name,
    )


def knobs_of(text: str) -> tuple[Knobs, str]:
    """The knobs in a text, and the text without them."""
    found = {name: int(value) for name, value in _KNOB.findall(text)}
    status = found.get("status")
    knobs = Knobs(
        status=status if status is not None and 400 <= status <= 599 else None,
        retry_after_s=found.get("retry-after"),
        delay_s=found.get("delay-ms", 0) / 1000,
        chunk_delay_s=found.get("chunk-delay-ms", 0) / 1000,
        chunks=min(found["chunks"], 10_000) if "chunks" in found else None,
        cut=found.get("cut"),
    )
    return knobs, " ".join(_KNOB.sub(" ", text).split())
