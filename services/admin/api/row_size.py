"""How large rows get that callers fill who are no proxy admins.

Such rows are many, lists show thousands of them at once, and workers hold those of every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from services.admin.api.auth import Caller
from shared.domain.errors import InvalidRequest

_MOST_BYTES = 64 * 1024
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_size(
    caller: Caller, row: Mapping[str, Any], before: Mapping[str, Any] = _NOTHING
) -> None:
    """Raises `InvalidRequest` for columns that have grown above 64 KiB as JSON."""
    if caller.is_admin:
        return
    size = len(msgspec.json.encode(row))
    if size > _MOST_BYTES and size > len(msgspec.json.encode(dict(before))):
        raise InvalidRequest(f"What is to be stored is larger than {_MOST_BYTES} bytes in all")
