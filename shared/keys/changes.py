"""What the feed has named while something was being read."""

from __future__ import annotations

from collections.abc import Iterable


class Changes:
    """Ids by kind, or everything of a kind. What is read meanwhile may be older than these."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[str, set[str] | None] = {}

    def add(self, kind: str, ids: Iterable[str] | None) -> None:
        """Notes ids, `None` for all of the kind."""
        known = self._ids.setdefault(kind, set())
        if ids is None or known is None:
            self._ids[kind] = None
        else:
            known.update(ids)

    def names(self, kind: str, object_id: str | None) -> bool:
        """Whether an object was named. An absent reference (`None`) never is."""
        if object_id is None:
            return False
        known = self._ids.get(kind, ())
        return known is None or object_id in known
