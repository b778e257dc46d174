"""The scriptable upstream of the tests, as a process and through its control routes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parent.parent.parent
BY_PATH = [str(ROOT / "tests" / "support" / "upstream_server.py")]
BY_MODULE = ["-m", "tests.support.upstream_server"]


def call(url: str, body: Any = None) -> tuple[int, Any]:
    """POST JSON, or GET without a body; the status and the decoded answer."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"authorization": "Bearer sk-upstream"})
    try:
        with urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("how", [BY_PATH, BY_MODULE], ids=["path", "module"])
def test_as_a_process(how: list[str]) -> None:
    """Started either way it prints its address, serves, counts, resets, and ends on SIGTERM."""
    command = [sys.executable, *how, "--port", "0", "--knobs", "usage:7,8"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            status, reply = call(f"{url}/v1/chat/completions", chat)
            assert (status, reply["usage"]["total_tokens"]) == (200, 15)
            assert call(f"{url}/_script", ["status:503", ""]) == (200, {"ok": True})
            assert [call(f"{url}/v1/chat/completions", chat)[0] for _ in range(3)] == [
                503,
                200,
                200,
            ]
            _, stats = call(f"{url}/_stats")
            assert (stats["requests"], stats["completed"], stats["in_flight"]) == (4, 4, 0)
            assert stats["by_key"] == {"sk-upstream": 4}
            assert stats["by_model"] == {"m": 4}
            _, rows = call(f"{url}/_requests")
            assert [row["body"] for row in rows] == [chat] * 4
            assert call(f"{url}/_reset", {})[0] == 200
            assert call(f"{url}/_stats")[1]["requests"] == 0
            assert call(f"{url}/v1/unknown", {})[0] == 404
        finally:
            process.terminate()
        assert process.wait(5) == 0
