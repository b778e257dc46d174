"""Starts the local PostgreSQL in a process of its own, as another user if asked to.

    python launch.py STATE_DIR [UID [GID]]

Prints one JSON object: what `ensure_local_postgres` answered, or the message of its refusal. All
is imported before privileges are dropped, so that the other user need not be able to read the
interpreter's folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from shared.db.local import ensure_local_postgres
from shared.domain.errors import ConfigError


def main(state_dir: str, *ids: str) -> None:
    """Drops to the user, then starts or joins."""
    if ids:
        uid, gid = int(ids[0]), int(ids[-1])
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    try:
        local = ensure_local_postgres(os.environ, Path(state_dir))
    except ConfigError as error:
        sys.stdout.write(json.dumps({"error": str(error)}))
        return
    answer = {
        "dsn": local.dsn,
        "started": local.started,
        "major": local.major,
        "data_dir": str(local.data_dir),
        "bin_dir": str(local.bin_dir),
    }
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
