"""Model access groups: names that stored models bear in `model_info.access_groups`, and budgets.

To be changed with the models locked (`models.lock_models`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from attrs import frozen

from shared.db.rows import Connection
from shared.db.table import Table

MODEL_ACCESS_GROUPS = Table(
    name="model_access_group",
    key=("access_group",),
    refusals=MappingProxyType(
        {"model_access_group_budget_id_fkey": ("budget_id", "names no budget")}
    ),
)

_MODELS = """
select model_id, model_name, case
    when jsonb_typeof(model_info -> 'access_groups') = 'array' then model_info -> 'access_groups'
    else '[]' end as access_groups
from model order by created_at, model_id
"""
_SET = """
update model m set
    model_info = m.model_info || jsonb_build_object('access_groups', n.access_groups),
    updated_at = clock_timestamp(), updated_by = $2
from jsonb_to_recordset($1::jsonb) as n(model_id text, access_groups jsonb)
where m.model_id = n.model_id
"""
_NAMES = "select access_group from model_access_group order by access_group"


@frozen
class GroupedModel:
    """A stored model and the groups that it is in."""

    model_id: str
    model_name: str
    groups: tuple[str, ...]


async def grouped_models(connection: Connection) -> list[GroupedModel]:
    """Every stored model, oldest first."""
    return [
        GroupedModel(
            row["model_id"],
            row["model_name"],
            tuple(map(str, msgspec.json.decode(row["access_groups"]))),
        )
        for row in await connection.fetch(_MODELS)
    ]


async def set_groups(
    connection: Connection, groups: Mapping[str, Sequence[str]], actor: str
) -> None:
    """Puts stored models, by id, into exactly these groups."""
    rows = [{"model_id": each, "access_groups": list(names)} for each, names in groups.items()]
    await connection.execute(_SET, msgspec.json.encode(rows), actor)


async def budgeted_groups(connection: Connection) -> list[str]:
    """The groups that have a row of their own, for a budget."""
    return [row["access_group"] for row in await connection.fetch(_NAMES)]
