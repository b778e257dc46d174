"""What a team may be given: no more than its organization has, or the user who sets it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from attrs import asdict

from services.admin.api.auth import Caller
from shared.db.rows import Connection
from shared.db.team_caps import Caps, organization_caps, user_caps
from shared.domain.errors import InvalidRequest

_AMOUNTS = ("max_budget", "tpm_limit", "rpm_limit")
# No limit, and no list of models: all of them.
_OPEN: tuple[Any, ...] = (None, (), [])
_EVERYTHING = frozenset({"*", "all-proxy-models"})
# Words that stand for what another list allows, never for more.
_REFERRING = frozenset({"all-team-models", "all-org-models", "no-default-models"})


async def check_organization(
    connection: Connection, organization_id: str, asked: Mapping[str, Any]
) -> None:
    """Raises `InvalidRequest` for an unknown organization and for what is above its limits."""
    caps = await organization_caps(connection, organization_id, hold=True)
    if caps is None:
        raise InvalidRequest("There is no such organization", param="organization_id")
    _check(caps, asked, "organization")


async def check_user(connection: Connection, caller: Caller, asked: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for what is above the caller's own limits, or takes one away."""
    caps = await _own_caps(connection, caller)
    for name, cap in asdict(caps, recurse=False).items():
        if name in asked and cap not in _OPEN and asked[name] in _OPEN:
            raise InvalidRequest(f"{name} must be set: the user has a limit", param=name)
    _check(caps, asked, "user")


async def user_limits(connection: Connection, caller: Caller) -> dict[str, Any]:
    """The caller's own limits, for what a team of its own leaves open."""
    caps = await _own_caps(connection, caller)
    return {name: cap for name, cap in asdict(caps, recurse=False).items() if cap not in _OPEN}


def outside(asked: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The models of a list that another list does not allow; an empty one allows all."""
    allowed = tuple(allowed)
    if not allowed or _EVERYTHING & {*allowed}:
        return []
    return [
        name
        for name in asked
        if name not in _REFERRING
        and not any(name == entry or _matches(name, entry) for entry in allowed)
    ]


async def _own_caps(connection: Connection, caller: Caller) -> Caps:
    user_id = caller.user_id
    return (None if user_id is None else await user_caps(connection, user_id)) or Caps()


def _check(caps: Caps, asked: Mapping[str, Any], whose: str) -> None:
    for name in _AMOUNTS:
        cap, value = getattr(caps, name), asked.get(name)
        if cap is not None and value is not None and value > cap:
            raise InvalidRequest(f"{name} is above the {whose}'s {cap}", param=name)
    # An alias allows what it leads to.
    targets = (asked.get("model_aliases") or {}).values()
    for name, models in (("models", asked.get("models") or ()), ("model_aliases", targets)):
        beyond = outside(models, caps.models)
        if beyond:
            raise InvalidRequest(f"{name}: the {whose} does not have {beyond[0]!r}", param=name)


def _matches(name: str, entry: str) -> bool:
    # Brackets and question marks are letters in names of models; only * stands for something.
    pattern = entry.replace("[", "[[]").replace("?", "[?]")
    return "*" in entry and "*" not in name and fnmatchcase(name, pattern)
