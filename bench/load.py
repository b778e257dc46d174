#!/usr/bin/env python3
"""Load generator for LLM gateways: loopback only, bounded in count and time.

  load.py http  URL ...   closed loop over C keep-alive connections: req/s, p50/p99
  load.py seq   URL ...   one connection, one request at a time at a fixed low rate: latency
  load.py sse   URL ...   S concurrent SSE streams of N chunks: chunks/s, TTFT, gateway CPU per chunk
  load.py hold  URL ...   ramp to S slow open streams, report the gateway's RSS per stream
  load.py cold  URL ... -- CMD...   start CMD, time to the first 200, stop it again

Gateway CPU and RSS come from /proc of the processes that listen on the URL's port.
Every subcommand prints one JSON line on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
RE_CLEN = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
RE_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)


# ---------------------------------------------------------------- processes
def listeners(port: int) -> list[int]:
    """PIDs that hold a listening TCP socket on this port, and their children."""
    inodes = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path) as f:
                for line in f.readlines()[1:]:
                    p = line.split()
                    if p[3] == "0A" and int(p[1].rsplit(":", 1)[1], 16) == port:
                        inodes.add(f"socket:[{p[9]}]")
        except FileNotFoundError:
            pass
    pids, parent = set(), {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent[int(pid)] = int(f.read().rsplit(")", 1)[1].split()[1])
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    pids.add(int(pid))
                    break
        except OSError:
            continue
    grew = True
    while grew:
        more = {c for c, p in parent.items() if p in pids} - pids
        pids |= more
        grew = bool(more)
    return sorted(pids)


def cpu_seconds(pids: list[int]) -> float:
    """User + system CPU seconds of the processes, dead threads included (10 ms steps)."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                p = f.read().rsplit(")", 1)[1].split()
            ticks += int(p[11]) + int(p[12])
        except OSError:
            pass
    return ticks / TICK


def rss_mib(pids: list[int]) -> float:
    """Resident MiB, shared pages counted proportionally (PSS) where the kernel says."""
    kib = 0.0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                kib += next(int(ln.split()[1]) for ln in f if ln.startswith("Pss:"))
        except (OSError, StopIteration):
            try:
                with open(f"/proc/{pid}/statm") as f:
                    kib += int(f.read().split()[1]) * PAGE / 1024
            except OSError:
                pass
    return kib / 1024


# ---------------------------------------------------------------- requests
def make_body(model: str, stream: bool, max_tokens: int, knob: str, body_bytes: int) -> bytes:
    msgs = [
        {"role": "system", "content": "You are a concise assistant."},
        {"role": "user", "content": "Say in two sentences what an LLM gateway does."},
    ]
    if knob:
        msgs[1]["content"] += f" [[{knob}]]"
    req: dict = {"model": model, "messages": msgs, "max_tokens": max_tokens, "temperature": 0.2}
    if stream:
        req["stream"] = True
        req["stream_options"] = {"include_usage": True}
    short = body_bytes - len(json.dumps(req))
    if short > 0:
        step = 450
        while short > step + 60:
            role = "user" if len(msgs) % 2 else "assistant"
            msgs.append({"role": role, "content": ("lorem ipsum dolor sit amet " * 20)[:step]})
            short = body_bytes - len(json.dumps(req))
    return json.dumps(req).encode()


def make_request(opts: argparse.Namespace, stream: bool) -> tuple[str, int, bytes]:
    u = urlsplit(opts.url)
    host = u.hostname or "127.0.0.1"
    if not socket.gethostbyname(host).startswith("127."):
        sys.exit("only loopback targets are allowed")
    body = make_body(opts.model, stream, opts.max_tokens, opts.knob, opts.body_bytes)
    head = [
        f"POST {u.path or '/v1/chat/completions'} HTTP/1.1",
        f"Host: {host}:{u.port}",
        "Content-Type: application/json",
        f"Authorization: Bearer {opts.key}",
        f"Content-Length: {len(body)}",
        *opts.header,
    ]
    return host, u.port or 80, "\r\n".join(head).encode() + b"\r\n\r\n" + body


def pct(vals: list[float], q: float) -> float:
    return vals[min(len(vals) - 1, int(len(vals) * q))] if vals else float("nan")


