"""What the feed has named while something was being read, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

Subscriber = Callable[[tuple[str, ...] | None], None]


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

    def ids(self, kind: str) -> frozenset[str] | None:
        """What was named of a kind, `None` for all of it."""
        known = self._ids.get(kind, set())
        return None if known is None else frozenset(known)


def together(*subscribers: Mapping[str, Subscriber]) -> dict[str, Subscriber]:
    """Kind of change → a call that tells all who want to hear of it, also when one fails."""
    calls: dict[str, list[Subscriber]] = {}
    for each in subscribers:
        for kind, call in each.items():
            calls.setdefault(kind, []).append(call)
    return {kind: _telling(tuple(found)) for kind, found in calls.items()}


def _telling(calls: tuple[Subscriber, ...]) -> Subscriber:
    def tell(ids: tuple[str, ...] | None) -> None:
        with ExitStack() as stack:
            for call in calls:
                stack.callback(call, ids)

    return tell
