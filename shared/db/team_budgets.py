"""Budgets of team members, which are made with a membership and go with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shared.db.refusing import refusing
from shared.db.rows import Connection

MEMBER_COLUMNS = (
    "max_budget",
    "budget_duration",
    "rpm_limit",
    "tpm_limit",
    "model_max_budget",
    "allowed_models",
    "temp_budget_increase",
    "temp_budget_expiry",
)
"""What limits a member."""

_COLUMNS = ", ".join(MEMBER_COLUMNS)
_INSERT = f"""
insert into budget (budget_id, created_by, updated_by, {_COLUMNS})
select n.id, $3, $3, {", ".join(f"b.{name}" for name in MEMBER_COLUMNS)}
from unnest($1::text[]) as n(id), jsonb_populate_record(null::budget, $2::jsonb) b
"""  # noqa: S608 - only constants of this module
_DELETE = """
delete from budget b where b.budget_id = any($1::text[])
  and not exists (select from team_member l where l.budget_id = b.budget_id)
  and not exists (
      select from virtual_key l
      where l.budget_id = b.budget_id or l.end_user_budget_id = b.budget_id)
  and not exists (select from organization l where l.budget_id = b.budget_id)
  and not exists (select from organization_member l where l.budget_id = b.budget_id)
  and not exists (select from end_user l where l.budget_id = b.budget_id)
  and not exists (select from tag l where l.budget_id = b.budget_id)
  and not exists (select from project l where l.budget_id = b.budget_id)
  and not exists (select from model_access_group l where l.budget_id = b.budget_id)
"""


async def insert_budgets(
    connection: Connection, number: int, columns: Mapping[str, Any], actor: str
) -> list[str]:
    """As many budgets with the same limits (`MEMBER_COLUMNS`, all of them), and their ids."""
    ids = [str(uuid.uuid4()) for _ in range(number)]
    with refusing({}):
        await connection.execute(_INSERT, ids, msgspec.json.encode(columns), actor)
    return ids


async def drop_budgets(connection: Connection, budget_ids: Iterable[str]) -> None:
    """Takes away those of some budgets that nothing links to."""
    wanted = sorted(set(budget_ids))
    if wanted:
        await connection.execute(_DELETE, wanted)
