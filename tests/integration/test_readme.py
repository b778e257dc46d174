"""The README's commands, as a newcomer pastes them: local mode, no setting but ports and folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.db.local import reset_local_postgres
from tests.support.postgres import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SECTION = README.partition("## Try it\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


class Instance(NamedTuple):
    """A binary that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ready(self) -> bool:
        """Whether it says so; a binary that has ended never will."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health/readiness", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A newcomer's environment; `test` allows the local Postgres wherever tests run. The local
    Postgres goes at the end."""
    try:
        yield {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "MERIDIAN_ENV": "test",
        }
    finally:
        reset_local_postgres(tmp_path / ".local" / "state" / "meridian")


@pytest.fixture
def worker_and_admin(
    tmp_path: Path, environment: dict[str, str]
) -> Iterator[tuple[Instance, Instance]]:
    """Both, started at once with nothing set but the port; they stop in order."""
    with ExitStack() as stack:
        worker, admin = (
            stack.enter_context(_running(binary, tmp_path, environment))
            for binary in ("meridian-worker", "meridian-admin")
        )
        until = time.monotonic() + 30
        while not (worker.ready() and admin.ready()):
            assert time.monotonic() < until, worker.log.read_text() + admin.log.read_text()
            time.sleep(0.02)
        yield worker, admin


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands use curl")
def test_pasted_commands(
    worker_and_admin: tuple[Instance, Instance], environment: dict[str, str]
) -> None:
    """Key, chat whole and streamed, the `openai` package, and a block that holds at once: every
    block of the README works as it stands, in one shell, one after the other."""
    worker, admin = worker_and_admin
    script = "\n".join(BLOCKS)
    for told, real in (
        ("127.0.0.1:4000", f"127.0.0.1:{worker.port}"),
        ("127.0.0.1:4001", f"127.0.0.1:{admin.port}"),
        (".venv/bin/python", sys.executable),
        (".venv/bin/meridian", str(Path(sys.executable).with_name("meridian"))),
        ("make install\n", ""),
    ):
        assert told in script
        script = script.replace(told, real)
    ran = subprocess.run(
        ["sh", "-eu"],
        input=script,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    whole, told = ran.stdout.split("\n", 1)
    assert '\\"Hello\\"' in whole
    assert told.count("data: {") > 5
    assert "data: [DONE]" in told
    assert 'You said: "Hello from Python"' in told
    assert 'You said: "Count to three"' in told
    assert "\nsk-" in told
    assert "\nci-bot  sk-..." in told
    assert "in force on 2 instances" in ran.stderr
    assert '"propagation":{"applied":2,"unreachable":0' in told
    assert told.endswith('"type":"auth_error","param":null,"code":"401"}}')


@contextmanager
def _running(binary: str, folder: Path, environment: dict[str, str]) -> Iterator[Instance]:
    port, log = free_port(), folder / f"{binary}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name(binary)],
            env={**environment, "PORT": str(port)},
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Instance(process, port, log)
    finally:
        process.terminate()
        try:
            assert process.wait(20) == 0, log.read_text()
        finally:
            process.kill()
