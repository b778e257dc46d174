"""Makes the two lock files from `setup.cfg`, or checks that they are what it would make.

    .venv/bin/python deploy/local/lock.py [--upgrade | --check]

Both hold hashes of every file of every platform and are plain requirements files: users need pip
alone. Versions already locked are kept unless `--upgrade` asks for the newest.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = "requirements.lock"
DEV = "requirements-dev.lock"
EXTRAS = {RUNTIME: ("import", "localdb", "build"), DEV: ("import", "localdb", "build", "dev")}


def main() -> int:
    """Returns the exit status: 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Lock the dependencies of setup.cfg.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--upgrade", action="store_true", help="take the newest versions")
    mode.add_argument("--check", action="store_true", help="only say whether the locks are stale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meridian-lock-") as folder:
        work = Path(folder)
        for name in ("setup.cfg", "pyproject.toml", *EXTRAS):
            if (ROOT / name).exists():
                shutil.copyfile(ROOT / name, work / name)
        for name in EXTRAS:
            compile_lock(work, name, upgrade=options.upgrade)
        if options.check:
            return report(work)
        for name in EXTRAS:
            shutil.copyfile(work / name, ROOT / name)
    return 0


def compile_lock(work: Path, name: str, *, upgrade: bool) -> None:
    """Compiles in a copy, so that no path of this machine gets into the file."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "setup.cfg"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
    command += ["--no-emit-index-url", "--system-certs", "--custom-compile-command", "make lock"]
    command += [part for extra in EXTRAS[name] for part in ("--extra", extra)]
    command += ["--output-file", name]
    if name == DEV:
        command += ["--constraint", RUNTIME]
    if upgrade:
        command.append("--upgrade")
    subprocess.run(command, cwd=work, env=environment(), check=True)


def environment() -> dict[str, str]:
    """The environment for uv, with the package index that pip is configured to use."""
    result = dict(os.environ)
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    index = os.environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    if index:
        result.setdefault("UV_DEFAULT_INDEX", index)
    return result


def report(work: Path) -> int:
    """Prints how the locks differ from what setup.cfg asks for."""
    stale = 0
    for name in EXTRAS:
        have = (ROOT / name).read_text().splitlines()
        want = (work / name).read_text().splitlines()
        if have != want:
            stale = 1
            print(*difflib.unified_diff(have, want, name, "setup.cfg", lineterm="", n=0), sep="\n")
    if stale:
        print("the locks are stale: run make lock", file=sys.stderr)
    return stale


if __name__ == "__main__":
    sys.exit(main())
