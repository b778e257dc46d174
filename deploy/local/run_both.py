"""Runs the worker and the admin beside each other: when one ends, the other is ended too.

    .venv/bin/python deploy/local/run_both.py [arguments for both]

An interrupt or termination is passed on; both then drain.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

BINARIES = ("meridian-admin", "meridian-worker")


def main() -> int:
    """Returns the first failing status, else 0."""
    # PORT is one number and there are two listeners: each takes its own default.
    environment = {name: value for name, value in os.environ.items() if name != "PORT"}
    folder = Path(sys.executable).parent
    # One byte for each reason to end; a handler may write to a pipe at any moment.
    told, tell = os.pipe()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.write(tell, b"."))
    processes = [
        # A session of its own, so that an interrupt in the terminal arrives once, through us.
        subprocess.Popen(
            [str(folder / name), *sys.argv[1:]], env=environment, start_new_session=True
        )
        for name in BINARIES
    ]
    for process in processes:
        threading.Thread(target=watch, args=(process, tell), daemon=True).start()
    os.read(told, 1)
    for process in processes:
        process.terminate()
    statuses = [process.wait() for process in processes]
    return next((1 if status < 0 else status for status in statuses if status), 0)


def watch(process: subprocess.Popen[bytes], tell: int) -> None:
    """Says when a process has ended."""
    process.wait()
    os.write(tell, b".")


if __name__ == "__main__":
    sys.exit(main())
