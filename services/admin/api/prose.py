"""Text that is for people to read and that no index holds, so that it may be long."""

from __future__ import annotations

from typing import Any

from services.admin.api.values import Loc, Wrong, reader
from shared.domain.errors import InvalidRequest

_LONGEST = 16_384


@reader(type="string", maxLength=_LONGEST)
def prose(value: Any, loc: Loc) -> str:
    """A string that can be stored."""
    if not isinstance(value, str):
        raise Wrong("string_type", loc, "Input should be a valid string")
    name = ".".join(map(str, loc[1:]))
    if "\x00" in value:
        raise InvalidRequest(f"{name} must not hold the character U+0000", param=name)
    if len(value) > _LONGEST:
        raise InvalidRequest(f"{name} must not be longer than {_LONGEST} characters", param=name)
    return value
