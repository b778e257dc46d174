"""The fields of a project in request bodies, as tables."""

from __future__ import annotations

from services.admin.api.body import Field, Place
from services.admin.api.common_fields import object_permission, texts
from services.admin.api.linked_budgets import LINK_FIELDS
from services.admin.api.prose import prose
from services.admin.api.team_fields import identifier, models, needed
from services.admin.api.values import count, document, flag, mapping, text

_OWN = (
    Field("project_alias", text),
    Field("description", prose),
    Field("models", models, empty=()),
    Field("metadata", document, empty={}),
    Field("blocked", flag, empty=False),
    *(
        Field(name, mapping(count()), Place.METADATA)
        for name in ("model_rpm_limit", "model_tpm_limit")
    ),
    *(Field(name, texts, Place.METADATA) for name in ("tags", "guardrails", "policies")),
    Field("object_permission", object_permission, Place.CONTROL),
    *LINK_FIELDS,
)
NEW_FIELDS = (
    Field("team_id", needed, required=True),
    Field("project_id", identifier, Place.CONTROL),
    *_OWN,
)
UPDATE_FIELDS = (
    Field("project_id", needed, Place.CONTROL, required=True),
    Field("team_id", needed),
    *_OWN,
)
DELETE_FIELDS = (Field("project_ids", texts, Place.CONTROL, required=True),)

SHOWN_METADATA = ("model_rpm_limit", "model_tpm_limit")

# What null does not empty: a project stays in its team, and a block is lifted by saying so.
KEPT = frozenset({"team_id", "blocked"})