class Conn(asyncio.Protocol):
    """One keep-alive client connection with its own small response reader."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.buf = b""
        self.need = -1  # bytes of body still due, -2 = chunked
        self.t0 = 0.0
        self.first = 0.0
        self.status = 0
        self.events = 0
        self.saw_done = False
        self.tail = b""

    def connection_made(self, transport) -> None:
        self.tr = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> None:
        self.need, self.buf, self.tail = -1, b"", b""
        self.first, self.events, self.saw_done = 0.0, 0, False
        self.t0 = time.perf_counter()
        self.tr.write(self.run.request)

    def data_received(self, data: bytes) -> None:
        if self.need == -1:
            self.buf += data
            end = self.buf.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self.buf[: end + 2], self.buf[end + 4 :]
            self.status = int(head[9:12])
            m = RE_CLEN.search(head)
            self.need = int(m[1]) if m else -2
            self.buf = b""
            if not data and self.need != 0:
                return
        if self.run.sse:
            n = data.count(b"data:")  # the mock's payload never contains 'data:' itself
            if n:
                if not self.first:
                    self.first = time.perf_counter()
                self.events += n
                self.run.events += n
        if self.need >= 0:
            self.need -= len(data)
            if self.need <= 0:
                self.finish()
        else:
            self.tail = (self.tail + data)[-24:]
            if self.tail.endswith(b"0\r\n\r\n"):
                self.saw_done = b"[DONE]" in self.tail or not self.run.sse
                self.finish()

    def finish(self) -> None:
        self.run.done(self, time.perf_counter())

    def connection_lost(self, exc) -> None:
        self.run.lost(self)


class Run:
    def __init__(self, opts: argparse.Namespace, sse: bool) -> None:
        self.opts, self.sse = opts, sse
        self.host, self.port, self.request = make_request(opts, sse)
        self.lat: list[float] = []
        self.ttft: list[float] = []
        self.errors = self.events = self.finished = self.started = 0
        self.limit = 10**12
        self.until = float("inf")
        self.closed = False
        self.over = asyncio.get_running_loop().create_future()
        self.conns: list[Conn] = []
        self.active = 0

    async def connect(self, n: int) -> None:
        loop = asyncio.get_running_loop()
        for i in range(n):
            _, p = await loop.create_connection(lambda: Conn(self), self.host, self.port)
            self.conns.append(p)

    def kick(self, c: Conn) -> None:
        if self.closed or self.started >= self.limit or time.perf_counter() >= self.until:
            self.active -= 1
            if self.active <= 0 and not self.over.done():
                self.over.set_result(None)
            return
        self.started += 1
        c.send()

    def done(self, c: Conn, now: float) -> None:
        ok = c.status == 200 and (not self.sse or (c.saw_done and c.events >= self.opts.max_tokens))
        if ok:
            self.lat.append(now - c.t0)
            if self.sse:
                self.ttft.append(c.first - c.t0)
        else:
            self.errors += 1
        self.finished += 1
        self.kick(c)

    def lost(self, c: Conn) -> None:
        if self.closed:
            return
        self.errors += 1
        self.active -= 1
        if self.active <= 0 and not self.over.done():
            self.over.set_result(None)

    async def go(self, timeout: float) -> float:
        t = time.perf_counter()
        self.active = len(self.conns)
        for c in self.conns:
            self.kick(c)
        try:
            await asyncio.wait_for(self.over, timeout)
        except TimeoutError:
            self.errors += self.active
        dt = time.perf_counter() - t
        self.closed = True
        for c in self.conns:
            c.tr.abort()
        return dt


def measured(run_pids: list[int]):
    return cpu_seconds(run_pids), time.process_time(), time.perf_counter()


async def cmd_http(o) -> dict:
    pids = listeners(urlsplit(o.url).port)
    idle = rss_mib(pids)
    r = Run(o, False)
    await r.connect(o.connections)
    r.until = time.perf_counter() + o.seconds
    c0, m0, _ = measured(pids)
    dt = await r.go(o.seconds + 30)
    c1, m1, _ = measured(pids)
    r.lat.sort()
    n = len(r.lat)
    return {
        "mode": "http",
        "connections": o.connections,
        "requests": n,
        "errors": r.errors,
        "rps": round(n / dt, 1),
        "p50_ms": round(pct(r.lat, 0.5) * 1e3, 3),
        "p99_ms": round(pct(r.lat, 0.99) * 1e3, 3),
        "gw_cpu_pct": round((c1 - c0) / dt * 100, 1),
        "gw_cpu_us_per_req": round((c1 - c0) / max(n, 1) * 1e6, 1),
        "load_cpu_pct": round((m1 - m0) / dt * 100, 1),
        "rss_idle_mib": round(idle, 1),
        "rss_load_mib": round(rss_mib(pids), 1),
    }


async def cmd_seq(o) -> dict:
    r = Run(o, False)
    await r.connect(1)
    conn, gap = r.conns[0], 1.0 / o.rate
    fut: asyncio.Future
    loop = asyncio.get_running_loop()

    def done(c, now):
        if c.status == 200:
            r.lat.append(now - c.t0)
        else:
            r.errors += 1
        if not fut.done():
            fut.set_result(None)

    r.done = done  # type: ignore[method-assign]
    end = time.perf_counter() + o.seconds
    warm = 20
    while time.perf_counter() < end:
        fut = loop.create_future()
        t = time.perf_counter()
        conn.send()
        await asyncio.wait_for(fut, 30)
        if warm:
            warm -= 1
            r.lat.clear()
        await asyncio.sleep(max(0.0, gap - (time.perf_counter() - t)))
    r.closed = True
    conn.tr.abort()
    r.lat.sort()
    return {
        "mode": "seq",
        "rate": o.rate,
        "requests": len(r.lat),
        "errors": r.errors,
        "p50_ms": round(pct(r.lat, 0.5) * 1e3, 3),
        "p90_ms": round(pct(r.lat, 0.9) * 1e3, 3),
        "p99_ms": round(pct(r.lat, 0.99) * 1e3, 3),
    }


async def cmd_sse(o) -> dict:
    pids = listeners(urlsplit(o.url).port)
    idle = rss_mib(pids)
    r = Run(o, True)
    r.limit = o.total or o.streams
    await r.connect(o.streams)
    c0, m0, _ = measured(pids)
    dt = await r.go(o.seconds)
    c1, m1, _ = measured(pids)
    r.lat.sort()
    r.ttft.sort()
    return {
        "mode": "sse",
        "streams": o.streams,
        "total": len(r.lat),
        "errors": r.errors,
        "knob": o.knob,
        "chunks_per_s": round(r.events / dt),
        "chunks": r.events,
        "seconds": round(dt, 2),
        "ttft_p50_ms": round(pct(r.ttft, 0.5) * 1e3, 2),
        "ttft_p99_ms": round(pct(r.ttft, 0.99) * 1e3, 2),
        "total_p50_ms": round(pct(r.lat, 0.5) * 1e3, 1),
        "gw_cpu_pct": round((c1 - c0) / dt * 100, 1),
        "gw_cpu_s_per_1k_chunks": round((c1 - c0) / max(r.events, 1) * 1e3, 5),
        "load_cpu_pct": round((m1 - m0) / dt * 100, 1),
        "rss_idle_mib": round(idle, 1),
        "rss_load_mib": round(rss_mib(pids), 1),
    }


async def cmd_hold(o) -> dict:
    """Open S streams whose upstream sends a chunk every --knob delay, let them settle, read RSS."""
    pids = listeners(urlsplit(o.url).port)
    base = rss_mib(pids)
    r = Run(o, True)
    r.limit = 0  # no stream is opened again
    step = 200
    for i in range(0, o.streams, step):
        k = min(step, o.streams - i)
        before = len(r.conns)
        await r.connect(k)
        for c in r.conns[before:]:
            r.active += 1
            r.started += 1
            c.send()
        await asyncio.sleep(0.05)
    t = time.perf_counter()
    while sum(1 for c in r.conns if c.first) < o.streams and time.perf_counter() - t < 60:
        await asyncio.sleep(0.2)
    opened = sum(1 for c in r.conns if c.first and c.status == 200)
    await asyncio.sleep(o.seconds / 2)
    c0, e0, t0 = cpu_seconds(pids), r.events, time.perf_counter()
    await asyncio.sleep(o.seconds / 2)
    dt, c1 = time.perf_counter() - t0, cpu_seconds(pids)
    full = rss_mib(pids)
    ev = r.events - e0
    r.closed = True
    for c in r.conns:
        c.tr.abort()
    await asyncio.sleep(2)
    after = rss_mib(pids)
    return {
        "mode": "hold",
        "streams": o.streams,
        "open": opened,
        "lost": r.errors,
        "rss_before_mib": round(base, 1),
        "rss_open_mib": round(full, 1),
        "kib_per_stream": round((full - base) * 1024 / max(opened, 1), 2),
        "rss_after_close_mib": round(after, 1),
        "chunks_per_s": round(ev / dt),
        "gw_cpu_pct": round((c1 - c0) / dt * 100, 1),
        "gw_cpu_us_per_chunk": round((c1 - c0) / max(ev, 1) * 1e6, 1),
    }


def cmd_cold(o) -> dict:
    import http.client

    host, port, _ = make_request(o, False)
    body = make_body(o.model, False, o.max_tokens, o.knob, o.body_bytes)
    hdrs = {"Content-Type": "application/json", "Authorization": f"Bearer {o.key}"}
    hdrs.update(h.split(": ", 1) for h in o.header)
    path = urlsplit(o.url).path or "/v1/chat/completions"
    times = []
    for _ in range(o.repeat):
        t = time.perf_counter()
        p = subprocess.Popen(
            o.cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        got = None
        while time.perf_counter() - t < o.seconds and p.poll() is None:
            try:
                c = http.client.HTTPConnection(host, port, timeout=10)
                c.request("POST", path, body, hdrs)
                if c.getresponse().status == 200:
                    got = time.perf_counter() - t
                    break
            except OSError:
                pass
            time.sleep(0.005)
        times.append(got)
        for sig in (signal.SIGTERM, signal.SIGKILL):  # only the process group started above
            try:
                os.killpg(p.pid, sig)
                p.wait(10)
                break
            except ProcessLookupError:
                p.wait()
                break
            except subprocess.TimeoutExpired:
                continue
        time.sleep(0.3)
    good = sorted(x for x in times if x is not None)
    return {
        "mode": "cold",
        "runs": len(times),
        "ok": len(good),
        "median_s": round(pct(good, 0.5), 3) if good else None,
    }


def main() -> None:
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("mode", choices=["http", "seq", "sse", "hold", "cold"])
    ap.add_argument("url", help="e.g. http://127.0.0.1:4000/v1/chat/completions")
    ap.add_argument("--key", default="sk-bench")
    ap.add_argument("--model", default="mock-model")
    ap.add_argument("--header", action="append", default=[], metavar="'Name: value'")
    ap.add_argument(
        "--knob", default="", help="knob for mock_upstream.py, e.g. delay-ms:20 or burst"
    )
    ap.add_argument("--max-tokens", type=int, default=200)
    ap.add_argument("--body-bytes", type=int, default=0, help="pad the request to about this size")
    ap.add_argument("--seconds", type=float, default=5.0)
    ap.add_argument("-c", "--connections", type=int, default=32)
    ap.add_argument("--rate", type=float, default=100.0, help="seq: requests a second")
    ap.add_argument("--streams", type=int, default=50)
    ap.add_argument("--total", type=int, default=0, help="sse: streams in all (default: one round)")
    ap.add_argument("--repeat", type=int, default=5)
    argv = sys.argv[1:]
    cmd: list[str] = []
    if "--" in argv:
        i = argv.index("--")
        argv, cmd = argv[:i], argv[i + 1 :]
    o = ap.parse_args(argv)
    o.cmd = cmd
    o.seconds = min(o.seconds, 300.0)
    if o.mode == "cold":
        res = cmd_cold(o)
    else:
        try:
            import uvloop

            run = uvloop.run
        except ImportError:
            run = asyncio.run
        fn = {"http": cmd_http, "seq": cmd_seq, "sse": cmd_sse, "hold": cmd_hold}[o.mode]
        res = run(fn(o))
    print(json.dumps(res), flush=True)


if __name__ == "__main__":
    main()
