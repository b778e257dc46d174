"""Changes of stored models: what a request makes of a row."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from services.admin.api.model_fields import refuse_masks
from shared.domain.errors import InvalidRequest
from shared.secrets.members import Members, model_params, paths_of, unmasked
from shared.secrets.sealing import Sealer, is_sealed


def new_model(
    values: Mapping[str, Any], actor: str, sealer: Callable[[], Sealer]
) -> dict[str, Any]:
    """The columns of a new model. One of a team is stored under a name of its own."""
    info = {name: value for name, value in values["model_info"].items() if value is not None}
    model_id = info.get("id") or str(uuid.uuid4())
    name, team_id = values["model_name"], info.get("team_id")
    info.pop("team_public_model_name", None)
    if team_id is not None:
        info["team_public_model_name"] = name
        name = f"model_name_{team_id}_{uuid.uuid4()}"
    return {
        "model_id": model_id,
        "model_name": name,
        "blocked": bool(info.pop("blocked", False)),
        **sealed(model_id, values["litellm_params"], sealer),
        "model_info": {**info, "id": model_id, "db_model": True},
        "created_by": actor,
        "updated_by": actor,
    }


def sealed(
    model_id: str, params: Mapping[str, Any], sealer: Callable[[], Sealer]
) -> dict[str, Any]:
    """The columns that hold the parameters."""
    return sealed_column("litellm_params", model_params(model_id), params, sealer)


def sealed_column(
    column: str, members: Members, values: Mapping[str, Any], sealer: Callable[[], Sealer]
) -> dict[str, Any]:
    """A column with its secrets sealed, and the id of the key that they are sealed under."""
    stored = members.seal(values, sealer)
    has_secret = bool(paths_of(stored, is_sealed, ""))
    return {column: stored, "secret_key_id": sealer().key_id if has_secret else None}


def merged_params(
    stored: Mapping[str, Any], sent: Mapping[str, Any], *, null_removes: bool
) -> dict[str, Any]:
    """Parameters after an update: what was sent over what is stored. A mask stands for the secret
    that it hid; null removes a member or, with the older route, says nothing of it."""
    params = dict(stored)
    for name, value in sent.items():
        if value is not None:
            params[name] = unmasked(value, stored.get(name))
        elif null_removes:
            params.pop(name, None)
    refuse_masks(params, "litellm_params")
    return params


def merged_info(
    stored: Mapping[str, Any], sent: Mapping[str, Any], *, null_removes: bool
) -> dict[str, Any]:
    """`model_info` after an update; its id and its team stay."""
    info = dict(stored)
    for name in ("id", "team_id"):
        given = sent.get(name)
        if given is not None and given != stored.get(name):
            path = f"model_info.{name}"
            raise InvalidRequest(f"{path} of a model cannot be changed", param=path)
    for name, value in sent.items():
        if name in {"id", "team_id", "team_public_model_name", "blocked"}:
            continue
        if value is not None:
            info[name] = value
        elif null_removes:
            info.pop(name, None)
    return info
