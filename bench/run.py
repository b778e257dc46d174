#!/usr/bin/env python3
"""`make bench`: one worker with every feature on, beside the bare upstream and nginx.

Starts a throw-away Postgres, an admin, a worker pinned to one core, a mock upstream on the other
and, where nginx is installed, nginx as a plain proxy; makes a key with limits and a budget on the
admin; then measures in interleaved rounds (see compare.py) and prints medians and ratios:

  requests per CPU-second of the gateway, added p50 and p99 against direct, paced SSE chunks per
  CPU-second, RSS idle and per open stream, and the time from start to the first answer.

Loopback only; bounded in count and time; stops by itself. Two cores are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent

CONFIG = """
model_list:
  - model_name: mock-model
    litellm_params:
      model: openai/mock-model
      api_base: http://127.0.0.1:{port}/v1
      api_key: sk-upstream
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
"""

NGINX = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    keepalive_requests 100000000;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


TARGETS = {
    "start to first answer": "target ≤ 1.0",
    "idle RSS": "target ≤ 60",
    "added p50": "target ≤ 0.9",
    "requests of nginx's": "target ≥ 0.20",
    "SSE chunks of nginx's": "target ≥ 0.60",
    "KiB RSS per open stream": "target ≤ 16",
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(url: str, key: str, body: dict | None = None) -> dict:
    """One JSON request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"authorization": f"Bearer {key}"})
    if data is not None:
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def wait_for(url: str, seconds: float) -> None:
    """Until the URL answers 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.02)
    raise SystemExit(f"{url} did not answer within {seconds:.0f} s")


@contextlib.contextmanager
def process(command: list[str], core: int, env: dict[str, str], log: Path) -> Iterator[None]:
    """A pinned child process, terminated at the end."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            ["taskset", "-c", str(core), *command], env=env, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def load(mode: str, url: str, key: str, core: int, *extra: str) -> dict:
    """One run of load.py, pinned."""
    command = ["taskset", "-c", str(core), sys.executable, str(HERE / "load.py"), mode, url]
    done = subprocess.run([*command, "--key", key, *extra], capture_output=True, text=True)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"load.py {mode} failed: {done.stderr[-500:]}") from None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--streams", type=int, default=5000, help="open streams for RSS")
    parser.add_argument("--only", default="http,seq,sse,hold,cold")
    parser.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 30_000)), hard))
    with tempfile.TemporaryDirectory(prefix="meridian-bench-") as folder:
        Path(folder).chmod(0o755)
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Everything within one temporary folder."""
    only = set(options.only.split(","))
    master = "sk-" + secrets.token_urlsafe(24)
    upstream, worker, admin, nginx = (free_port() for _ in range(4))
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(port=upstream))
    env = {
        **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        "MERIDIAN_STATE_DIR": str(folder / "state"),
        "MERIDIAN_ENV": "test",
        "LITELLM_MASTER_KEY": master,
        "CONFIG_FILE_PATH": str(config),
        "MERIDIAN_EVENT_LOOP": options.loop,
        "HOST": "127.0.0.1",
        "MERIDIAN_UPSTREAM_MAX_CONNECTIONS": str(options.streams + 1000),
    }
    serve = [str(BIN / "meridian-worker"), "--port", str(worker)]
    chat = "/v1/chat/completions"
    targets = [f"upstream=http://127.0.0.1:{upstream}{chat}"]
    try:
        with contextlib.ExitStack() as stack:
            mock = [sys.executable, str(HERE / "mock_upstream.py"), "--port", str(upstream)]
            stack.enter_context(process(mock, 1, env, folder / "mock.log"))
            manage = [str(BIN / "meridian-admin"), "--port", str(admin)]
            stack.enter_context(process(manage, 1, env, folder / "admin.log"))
            wait_for(f"http://127.0.0.1:{admin}/health/readiness", 60)
            key = call(
                f"http://127.0.0.1:{admin}/key/generate",
                master,
                {
                    "models": ["mock-model"],
                    "rpm_limit": 1_000_000_000,
                    "tpm_limit": 1_000_000_000_000,
                    "max_parallel_requests": 100_000,
                    "max_budget": 1_000_000,
                    "budget_duration": "30d",
                },
            )["key"]
            figures: dict[str, object] = {}
            if "cold" in only:
                url = f"http://127.0.0.1:{worker}{chat}"
                figures["start to first answer, s"] = load_cold(url, key, serve, env)["median_s"]
            stack.enter_context(process(serve, 0, env, folder / "worker.log"))
            wait_for(f"http://127.0.0.1:{worker}/health/readiness", 30)
            targets.append(f"meridian=http://127.0.0.1:{worker}{chat},key={key}")
            base = "upstream"
            if shutil.which("nginx"):
                (folder / "nginx.conf").write_text(
                    NGINX.format(dir=folder, upstream=upstream, port=nginx)
                )
                plain = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "n.log")]
                stack.enter_context(process(plain, 0, env, folder / "nginx.log"))
                targets.append(f"nginx=http://127.0.0.1:{nginx}{chat}")
                base = "nginx"
                time.sleep(0.5)
            compared = ",".join(sorted(only & {"http", "seq", "sse"}))
            if compared:
                subprocess.run(
                    [sys.executable, str(HERE / "compare.py"), *targets, "--base", base]
                    + ["--upstream-port", str(upstream), "--only", compared]
                    + ["--seconds", str(options.seconds), "--repeat", str(options.repeat)]
                    + ["--json", str(folder / "compared.json")],
                    env=env,
                    check=True,
                )
                figures |= summed_up(json.loads((folder / "compared.json").read_text()))
            if "hold" in only:
                url = f"http://127.0.0.1:{worker}{chat}"
                extra = ["--streams", str(options.streams), "--knob", "delay-ms:2000"]
                held = load("hold", url, key, 1, *extra, "--seconds", "12")
                figures[f"KiB RSS per open stream, {held['open']} open"] = held["kib_per_stream"]
            print()
            for name, value in figures.items():
                target = TARGETS.get(name.partition(",")[0], "")
                print(f"{name:<46} {value:>10}   {target}")
    finally:
        subprocess.run([str(BIN / "meridian"), "db", "stop"], env=env, capture_output=True)


def summed_up(rows: list[dict]) -> dict[str, object]:
    """The figures that have a target, out of compare.py's medians."""
    by_name = {row["name"]: row for row in rows}
    ours, direct, nginx = (by_name.get(name) for name in ("meridian", "upstream", "nginx"))
    figures: dict[str, object] = {"idle RSS, MiB": ours["rss_idle_mib"]}
    if "seq" in ours:
        for quantile in ("p50_ms", "p99_ms"):
            added = ours["seq"][quantile] - direct["seq"][quantile]
            figures[f"added {quantile[:3]}, ms at one connection"] = round(added, 3)
    if "c32" in ours:
        figures["requests per CPU-second"] = round(ours["c32"]["rps_per_cpu_s"])
    if nginx is not None and "c32" in ours:
        ratio = ours["c32"]["rps_per_cpu_s"] / nginx["c32"]["rps_per_cpu_s"]
        figures["requests of nginx's, per CPU-second"] = round(ratio, 3)
    if "sse_paced" in ours:
        cost = ours["sse_paced"]["gw_cpu_s_per_1k_chunks"]
        figures["SSE chunks per CPU-second"] = round(1000 / cost)
        if nginx is not None:
            ratio = nginx["sse_paced"]["gw_cpu_s_per_1k_chunks"] / cost
            figures["SSE chunks of nginx's, per CPU-second"] = round(ratio, 3)
    return figures


def load_cold(url: str, key: str, command: list[str], env: dict[str, str]) -> dict:
    """Start-up time, median of 7."""
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py"), "cold", url, "--key", key, "--repeat", "7"]
        + ["--", "taskset", "-c", "0", *command],
        env=env,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
