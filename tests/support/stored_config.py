"""An admin whose models and settings are live in one process, as they are in the real one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import yaml

from services.admin.api.key_policy import KeyRules
from services.admin.api.model_catalog import ModelCatalog
from services.admin.api.rule_book import RuleBook
from shared.config.config_file import load
from shared.config.secret import Secret
from shared.config.stored import Stored
from shared.db.models import load_stored
from shared.db.rows import prepare
from shared.domain.clock import Clock
from shared.gateway.live_models import LiveModels
from shared.routing.whole import Wholes
from shared.secrets.sealing import Sealer
from tests.support.admin_api import Admin, StartAdmin

SALT = "sk-salt-of-this-test"
FILE: Mapping[str, Any] = MappingProxyType(
    {
        "model_list": [
            {
                "model_name": "from-file",
                "litellm_params": {"model": "openai/x", "api_base": "http://h/v1"},
            }
        ],
        "general_settings": {
            "enforced_params": ["user"],
            "master_key": "sk-master-key-in-the-file-1234",
        },
        "litellm_settings": {"num_retries": 3},
        "router_settings": {"timeout": 30},
        "environment_variables": {"OF_FILE": "sk-of-the-file-123456"},
    }
)


async def config_admin(
    start: StartAdmin,
    database: str,
    folder: Path,
    *,
    file: Mapping[str, Any] = FILE,
    environ: Mapping[str, str] = MappingProxyType({}),
    stored: bool = True,
) -> tuple[Admin, LiveModels]:
    """An admin over a configuration file, and what is in force in it."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(file)))
    wholes = Wholes(load(path, environ), lambda *_: None, cache(lambda: Sealer(Secret(SALT))))

    async def read() -> Stored:
        connection = await asyncpg.connect(database)
        try:
            await prepare(connection)
            return await load_stored(connection)
        finally:
            await connection.close()

    live = LiveModels(wholes, Clock(), read)
    await live.take_over()
    book = RuleBook.of(KeyRules(), live.config)
    live.on_config(book.prepare)
    admin = await start(models=ModelCatalog(wholes, live, stored=stored), book=book)
    return admin, live
