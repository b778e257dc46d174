"""The columns of a row that links to a budget, out of the fields of a request's body."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.body import Field, Place, placed
from services.admin.api.linked_budgets import LINK_FIELDS

_LINK_NAMES = frozenset(field.name for field in LINK_FIELDS)
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NONE: frozenset[str] = frozenset()


def own_columns(
    values: Mapping[str, Any],
    fields: tuple[Field, ...],
    metadata: Mapping[str, Any] = _NOTHING,
    kept: frozenset[str] = _NONE,
) -> dict[str, Any]:
    """What the sent values set in the row itself; the rest is its budget's.

    Null empties a column, but for those that are `kept`. Fields that live in metadata are merged
    into the sent or the stored object; null takes one out.
    """
    empty = {field.name: field.empty for field in fields}
    columns = {
        name: empty[name] if value is None else value
        for name, value in placed(values, fields, Place.COLUMN).items()
        if name not in _LINK_NAMES and not (name in kept and value is None)
    }
    members = placed(values, fields, Place.METADATA)
    if members:
        merged = {**columns.get("metadata", metadata), **members}
        gone = {name for name, value in members.items() if value is None}
        columns["metadata"] = {name: merged[name] for name in merged if name not in gone}
    return columns
