"""Parameters that a body must have (management contract §4.7)."""

from __future__ import annotations

import msgspec

from shared.domain.errors import InvalidRequest
from shared.gateway.envelope import RawBody, read_members


def check_params(body: bytes, enforced: tuple[str, ...]) -> None:
    """Raises `InvalidRequest` naming the first that is missing; `a.b` is a member of a member."""
    members = read_members(body)
    for param in enforced:
        name, _, inner = param.partition(".")
        if name not in members or (inner and inner not in _inside(members[name])):
            raise InvalidRequest(
                f"`{param}` is missing: this key's requests must have it.", param=param
            )


def _inside(value: msgspec.Raw) -> RawBody:
    try:
        return msgspec.json.decode(value, type=RawBody)
    except msgspec.ValidationError:
        return {}
