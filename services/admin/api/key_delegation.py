"""How far callers that are no proxy admins may go with a key (management contract §4.7).

No key gets more than its owner has: a team's no more than the team, a user's no more than the
user. What only proxy admins may say stays as it is, also inside of `metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import evolve

from services.admin.api.auth import Caller
from services.admin.api.key_access import (
    ASSIGN_GROUPS,
    BLOCK,
    GENERATE,
    GENERATE_ACCOUNT,
    SERVICE_ACCOUNT,
    UNBLOCK,
    KeyAccess,
    KeyAction,
    is_service_account,
    owns,
)
from services.admin.api.key_plan import KeyPlan, check_routes
from services.admin.api.key_policy import KeyRules, MakerRule
from services.admin.api.row_size import check_size
from shared.db.key_owners import Means, find_means_of_user, hold_owners, is_member
from shared.db.projects import PROJECTS
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied
from shared.keys.amounts import money
from shared.routing.access import ALL_TEAM_MODELS, granted

Row = Mapping[str, Any]

_ADMIN_COLUMNS = (
    "permissions",
    "budget_id",
    "end_user_budget_id",
    "throttle_on_budget_exceeded",
)
ADMIN_METADATA = (
    "allowed_passthrough_routes",
    "denied_passthrough_routes",
    "disable_global_guardrails",
    "allow_client_mock_response",
)
_TEMPORARY = "temp_budget_increase"
_ACCOUNT = "service account"
# No limit, and no list of models: all of them.
_OPEN: tuple[Any, ...] = (None, (), [])
_LIMITS = ("max_budget", "rpm_limit", "tpm_limit", "tpd_limit", "max_parallel_requests")
_OWN_PERIODS = ("budget_duration", "budget_limits", "model_max_budget")


async def check_plan(
    connection: Connection, access: KeyAccess, plan: KeyPlan, action: KeyAction, rules: KeyRules
) -> None:
    """Raises unless the caller may make of the key what it plans: 403 for what is not the
    caller's to say, 400 for more than the owner has or the operator lets keys have."""
    if access.caller.is_admin:
        return
    if not plan.new:
        access.require(plan.before, action)
    check_size(access.caller, plan.after, plan.before)
    await _check_owners(connection, access, plan, action)
    await _check_project(connection, access, plan)
    _check_reserved(access, plan, action)
    check_routes(access.caller, plan, action)
    if plan.new and action is not GENERATE_ACCOUNT and SERVICE_ACCOUNT in plan.after["metadata"]:
        raise _reserved(f"metadata.{SERVICE_ACCOUNT}")
    # The caps hold for single values already, but not for what is added to one for a time.
    operator = Means("operator", {name: rules.caps.get(name) for name in _LIMITS})
    for means in [operator, *await _means(connection, access, plan.after)]:
        _check_means(plan, means)
    if is_service_account(access.caller):
        _check_account(access.caller, plan)


def check_maker(access: KeyAccess, sent: Row, row: Row, rules: KeyRules) -> None:
    """Raises `InvalidRequest` for keys that the operator lets others make, or only with more."""
    caller = access.caller
    if caller.is_admin:
        return
    if row["team_id"] is None:
        _check_rule(rules.personal_keys, str(caller.role), sent)
    else:
        _check_rule(rules.team_keys, "admin" if access.manages(row) else "user", sent)


def _check_rule(rule: MakerRule, role: str, sent: Row) -> None:
    if rule.roles is not None and role not in rule.roles:
        listed = ", ".join(sorted(rule.roles))
        raise InvalidRequest(f"Only the roles {listed} may make such keys, and not {role}")
    for name in rule.required:
        if sent.get(name) is None:
            raise InvalidRequest(f"{name} is required for such keys here", param=name)


