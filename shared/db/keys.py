"""Keys and their owners as the store's function `load_principals` hands them over.

The function is called in whatever statement suits the caller; this module knows its document::

    {"version": …, "keys": [{"presented": …, "revoke_at": …, "token": …, …}], "users": […],
     "teams": […], "members": […], "organizations": […], "organization_members": […],
     "projects": […], "access_groups": […], "budgets": […]}

Rows are decoded one by one, so that one that no longer fits its type spoils no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from attrs import field, frozen

from shared.db.rows import Queryable
from shared.domain.keys import (
    AccessGroup,
    Budget,
    Member,
    Organization,
    OrganizationMember,
    OwnerKind,
    Owners,
    Project,
    Team,
    User,
    VirtualKey,
    membership,
    owners_of,
)

LOAD_PRINCIPALS = "select load_principals($1::text[])"
_LOAD_STAND_INS = "select load_principals('{}', $1::jsonb)"

_T = TypeVar("_T")


@frozen
class LoadedKey:
    """A key as found under the token presented.

    `presented` differs from `key.token` for the old hash of a rotated key, which is good until
    `revoke_at` (aware UTC).
    """

    presented: str
    key: VirtualKey
    revoke_at: datetime | None = None


@frozen
class LoadedPrincipals:
    """What was found. Absent keys do not exist; absent owners do not exist either.

    `version` is the feed version of the snapshot. `owners` holds the rows of each kind by id.
    `unreadable` holds presented tokens whose row or whose owner's row could not be decoded.
    """

    version: int
    keys: tuple[LoadedKey, ...] = ()
    owners: Mapping[OwnerKind, Mapping[str, Any]] = field(factory=dict)
    unreadable: frozenset[str] = frozenset()

    def find(self, kind: OwnerKind, owner_id: str) -> Any:
        """An owner, `None` if there is none."""
        return self.owners.get(kind, {}).get(owner_id)

    def owners_of(self, key: VirtualKey) -> Owners:
        """All owners of a key."""
        return owners_of(key, self.find)

    @property
    def users(self) -> Mapping[str, User]:
        """Users by id."""
        return self.owners.get(OwnerKind.USER, {})

    @property
    def teams(self) -> Mapping[str, Team]:
        """Teams by id."""
        return self.owners.get(OwnerKind.TEAM, {})

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """Budgets by id."""
        return self.owners.get(OwnerKind.BUDGET, {})


_Rows = tuple[msgspec.Raw, ...]


@frozen
class _Document:
    version: int
    keys: _Rows = ()
    users: _Rows = ()
    teams: _Rows = ()
    members: _Rows = ()
    organizations: _Rows = ()
    organization_members: _Rows = ()
    projects: _Rows = ()
    access_groups: _Rows = ()
    budgets: _Rows = ()


@frozen
class _KeyHead:
    presented: str
    revoke_at: datetime | None = None


@frozen
class _OwnerHead:
    user_id: str | None = None
    team_id: str | None = None
    organization_id: str | None = None
    project_id: str | None = None
    access_group_id: str | None = None
    budget_id: str | None = None

    def owner_id(self, kind: OwnerKind) -> str:
        """The row's id in the change feed."""
        found = {
            OwnerKind.USER: self.user_id,
            OwnerKind.TEAM: self.team_id,
            OwnerKind.MEMBER: membership(self.team_id, self.user_id),
            OwnerKind.ORGANIZATION: self.organization_id,
            OwnerKind.ORGANIZATION_MEMBER: membership(self.organization_id, self.user_id),
            OwnerKind.PROJECT: self.project_id,
            OwnerKind.ACCESS_GROUP: self.access_group_id,
            OwnerKind.BUDGET: self.budget_id,
        }[kind]
        assert found is not None, "ids are not null"
        return found


# Where the document holds the rows of each kind, and their type.
_MEMBERS: Mapping[OwnerKind, tuple[str, type]] = MappingProxyType(
    {
        OwnerKind.USER: ("users", User),
        OwnerKind.TEAM: ("teams", Team),
        OwnerKind.MEMBER: ("members", Member),
        OwnerKind.ORGANIZATION: ("organizations", Organization),
        OwnerKind.ORGANIZATION_MEMBER: ("organization_members", OrganizationMember),
        OwnerKind.PROJECT: ("projects", Project),
        OwnerKind.ACCESS_GROUP: ("access_groups", AccessGroup),
        OwnerKind.BUDGET: ("budgets", Budget),
    }
)


async def load_principals(link: Queryable, tokens: Sequence[str]) -> bytes:
    """The document for some tokens, for callers that have no larger statement to put it into."""
    data: bytes = await link.fetchval(LOAD_PRINCIPALS, list(tokens))
    return data


async def load_stand_ins(link: Queryable, keys: Sequence[VirtualKey]) -> bytes:
    """The document for keys that are in no table, with their owners as they are stored."""
    data: bytes = await link.fetchval(_LOAD_STAND_INS, msgspec.json.encode(keys))
    return data


def decode_principals(data: bytes) -> LoadedPrincipals:
    """The document of `load_principals` as domain values."""
    document = msgspec.json.decode(data, type=_Document)
    bad: set[tuple[OwnerKind, str]] = set()
    owners: dict[OwnerKind, dict[str, Any]] = {
        kind: _owners(getattr(document, name), kind, row_type, bad)
        for kind, (name, row_type) in _MEMBERS.items()
    }
    keys: list[LoadedKey] = []
    unreadable: set[str] = set()
    for raw in document.keys:
        head = msgspec.json.decode(raw, type=_KeyHead)
        key = _decoded(raw, VirtualKey)
        if key is None or (bad and _refers(key, owners, bad)):
            unreadable.add(head.presented)
        else:
            keys.append(LoadedKey(head.presented, key, head.revoke_at))
    return LoadedPrincipals(document.version, tuple(keys), owners, frozenset(unreadable))


def _owners(
    rows: _Rows, kind: OwnerKind, row_type: type[_T], bad: set[tuple[OwnerKind, str]]
) -> dict[str, _T]:
    """Rows by id; the ids of those that do not fit their type go to `bad`."""
    found: dict[str, _T] = {}
    for raw in rows:
        owner_id = msgspec.json.decode(raw, type=_OwnerHead).owner_id(kind)
        value = _decoded(raw, row_type)
        if value is None:
            bad.add((kind, owner_id))
        else:
            found[owner_id] = value
    return found


def _refers(
    key: VirtualKey,
    owners: Mapping[OwnerKind, Mapping[str, Any]],
    bad: set[tuple[OwnerKind, str]],
) -> bool:
    """Whether one of a key's owners is among the unreadable."""
    asked: set[tuple[OwnerKind, str]] = set()

    def find(kind: OwnerKind, owner_id: str) -> Any:
        asked.add((kind, owner_id))
        return owners[kind].get(owner_id)

    owners_of(key, find)
    return not asked.isdisjoint(bad)


def _decoded(raw: msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
