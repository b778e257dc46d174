"""An admin's model catalog for tests in one process: a configuration file and a key for secrets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from services.admin.api.model_catalog import ModelCatalog
from shared.config.config_file import load
from shared.config.secret import Secret
from shared.routing.whole import Wholes
from shared.secrets.sealing import Sealer
from tests.support.admin_api import Admin

SALT = "sk-salt-of-this-test"
SECRET = "sk-provider-secret-0123456789"
FILE: Mapping[str, Any] = MappingProxyType(
    {
        "model_list": [
            {
                "model_name": "from-file",
                "litellm_params": {"model": "openai/x", "api_base": "http://h/v1", "rpm": 7},
                "model_info": {"id": "file-1", "access_groups": ["beta"]},
            },
            {
                "model_name": "wild/*",
                "litellm_params": {"model": "openai/*", "api_base": "http://h/v1"},
                "model_info": {"id": "file-2"},
            },
        ],
        "credential_list": [
            {
                "credential_name": "of-file",
                "credential_values": {"api_key": SECRET, "api_base": "http://c/v1"},
            }
        ],
        "router_settings": {"model_group_alias": {"alias": "from-file"}},
    }
)


def catalog_of(
    folder: Path,
    *,
    environ: Mapping[str, str] = MappingProxyType({}),
    salt: str = SALT,
    stored: bool = True,
    file: Mapping[str, Any] = FILE,
) -> ModelCatalog:
    """What model routes work with."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(file)))
    wholes = Wholes(load(path, environ), lambda *_: None, cache(lambda: Sealer(Secret(salt))))
    return ModelCatalog(wholes, stored=stored)


def body(name: str = "m", *, model_id: str | None = None, **params: Any) -> dict[str, Any]:
    """A body of /model/new."""
    given = {"model": "openai/gpt", "api_base": "http://h/v1", "api_key": SECRET, **params}
    found: dict[str, Any] = {"model_name": name, "litellm_params": given}
    if model_id is not None:
        found["model_info"] = {"id": model_id}
    return found


async def make(admin: Admin, name: str = "m", **more: Any) -> dict[str, Any]:
    """A model that was made."""
    status, made = await admin.call("POST", "/model/new", body(name, **more))
    assert status == 200, made
    return dict(made)


async def stored_secrets(admin: Admin) -> str:
    """All text of the tables that hold models and what was said of them."""
    rows = []
    for table in ("model", "credential", "audit_log"):
        rows += await admin.sql(f"select t::text as row from {table} t")
    return "\n".join(row["row"] for row in rows)
