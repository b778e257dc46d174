"""The fields of a customer in request bodies (management contract §3.5), as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.common_fields import object_permission, texts
from services.admin.api.linked_budgets import BUDGET_FIELDS, BUDGET_ID
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.values import choice, flag, money, text

_OWN = (
    Field("alias", text),
    Field("blocked", flag, empty=False),
    Field("default_model", text),
    Field("allowed_model_region", choice("eu", "us")),
    Field("models", texts, empty=()),
    Field("object_permission", object_permission, Place.CONTROL),
)
_USER_ID = Field("user_id", text, Place.CONTROL, required=True)
_MAX_BUDGET = tuple(field for field in BUDGET_FIELDS if field.name == "max_budget")

NEW_FIELDS = (_USER_ID, *_OWN, Field("spend", money, Place.CONTROL), BUDGET_ID, *BUDGET_FIELDS)
UPDATE_FIELDS = (_USER_ID, *_OWN, BUDGET_ID, *_MAX_BUDGET)
IDS_FIELDS = (Field("user_ids", texts, required=True),)

# Of these a sent false or empty value says something; of the others it says nothing.
_ALWAYS = frozenset({"blocked", "models"})


def read_new(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sent fields of a new customer; null is as good as not sent."""
    values = read_fields(body, NEW_FIELDS)
    if values.get("max_budget") is not None and values.get("budget_id") is not None:
        message = "max_budget and budget_id exclude each other"
        raise Unprocessable([Issue("value_error", ("body",), message)])
    return {name: value for name, value in values.items() if value is not None}


def read_update(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sent fields of a change that say something: nulls, zeros and empty strings do not."""
    return {
        name: value
        for name, value in read_fields(body, UPDATE_FIELDS).items()
        if value or (name in _ALWAYS and value is not None)
    }
