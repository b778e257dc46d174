"""Keys and their owners as the store's function `load_principals` hands them over.

The function is called in whatever statement suits the caller; this module knows its document::

    {"version": …, "keys": [{"presented": …, "revoke_at": …, "token": …, …}], "users": […],
     "teams": […], "budgets": […]}

Rows are decoded one by one, so that one that no longer fits its type spoils no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from attrs import frozen

from shared.db.rows import Queryable
from shared.domain.keys import Budget, Team, User, VirtualKey

LOAD_PRINCIPALS = "select load_principals($1::text[])"

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

    `version` is the feed version of the snapshot. `unreadable` holds presented tokens whose row
    or whose owner's row could not be decoded.
    """

    version: int
    keys: tuple[LoadedKey, ...] = ()
    users: Mapping[str, User] = {}
    teams: Mapping[str, Team] = {}
    budgets: Mapping[str, Budget] = {}
    unreadable: frozenset[str] = frozenset()


@frozen
class _Document:
    version: int
    keys: tuple[msgspec.Raw, ...] = ()
    users: tuple[msgspec.Raw, ...] = ()
    teams: tuple[msgspec.Raw, ...] = ()
    budgets: tuple[msgspec.Raw, ...] = ()


@frozen
class _KeyHead:
    presented: str
    revoke_at: datetime | None = None
    user_id: str | None = None
    team_id: str | None = None
    budget_id: str | None = None


@frozen
class _OwnerHead:
    user_id: str = ""
    team_id: str = ""
    budget_id: str = ""


async def load_principals(link: Queryable, tokens: Sequence[str]) -> bytes:
    """The document for some tokens, for callers that have no larger statement to put it into."""
    data: bytes = await link.fetchval(LOAD_PRINCIPALS, list(tokens))
    return data


def decode_principals(data: bytes) -> LoadedPrincipals:
    """The document of `load_principals` as domain values."""
    document = msgspec.json.decode(data, type=_Document)
    users, bad_users = _owners(document.users, User, lambda head: head.user_id)
    teams, bad_teams = _owners(document.teams, Team, lambda head: head.team_id)
    budgets, bad_budgets = _owners(document.budgets, Budget, lambda head: head.budget_id)
    keys: list[LoadedKey] = []
    unreadable: set[str] = set()
    for raw in document.keys:
        head = msgspec.json.decode(raw, type=_KeyHead)
        key = _decoded(raw, VirtualKey)
        owners_unreadable = (
            head.user_id in bad_users or head.team_id in bad_teams or head.budget_id in bad_budgets
        )
        if key is None or owners_unreadable:
            unreadable.add(head.presented)
        else:
            keys.append(LoadedKey(head.presented, key, head.revoke_at))
    return LoadedPrincipals(
        document.version, tuple(keys), users, teams, budgets, frozenset(unreadable)
    )


def _owners(
    rows: tuple[msgspec.Raw, ...], kind: type[_T], id_of: Callable[[_OwnerHead], str]
) -> tuple[dict[str, _T], set[str]]:
    found: dict[str, _T] = {}
    unreadable: set[str] = set()
    for raw in rows:
        owner_id = id_of(msgspec.json.decode(raw, type=_OwnerHead))
        value = _decoded(raw, kind)
        if value is None:
            unreadable.add(owner_id)
        else:
            found[owner_id] = value
    return found, unreadable


def _decoded(raw: msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
