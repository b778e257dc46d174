"""The Makefile's promises: every target is listed, and what is typed is passed on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> str:
    """What make prints, without the settings of the make that runs these tests."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "GNUMAKE"))
    }
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={**environ, "T": "elsewhere", "N": "99"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_target() -> None:
    """`make help`, and `make` alone, show each target with a text."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    rules = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(rules)
    shown = re.findall(r"^  ([a-z-]+) +\S", make("help"), re.MULTILINE)
    assert sorted(shown) == sorted(rules)
    assert make() == make("help")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run-worker", "ARGS=--port 5000"], ".venv/bin/meridian-worker --port 5000\n"),
        (["run-admin"], ".venv/bin/meridian-admin"),
        (["migrate", "ARGS=--dry-run"], ".venv/bin/meridian migrate --dry-run\n"),
        (["test"], "-n 2 --dist loadgroup --durations=20 tests"),
        (["test", "T=tests/unit -k sse", "ARGS=-x", "N=0"], "-n 0 .* tests/unit -k sse -x\n"),
        (["bench", "ARGS=--quick"], ".venv/bin/python bench/run.py --quick\n"),
        (["install", "PYTHON=/opt/python3"], "/opt/python3 deploy/local/venv.py --dev\n"),
        (["run-worker"], "deploy/local/venv.py\n"),
    ],
)
def test_variables_reach_the_commands(arguments: list[str], expected: str) -> None:
    """`ARGS`, `T`, `N` and `PYTHON` are taken from the command line, not from the environment."""
    assert re.search(expected, make("--dry-run", *arguments))


def test_checks_of_ci_are_targets() -> None:
    """The script for CI runs targets that exist, the tests last."""
    script = (ROOT / ".ci" / "run").read_text()
    called = re.findall(r"make --no-print-directory ([a-z-]+)", script)
    assert called == ["install", "lint", "typecheck", "contracts", "lock-check", "test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
