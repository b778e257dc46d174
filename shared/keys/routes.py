"""Which routes a key's `allowed_routes` name (management contract §2.1)."""

from __future__ import annotations


def names_route(allowed: tuple[str, ...], path: str, groups: frozenset[str]) -> bool:
    """Whether a path is named: by one of the groups that it is in, exactly, by prefix in whole
    segments, or with a `*` at the end."""
    return any(
        entry in groups
        or entry == path
        or (entry.endswith("*") and path.startswith(entry[:-1]))
        or (entry.startswith("/") and path.startswith(entry.rstrip("/") + "/"))
        for entry in allowed
    )
