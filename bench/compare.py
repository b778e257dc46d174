#!/usr/bin/env python3
"""Measure gateways side by side on the same work and print ratios.

  compare.py NAME=URL[,key=K][,model=M][,header=Name: value]... [--base NAME] [--json FILE]

The gateways run already and point at the mock upstream (see compare.sh, which starts it).
Gateway processes are found by their listening port, pinned to --gw-core, and their CPU time is
read from /proc; the load runs on --load-core beside the upstream. The rounds are interleaved
(A B C A B C ...), figures are medians and ratios medians of per-round ratios, because a shared
machine drifts by 1.5x within minutes. Throughput is given twice:
as seen by the client (wall), and per gateway CPU second (robust against a noisy neighbour).
'upstream' as a name measures the mock directly and is the latency floor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import load  # noqa: E402


def total_busy() -> float:
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:3]) + sum(v[5:8])) / load.TICK


def wait_quiet(limit: float, seconds: float) -> None:
    """Wait until other work leaves the machine to us, at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        a = total_busy()
        time.sleep(0.4)
        if (total_busy() - a) / 0.4 < limit:
            return


class Target:
    def __init__(self, spec: str) -> None:
        self.name, rest = spec.split("=", 1)
        parts = rest.split(",")
        self.url, self.key, self.model, self.headers = parts[0], "sk-bench", "mock-model", []
        for p in parts[1:]:
            k, v = p.split("=", 1)
            if k == "key":
                self.key = v
            elif k == "model":
                self.model = v
            elif k == "header":
                self.headers.append(v)
        self.pids = load.listeners(urlsplit(self.url).port)
        if not self.pids:
            sys.exit(f"{self.name}: nothing listens on {self.url}")
        self.res: dict = {"name": self.name}


def load_py(t: Target, core: int, mode: str, *extra: str) -> dict:
    cmd = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        str(HERE / "load.py"),
        mode,
        t.url,
        "--key",
        t.key,
    ]
    cmd += ["--model", t.model, *extra]
    for h in t.headers:
        cmd += ["--header", h]
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=400)
    try:
        return json.loads(p.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"errors": -1, "stderr": p.stderr[-300:]}


def wrk(t: Target, core: int, c: int, secs: float, body_bytes: int, up: list[int]) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        f.write(load.make_body(t.model, False, 200, "", body_bytes))
        f.flush()
        env = dict(
            os.environ, BENCH_BODY=f.name, BENCH_KEY=t.key, BENCH_HEADERS="|".join(t.headers)
        )
        cmd = [
            "taskset",
            "-c",
            str(core),
            "wrk",
            "-t1",
            f"-c{c}",
            f"-d{max(1, round(secs))}s",
            "--timeout",
            "10s",
        ]
        c0, u0, b0, t0 = (
            load.cpu_seconds(t.pids),
            load.cpu_seconds(up),
            total_busy(),
            time.perf_counter(),
        )
        ch0 = os.times().children_user + os.times().children_system
        p = subprocess.run(
            [*cmd, "-s", str(HERE / "post.lua"), t.url], env=env, capture_output=True, text=True
        )
        dt = time.perf_counter() - t0
        cpu, upc, busy = load.cpu_seconds(t.pids) - c0, load.cpu_seconds(up) - u0, total_busy() - b0
        ldc = os.times().children_user + os.times().children_system - ch0
    line = [x for x in p.stdout.splitlines() if x.startswith("RESULT ")]
    if not line:
        return {"errors": -1, "rps": 0.0, "stderr": p.stderr[-300:]}
    r = json.loads(line[0][7:])
    own = upc + ldc + (0 if set(up) & set(t.pids) else cpu)
    r.update(
        rps=round(r["requests"] / r["seconds"], 1),
        us_per_req=round(cpu / max(r["requests"], 1) * 1e6, 1),
        rps_per_cpu_s=round(r["requests"] / max(cpu, 1e-9), 1),
        gw_cpu_pct=round(cpu / dt * 100),
        side_cpu_pct=round((upc + ldc) / dt * 100),
        other_cpu_pct=round(max(0.0, busy - own) / dt * 100),
    )
    return r


def middle(runs: list[dict]) -> dict:
    """Field-wise median of the rounds; errors are summed."""
    out: dict = {}
    for key in runs[0]:
        vals = [r[key] for r in runs if isinstance(r.get(key), (int, float))]
        out[key] = (
            (sum(vals) if key == "errors" else statistics.median(vals)) if vals else runs[0][key]
        )
    out["rounds"] = len(runs)
    return out


