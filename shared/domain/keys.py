"""Virtual keys and who owns them, as the data plane sees them.

The stored form of a key is the hex SHA-256 of the whole plain string (management contract §4.1).
A `Principal` is a key with references to its owners, so that one change invalidates one object.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from attrs import Factory, field, frozen

from shared.domain.limits import ScopeRef

KEY_PREFIX = "sk-"
MASTER_KEY_NAME = "litellm_proxy_master_key"
MASTER_USER_ID = "default_user_id"


def hash_key(plain: str) -> str:
    """The stored form of a plain key: 64 hex digits."""
    return hashlib.sha256(plain.encode()).hexdigest()


def masked_name(plain: str) -> str:
    """What may be shown of a plain key: `sk-...` and, for keys of 16 characters up, the last 4."""
    return f"sk-...{plain[-4:]}" if len(plain) >= 16 else "sk-..."


class OwnerKind(StrEnum):
    """Whatever a key refers to, by the names of the change feed."""

    USER = "user"
    TEAM = "team"
    MEMBER = "team_member"
    ORGANIZATION = "organization"
    ORGANIZATION_MEMBER = "organization_member"
    PROJECT = "project"
    BUDGET = "budget"
    ACCESS_GROUP = "access_group"


def membership(group_id: str | None, user_id: str | None) -> str | None:
    """The id of a membership in the change feed."""
    return None if group_id is None or user_id is None else f"{group_id}\x1f{user_id}"


@frozen
class Budget:
    """A row of the budget table. Money in USD; `None` means no limit.

    `model_max_budget` has the limits of single models, `allowed_models` the list of a team's
    member. The increase holds until `temp_budget_expiry` (aware UTC).
    """

    budget_id: str
    max_budget: Decimal | None = None
    soft_budget: Decimal | None = None
    budget_duration: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    model_max_budget: dict[str, Any] = field(factory=dict)
    allowed_models: tuple[str, ...] = ()
    temp_budget_increase: Decimal | None = None
    temp_budget_expiry: datetime | None = None


@frozen
class Team:
    """The team of a key. `models` is its allow-list (contract §4.4)."""

    team_id: str
    team_alias: str | None = None
    organization_id: str | None = None
    models: tuple[str, ...] = ()
    blocked: bool = False
    metadata: dict[str, Any] = field(factory=dict)
    model_aliases: dict[str, Any] = field(factory=dict)
    max_budget: Decimal | None = None
    budget_duration: str | None = None
    budget_limits: tuple[Any, ...] | None = None
    model_max_budget: dict[str, Any] = field(factory=dict)
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    access_group_ids: tuple[str, ...] = ()
    default_team_member_models: tuple[str, ...] = ()

    @property
    def member_budget_id(self) -> str | None:
        """The budget of members that have none of their own."""
        found = self.metadata.get("team_member_budget_id")
        return found if isinstance(found, str) else None


@frozen
class User:
    """The internal user that owns a key."""

    user_id: str
    user_email: str | None = None
    user_role: str | None = None
    models: tuple[str, ...] = ()
    max_budget: Decimal | None = None
    budget_duration: str | None = None
    budget_limits: tuple[Any, ...] | None = None
    model_max_budget: dict[str, Any] = field(factory=dict)
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None


@frozen
class Member:
    """A user's place in a team."""

    team_id: str
    user_id: str
    budget_id: str | None = None


@frozen
class Organization:
    """The organization of a key or of its team."""

    organization_id: str
    budget_id: str | None = None
    models: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(factory=dict)


@frozen
class OrganizationMember:
    """A user's place in an organization."""

    organization_id: str
    user_id: str
    budget_id: str | None = None


@frozen
class Project:
    """The project of a key."""

    project_id: str
    budget_id: str | None = None
    models: tuple[str, ...] = ()
    blocked: bool = False
    metadata: dict[str, Any] = field(factory=dict)


@frozen
class AccessGroup:
    """A unified access group: models that its keys and teams may use besides their lists."""

    access_group_id: str
    access_model_names: tuple[str, ...] = ()


@frozen
class VirtualKey:
    """A key's row. `token` is the stored hash; the plain value is nowhere.

    `expires` is aware UTC. Limits count per rate window; budgets are USD. `budget_id` names a
    budget whose values fill the limits that the key itself leaves open. `origin` is the first
    token of a key that was rotated.
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
    origin: str | None = None

    @property
    def counter_id(self) -> str:
        """The id of the key's counters and limits, which outlives rotation."""
        return self.origin or self.token

    budget_limits: tuple[Any, ...] | None = None
    model_max_budget: dict[str, Any] = field(factory=dict)
    project_id: str | None = None
    end_user_budget_id: str | None = None
    access_group_ids: tuple[str, ...] = ()


