"""The admin's whole application in this process, as its binary builds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from services.admin.app import build_app
from shared.config.secret import Secret
from shared.config.startup import read_configuration
from shared.domain.capabilities import Binary
from shared.gateway.build import Start, open_runtime

MASTER = "sk-master-of-this-test-0123456789"


@asynccontextmanager
async def admin_app(
    database: str, state_dir: Path, **environ: str
) -> AsyncIterator[web.Application]:
    """An admin that is not listening yet. Environment variables win over the common ones."""
    common = {
        "DATABASE_URL": database,
        "LITELLM_MASTER_KEY": MASTER,
        "MERIDIAN_ENV": "test",
        "MERIDIAN_STATE_DIR": str(state_dir),
    }
    configuration = read_configuration(common | environ, Binary.ADMIN)
    start = Start(
        Binary.ADMIN,
        configuration.settings,
        configuration.gateway,
        Secret(MASTER),
        database,
        database,
    )
    async with open_runtime(start) as runtime:
        yield build_app(runtime, start)
