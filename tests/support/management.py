"""Callers and looks that tests of the management API's resources have in common."""

from __future__ import annotations

import json
from typing import Any

from services.admin.api.model_catalog import ModelCatalog
from shared.config.gateway_config import GatewayConfig
from shared.domain.errors import ConfigError
from shared.routing.whole import Wholes
from shared.secrets.sealing import Sealer
from tests.support.admin_api import Admin, Answer


def catalog_of(file: GatewayConfig) -> ModelCatalog:
    """What an admin knows of the models of a configuration file."""

    def no_key() -> Sealer:
        raise ConfigError("There is no key in this test")

    return ModelCatalog(Wholes(file, lambda *_: None, no_key))


def detail_of(answer: Answer, status: int) -> str:
    """The text of an error in the shape `{"detail": {"error": …}}`."""
    assert answer[0] == status, answer
    assert list(answer[1]) == ["detail"]
    assert list(answer[1]["detail"]) == ["error"]
    return str(answer[1]["detail"]["error"])


def plain_detail_of(answer: Answer, status: int) -> str:
    """The text of an error in the shape `{"detail": "…"}`."""
    assert answer[0] == status, answer
    assert list(answer[1]) == ["detail"]
    assert isinstance(answer[1]["detail"], str)
    return answer[1]["detail"]


async def user_key(
    admin: Admin,
    role: str,
    user_id: str | None = None,
    *,
    organization: str | None = None,
    org_role: str = "org_admin",
    team: str | None = None,
    team_role: str = "admin",
) -> str:
    """The key of a new user with a role, who is in an organization or a team if one is named."""
    user_id = user_id or role
    await admin.sql(
        "insert into app_user (user_id, user_role) values ($1, $2) on conflict do nothing",
        user_id,
        role,
    )
    if organization is not None:
        await admin.sql(
            "insert into organization_member (organization_id, user_id, user_role) "
            "values ($1, $2, $3)",
            organization,
            user_id,
            org_role,
        )
    if team is not None:
        await admin.sql(
            "insert into team_member (team_id, user_id, role) values ($1, $2, $3)",
            team,
            user_id,
            team_role,
        )
    return str((await admin.generate(user_id=user_id))["key"])


async def spent(admin: Admin, kind: str, owner: str, spend: float) -> None:
    """Makes an owner's lifetime counter say that much."""
    await admin.sql(
        "insert into spend_counter (kind, id, spend) values ($1, $2, $3::float8::numeric)",
        kind,
        owner,
        spend,
    )


async def audit_of(admin: Admin, table: str) -> list[dict[str, Any]]:
    """The entries of the audit log about a table, oldest first, JSON decoded."""
    rows = await admin.sql(
        "select action, object_id, before_value, updated_values from audit_log "
        "where table_name = $1 order by seq",
        table,
    )
    decoded = ("before_value", "updated_values")
    return [
        {
            name: json.loads(value) if name in decoded and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]


async def fed(admin: Admin, kind: str) -> list[list[str]]:
    """The ids of the change feed's rows of a kind, in order."""
    rows = await admin.sql("select ids from change_feed where kind = $1 order by seq", kind)
    return [row["ids"] for row in rows]
