"""The models of one team in the team's own list of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.admin.api.calls import AdminCall
from shared.db.audit import Action
from shared.db.models import count_team_models, load_stored, lock_team_models, set_team_models
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, PermissionDenied
from shared.routing.access import (
    ALL,
    ALL_PROXY_MODELS,
    NO_DEFAULT_MODELS,
    SPECIAL_NAMES,
    granted,
)

_TABLE = "LiteLLM_TeamTable"


async def joined_team(call: AdminCall, connection: Connection, team_id: str, name: str) -> None:
    """Adds a name to a team's list. Raises `InvalidRequest` if there is no such team, and
    `PermissionDenied` for a name that gives more than the caller may."""
    models = await lock_team_models(connection, team_id)
    if models is None:
        raise InvalidRequest("model_info.team_id names no team", param="model_info.team_id")
    if name not in models:
        if models and not call.caller.is_admin:
            await _check_name(call, connection, models, name)
        # An empty list gives every model; so does this one, which has the new name as well.
        await _set(call, connection, team_id, models, [*(models or [ALL_PROXY_MODELS]), name])


async def left_team(call: AdminCall, connection: Connection, info: Mapping[str, Any]) -> None:
    """Takes the name of a model that has gone from its team's list, if no other bears it."""
    team_id, name = info.get("team_id"), info.get("team_public_model_name")
    if team_id is None or name is None or await count_team_models(connection, team_id, name):
        return
    models = await lock_team_models(connection, team_id)
    if models is not None and name in models:
        left = [each for each in models if each != name]
        # An empty list would give every model.
        await _set(call, connection, team_id, models, left or [NO_DEFAULT_MODELS])


async def renamed_in_team(
    call: AdminCall, connection: Connection, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Changes the name in the team's list where a team's model has another name now."""
    name = after.get("team_public_model_name")
    if before.get("team_id") is None or name == before.get("team_public_model_name"):
        return
    await joined_team(call, connection, before["team_id"], str(name))
    await left_team(call, connection, before)


async def _check_name(
    call: AdminCall, connection: Connection, models: list[str], name: str
) -> None:
    """Raises `PermissionDenied` for a name that would give the team more than its own model."""
    catalog = call.services.models.make(await load_stored(connection)).catalog
    group = catalog.resolve(name)
    special = ALL in name or name in SPECIAL_NAMES or name in catalog.access_groups
    if (special or group is not None) and not granted(tuple(models), name, group):
        raise PermissionDenied(
            "model_name stands for models that the team does not have", param="model_name"
        )


async def _set(
    call: AdminCall, connection: Connection, team_id: str, before: list[str], after: list[str]
) -> None:
    await set_team_models(connection, team_id, after, call.caller.actor)
    await call.note(
        connection,
        Action.UPDATED,
        _TABLE,
        team_id,
        before={"models": before},
        after={"models": after},
    )
