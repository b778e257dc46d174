"""What the scriptable upstream answers: OpenAI wire bytes, and the faults its knobs ask for."""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

KNOB = re.compile(rb"\[\[([a-z-]+)(?::([\d.,]+))?\]\]")
NAMES = frozenset(
    {
        *("delay-ms", "chunk-delay-ms", "chunks", "size", "bigevent", "usage", "nousage"),
        *("nodone", "toolcall", "status", "retryafter", "html", "hang", "stall", "cut", "reset"),
        *("truncated", "garbage", "badjson", "badsse", "midjson"),
    }
)
WORDS = (
    "A",
    "gateway",
    "stands",
    "between",
    "clients",
    "and",
    "providers",
    "checks",
    "the",
    "key",
    "picks",
    "a",
    "deployment",
    "forwards",
    "the",
    "call",
    "and",
    "counts",
    "its",
    "tokens",
)
CREATED = 1_790_000_000
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


@dataclass
class Answer:
    """What to play: `end` is keep, close, reset or hang."""

    head: bytes = b""
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    end: str = "keep"


def read_knobs(text: str) -> dict[str, str]:
    """Knobs of a model name or of a script line: `name:value`, parted by `+` or blanks."""
    pairs = (piece.partition(":") for piece in re.split(r"[+\s]+", text))
    return {name: value for name, _, value in pairs if name in NAMES}


def _head(status: int, kind: str, length: int | None, extra: str = "") -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (
        f"HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\nX-Request-Id: req_scripted\r\n"
        f"X-RateLimit-Remaining-Requests: 99\r\n{extra}{framing}\r\n\r\n"
    ).encode()


def knobs_in(raw: bytes) -> dict[str, str]:
    """Knobs in the text of a request."""
    pairs = ((name.decode(), value.decode()) for name, value in KNOB.findall(raw))
    return {name: value for name, value in pairs if name in NAMES}


