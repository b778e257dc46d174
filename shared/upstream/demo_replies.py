"""What the demo answers: OpenAI wire bytes for a request target and body. No I/O but the date.

Tokens, of prompts and of answers alike, are the blank-separated words; a stream sends one a chunk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, zip_longest
from typing import Any

import msgspec
from attrs import evolve, field, frozen

from shared.domain.errors import GatewayError, InvalidRequest, RequestError
from shared.domain.requests import Headers
from shared.upstream.demo_requests import (
    MODELS,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    Knobs,
    Tool,
    decode,
    knobs_of,
    texts_of,
)
from shared.upstream.demo_samples import encoded, sample, vector

_SLOW_FIRST_S = 2.0
_SLOW_CHUNK_S = 0.2
_CUT_AFTER = 3
_DIMENSIONS = 64
_COMPLETION_CAP = 16
_CALL_PIECE = 8
_ABOUT = "This is the demo model: it repeats what it hears, without an account or a network."
_DONE = b"data: [DONE]\n\n"


@frozen
class DemoReply:
    """A reply to play: `pieces` are body bytes, of which `cut` may let only so many out."""

    status: int
    headers: Headers
    pieces: Iterable[bytes]
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    cut: int | None = None


@frozen
class _Answer:
    """One choice: its stream deltas, the same as a whole message and text, and its tokens."""

    deltas: tuple[dict[str, Any], ...]
    message: dict[str, Any]
    finish: str
    tokens: int


@frozen
class _Frame:
    """Everything around the answers of one reply."""

    chat: bool
    number: int
    model: str
    prompt_tokens: int
    answers: tuple[_Answer, ...]
    created: int = field(factory=lambda: int(time.time()))

    def usage(self) -> dict[str, int]:
        """The token counts."""
        completion = sum(answer.tokens for answer in self.answers)
        return _usage(self.prompt_tokens, completion)

    def whole(self) -> dict[str, Any]:
        """The reply in one piece."""
        choices = [
            {"index": index, **self._content(answer), "logprobs": None}
            | {"finish_reason": answer.finish}
            for index, answer in enumerate(self.answers)
        ]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._envelope(kind), "choices": choices, "usage": self.usage()}

    def events(self, include_usage: bool) -> Iterator[bytes]:
        """The reply as server-sent events."""
        numbered = tuple(enumerate(self.answers))
        for step in zip_longest(*(answer.deltas for answer in self.answers)):
            for index, delta in enumerate(step):
                if delta is not None:
                    yield self._event(index, delta, None)
        for index, answer in numbered:
            yield self._event(index, {}, answer.finish)
        if include_usage:
            kind = "chat.completion.chunk" if self.chat else "text_completion"
            yield _sse({**self._envelope(kind), "choices": [], "usage": self.usage()})
        yield _DONE

    def _content(self, answer: _Answer) -> dict[str, Any]:
        if self.chat:
            return {"message": answer.message}
        return {"text": answer.message["content"]}

    def _event(self, index: int, delta: dict[str, Any], finish: str | None) -> bytes:
        content = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return _sse({**self._envelope(kind), "choices": [choice]})

    def _envelope(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        ident = f"{prefix}-demo-{self.number}"
        return {"id": ident, "object": kind, "created": self.created, "model": self.model}


def reply_to(target: str, body: bytes, number: int) -> DemoReply:
    """The reply to a request target and body; `number` makes the ids of one process differ."""
    path = target.partition("?")[0]
    try:
        if path.endswith("/chat/completions"):
            return _chat(decode(body, ChatBody), number)
        if path.endswith("/completions"):
            return _completion(decode(body, CompletionBody), number)
        if path.endswith("/embeddings"):
            return _embeddings(decode(body, EmbeddingBody))
        if path.endswith("/models"):
            rows = [{"id": name, "object": "model", "owned_by": "demo"} for name in MODELS]
            return _whole(200, {"object": "list", "data": rows}, Knobs())
        raise RequestError(f"the demo does not know the path {path}", status=404)
    except GatewayError as error:
        return _whole(error.status, error.body(), Knobs())


def _chat(body: ChatBody, number: int) -> DemoReply:
    knobs, said = _behaviour(body.model, body.asked)
    last = body.messages[-1]
    tool = None if last.role == "tool" else _chosen_tool(body)
    if tool is not None:
        answer = _call(tool, number)
    else:
        verb, what = ("The tool answered", last.text) if last.role == "tool" else ("You said", said)
        answer = _text(f'{verb}: "{what}". {_ABOUT}', knobs.chunks, body.cap)
        answer = evolve(answer, deltas=({"role": "assistant", "content": ""}, *answer.deltas))
    prompt = sum(_tokens(message.text) for message in body.messages)
    frame = _Frame(True, number, body.model, prompt, (answer,) * (body.n or 1))
    return _framed(frame, body, knobs)


def _completion(body: CompletionBody, number: int) -> DemoReply:
    prompts = texts_of(body.prompt, "prompt")
    knobs, _ = _behaviour(body.model, prompts[-1])
    cap = body.max_tokens or _COMPLETION_CAP
    answers = tuple(
        _text(f"{knobs_of(prompt)[1]} {_ABOUT}", knobs.chunks, cap)
        for prompt in prompts
        for _ in range(body.n or 1)
    )
    frame = _Frame(False, number, body.model, sum(map(_tokens, prompts)), answers)
    return _framed(frame, body, knobs)


def _framed(frame: _Frame, body: ChatBody | CompletionBody, knobs: Knobs) -> DemoReply:
    options = body.stream_options
    if options is not None and not body.stream:
        raise InvalidRequest(
            "`stream_options` is only allowed with `stream: true`", param="stream_options"
        )
    if knobs.status is not None:
        return _failure(knobs.status, knobs)
    if not body.stream:
        return _whole(200, frame.whole(), knobs)
    roles = len(frame.answers) if frame.chat else 0
    return DemoReply(
        status=200,
        headers=(("content-type", "text/event-stream; charset=utf-8"),),
        pieces=frame.events(options is not None and options.include_usage),
        delay_s=knobs.delay_s,
        piece_delay_s=knobs.chunk_delay_s,
        cut=None if knobs.cut is None else knobs.cut + roles,
    )


def _embeddings(body: EmbeddingBody) -> DemoReply:
    texts = texts_of(body.input, "input")
    knobs, _ = _behaviour(body.model, texts[-1])
    if knobs.status is not None:
        return _failure(knobs.status, knobs)
    if body.encoding_format not in {"float", "base64"}:
        raise InvalidRequest(
            "`encoding_format` must be `float` or `base64`", param="encoding_format"
        )
    shape = encoded if body.encoding_format == "base64" else list
    vectors = (vector(text, body.dimensions or _DIMENSIONS) for text in texts)
    data = [
        {"object": "embedding", "index": index, "embedding": shape(values)}
        for index, values in enumerate(vectors)
    ]
    tokens = sum(map(_tokens, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _whole(200, {"object": "list", "data": data, "model": body.model, "usage": usage}, knobs)


def _behaviour(model: str, text: str) -> tuple[Knobs, str]:
    if model not in MODELS:
        known = ", ".join(MODELS)
        raise RequestError(f"the demo has no model {model!r}, only {known}", status=404)
    knobs, said = knobs_of(text)
    if model == "slow":
        delay_s, chunk_delay_s = knobs.delay_s, knobs.chunk_delay_s
        knobs = evolve(
            knobs, delay_s=delay_s or _SLOW_FIRST_S, chunk_delay_s=chunk_delay_s or _SLOW_CHUNK_S
        )
    elif model == "fail-midstream":
        knobs = evolve(knobs, cut=_CUT_AFTER if knobs.cut is None else knobs.cut)
    elif model == "fail-429":
        knobs = evolve(knobs, status=429, retry_after_s=knobs.retry_after_s or 1)
    elif model == "fail":
        knobs = evolve(knobs, status=knobs.status or 500)
    return knobs, said


def _chosen_tool(body: ChatBody) -> Tool | None:
    tools = [tool for tool in body.tools or () if tool.function is not None]
    choice = body.tool_choice
    if choice is None or choice == "auto":
        return tools[0] if tools and body.model == "tool" else None
    if choice == "none":
        return None
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        tools = [tool for tool in tools if tool.function is not None and tool.function.name == name]
    if not tools:
        raise InvalidRequest(
            "`tool_choice` asks for a tool that `tools` lacks", param="tool_choice"
        )
    return tools[0]


def _call(tool: Tool, number: int) -> _Answer:
    function = tool.function
    assert function is not None
    values = sample(function.parameters or {"type": "object"})
    arguments = msgspec.json.encode(values if isinstance(values, dict) else {}).decode()
    pieces = [arguments[at : at + _CALL_PIECE] for at in range(0, len(arguments), _CALL_PIECE)]
    ident = {"id": f"call_demo_{number}", "type": "function"}
    start = {"index": 0, **ident, "function": {"name": function.name, "arguments": ""}}
    whole = {**ident, "function": {"name": function.name, "arguments": arguments}}
    first = {"role": "assistant", "content": None, "tool_calls": [start]}
    rest = ({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces)
    return _Answer(
        deltas=(first, *rest),
        message={"role": "assistant", "content": None, "tool_calls": [whole]},
        finish="tool_calls",
        tokens=_tokens(f"{function.name} {arguments}"),
    )


def _text(text: str, chunks: int | None, cap: int | None) -> _Answer:
    words = text.split()
    if chunks is not None:
        words = list(islice(cycle(words), chunks))
    finish = "stop"
    if cap is not None and cap < len(words):
        words, finish = words[:cap], "length"
    pieces = tuple(word if at == 0 else f" {word}" for at, word in enumerate(words))
    return _Answer(
        deltas=tuple({"content": piece} for piece in pieces),
        message={"role": "assistant", "content": "".join(pieces), "refusal": None},
        finish=finish,
        tokens=len(words),
    )


def _failure(status: int, knobs: Knobs) -> DemoReply:
    kind = "rate_limit_error" if status == 429 else "server_error"
    kind = kind if status >= 500 or status == 429 else "invalid_request_error"
    wait = knobs.retry_after_s
    headers = () if wait is None else (("retry-after", str(wait)),)
    error = GatewayError(
        f"the demo fails with {status}, as asked", type=kind, status=status, headers=headers
    )
    return _whole(status, error.body(), knobs, headers)


def _whole(status: int, payload: Any, knobs: Knobs, extra: Headers = ()) -> DemoReply:
    body = msgspec.json.encode(payload)
    half = len(body) // 2
    cut = None if knobs.cut is None else min(knobs.cut, 1)
    return DemoReply(
        status=status,
        headers=(
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *extra,
        ),
        pieces=(body,) if cut is None else (body[:half], body[half:]),
        delay_s=knobs.delay_s,
        cut=cut,
    )


def _tokens(text: str) -> int:
    return len(text.split())


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _sse(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(payload)