async def _check_owners(
    connection: Connection, access: KeyAccess, plan: KeyPlan, action: KeyAction
) -> None:
    """A key may be made for, or given to, whom the caller may act for."""
    after, caller = plan.after, access.caller
    team_id, user_id = after["team_id"], after["user_id"]
    if plan.new or plan.changes("team_id"):
        if team_id is not None:
            if team_id not in access.teams:
                raise InvalidRequest("team_id names no team", param="team_id")
            access.require({**after, "token": None}, action if plan.new else GENERATE)
        elif not (access.is_user and owns(caller, after)):
            raise PermissionDenied("Only a team's admins make keys for others", param="team_id")
    if plan.changes("organization_id"):
        team = access.teams.get(team_id)
        own = after["organization_id"] in caller.organizations if plan.new else False
        of_team = team is not None and team.organization_id == after["organization_id"]
        if not (own or of_team or access.manages(plan.before)):
            raise PermissionDenied(
                "This organization is not the caller's to give keys to", param="organization_id"
            )
    if (plan.new or plan.changes("user_id")) and user_id != caller.user_id:
        await _check_given(connection, access, plan)
    if plan.new or plan.changes("team_id") or plan.changes("user_id"):
        await _hold(connection, access, after)


async def _hold(connection: Connection, access: KeyAccess, after: Row) -> None:
    """Keeps the key's owners from going while it is made, so that none outlives them; who has gone
    meanwhile gives nobody a key."""
    team_id, user_id = after["team_id"], after["user_id"]
    team_there, user_there = await hold_owners(connection, team_id, user_id)
    if not team_there:
        raise InvalidRequest("team_id names no team", param="team_id")
    if not user_there and user_id == access.caller.user_id:
        raise PermissionDenied("There is no such user any more", param="user_id")
    if team_id is None or user_id is None or await is_member(connection, team_id, user_id):
        return
    if user_id == access.caller.user_id and team_id in access.caller.teams:
        raise PermissionDenied("The caller is not in the team any more", param="team_id")


async def _check_given(connection: Connection, access: KeyAccess, plan: KeyPlan) -> None:
    """A key of nobody's, or of another user's: only a team's, and of a member of it."""
    after, user_id = plan.after, plan.after["user_id"]
    account = user_id is None and SERVICE_ACCOUNT in after["metadata"]
    if account and plan.new:
        return
    if not access.manages(after):
        raise PermissionDenied("A user may make keys only for itself", param="user_id")
    team_id = after["team_id"]
    if user_id is not None and (
        team_id is None or not await is_member(connection, team_id, user_id)
    ):
        raise PermissionDenied("user_id is not in the key's team", param="user_id")


async def _check_project(connection: Connection, access: KeyAccess, plan: KeyPlan) -> None:
    """A key spends for a project of its team, and leaves one if its members have no say in it."""
    moved = plan.changes("project_id") or plan.changes("team_id")
    if not moved:
        return
    if plan.before["project_id"] and plan.changes("project_id") and not access.manages(plan.before):
        raise PermissionDenied("Only a team's admins move its keys", param="project_id")
    project_id, team_id = plan.after["project_id"], plan.after["team_id"]
    if project_id:
        project = await PROJECTS.find(connection, project_id)
        if project is None or team_id is None or project["team_id"] != team_id:
            raise PermissionDenied("The key's team has no such project", param="project_id")


def _check_reserved(access: KeyAccess, plan: KeyPlan, action: KeyAction) -> None:
    before, after = plan.before, plan.after
    for name in _ADMIN_COLUMNS:
        if plan.changes(name):
            raise _reserved(name)
    for name in ADMIN_METADATA:
        if (before["metadata"].get(name) or None) != (after["metadata"].get(name) or None):
            raise _reserved(name)
    if plan.new:
        manages = access.manages(after)
    else:
        manages = access.manages(before)
        asked = action in (BLOCK, UNBLOCK)
        if plan.changes("blocked") and not asked and not access.may(before, BLOCK):
            raise PermissionDenied("The owner of a key cannot block or unblock it", param="blocked")
    if plan.changes("access_group_ids"):
        if not manages and not access.may(after, ASSIGN_GROUPS):
            raise PermissionDenied(
                "The team does not permit its members to choose access groups",
                param="access_group_ids",
            )
        team = access.teams.get(after["team_id"])
        if team is None or not team.access_groups.issuperset(after["access_group_ids"]):
            raise PermissionDenied(
                "A key may only have access groups of its team", param="access_group_ids"
            )


