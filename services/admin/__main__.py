"""`meridian-admin`: parse, load, run."""

from __future__ import annotations

import sys

from services.admin.app import build_app
from shared.domain.capabilities import Binary
from shared.gateway.service import main as run_service


def main() -> int:
    """Run the admin; the exit code."""
    return run_service(Binary.ADMIN, build_app)


if __name__ == "__main__":
    sys.exit(main())
