"""Which models are in which model access group, stored ones and those of the configuration file.

Stored models change here. Those of the file are read-only: what would change one is refused and
says where it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from attrs import frozen

from services.admin.api.calls import AdminCall
from services.admin.api.team_access import MODEL_TABLE
from shared.config.gateway_config import ModelEntry
from shared.db.audit import Action
from shared.db.model_access_groups import (
    GroupedModel,
    budgeted_groups,
    grouped_models,
    set_groups,
)
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, RequestError


@frozen
class Chosen:
    """The models that a body means: stored ones, and entries of the file."""

    stored: tuple[GroupedModel, ...]
    file: tuple[ModelEntry, ...]


@frozen
class GroupMembers:
    """All models there are, and the groups that have a row of their own. `entry_of` tells the
    file's entry of a deployment's id."""

    stored: tuple[GroupedModel, ...]
    file: tuple[ModelEntry, ...]
    budgeted: tuple[str, ...]
    entry_of: Callable[[str], ModelEntry | None]

    def names(self) -> list[str]:
        """Every group, in order."""
        found = {name for model in self.stored for name in model.groups}
        found |= {name for entry in self.file for name in entry.info.access_groups}
        return sorted(found | {*self.budgeted})

    def require(self, group: str) -> None:
        """404 for a group that nothing knows."""
        if group not in self.names():
            message = f"There is no access group {group[:80]!r}"
            raise RequestError(message, status=404, param="access_group")

    def body(self, group: str) -> dict[str, Any]:
        """What a group is made of."""
        names = [model.model_name for model in self.stored if group in model.groups]
        names += [entry.model_name for entry in self.file if group in entry.info.access_groups]
        return {
            "access_group": group,
            "model_names": list(dict.fromkeys(names)),
            "deployment_count": len(names),
        }

    def choose(self, group: str, names: Sequence[str] | None, ids: Sequence[str] | None) -> Chosen:
        """The models of some ids or else of some names. Raises `InvalidRequest` for one that there
        is not, and for one of the file that is not in the group already."""
        chosen = self._by_name(names or ()) if ids is None else self._by_id(ids)
        strangers = [each for each in chosen.file if group not in each.info.access_groups]
        _refuse(strangers, "added", "model_names" if ids is None else "model_ids")
        return chosen

    def require_kept(self, group: str, kept: Sequence[ModelEntry] = ()) -> None:
        """Refuses to take a group from models of the file, other than those that keep it."""
        places = {(entry.source, entry.path) for entry in kept}
        stuck = [
            entry
            for entry in self.file
            if group in entry.info.access_groups and (entry.source, entry.path) not in places
        ]
        _refuse(stuck, "removed", "access_group")

    def _by_name(self, names: Sequence[str]) -> Chosen:
        stored = tuple(model for model in self.stored if model.model_name in names)
        found = {model.model_name for model in stored}
        file = tuple(
            entry
            for entry in self.file
            if entry.model_name in names and entry.model_name not in found
        )
        _require(names, found | {entry.model_name for entry in file}, "model_names")
        return Chosen(stored, file)

    def _by_id(self, ids: Sequence[str]) -> Chosen:
        stored = tuple(model for model in self.stored if model.model_id in ids)
        found = {model.model_id for model in stored}
        file = {each: self.entry_of(each) for each in ids if each not in found}
        known = {each: entry for each, entry in file.items() if entry is not None}
        _require(ids, {*found, *known}, "model_ids")
        return Chosen(stored, tuple(known.values()))


async def load_members(call: AdminCall, connection: Connection) -> GroupMembers:
    """As they are now; to change them the models must be locked."""
    models = call.services.models
    return GroupMembers(
        tuple(await grouped_models(connection)),
        models.wholes.file.models,
        tuple(await budgeted_groups(connection)),
        models.entry_of_file,
    )


@frozen
class GroupChange:
    """Models as they were, and the groups that each is in from now on."""

    models: tuple[tuple[GroupedModel, tuple[str, ...]], ...]

    async def store(self, call: AdminCall, connection: Connection) -> None:
        """Writes the changes."""
        groups = {model.model_id: after for model, after in self.models}
        if groups:
            await set_groups(connection, groups, call.caller.actor)

    async def note(self, call: AdminCall, connection: Connection) -> None:
        """Adds an entry for each model to the audit log."""
        changes = [
            (model.model_id, {"access_groups": model.groups}, {"access_groups": after})
            for model, after in self.models
        ]
        await call.note_all(connection, Action.UPDATED, MODEL_TABLE, changes)


def regrouped(
    group: str, stored: Iterable[GroupedModel], members: Iterable[GroupedModel]
) -> GroupChange:
    """The change after which of some stored models exactly the members are in the group."""
    inside = {model.model_id for model in members}
    changes = []
    for model in stored:
        after = tuple(name for name in model.groups if name != group)
        if model.model_id in inside:
            after = model.groups if group in model.groups else (*after, group)
        if after != model.groups:
            changes.append((model, after))
    return GroupChange(tuple(changes))


def _require(wanted: Sequence[str], known: AbstractSet[str], param: str) -> None:
    for each in wanted:
        if each not in known:
            raise InvalidRequest(f"There is no model {each[:80]!r}", param=param)


def _refuse(entries: Sequence[ModelEntry], what: str, param: str) -> None:
    if entries:
        entry = entries[0]
        where = f"{entry.source or 'the configuration file'} ({entry.path or 'model_list'})"
        raise InvalidRequest(
            f"The model {entry.model_name!r} is defined in {where} and is read-only here: its"
            f" access group must be {what} there",
            param=param,
        )
