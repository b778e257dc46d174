"""Token counts out of OpenAI-shaped answers, and the few fields of an answer that are needed.

Nothing here raises: what an upstream sends is taken as far as it makes sense. Counts that are
missing, negative, fractional or of another type count as 0 and parts never exceed their whole.
Wire source: LLM contract §3.0 (usage object) and the details of DeepSeek and Anthropic-like
hosts that report cache tokens at the top level.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

import msgspec

from shared.domain.usage import Usage

BYTES_PER_TOKEN = 4
"""The stated rule where a provider gives no count: four bytes of UTF-8 text are one token."""

LARGEST_COUNT = 100_000_000
"""Counts above it are taken as it: no context is that large, and sums stay within 64 bits."""


class UsageBody(msgspec.Struct, gc=False):
    """A `usage` object as sent; every field may be anything."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    prompt_cache_hit_tokens: Any = None


class Delta(msgspec.Struct):
    """What a chunk adds. Only the sizes of its texts matter here."""

    content: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: Any = None


class Choice(msgspec.Struct):
    """One alternative of an answer or chunk. Completions have `text` in place of the others."""

    finish_reason: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    text: Any = None


class ReplyEnvelope(msgspec.Struct):
    """A whole answer: `usage` is `None` when the upstream gave none. `error` is what some put
    into an answer that is otherwise a success."""

    id: Any = None
    error: Any = None
    model: Any = None
    usage: UsageBody | None = None
    choices: list[Choice] | None = None

    def text_bytes(self) -> int:
        """Bytes of generated text, tool arguments included."""
        return _text_bytes(self.choices)

    def finish_reason(self) -> str | None:
        """The first choice's reason, `None` while it is open."""
        reason = self.choices[0].finish_reason if self.choices else None
        return reason if isinstance(reason, str) else None


class ChunkEnvelope(ReplyEnvelope):
    """A stream's chunk. `usage` stands in the last one, whose `choices` are empty."""


_Envelope = TypeVar("_Envelope", bound=ReplyEnvelope)

_REPLY = msgspec.json.Decoder(ReplyEnvelope)
_CHUNK = msgspec.json.Decoder(ChunkEnvelope)
_USAGE = msgspec.json.Decoder(UsageBody)
_ANYTHING = msgspec.json.Decoder(dict[str, Any])


def decode_reply(data: bytes) -> ReplyEnvelope | None:
    """A whole answer's envelope; `None` when it is not a JSON object."""
    try:
        return _REPLY.decode(data)
    except msgspec.ValidationError:
        return _salvage(data, ReplyEnvelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_chunk(data: bytes) -> ChunkEnvelope | None:
    """A chunk's envelope; `None` when it is not a JSON object, as with `[DONE]`."""
    try:
        return _CHUNK.decode(data)
    except msgspec.ValidationError:
        return _salvage(data, ChunkEnvelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def extract_usage(raw: object) -> Usage | None:
    """The counts of a `usage` object given decoded, as a struct or as JSON bytes.

    `None` when there is no object or it holds no count: then the caller estimates.
    """
    if isinstance(raw, bytes | bytearray | memoryview):
        try:
            raw = _USAGE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
    if isinstance(raw, dict):
        raw = _usage_body(raw)
    return _usage(raw) if isinstance(raw, UsageBody) else None


def estimate_tokens(text_bytes: int) -> int:
    """Tokens of a text of that many bytes, rounded up; at least 1 unless it is empty."""
    return -(-text_bytes // BYTES_PER_TOKEN) if text_bytes > 0 else 0


def _usage(body: UsageBody) -> Usage | None:
    prompt = _count(body.prompt_tokens)
    completion = _count(body.completion_tokens)
    total = _count(body.total_tokens)
    if not (prompt or completion or total):
        given = (body.prompt_tokens, body.completion_tokens, body.total_tokens)
        return Usage() if any(type(each) is int for each in given) else None
    completion = completion or max(0, total - prompt)
    details = body.completion_tokens_details
    reasoning = said = 0
    if type(details) is dict:
        reasoning = _count(details.get("reasoning_tokens"))
        said = _count(details.get("audio_tokens"))
        # Some hosts count reasoning beside the completion; their total tells.
        if reasoning and total == prompt + completion + reasoning:
            completion += reasoning
        reasoning = min(reasoning, completion)
    cached, written, hour, heard = _input_parts(body, prompt)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        cache_write_1h_tokens=hour,
        audio_prompt_tokens=heard,
        audio_completion_tokens=min(said, completion - reasoning) if said else 0,
    )


def _input_parts(body: UsageBody, prompt: int) -> tuple[int, int, int, int]:
    """Cached, written, written for an hour and audio tokens, together at most the prompt."""
    cached = _count(body.cache_read_input_tokens) or _count(body.prompt_cache_hit_tokens)
    written = _count(body.cache_creation_input_tokens)
    hour = heard = 0
    details = body.prompt_tokens_details
    if type(details) is dict:
        cached = _count(details.get("cached_tokens")) or cached
        written = _count(details.get("cache_creation_tokens")) or written
        heard = _count(details.get("audio_tokens"))
        lives = details.get("cache_creation_token_details")
        if type(lives) is dict:
            hour = _count(lives.get("ephemeral_1h_input_tokens"))
    if not (cached or written or heard):
        return 0, 0, 0, 0
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    return cached, written, min(hour, written), min(heard, prompt - cached - written)


def _count(value: object) -> int:
    """A count as a number from 0 to `LARGEST_COUNT`."""
    if value is None:
        return 0
    if type(value) is int:
        return value if 0 <= value <= LARGEST_COUNT else LARGEST_COUNT if value > 0 else 0
    # NaN and infinities fail the comparison or the bound.
    if type(value) is float and 0 <= value <= LARGEST_COUNT:
        return int(value)
    return 0


def _text_bytes(choices: list[Choice] | None) -> int:
    size = 0
    for choice in choices or ():
        part = choice.delta or choice.message
        if part is None:
            size += _size(choice.text)
            continue
        if part.content is not None:
            size += _size(part.content)
        if part.reasoning_content is not None or part.refusal is not None:
            size += _size(part.reasoning_content) + _size(part.refusal)
        if part.tool_calls is not None:
            size += _arguments_size(part.tool_calls)
    return size


def _size(text: object) -> int:
    if type(text) is not str:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _arguments_size(calls: object) -> int:
    """Names and arguments of tool calls, as far as they are what they should be."""
    functions = [
        call.get("function")
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict)
    ]
    return sum(
        _size(function.get("name")) + _size(function.get("arguments"))
        for function in functions
        if isinstance(function, dict)
    )


def _salvage(data: bytes, kind: type[_Envelope]) -> _Envelope | None:
    """An envelope of what is usable where some field has a type that it should not have."""
    try:
        loose = _ANYTHING.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage, choices = loose.get("usage"), loose.get("choices")
    return kind(
        id=loose.get("id"),
        error=loose.get("error"),
        model=loose.get("model"),
        usage=_usage_body(usage) if isinstance(usage, dict) else None,
        choices=_choices(choices) if isinstance(choices, list) else None,
    )


def _choices(raw: list[Any]) -> list[Choice]:
    usable = []
    for each in raw:
        with contextlib.suppress(msgspec.ValidationError):
            usable.append(msgspec.convert(each, Choice))
    return usable


def _usage_body(raw: dict[str, Any]) -> UsageBody:
    return UsageBody(**{name: raw.get(name) for name in UsageBody.__struct_fields__})
