"""Owners of keys, each held once for all the keys that refer to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from attrs import define

T = TypeVar("T")


@define(eq=False)
class OwnerSlot(Generic[T]):
    """An owner as last read; `value` is `None` if the store has no such row.

    One that is no longer `live` is out of service, and `token` names the key by which its
    successor is being read, or was last. `holders` counts the keys in the cache that refer to it.
    """

    id: str
    value: T | None
    token: str
    live: bool = True
    holders: int = 0


class OwnerMap(Generic[T]):
    """The live slots of one kind of owner: those that a key holds."""

    def __init__(self) -> None:
        self._slots: dict[str, OwnerSlot[T]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def successor(self, slot: OwnerSlot[T]) -> OwnerSlot[T] | None:
        """The live slot of the same owner, if there is one."""
        return slot if slot.live else self._slots.get(slot.id)

    def put(self, owner_id: str, value: T | None, token: str) -> tuple[OwnerSlot[T], bool]:
        """The live slot with a value just read, and whether another one went out of service."""
        known = self._slots.get(owner_id)
        if known is not None:
            if known.value == value:
                known.token = token
                return known, False
            known.live = False
        slot = self._slots[owner_id] = OwnerSlot(owner_id, value, token)
        return slot, known is not None

    def release(self, slot: OwnerSlot[T]) -> None:
        """A key that held the slot is gone, or holds another; the last one ends it."""
        slot.holders -= 1
        if slot.holders == 0 and slot.live:
            slot.live = False
            del self._slots[slot.id]

    def drop(self, owner_ids: Iterable[str] | None) -> list[OwnerSlot[T]]:
        """Takes owners, or all of them, out of service; returns the slots that were live."""
        names = list(self._slots) if owner_ids is None else owner_ids
        dropped = [slot for name in names if (slot := self._slots.pop(name, None)) is not None]
        for slot in dropped:
            slot.live = False
        return dropped
