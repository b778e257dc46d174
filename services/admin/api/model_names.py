"""Names that clients may send as a model: of the configuration file and of stored models."""

from __future__ import annotations

from services.admin.api.calls import AdminCall
from services.admin.api.team_caps import outside
from shared.db.model_access_groups import grouped_models
from shared.db.rows import Connection


async def is_model(call: AdminCall, connection: Connection, name: str) -> bool:
    """Whether a name is that of a model, an alias of one, or fits a wildcard."""
    config = call.services.models.config
    known = {entry.model_name for entry in config.models}
    known |= {*config.router.model_group_alias, *config.litellm.model_alias_map}
    known |= {model.model_name for model in await grouped_models(connection)}
    return bool(known) and not outside([name], known)