def whole(status: int, payload: Any, extra: str = "", kind: str = JSON) -> Answer:
    """A reply with a known length; bytes go out as they are."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Answer(_head(status, kind, len(body), extra) + body)


def error_answer(status: int, knobs: dict[str, str]) -> Answer:
    kind = {429: "rate_limit_error", 401: "authentication_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    error = {"message": f"scripted {status}", "type": kind, "param": None, "code": str(status)}
    extra = f"Retry-After: {knobs['retryafter']}\r\n" if "retryafter" in knobs else ""
    return whole(status, {"error": error}, extra)


def _chunked(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _event(payload: Any) -> bytes:
    text = json.dumps(payload, separators=(",", ":")) if not isinstance(payload, str) else payload
    return b"data: " + text.encode() + b"\n\n"


class Reply:
    """Renders one answer of the OpenAI dialect from a request body and its knobs."""

    def __init__(self, path: str, body: dict[str, Any], knobs: dict[str, str]) -> None:
        self.chat = path.endswith("/chat/completions")
        self.body = body
        self.knobs = knobs
        wanted = int(knobs.get("chunks") or 5)
        cap = body.get("max_completion_tokens") or body.get("max_tokens") or wanted
        self.count = min(wanted, cap) if isinstance(cap, int) else wanted
        self.finish = "length" if self.count < wanted else "stop"
        choices = body.get("n")
        self.choices = range(choices if isinstance(choices, int) and choices > 0 else 1)

    def usage(self) -> dict[str, int]:
        """The tokens to report."""
        prompt, completion = 10, self.count * len(self.choices)
        if "usage" in self.knobs:
            prompt, completion = (int(part) for part in self.knobs["usage"].split(","))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def texts(self) -> Iterator[str]:
        """The pieces of the text, in order."""
        size = int(self.knobs.get("size") or 0)
        for number in range(self.count):
            word = ("" if number == 0 else " ") + WORDS[number % len(WORDS)]
            yield word.ljust(size, "x")

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The members that every object carries."""
        prefix = "chatcmpl" if self.chat else "cmpl"
        model = self.body.get("model")
        ident = f"{prefix}-scripted"
        return {"id": ident, "object": kind, "created": CREATED, "model": model, "choices": choices}

    def call(self, arguments: str) -> dict[str, Any]:
        """The tool call, with its id and name."""
        tools = self.body.get("tools") or [{"function": {"name": "lookup"}}]
        name = tools[0]["function"]["name"]
        function = {"name": name, "arguments": arguments}
        return {"id": "call_scripted", "type": "function", "function": function}

    def whole(self) -> dict[str, Any]:
        """The reply in one piece."""
        text = "".join(self.texts())
        choices: list[dict[str, Any]] = []
        for index in self.choices:
            choice: dict[str, Any] = {"index": index, "finish_reason": self.finish}
            if not self.chat:
                choice |= {"text": text, "logprobs": None}
            elif "toolcall" in self.knobs:
                calls = [self.call('{"query":"scripted"}')]
                choice["message"] = {"role": "assistant", "content": None, "tool_calls": calls}
                choice["finish_reason"] = "tool_calls"
            else:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            choices.append(choice)
        reply = self.envelope("chat.completion" if self.chat else "text_completion", choices)
        if "nousage" not in self.knobs:
            reply["usage"] = self.usage()
        return reply

    def delta(self, index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """One event of a stream."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return _event(self.envelope(kind, [choice]))

    def content(self) -> Iterator[bytes]:
        """The events that carry text or the pieces of a tool call."""
        if "toolcall" in self.knobs and self.chat:
            start = {"index": 0, **self.call("")}
            yield self.delta(0, {"role": "assistant", "content": None, "tool_calls": [start]})
            for piece in ('{"que', 'ry":"scr', 'ipted"}'):
                call = {"index": 0, "function": {"arguments": piece}}
                yield self.delta(0, {"tool_calls": [call]})
            return
        if "bigevent" in self.knobs:
            yield self.delta(0, {"content": "x" * int(self.knobs["bigevent"])})
            return
        for text in self.texts():
            for index in self.choices:
                yield self.delta(index, {"content": text})

    def events(self) -> Iterator[bytes]:
        """A stream's events; the first is the role, and does not count for cut, reset, stall."""
        calls = "toolcall" in self.knobs and self.chat
        if self.chat and not calls:
            first = {"role": "assistant", "content": ""}
            yield b"".join(self.delta(index, first) for index in self.choices)
        content = self.content()
        if "badsse" in self.knobs:
            yield next(content, b"")
            yield b'dat: {}\n\ndata {not json\n\ndata: {"choices": [}\n\n\xff\xfe\n\n'
        yield from content
        if "midjson" in self.knobs:
            yield b'data: {"id":"chatcmpl-scripted","choices":[{"index":0,"del'
            return
        finish = "tool_calls" if calls else self.finish
        yield b"".join(self.delta(index, {}, finish) for index in self.choices)
        options = self.body.get("stream_options") or {}
        if options.get("include_usage") and "nousage" not in self.knobs:
            kind = "chat.completion.chunk" if self.chat else "text_completion"
            yield _event(self.envelope(kind, []) | {"usage": self.usage()})
        if "nodone" not in self.knobs:
            yield _event("[DONE]")

    def stream(self) -> Answer:
        """The reply as server-sent events."""
        knobs = self.knobs
        pieces: Iterator[bytes] = map(_chunked, self.events())
        end = "keep"
        for name, how in (("cut", "close"), ("reset", "reset"), ("stall", "hang")):
            if name in knobs:
                pieces = itertools.islice(pieces, int(knobs[name] or 0) + (1 if self.chat else 0))
                end = how
        if end == "keep":
            pieces = itertools.chain(pieces, (b"0\r\n\r\n",))
        delay_s = float(knobs.get("chunk-delay-ms") or 0) / 1000
        return Answer(_head(200, SSE, None), pieces, piece_delay_s=delay_s, end=end)


def embeddings(body: dict[str, Any], knobs: dict[str, str]) -> dict[str, Any]:
    """Vectors that depend on nothing but their place in the input."""
    given = body.get("input")
    texts = (
        given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    )
    data = []
    for index in range(len(texts)):
        vector: Any = [0.5, -0.25, float(index)]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = int((knobs.get("usage") or str(4 * len(texts))).split(",")[0])
    reply = {"object": "list", "model": body.get("model"), "data": data}
    if "nousage" not in knobs:
        reply["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply


def fault(knobs: dict[str, str]) -> Answer | None:
    """The answers that have nothing to do with the request, `None` if none was asked for."""
    if "hang" in knobs:
        return Answer(end="hang")
    for name, how in (("cut", "close"), ("reset", "reset")):
        if knobs.get(name) in ("", "0"):
            return Answer(end=how)
    if "garbage" in knobs:
        return Answer(b"\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\n", end="close")
    if "html" in knobs:
        page = b"<html><head><title>Bad gateway</title></head><body><h1>Oops</h1></body></html>"
        return whole(int(knobs["html"] or 200), page, kind="text/html")
    if "status" in knobs:
        return error_answer(int(knobs["status"]), knobs)
    if "badjson" in knobs:
        return whole(200, b'{"id": "chatcmpl-scripted", "choices": [')
    return None


def answer_to(path: str, body: Any, knobs: dict[str, str]) -> Answer:
    """What a request gets."""
    answer = fault(knobs)
    if answer is None:
        target = path.partition("?")[0]
        if target.endswith("/models"):
            return whole(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        if not target.endswith(("/completions", "/embeddings")):
            return error_answer(404, {})
        if not isinstance(body, dict):
            return error_answer(400, {})
        if target.endswith("/embeddings"):
            answer = whole(200, embeddings(body, knobs))
        elif body.get("stream") is True:
            answer = Reply(target, body, knobs).stream()
        else:
            answer = whole(200, Reply(target, body, knobs).whole())
        if "truncated" in knobs or ("cut" in knobs and body.get("stream") is not True):
            answer = Answer(answer.head[: -len(answer.head) // 8] or b"", end="close")
    answer.delay_s = float(knobs.get("delay-ms") or 0) / 1000
    return answer
