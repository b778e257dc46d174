"""Who may do what to a team: the access rows of its routes, and the team that a call names."""

from __future__ import annotations

from services.admin.api.access import Relation, Role, access
from services.admin.api.calls import AdminCall
from shared.db.rows import Connection
from shared.db.table import Row
from shared.db.teams import find_team
from shared.domain.errors import RequestError

TEAM_TABLE = "LiteLLM_TeamTable"
MEMBER_TABLE = "LiteLLM_TeamMembership"
KEY_TABLE = "LiteLLM_VerificationToken"
MODEL_TABLE = "LiteLLM_ProxyModelTable"

# Everybody gets past the gate, and only those whom the team has to do with past the handler.
MANAGED = access(
    Role.INTERNAL_USER, Role.INTERNAL_USER_VIEWER, Relation.TEAM_ADMIN, Relation.ORG_ADMIN
)
# A team's own admin needs a key that names the route (contract §2.4).
ORGANIZED = access(Relation.ORG_ADMIN, named=(Relation.TEAM_ADMIN,))

MANAGEMENT = frozenset({"management_routes"})
SELF_MANAGED = frozenset({"self_managed_routes"})
BOTH = MANAGEMENT | SELF_MANAGED
NO_GROUP: frozenset[str] = frozenset()


async def managed_team(call: AdminCall, connection: Connection, team_id: str) -> Row:
    """A team that the caller may change, locked until the transaction ends."""
    row = await find_team(connection, team_id, lock=True)
    if row is None:
        raise no_team()
    call.require(team_id=team_id, organization_id=row["organization_id"])
    return row


def no_team() -> RequestError:
    """What a team that there is not is answered with."""
    return RequestError(
        "There is no such team", status=404, type="not_found_error", param="team_id"
    )


def above_team(call: AdminCall, row: Row) -> bool:
    """Whether the caller has a say in the team that does not come from being its admin."""
    caller = call.caller
    return caller.is_admin or row["organization_id"] in caller.admin_organizations
