"""`meridian-worker`: parse, load, run."""

from __future__ import annotations

import sys

from services.worker.app import build_app
from shared.domain.capabilities import Binary
from shared.gateway.service import main as run_service


def main() -> int:
    """Run a worker; the exit code."""
    return run_service(Binary.WORKER, build_app)


if __name__ == "__main__":
    sys.exit(main())
