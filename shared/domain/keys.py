"""Virtual keys and who owns them, as the data plane sees them.

The stored form of a key is the hex SHA-256 of the whole plain string (management contract §4.1).
A `Principal` is a key with references to its owners, so that one change invalidates one object.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from shared.domain.limits import ScopeRef

KEY_PREFIX = "sk-"
MASTER_KEY_NAME = "litellm_proxy_master_key"


def hash_key(plain: str) -> str:
    """The stored form of a plain key: 64 hex digits."""
    return hashlib.sha256(plain.encode()).hexdigest()


def masked_name(plain: str) -> str:
    """What may be shown of a plain key: `sk-...` and, for keys of 16 characters up, the last 4."""
    return f"sk-...{plain[-4:]}" if len(plain) >= 16 else "sk-..."


@frozen
class Budget:
    """A row of the budget table. Money in USD; `None` means no limit."""

    budget_id: str
    max_budget: Decimal | None = None
    soft_budget: Decimal | None = None
    budget_duration: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None


@frozen
class Team:
    """The team of a key. `models` is its allow-list (contract §4.4)."""

    team_id: str
    team_alias: str | None = None
    organization_id: str | None = None
    models: tuple[str, ...] = ()
    blocked: bool = False
    metadata: dict[str, Any] = field(factory=dict)


@frozen
class User:
    """The internal user that owns a key."""

    user_id: str
    user_email: str | None = None
    user_role: str | None = None
    models: tuple[str, ...] = ()


@frozen
class VirtualKey:
    """A key's row. `token` is the stored hash; the plain value is nowhere.

    `expires` is aware UTC. Limits count per rate window; budgets are USD. `budget_id` names a
    budget whose values fill the limits that the key itself leaves open.
    """

    token: str
    key_name: str | None = None
    key_alias: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    organization_id: str | None = None
    models: tuple[str, ...] = ()
    aliases: dict[str, str] = field(factory=dict)
    allowed_routes: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(factory=dict)
    expires: datetime | None = None
    blocked: bool = False
    max_budget: Decimal | None = None
    budget_duration: str | None = None
    budget_id: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None


@frozen
class Principal:
    """Who is calling: the key, its owners, and the scopes that must all pass.

    `scopes` are in the contract's level order (§4.3); `master` is the master key, which has no
    limits and whose `key.token` is `MASTER_KEY_NAME`.
    """

    key: VirtualKey
    user: User | None = None
    team: Team | None = None
    scopes: tuple[ScopeRef, ...] = ()
    master: bool = False
