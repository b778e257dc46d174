"""Who may do what with which key (management contract §3.1, §4.7, §5).

Proxy admins may do everything. Admins of a key's team, and of the organization that the team is
in, may do everything with the team's keys. Other members may do what the team permits: its
permissions are routes. A user may change, delete and rotate keys of its own; what a team's key may
be is the team's to say, so there the permission counts, but for deleting. Everybody else is
refused, and so is a user that may only look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from services.admin.api.access import Role
from services.admin.api.auth import Caller
from shared.db.key_owners import KeyTeam, find_teams
from shared.db.rows import Connection
from shared.domain.errors import AuthenticationFailed, PermissionDenied

SERVICE_ACCOUNT = "service_account_id"
"""The member of `metadata` that makes a team's key a service account."""

_BASELINE = frozenset({"/key/info", "/key/health"})

Row = Mapping[str, Any]


@frozen
class KeyAction:
    """Something done with a key. Any of the `permissions` lets members of its team do it.

    `owners` says whether the owner of a personal key may, `team_owners` whether the owner of a
    team's key may without permission, `accounts` whether service accounts of its team may.
    `reads` is what admin viewers may.
    """

    permissions: frozenset[str]
    owners: bool = False
    team_owners: bool = False
    accounts: bool = False
    reads: bool = False


GENERATE = KeyAction(frozenset({"/key/generate"}), accounts=True)
GENERATE_ACCOUNT = KeyAction(frozenset({"/key/service-account/generate"}))
INFO = KeyAction(frozenset({"/key/info"}), owners=True, team_owners=True, reads=True)
UPDATE = KeyAction(frozenset({"/key/update"}), owners=True, accounts=True)
UPDATE_TEAM = KeyAction(frozenset({"/key/update", "/team/key/bulk_update"}))
DELETE = KeyAction(frozenset({"/key/delete"}), owners=True, team_owners=True)
ROTATE = KeyAction(frozenset({"/key/regenerate", "/key/{key_id}/regenerate"}), owners=True)
BLOCK = KeyAction(frozenset({"/key/block"}))
UNBLOCK = KeyAction(frozenset({"/key/unblock"}))
RESET_SPEND = KeyAction(frozenset({"/key/{key_id}/reset_spend"}))
ASSIGN_GROUPS = KeyAction(frozenset({"/key/access_group_assignment"}))


@frozen
class KeyAccess:
    """What a caller may do with keys of the teams that were looked up."""

    caller: Caller
    teams: Mapping[str, KeyTeam]

    @classmethod
    async def load(cls, connection: Connection, caller: Caller, rows: Iterable[Row]) -> KeyAccess:
        """For some keys, or for what they shall be: their `team_id` counts."""
        if caller.is_admin:
            return cls(caller, {})
        ids = {row["team_id"] for row in rows if row["team_id"] is not None}
        return cls(caller, await find_teams(connection, ids))

    def require(self, row: Row, action: KeyAction) -> None:
        """Raises `PermissionDenied` for a key that is not the caller's, and for what the caller's
        team does not permit its members the reference's 401."""
        if self.may(row, action):
            return
        if self.is_user and row["team_id"] in self.caller.teams:
            listed = " or ".join(sorted(action.permissions))
            raise AuthenticationFailed(
                f"The team '{row['team_id']}' does not permit its members {listed}",
                type="team_member_permission_error",
            )
        raise PermissionDenied("This key is not the caller's to see or to change", param="key")

    def may(self, row: Row, action: KeyAction) -> bool:
        """Whether the caller may do it with a key."""
        caller = self.caller
        if self.manages(row) or (action.reads and caller.sees_all):
            return True
        if action.reads and (row["token"] == caller.token or owns(caller, row)):
            return True
        if self.is_user:
            return self._user_may(row, action)
        return (
            action.accounts
            and is_service_account(caller)
            and row["team_id"] == caller.principal.key.team_id
        )

    def manages(self, row: Row) -> bool:
        """Whether the caller is an admin of the gateway, or of the key's team or organization."""
        caller = self.caller
        if caller.is_admin:
            return True
        team = self.teams.get(row["team_id"])
        organizations = {row["organization_id"], None if team is None else team.organization_id}
        if organizations & caller.admin_organizations:
            return True
        return self.is_user and row["team_id"] in caller.admin_teams

    @property
    def is_user(self) -> bool:
        """Whether the caller is a user that exists and may write."""
        return self.caller.role is Role.INTERNAL_USER and self.caller.principal.user is not None

    def _user_may(self, row: Row, action: KeyAction) -> bool:
        team = self.teams.get(row["team_id"])
        permitted = (
            team is not None
            and team.team_id in self.caller.teams
            and bool(action.permissions & (team.permissions | _BASELINE))
        )
        owner_may = action.owners if team is None else action.team_owners
        return permitted or (owner_may and owns(self.caller, row))


def owns(caller: Caller, row: Row) -> bool:
    """Whether a key is one of the caller's user."""
    return row["user_id"] is not None and row["user_id"] == caller.user_id


def is_service_account(caller: Caller) -> bool:
    """Whether the caller is a team's key that belongs to nobody, made for a service."""
    key = caller.principal.key
    return key.user_id is None and key.team_id is not None and SERVICE_ACCOUNT in key.metadata
