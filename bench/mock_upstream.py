#!/usr/bin/env python3
"""A mock OpenAI-compatible upstream that is cheap enough never to be the bottleneck.

Raw asyncio Protocol (uvloop if installed), loopback only. It answers every POST with a
pre-rendered ~600-byte chat.completion, or, when the body asks for "stream": true, with an SSE
stream of chat.completion.chunk events, a finish chunk, a usage chunk and [DONE].

Per-request knobs. "max_tokens": N sets the number of content chunks (default --chunks); the
others stand in the text of any message as [[name:value]], so that they pass through every gateway
(LiteLLM, for one, drops "user" for models that it does not know):
  [[delay-ms:D]]   pause D ms between chunks (default --delay-ms; 0 = one chunk per event-loop
                   turn, each its own send())
  [[burst]]        the whole stream in one write
  [[size:B]]       non-streaming answer padded by about B bytes
  [[status:S]]     answer with HTTP status S and an OpenAI-shaped error body
  [[cut:K]]        drop the TCP connection after K chunks
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import time

CREATED = 1700000000
RE_STREAM = re.compile(rb'"stream"\s*:\s*true')
RE_MAXTOK = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d+)')
RE_KNOB = re.compile(rb"\[\[(delay-ms|burst|size|status|cut)(?::([\d.]+))?\]\]")
RE_CLEN = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
RE_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)

USAGE = {"prompt_tokens": 42, "completion_tokens": 96, "total_tokens": 138}
TEXT = (
    "A gateway sits between clients and model providers. It checks the caller's key, picks a "
    "deployment, forwards the request, and accounts for the tokens that came back."
)


def completion(pad: int = 0) -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-mock0000000000000000000000",
            "object": "chat.completion",
            "created": CREATED,
            "model": "mock-model",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": TEXT + "x" * pad, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_mock",
        }
    ).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_mock\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


def event(delta: dict | None, finish: str | None = None, usage: dict | None = None) -> bytes:
    obj = {
        "id": "chatcmpl-mock0000000000000000000000",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": "mock-model",
        "system_fingerprint": "fp_mock",
        "choices": []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    if usage is not None:
        obj["usage"] = usage
    return b"data: " + json.dumps(obj, separators=(",", ":")).encode() + b"\n\n"


def framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


PLAIN = completion()
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nx-request-id: req_mock\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EV_FIRST = framed(event({"role": "assistant", "content": ""}))
# a cycle of different words: LiteLLM stops a stream that repeats one chunk 100 times
EV_TOKENS = [framed(event({"content": " " + w})) for w in TEXT.split()]
EV_TAIL = framed(event({}, "stop")) + framed(event(None, None, USAGE)) + framed(b"data: [DONE]\n\n")
EV_END = b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    opts: argparse.Namespace
    loop: asyncio.AbstractEventLoop
    stats = {"requests": 0, "streams": 0, "chunks": 0, "connections": 0}

    def __init__(self) -> None:
        self.buf = b""
        self.tr: asyncio.Transport | None = None
        self.left = 0
        self.delay = 0.0
        self.cut = -1
        self.paused = False
        self.waiting = False

    def connection_made(self, transport) -> None:
        self.tr = transport
        self.stats["connections"] += 1

    def connection_lost(self, exc) -> None:
        self.tr = None

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.waiting:
            self.waiting = False
            self.tick()

    def data_received(self, data: bytes) -> None:
        buf = self.buf + data if self.buf else data
        while buf:
            end = buf.find(b"\r\n\r\n")
            if end < 0:
                break
            head = buf[: end + 2]
            start = end + 4
            m = RE_CLEN.search(head)
            if m:
                stop = start + int(m[1])
                if len(buf) < stop:
                    break
                body = buf[start:stop]
            elif RE_CHUNKED.search(head):
                z = buf.find(b"0\r\n\r\n", start)
                if z < 0:
                    break
                stop = z + 5
                body = buf[start:stop]
            else:
                stop, body = start, b""
            buf = buf[stop:]
            self.answer(head, body)
        self.buf = buf

    def answer(self, head: bytes, body: bytes) -> None:
        tr = self.tr
        if tr is None:
            return
        st = self.stats
        st["requests"] += 1
        if head.startswith(b"GET"):
            what = b'{"object":"list","data":[{"id":"mock-model","object":"model"}]}'
            if head.startswith(b"GET /stats"):
                what = json.dumps(st).encode()
            tr.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(what), what)
            )
            return
        u = RE_KNOB.search(body)
        kind, val = (u[1], float(u[2] or 0)) if u else (b"", 0.0)
        if kind == b"status":
            what = b'{"error":{"message":"mock error","type":"mock","param":null,"code":null}}'
            tr.write(
                b"HTTP/1.1 %d Mock\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (int(val), len(what), what)
            )
            return
        if not RE_STREAM.search(body):
            tr.write(completion(int(val)) if kind == b"size" else PLAIN)
            return
        st["streams"] += 1
        m = RE_MAXTOK.search(body)
        n = int(m[1]) if m else self.opts.chunks
        self.cut = int(val) if kind == b"cut" else -1
        self.delay = (val if kind == b"delay-ms" else self.opts.delay_ms) / 1000
        if kind == b"burst":
            st["chunks"] += n
            tr.write(
                SSE_HEAD
                + EV_FIRST
                + b"".join(EV_TOKENS[i % len(EV_TOKENS)] for i in range(n))
                + EV_TAIL
                + EV_END
            )
            return
        tr.write(SSE_HEAD + EV_FIRST)
        self.left = n
        self.again()

    def again(self) -> None:
        if self.delay:
            self.loop.call_later(self.delay, self.tick)
        else:
            self.loop.call_soon(self.tick)

    def tick(self) -> None:
        tr = self.tr
        if tr is None or tr.is_closing():
            return
        if self.cut == 0:
            tr.abort()
            return
        self.cut -= 1
        if self.left > 0:
            self.left -= 1
            self.stats["chunks"] += 1
            tr.write(EV_TOKENS[self.left % len(EV_TOKENS)])
            if self.paused:
                self.waiting = True
            else:
                self.again()
        else:
            tr.write(EV_TAIL + EV_END)


async def main(opts: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    Upstream.opts, Upstream.loop = opts, loop
    server = await loop.create_server(Upstream, "127.0.0.1", opts.port, backlog=8192)
    stop = asyncio.Event()
    for s in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(s, stop.set)
    if opts.max_seconds:
        loop.call_later(opts.max_seconds, stop.set)
    print(
        f"mock upstream on 127.0.0.1:{opts.port} (answer {len(PLAIN)} B)",
        file=sys.stderr,
        flush=True,
    )
    t0, c0 = time.monotonic(), time.process_time()
    await stop.wait()
    server.close()
    busy = (time.process_time() - c0) / (time.monotonic() - t0) * 100
    print(f"mock upstream: {Upstream.stats} busy {busy:.0f}%", file=sys.stderr, flush=True)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("--port", type=int, default=9100)
    ap.add_argument("--chunks", type=int, default=200)
    ap.add_argument("--delay-ms", type=float, default=0.0)
    ap.add_argument(
        "--max-seconds", type=float, default=3600.0, help="stop by itself after this long"
    )
    opts = ap.parse_args()
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    run(main(opts))
