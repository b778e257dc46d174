"""Makes `.venv` and keeps it equal to the lock: nothing happens when nothing changed.

    python3 deploy/local/venv.py [--dev]

Without `--dev` it holds what the two binaries need, local PostgreSQL included; with it also what
tests, lint and locking need. Only the standard library is used. Two commands started at once take
turns. `PIP_…` variables and pip's own configuration decide where packages come from.

Until `main` has looked at the version, only what Python 3.6 understands: the point is to tell its
user what is missing.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 11)
ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "meridian-stamp.json"
LOCK_FILE = ROOT / ".local" / "venv.lock"
LOCKS = {"runtime": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}
# Newest first, but for one too fresh to have binary wheels of every dependency.
CANDIDATES = ("python3.14", "python3.13", "python3.12", "python3.11")


class SetupError(Exception):
    """Cannot go on; the message says what to do."""


def main(arguments: list) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Make .venv equal to the lock.")
    parser.add_argument("--dev", action="store_true", help="with the tools for tests and lint")
    wanted = "dev" if parser.parse_args(arguments).dev else "runtime"
    try:
        if sys.version_info < MINIMUM:
            return run_with(newer_python(), arguments)
        with turn():
            bring_up(wanted)
    except SetupError as error:
        print("make: " + str(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_with(python: str, arguments: list) -> int:
    """Runs this file again under another Python."""
    print("python {}.{} is too old, using {}".format(*sys.version_info[:2], python))
    return subprocess.call([python, str(Path(__file__).resolve()), *arguments])


def newer_python() -> str:
    """A Python new enough, from PATH. A command that is there may still not run (shims)."""
    for name in CANDIDATES:
        path = shutil.which(name)
        if path and python_version(path) >= MINIMUM:
            return path
    raise SetupError(
        "Python {}.{} or newer is needed and {} is {}.{}: install one, or name it with "
        "PYTHON=/path/to/python3".format(*MINIMUM, sys.executable, *sys.version_info[:2])
    )


def python_version(python: object) -> tuple:
    """The (major, minor) of an interpreter, (0, 0) when it does not run."""
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        answer = subprocess.check_output(
            [str(python), "-c", code],
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    major, minor = answer.split()
    return (int(major), int(minor))


class turn:  # noqa: N801 - read as a word after `with`
    """One process at a time works on `.venv`."""

    def __enter__(self) -> None:
        LOCK_FILE.parent.mkdir(exist_ok=True)
        self.file = LOCK_FILE.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("waiting for another command that installs", flush=True)
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def bring_up(wanted: str) -> None:
    """Does what is missing. `dev` holds all of `runtime`, so its stamp answers for both."""
    if usable():
        stamp = read_stamp()
        if any(stamp.get(name) == digest(LOCKS[name]) for name in ("dev", wanted)):
            return
    else:
        create()
    lock = LOCKS[wanted]
    print(f"installing {lock.name} into {VENV.name}", flush=True)
    # What has no wheel is built with the setuptools of the lock, never with one fetched unpinned.
    build = VENV / "meridian-build.txt"
    build.write_text(pinned(lock, "setuptools"))
    pip("--require-hashes", "--requirement", str(build))
    as_locked = ["--no-build-isolation", "--use-pep517"]
    pip("--require-hashes", *as_locked, "--requirement", str(lock))
    pip("--no-deps", *as_locked, "--editable", str(ROOT))
    write_stamp({wanted: digest(lock)})


def digest(lock: Path) -> str:
    """What an installation depends on: the lock, our own metadata, where we and Python are."""
    if not lock.is_file():
        raise SetupError(f"{lock.name} is missing: run make lock")
    parts = [lock.read_bytes()]
    parts += [(ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml")]
    parts += [str(ROOT).encode(), repr(python_version(VENV / "bin" / "python")).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def pinned(lock: Path, name: str) -> str:
    """The lines of one package in a lock: its version and hashes."""
    lines = lock.read_text().splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith(name + "==")), None)
    if first is None:
        raise SetupError(f"{lock.name} does not pin {name}: run make lock")
    last = first
    while lines[last].endswith("\\"):
        last += 1
    return "\n".join(lines[first : last + 1]) + "\n"


def usable() -> bool:
    """Whether `.venv` has an interpreter that runs, is new enough and can install."""
    if not (VENV / "bin" / "pip").exists():
        return False
    return python_version(VENV / "bin" / "python") >= MINIMUM


def create() -> None:
    """A new environment. What lies in its place is replaced only if it was one."""
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists():
        raise SetupError(f"{VENV} is no virtual environment: move it away")
    python = getattr(sys, "_base_executable", None) or sys.executable
    print(f"making {VENV.name} with {python}", flush=True)
    result = subprocess.run(
        [python, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            f"{python} -m venv failed (on Debian and Ubuntu: apt install python3-venv)\n"
            + (result.stdout + result.stderr).strip()
        )


def pip(*arguments: str) -> None:
    """Installs with the environment's pip, quietly; its own words only when it fails."""
    STAMP.unlink(missing_ok=True)
    command = [str(VENV / "bin" / "python"), "-P", "-m", "pip", "install"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run(command, env=environment, cwd=str(ROOT), check=False).returncode != 0:
        raise SetupError("installing failed; pip's reason is above")


def read_stamp() -> dict:
    """What is installed; empty when unknown."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: dict) -> None:
    """Whole or not at all."""
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(stamp) + "\n")
    fresh.replace(STAMP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
