"""Models that the API has made, and everything that a catalog is built of, in one snapshot.

Whoever changes models, credentials or settings calls `lock_models` first: each change is checked
against all that is stored, so they come one after the other. A team is locked after that, never
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from shared.config.stored import Stored, StoredCredential, StoredModel
from shared.db.rows import Connection, Queryable
from shared.db.table import Row, Table

MODELS = Table(
    name="model",
    key=("model_id",),
    json=frozenset({"litellm_params", "model_info"}),
    refusals=MappingProxyType({"model_pkey": ("model_info.id", "is in use by another model")}),
)

MODEL_KINDS = ("model", "credential", "config")
"""The kinds of the change feed that `load_stored` reads."""

_LOCK = "select pg_advisory_xact_lock(hashtextextended('meridian models', 0))"
_STORED = """
select 'model' as kind, model_id as id, model_name as name, litellm_params as members,
    model_info as info, blocked, created_at
from model
union all
select 'credential', credential_id, credential_name, credential_values, credential_info, false,
    created_at
from credential
union all
select 'config', param_name, '', value, 'null', false, updated_at
from config
order by created_at, id
"""
_FIND_MANY = "select * from model where model_id = any($1::text[])"
_TEAM_MODELS = "select models from team where team_id = $1"
_LOCK_TEAM_MODELS = f"{_TEAM_MODELS} for no key update"
_SET_TEAM_MODELS = """
update team set models = $2, updated_at = clock_timestamp(), updated_by = $3 where team_id = $1
"""
_NAMED = """
select count(*) from model
where model_info ->> 'team_id' = $1 and model_info ->> 'team_public_model_name' = $2
"""


async def lock_models(connection: Connection) -> None:
    """Keeps others from changing models, credentials and settings until the transaction ends."""
    await connection.execute(_LOCK)


async def load_stored(link: Queryable) -> Stored:
    """All models and credentials, oldest first, and all settings."""
    models: list[StoredModel] = []
    credentials: list[StoredCredential] = []
    settings: dict[str, bytes] = {}
    for row in await link.fetch(_STORED):
        if row["kind"] == "model":
            models.append(
                StoredModel(
                    model_id=row["id"],
                    model_name=row["name"],
                    litellm_params=row["members"],
                    model_info=row["info"],
                    blocked=row["blocked"],
                )
            )
        elif row["kind"] == "config":
            settings[row["id"]] = row["members"]
        else:
            credentials.append(
                StoredCredential(
                    credential_id=row["id"],
                    credential_name=row["name"],
                    credential_values=row["members"],
                    credential_info=row["info"],
                )
            )
    return Stored(models=tuple(models), credentials=tuple(credentials), settings=settings)


async def find_models(connection: Connection, model_ids: Sequence[str]) -> dict[str, Row]:
    """Rows by id; those that there are not are left out."""
    rows = await connection.fetch(_FIND_MANY, list(model_ids))
    return {row["model_id"]: MODELS.read(row) for row in rows}


async def team_models(connection: Connection, team_id: str) -> list[str] | None:
    """A team's list of models; `None` if there is no such team."""
    row = await connection.fetchrow(_TEAM_MODELS, team_id)
    return None if row is None else list(row["models"])


async def lock_team_models(connection: Connection, team_id: str) -> list[str] | None:
    """A team's list of models, which nobody else changes until the transaction ends; `None` if
    there is no such team."""
    row = await connection.fetchrow(_LOCK_TEAM_MODELS, team_id)
    return None if row is None else list(row["models"])


async def set_team_models(
    connection: Connection, team_id: str, models: Sequence[str], actor: str
) -> None:
    """Makes that the team's list of models."""
    await connection.execute(_SET_TEAM_MODELS, team_id, list(models), actor)


async def count_team_models(connection: Connection, team_id: str, public_name: str) -> int:
    """How many of a team's models bear a public name."""
    return int(await connection.fetchval(_NAMED, team_id, public_name))
