"""What an organization or a user may use at most, which caps the teams below it."""

from __future__ import annotations

from decimal import Decimal

from attrs import frozen

from shared.db.rows import Connection

_ORGANIZATION = """
select o.models, b.max_budget, b.tpm_limit, b.rpm_limit
from organization o left join budget b on b.budget_id = o.budget_id
where o.organization_id = $1
"""
# Whoever takes the organization away waits for its new team, and then finds it.
_HOLD = " for key share of o"
_USER = "select models, max_budget, tpm_limit, rpm_limit from app_user where user_id = $1"


@frozen
class Caps:
    """Upper bounds; `None` is none, and no models are all of them. Money is USD."""

    models: tuple[str, ...] = ()
    max_budget: Decimal | None = None
    tpm_limit: int | None = None
    rpm_limit: int | None = None


async def organization_caps(
    connection: Connection, organization_id: str, *, hold: bool = False
) -> Caps | None:
    """The caps of an organization, `None` if there is no such; `hold` keeps it there until the
    transaction ends."""
    return await _caps(connection, _ORGANIZATION + _HOLD * hold, organization_id)


async def user_caps(connection: Connection, user_id: str) -> Caps | None:
    """The caps of a user, `None` if there is no such."""
    return await _caps(connection, _USER, user_id)


async def _caps(connection: Connection, query: str, owner: str) -> Caps | None:
    row = await connection.fetchrow(query, owner)
    if row is None:
        return None
    return Caps(tuple(row["models"]), row["max_budget"], row["tpm_limit"], row["rpm_limit"])
