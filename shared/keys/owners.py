"""Owners of keys, each held once for all the keys that refer to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define

from shared.domain.keys import FindOwner, OwnerKind


@define(eq=False)
class OwnerSlot:
    """An owner as last read; `value` is `None` if the store has no such row.

    One that is no longer `live` is out of service, and `token` names the key by which its
    successor is being read, or was last. `holders` counts the references of keys in the cache.
    """

    kind: OwnerKind
    id: str
    value: Any
    token: str
    live: bool = True
    holders: int = 0


class OwnerMap:
    """The live slots of one kind of owner: those that a key holds."""

    def __init__(self, kind: OwnerKind) -> None:
        self._kind = kind
        self._slots: dict[str, OwnerSlot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, owner_id: str) -> OwnerSlot | None:
        """The live slot of an owner, if there is one."""
        return self._slots.get(owner_id)

    def put(self, owner_id: str, value: Any, token: str) -> tuple[OwnerSlot, bool]:
        """The live slot with a value just read, and whether another one went out of service."""
        known = self._slots.get(owner_id)
        if known is not None:
            if known.value == value:
                known.token = token
                return known, False
            known.live = False
        slot = self._slots[owner_id] = OwnerSlot(self._kind, owner_id, value, token)
        return slot, known is not None

    def release(self, slot: OwnerSlot) -> None:
        """A key that held the slot is gone, or holds another; the last one ends it."""
        slot.holders -= 1
        if slot.holders == 0 and slot.live:
            slot.live = False
            del self._slots[slot.id]

    def drop(self, owner_ids: Iterable[str] | None) -> list[OwnerSlot]:
        """Takes owners, or all of them, out of service; returns the slots that were live."""
        names = list(self._slots) if owner_ids is None else owner_ids
        dropped = [slot for name in names if (slot := self._slots.pop(name, None)) is not None]
        for slot in dropped:
            slot.live = False
        return dropped


class LiveOwners:
    """Finds a key's owners among the live ones: their `slots`, and what is `missing`."""

    __slots__ = ("_maps", "missing", "slots")

    def __init__(self, maps: Mapping[OwnerKind, OwnerMap]) -> None:
        self._maps = maps
        self.slots: list[OwnerSlot] = []
        self.missing: list[tuple[OwnerKind, str]] = []

    def __call__(self, kind: OwnerKind, owner_id: str) -> Any:
        """The owner; `None` too if it has to be read."""
        slot = self._maps[kind].get(owner_id)
        if slot is None:
            self.missing.append((kind, owner_id))
            return None
        self.slots.append(slot)
        return slot.value


class ReadOwners:
    """Puts what was read for a key among the live owners: their `slots`, and whether older ones
    went out of service (`retired`)."""

    __slots__ = ("_find", "_maps", "_token", "retired", "slots")

    def __init__(self, maps: Mapping[OwnerKind, OwnerMap], find: FindOwner, token: str) -> None:
        self._maps = maps
        self._find = find
        self._token = token
        self.slots: list[OwnerSlot] = []
        self.retired = False

    def __call__(self, kind: OwnerKind, owner_id: str) -> Any:
        """The owner as read."""
        value = self._find(kind, owner_id)
        slot, retired = self._maps[kind].put(owner_id, value, self._token)
        self.retired = self.retired or retired
        self.slots.append(slot)
        return slot.value
