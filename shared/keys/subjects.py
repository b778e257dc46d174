"""What calls name besides their keys, as this process knows it: end users, tags, model access
groups, and budgets that are the default of others.

The same rules as for keys: a copy that is only ever dropped and read anew, and nothing is kept
that the feed named while it was read. Names that have no rules are the many: while those with
rules are few enough to be listed, nobody asks the store for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import structlog

from shared.domain.errors import GatewayError, StoreUnavailable
from shared.domain.keys import Subject, SubjectKind
from shared.keys.cache import MISSING, Missing
from shared.keys.changes import Changes, Subscriber
from shared.keys.flights import Flights

Name = tuple[SubjectKind, str]
Load = Callable[[Iterable[Name]], Awaitable[Mapping[Name, Subject]]]
List = Callable[[int], Awaitable[Mapping[SubjectKind, frozenset[str] | None]]]

_LISTED = (SubjectKind.END_USER, SubjectKind.TAG, SubjectKind.MODEL_ACCESS_GROUP)
_MAX_READS = 16
_LIST_AGAIN_S = 1.0
# Bytes; the database can index no longer ones.
_LONGEST_NAME = 2704

_log = structlog.get_logger(__name__)


class SubjectCache:
    """For one event loop. `load` gets names and returns those that have a row, `list_names` the
    names that have rules, unless they are more than it is told (`most_listed`)."""

    def __init__(
        self,
        load: Load,
        list_names: List,
        *,
        capacity: int = 50_000,
        most_listed: int = 20_000,
        max_waiting: int = 2048,
    ) -> None:
        self._load = load
        self._list_names = list_names
        self._capacity = capacity
        self._most_listed = most_listed
        self._entries: dict[Name, Subject | None] = {}
        self._by_budget: dict[str, set[Name]] = {}
        # Names that may have rules; None: any may.
        self._listed: dict[SubjectKind, set[str] | None] = dict.fromkeys(_LISTED)
        self._flights: Flights[Name] = Flights(
            self._read, max_waiting, "The cache of end users and tags is closed."
        )
        self._changes: Changes | None = None
        self._listing: asyncio.Task[None] | None = None
        self._list_anew = False
        self._since: Changes | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, kind: SubjectKind, name: str) -> Subject | Literal[Missing.MISSING] | None:
        """What has rules under a name: `None` if nothing has, `MISSING` if the store knows."""
        listed = self._listed.get(kind)
        if (listed is not None and name not in listed) or (listed is None and _alien(name)):
            return None
        return self._entries.get((kind, name), MISSING)

    async def find(self, names: Sequence[Name]) -> None:
        """Reads what is `MISSING` of some names. Raises `StoreUnavailable` or `Overloaded`."""
        for _ in range(_MAX_READS):
            missing = [name for name in names if self.get(*name) is MISSING]
            if not missing:
                return
            for flight in [self._flights.start(name) for name in missing]:
                # One caller going away must not end the others' wait.
                error = await asyncio.shield(flight)
                if error is not None:
                    raise StoreUnavailable(error)
        raise StoreUnavailable("End users or tags are being changed too often to be read.")

    def subscribers(self) -> Mapping[str, Subscriber]:
        """Kind of change → the call that takes the changed objects out of service."""
        return {kind.value: partial(self._changed, kind) for kind in SubjectKind}

    async def close(self) -> None:
        """Ends reading; whoever waits gets `StoreUnavailable`."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.wait((self._listing,))
        await self._flights.close()

    # Reading

    async def _read(self, batch: list[Name]) -> str | None:
        changes = self._changes = Changes()
        try:
            found = await self._load(batch)
        except GatewayError as fault:
            return fault.message
        except Exception:  # noqa: BLE001 - supervisor: lookups must end, and never as "no rules"
            _log.exception("subject_lookup_failed")
            return "End users and tags cannot be read from the database."
        finally:
            self._changes = None
        for name in batch:
            subject = found.get(name)
            budget_id = None
            if subject is not None and subject.budget is not None:
                budget_id = subject.budget.budget_id
            if not changes.names(*name) and not changes.names(SubjectKind.BUDGET, budget_id):
                self._keep(name, subject)
        return None

    def _keep(self, name: Name, subject: Subject | None) -> None:
        self._drop(name)
        while len(self._entries) >= self._capacity:
            self._drop(next(iter(self._entries)))
        self._entries[name] = subject
        if subject is not None and subject.budget is not None:
            self._by_budget.setdefault(subject.budget.budget_id, set()).add(name)

    def _drop(self, name: Name) -> bool:
        if name not in self._entries:
            return False
        subject = self._entries.pop(name)
        if subject is not None and subject.budget is not None:
            holders = self._by_budget[subject.budget.budget_id]
            holders.discard(name)
            if not holders:
                del self._by_budget[subject.budget.budget_id]
        return True

    # What the feed says

    def _changed(self, kind: SubjectKind, ids: tuple[str, ...] | None) -> None:
        for changes in (self._changes, self._since):
            if changes is not None:
                changes.add(kind, ids)
        if ids is None:
            names = [name for name in self._entries if name[0] is kind]
            self._list_again(kind)
        else:
            names = [(kind, each) for each in ids]
            self._widen(kind, ids)
        if kind is SubjectKind.BUDGET:
            budgets = list(self._by_budget) if ids is None else ids
            names += [name for each in budgets for name in self._by_budget.get(each, ())]
        dropped = [name for name in names if self._drop(name)]
        for name in dropped:
            # In use a moment ago, perhaps: nobody shall wait for it.
            if self._flights.half_full:
                break
            self._flights.start(name)

    def _widen(self, kind: SubjectKind, ids: Iterable[str]) -> None:
        """What has changed may have rules now."""
        listed = self._listed.get(kind)
        if listed is not None:
            listed.update(ids)
            if len(listed) > 2 * self._most_listed:
                self._list_again(kind)

    def _list_again(self, kind: SubjectKind) -> None:
        if kind not in self._listed:
            return
        self._listed[kind] = None
        self._list_anew = True
        if self._listing is None:
            self._listing = asyncio.get_running_loop().create_task(self._list_all())

    async def _list_all(self) -> None:
        try:
            while self._list_anew:
                self._list_anew = False
                changes = self._since = Changes()
                try:
                    self._take_list(await self._list_names(self._most_listed), changes)
                except Exception as error:  # noqa: BLE001 - supervisor: until it works, all are asked for
                    if not isinstance(error, GatewayError):
                        _log.exception("subject_list_failed")
                    self._list_anew = True
                    await asyncio.sleep(_LIST_AGAIN_S)
        finally:
            self._listing = self._since = None

    def _take_list(
        self, found: Mapping[SubjectKind, frozenset[str] | None], changes: Changes
    ) -> None:
        """What was named meanwhile may be missing in the list."""
        for kind in _LISTED:
            names, since = found.get(kind), changes.ids(kind)
            if names is None or since is None:
                self._listed[kind] = None
            else:
                self._listed[kind] = {*names, *since}


def _alien(name: str) -> bool:
    """Whether the database can hold no such name."""
    try:
        data = name.encode()
    except UnicodeEncodeError:
        return True
    return len(data) > _LONGEST_NAME or b"\x00" in data