async def _means(connection: Connection, access: KeyAccess, after: Row) -> list[Means]:
    """What bounds a key: what its owners have, and for a service account's keys its own."""
    caller = access.caller
    bounds: list[Means] = []
    team = access.teams.get(after["team_id"])
    if team is not None:
        bounds.append(team.means)
    if after["user_id"] is not None and not (team is not None and access.manages(after)):
        user = await find_means_of_user(connection, after["user_id"])
        if user is not None:
            # A user's own list of models is not for a team's keys (contract §4.4).
            bounds.append(user if team is None else evolve(user, models=()))
    if is_service_account(caller):
        key = caller.principal.key
        limits = {name: getattr(key, name, None) for name in _LIMITS}
        bounds.append(Means(_ACCOUNT, limits, key.models))
    return bounds


def _check_account(caller: Caller, plan: KeyPlan) -> None:
    """Nobody else counts what a service account's keys spend: so what limits it must limit them,
    and it changes nothing else that limits itself."""
    key, before, after = caller.principal.key, plan.before, plan.after
    bounds = {name: getattr(key, name, None) for name in (*_LIMITS, "expires", "models")}
    for name, most in bounds.items():
        is_open = most not in _OPEN and after[name] in _OPEN
        if is_open and (plan.new or before[name] not in _OPEN):
            raise InvalidRequest(f"{name} must be set: the {_ACCOUNT} has one", param=name)
    expires = after["expires"]
    if key.expires and expires and expires != before["expires"] and expires > key.expires:
        raise InvalidRequest(f"duration is above what the {_ACCOUNT} has", param="duration")
    if not plan.new and before["token"] == key.token:
        for name in _OWN_PERIODS:
            if plan.changes(name):
                raise PermissionDenied(f"A {_ACCOUNT} cannot change its {name}", param=name)


def _check_means(plan: KeyPlan, means: Means) -> None:
    after = plan.after
    for name, most in means.limits.items():
        if most is not None and plan.changes(name) and after[name] and after[name] > most:
            raise _above(name, means)
    most = means.limits["max_budget"]
    if most is not None:
        _check_further_budgets(plan, Decimal(most), means)
    if plan.changes("models") and means.models:
        for model in after["models"]:
            of_team = model == ALL_TEAM_MODELS and means.owner == "team"
            if not of_team and not granted(means.models, model, None):
                raise InvalidRequest(
                    f"models: {model!r} is not among those of the key's {means.owner}",
                    param="models",
                )
    for name, wanted in (plan.permission or {}).items():
        has = means.permission.get(name)
        if isinstance(wanted, list) and has and not set(wanted) <= set(has):
            raise PermissionDenied(
                f"object_permission.{name} holds more than the key's {means.owner} has",
                param=f"object_permission.{name}",
            )


def _check_further_budgets(plan: KeyPlan, most: Decimal, means: Means) -> None:
    after = plan.after
    extra = money(after["metadata"].get(_TEMPORARY))
    is_new = extra != money(plan.before["metadata"].get(_TEMPORARY))
    if extra and is_new and extra + (after["max_budget"] or 0) > most:
        raise _above(_TEMPORARY, means)
    limits = after["budget_limits"] or () if plan.changes("budget_limits") else ()
    if any(limit["max_budget"] > most for limit in limits):
        raise _above("budget_limits", means)


def _above(name: str, means: Means) -> InvalidRequest:
    return InvalidRequest(f"{name} is above what the key's {means.owner} allows", param=name)


def _reserved(name: str) -> PermissionDenied:
    return PermissionDenied(f"Only a proxy admin may set {name}", param=name)
