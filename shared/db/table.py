"""Rows of one table as plain mappings from column to value, for the management API.

Money is `Decimal`, times are aware UTC, JSON columns are decoded. Names of tables and columns come
from constants of the code, never from a request; values always pass as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
import msgspec
from attrs import frozen

from shared.db.refusing import refusing
from shared.db.rows import Connection

Row: TypeAlias = "dict[str, Any]"


@frozen
class Table:
    """A table whose rows are made, changed and deleted one by one.

    `key` holds the columns of the primary key, `json` the JSON ones. `refusals` say which field a
    constraint is about (see `refusing`). `stamped` tables note when a row was changed
    (`updated_at`), `signed` ones by whom too (`updated_by`).
    """

    name: str
    key: tuple[str, ...]
    json: frozenset[str] = frozenset()
    refusals: Mapping[str, tuple[str, str]] = {}
    stamped: bool = True
    signed: bool = True

    async def insert(self, connection: Connection, values: Mapping[str, Any]) -> Row:
        """Adds a row and answers it whole; columns that are not named have their defaults."""
        columns = ", ".join(values)
        with refusing(self.refusals):
            record = await connection.fetchrow(
                f"insert into {self.name} ({columns}) "  # noqa: S608 - see the module
                f"select {columns} from jsonb_populate_record(null::{self.name}, $1::jsonb) "
                "returning *",
                msgspec.json.encode(values),
            )
        assert record is not None
        return self.read(record)

    async def find(self, connection: Connection, *ids: str, lock: bool = False) -> Row | None:
        """The row of a key; `lock` keeps others from changing it until the transaction ends."""
        record = await connection.fetchrow(
            f"select * from {self.name} where {self._is_key(1)}"  # noqa: S608 - see the module
            + (" for update" if lock else ""),
            *ids,
        )
        return None if record is None else self.read(record)

    async def update(
        self, connection: Connection, ids: Sequence[str], values: Mapping[str, Any], actor: str
    ) -> Row | None:
        """Sets the named columns and answers the row whole; `None` if there is none.

        The row stays locked until the transaction ends, so two updates at once both count.
        """
        columns = tuple(values)
        assigned = [f"{name} = n.{name}" for name in columns]
        if self.stamped:
            assigned.append("updated_at = clock_timestamp()")
        parameters: list[Any] = [msgspec.json.encode(values)]
        if self.signed:
            assigned.append("updated_by = $2")
            parameters.append(actor)
        where = self._is_key(len(parameters) + 1, "t.")
        with refusing(self.refusals):
            record = await connection.fetchrow(
                f"update {self.name} t set {', '.join(assigned)} "  # noqa: S608 - see the module
                f"from jsonb_populate_record(null::{self.name}, $1::jsonb) n "
                f"where {where} returning t.*",
                *parameters,
                *ids,
            )
        return None if record is None else self.read(record)

    async def delete(self, connection: Connection, *ids: str) -> Row | None:
        """Takes a row away and answers it as it was."""
        with refusing(self.refusals):
            record = await connection.fetchrow(
                f"delete from {self.name} where {self._is_key(1)} returning *",  # noqa: S608 - see the module
                *ids,
            )
        return None if record is None else self.read(record)

    def read(self, record: asyncpg.Record) -> Row:
        """A record of this table, with or without columns of others beside."""
        row = dict(record)
        for name in self.json:
            value = row.get(name)
            if value is not None:
                row[name] = msgspec.json.decode(value)
        return row

    def _is_key(self, first: int, alias: str = "") -> str:
        return " and ".join(
            f"{alias}{name} = ${place}" for place, name in enumerate(self.key, first)
        )