@frozen
class Owners:
    """A key with all that it refers to. What does not exist is `None`.

    `end_user_budget` is for end users without a budget of their own.
    """

    key: VirtualKey
    user: User | None = None
    team: Team | None = None
    budget: Budget | None = None
    member: Member | None = None
    member_budget: Budget | None = None
    organization: Organization | None = None
    organization_budget: Budget | None = None
    organization_member_budget: Budget | None = None
    project: Project | None = None
    project_budget: Budget | None = None
    end_user_budget: Budget | None = None
    access_groups: tuple[AccessGroup, ...] = ()
    team_access_groups: tuple[AccessGroup, ...] = ()

    @property
    def organization_id(self) -> str | None:
        """The key's organization, or its team's."""
        return _organization_id(self.key, self.team)


def _organization_id(key: VirtualKey, team: Team | None) -> str | None:
    if key.organization_id is not None or team is None:
        return key.organization_id
    return team.organization_id


FindOwner = Callable[[OwnerKind, str], Any]
"""Kind and id → the owner, `None` if there is none."""


def owners_of(key: VirtualKey, find: FindOwner) -> Owners:
    """A key's owners, each asked for by its kind and id, those that owners refer to included."""

    def one(kind: OwnerKind, owner_id: str | None) -> Any:
        return None if owner_id is None else find(kind, owner_id)

    def groups(ids: tuple[str, ...]) -> tuple[AccessGroup, ...]:
        found = (find(OwnerKind.ACCESS_GROUP, each) for each in ids)
        return tuple(each for each in found if each is not None)

    def budget(holder: Any) -> Any:
        return None if holder is None else one(OwnerKind.BUDGET, holder.budget_id)

    team: Team | None = one(OwnerKind.TEAM, key.team_id)
    member = one(OwnerKind.MEMBER, membership(key.team_id, key.user_id))
    member_budget = budget(member)
    if member_budget is None and team is not None and key.user_id is not None:
        member_budget = one(OwnerKind.BUDGET, team.member_budget_id)
    organization_id = _organization_id(key, team)
    organization = one(OwnerKind.ORGANIZATION, organization_id)
    place = one(OwnerKind.ORGANIZATION_MEMBER, membership(organization_id, key.user_id))
    project = one(OwnerKind.PROJECT, key.project_id)
    return Owners(
        key=key,
        user=one(OwnerKind.USER, key.user_id),
        team=team,
        budget=one(OwnerKind.BUDGET, key.budget_id),
        member=member,
        member_budget=member_budget,
        organization=organization,
        organization_budget=budget(organization),
        organization_member_budget=budget(place),
        project=project,
        project_budget=budget(project),
        end_user_budget=one(OwnerKind.BUDGET, key.end_user_budget_id),
        access_groups=groups(key.access_group_ids),
        team_access_groups=groups(team.access_group_ids) if team is not None else (),
    )


class SubjectKind(StrEnum):
    """What a call names besides its key, by the names of the change feed."""

    END_USER = "end_user"
    TAG = "tag"
    MODEL_ACCESS_GROUP = "model_access_group"
    BUDGET = "budget"


@frozen(eq=False)
class Subject:
    """An end user, a tag or a model access group with the operator's rules for it; or a budget
    that is the default of others. One object for as long as nothing has changed."""

    kind: SubjectKind
    id: str
    budget: Budget | None = None
    blocked: bool = False
    models: tuple[str, ...] = ()


@frozen
class Principal:
    """Who is calling: the key, its owners, and the scopes that must all pass.

    `scopes` are in the contract's level order (§4.3) and lack what depends on the call, which
    `per_model` and `per_tag` keys have. They hold until `until_s` (epoch). `tags` are those of
    every call, `enforced_params` what its body must have. `master` is the master key, which has
    no limits and whose `key.token` is `MASTER_KEY_NAME`.
    """

    key: VirtualKey
    user: User | None = None
    team: Team | None = None
    scopes: tuple[ScopeRef, ...] = ()
    master: bool = False
    owners: Owners = Factory(lambda self: Owners(self.key, self.user, self.team), takes_self=True)
    per_model: bool = False
    per_tag: bool = False
    tags: tuple[str, ...] = ()
    enforced_params: tuple[str, ...] = ()
    until_s: float = math.inf