def main() -> None:
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("targets", nargs="+")
    ap.add_argument("--upstream-port", type=int, default=9100)
    ap.add_argument("--gw-core", type=int, default=0)
    ap.add_argument("--load-core", type=int, default=1)
    ap.add_argument("--seconds", type=float, default=4.0)
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--body-bytes", type=int, default=0)
    ap.add_argument("--only", default="http,seq,sse", help="comma list of http, seq, sse")
    ap.add_argument("--base", default="", help="name the ratios are taken to (default: first)")
    ap.add_argument("--json", default="")
    ap.add_argument(
        "--quiet-wait", type=float, default=20.0, help="seconds to wait for a quiet machine"
    )
    o = ap.parse_args()
    only = set(o.only.split(","))
    ts = [Target(s) for s in o.targets]
    up = load.listeners(o.upstream_port)
    for t in ts:
        core = o.load_core if set(t.pids) & set(up) else o.gw_core
        for pid in t.pids:
            subprocess.run(["taskset", "-acp", str(core), str(pid)], capture_output=True)
        t.res["rss_idle_mib"] = round(load.rss_mib(t.pids), 1)
    have_wrk = shutil.which("wrk") is not None
    kinds = [
        k
        for k, on in (
            ("c32", "http"),
            ("c128", "http"),
            ("seq", "seq"),
            ("sse_paced", "sse"),
            ("sse_flat", "sse"),
        )
        if on in only
    ]

    def once(t: Target, kind: str, secs: float) -> dict:
        core = o.gw_core if set(t.pids) & set(up) else o.load_core
        pad = ("--body-bytes", str(o.body_bytes))
        if kind in ("c32", "c128"):
            c = int(kind[1:])
            if have_wrk:
                return wrk(t, core, c, secs, o.body_bytes, up)
            r = load_py(t, core, "http", "-c", str(c), "--seconds", str(secs), *pad)
            if "gw_cpu_us_per_req" in r:
                r["us_per_req"] = r["gw_cpu_us_per_req"]
                r["rps_per_cpu_s"] = 1e6 / max(r["us_per_req"], 1e-9)
            return r
        if kind == "seq":
            return load_py(t, core, "seq", "--seconds", "3", *pad)
        if kind == "sse_paced":
            return load_py(t, core, "sse", "--knob", "delay-ms:10", "--seconds", "60")
        return load_py(t, core, "sse", "--total", "250", "--seconds", "90")

    for t in ts:
        if "http" in only:
            once(t, "c32", 1.0)  # warm up
        t.rounds = {k: [] for k in kinds}
    for n in range(o.repeat):
        for kind in kinds:
            wait_quiet(0.25, o.quiet_wait)
            for t in ts:
                r = once(t, kind, o.seconds)
                t.rounds[kind].append(r)
                print(
                    json.dumps({"round": n, "name": t.name, "kind": kind, **r}),
                    file=sys.stderr,
                    flush=True,
                )
    for t in ts:
        t.res.update({k: middle(v) for k, v in t.rounds.items()})
        t.res["rss_load_mib"] = round(load.rss_mib(t.pids), 1)
    rows = [t.res for t in ts]
    base = next((r for r in rows if r["name"] == o.base), rows[0])
    floor = next((r for r in rows if r["name"] == "upstream"), None)

    def g(r: dict, a: str, b: str, nd: int = 1) -> str:
        v = r.get(a, {}).get(b)
        return "-" if v is None else f"{v:.{nd}f}"

    by_name = {t.name: t for t in ts}

    def ratio(r: dict, a: str, b: str, inv: bool = False) -> str:
        got = []
        pairs = zip(by_name[r["name"]].rounds.get(a, []), by_name[base["name"]].rounds.get(a, []))
        for x, y in pairs:
            if x.get(b) and y.get(b):
                got.append(y[b] / x[b] if inv else x[b] / y[b])
        return f"{statistics.median(got):.3f}" if got else "-"

    print(f"\nratios are to {base['name']} (higher is better)\n")
    print(
        "| gateway | rps c32 | p50/p99 ms | rps c128 | p50/p99 ms | cpu µs/req | req per cpu-s | ratio |"
        " seq p50 ms | added ms | sse paced cpu s/1k | chunks per cpu-s | ratio | sse flat chunks/s |"
        " RSS idle/load MiB | errors | side cpu % |"
    )
    print("|---" * 17 + "|")
    for r in rows:
        s = r.get("seq", {}).get("p50_ms")
        f0 = floor.get("seq", {}).get("p50_ms") if floor else None
        added = f"{s - f0:.3f}" if s is not None and f0 is not None else "-"
        per = r.get("sse_paced", {}).get("gw_cpu_s_per_1k_chunks")
        errs = sum(
            r.get(k, {}).get("errors", 0) for k in ("c32", "c128", "seq", "sse_paced", "sse_flat")
        )
        print(
            f"| {r['name']} | {g(r, 'c32', 'rps', 0)} | {g(r, 'c32', 'p50_ms', 2)}/{g(r, 'c32', 'p99_ms', 2)} "
            f"| {g(r, 'c128', 'rps', 0)} | {g(r, 'c128', 'p50_ms', 2)}/{g(r, 'c128', 'p99_ms', 2)} "
            f"| {g(r, 'c32', 'us_per_req')} | {g(r, 'c32', 'rps_per_cpu_s', 0)} | {ratio(r, 'c32', 'rps_per_cpu_s')} "
            f"| {g(r, 'seq', 'p50_ms', 3)} | {added} | {g(r, 'sse_paced', 'gw_cpu_s_per_1k_chunks', 4)} "
            f"| {1000 / per if per else 0:.0f} | {ratio(r, 'sse_paced', 'gw_cpu_s_per_1k_chunks', True)} "
            f"| {g(r, 'sse_flat', 'chunks_per_s', 0)} | {r.get('rss_idle_mib')}/{r.get('rss_load_mib')} "
            f"| {errs} | {g(r, 'c32', 'side_cpu_pct', 0)} |"
        )
    if o.json:
        Path(o.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
