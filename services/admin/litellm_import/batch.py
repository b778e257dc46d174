"""Some rows of one kind: read, compared with what is here, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from attrs import define, evolve, field

from services.admin.litellm_import.cleaning import Fields, LeftOut, Refused, decode
from services.admin.litellm_import.kinds import Circumstances, Item, Kind, Unique, digest
from services.admin.litellm_import.report import Report
from shared.db import import_spend, imports
from shared.db.import_spend import Amount
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceRow
from shared.db.rows import Connection

# In the place of a digest: to be looked at again by the next import.
_AGAIN = b""


@define
class Batch:
    """`source` counts what the source has, `left_out` and `left_spend` (USD) what of it is not
    meant to be here."""

    kind: Kind
    at: Circumstances
    connection: Connection
    report: Report
    source: int = 0
    left_out: int = 0
    left_spend: Decimal = Decimal(0)
    _items: dict[str, Item] = field(factory=dict)
    _amounts: list[Amount] = field(factory=list)

    def read(self, rows: Sequence[SourceRow]) -> None:
        """Takes in rows of the source."""
        for row in rows:
            try:
                fields = Fields({**decode(row.steady), **decode(row.hot)})
                parts = self.kind.split(fields) if self.kind.split else [fields.row]
            except Refused as refused:
                self.source += 1
                self.report.refuse(self.kind.name, "?", refused.name, refused.what)
                continue
            for part in parts:
                self.source += 1
                self._read(part, digest(row))

    def _read(self, row: Mapping[str, Any], taken_from: bytes) -> None:
        fields, label = Fields(row), self.kind.label_of(row)
        try:
            taken = self.kind.read(fields, self.at)
        except LeftOut as left:
            self.left_out += 1
            self.left_spend += _lifetime(row)
            self._amounts += left.amounts
            self.report.leave(self.kind.name, left.why, label)
            return
        except Refused as refused:
            self.report.refuse(self.kind.name, label, refused.name, refused.what)
            return
        if self.kind.target is None:
            self._amounts += taken.amounts
            self._tell(label, fields)
            return
        item_id = taken.id or self.kind.target.id_of(taken.columns)
        self._items[item_id] = Item(item_id, label, taken_from, taken, fields)

    async def write(self) -> None:
        """Writes what is new or has changed; what was spent is staged."""
        if self.kind.target is not None and self._items:
            await self._write(self.kind.target)
        for item in self._items.values():
            self._amounts += item.taken.amounts
            self._tell(item.label, item.fields)
        await import_spend.stage_spend(self.connection, self._amounts)
        active = {
            item.id: item.taken.last_active
            for item in self._items.values()
            if item.taken.last_active is not None and self.kind.kind == "key"
        }
        if active:
            await import_spend.stage_activity(self.connection, active)

    async def _write(self, target: ImportTable) -> None:
        await imports.saw(self.connection, self.kind.kind, list(self._items))
        known = await imports.digests(self.connection, self.kind.kind, list(self._items))
        changed = [item for item in self._items.values() if known.get(item.id) != item.digest]
        if not changed:
            return
        await self._check_references(changed)
        again: set[str] = set()
        for unique in self.kind.unique:
            again |= await self._settle(target, unique, self._left(changed))
        if self.kind.screen is not None:
            wrong = await self.kind.screen(self.connection, self.at, self._left(changed))
            for item_id, (name, what) in wrong.items():
                self._refuse(item_id, name, what)
        left = self._left(changed)
        done = await self._add(target, [item for item in left if item.id not in known])
        done |= await self._change(target, [item for item in left if item.id in known])
        taken = {
            item.id: _AGAIN if item.id in again else item.digest
            for item in self._left(changed)
            if item.id in done
        }
        await imports.remember(self.connection, self.kind.kind, taken)

    async def _add(self, target: ImportTable, items: list[Item]) -> set[str]:
        rows = {item.id: item.taken.columns for item in items}
        written = await target.insert(self.connection, rows)
        self.report.added += len(written.done)
        for item_id in rows.keys() - written.done:
            what = "is here already and not from an import: left as it is"
            if item_id in written.refused:
                what = f"is refused by the database ({written.refused[item_id]})"
            self._refuse(item_id, "row", what)
        return set(written.done)

    async def _change(self, target: ImportTable, items: list[Item]) -> set[str]:
        if not target.key or not items:
            return {item.id for item in items}
        rows = {item.id: item.taken.columns for item in items}
        written = await target.update(self.connection, rows)
        self.report.updated += len(written.done)
        for item_id, what in written.refused.items():
            self._refuse(item_id, "row", f"is refused by the database ({what})")
        # The rest is as it should be, or was deleted here.
        return rows.keys() - written.refused.keys()

    async def _check_references(self, items: list[Item]) -> None:
        for reference in self.kind.references:
            named = {item.taken.columns[reference.column] for item in items} - {None}
            there = await reference.table.existing(self.connection, named) if named else set()
            for item in self._left(items):
                value = item.taken.columns[reference.column]
                if value is not None and value not in there:
                    self._refuse(item.id, reference.column, "names what is not here")

    async def _settle(self, target: ImportTable, unique: Unique, items: list[Item]) -> set[str]:
        """Leaves each value to one row; answers the rows that go without."""

        def key(item: Item) -> str | None:
            value: str | None = item.taken.columns[unique.column]
            return value.lower() if unique.folded and value is not None else value

        values = {value for item in items if (value := key(item)) is not None}
        holders = await target.holders(self.connection, unique.column, values, folded=unique.folded)
        without: set[str] = set()
        for item in items:
            value = key(item)
            if value is None or holders.setdefault(value, item.id) == item.id:
                continue
            if unique.needed:
                self._refuse(item.id, unique.column, "is in use by another")
                continue
            item.fields.note(unique.column, "is in use by another: left empty")
            columns = {**item.taken.columns, unique.column: None}
            self._items[item.id] = evolve(item, taken=evolve(item.taken, columns=columns))
            without.add(item.id)
        return without

    def _left(self, items: list[Item]) -> list[Item]:
        """Those that were not refused since, as they are now."""
        return [self._items[item.id] for item in items if item.id in self._items]

    def _refuse(self, item_id: str, name: str, what: str) -> None:
        item = self._items.pop(item_id)
        self.report.refuse(self.kind.name, item.label, name, what)

    def _tell(self, label: str, fields: Fields) -> None:
        for name, what in fields.notes:
            self.report.change(self.kind.name, label, name, what)


def _lifetime(row: Mapping[str, Any]) -> Decimal:
    fields = Fields(row)
    try:
        return max(fields.spend("spend"), fields.spend("total_spend"))
    except Refused:
        return Decimal(0)
