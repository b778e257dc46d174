"""Unified access groups: what teams and keys may use together, by the groups assigned to them.

Assignments stand in the rows of teams and keys alone (`access_group_ids`), so that whichever side
changes them, both say the same. The columns of the same kind in `access_group` are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from attrs import frozen

from shared.db.refusing import refusing
from shared.db.rows import Connection
from shared.db.table import Row, Table

ACCESS_GROUPS = Table(
    name="access_group",
    key=("access_group_id",),
    json=frozenset({"mcp_tool_permissions"}),
    refusals=MappingProxyType(
        {
            "access_group_access_group_name_key": (
                "access_group_name",
                "is in use by another access group",
            )
        }
    ),
)

_ALL = "select * from access_group order by created_at desc, access_group_id"


@frozen
class Assignees:
    """Teams or keys, to which groups are assigned."""

    table: str
    key: str

    async def of_groups(self, connection: Connection) -> Mapping[str, list[str]]:
        """Whom each group is assigned to."""
        rows = await connection.fetch(
            f"select g as access_group_id, array_agg({self.key} order by {self.key}) as assigned "  # noqa: S608 - only constants of this module
            f"from {self.table}, unnest(access_group_ids) as g "
            "where access_group_ids <> '{}' group by g"
        )
        return {row["access_group_id"]: row["assigned"] for row in rows}

    async def of_group(self, connection: Connection, group_id: str) -> list[str]:
        """Whom a group is assigned to."""
        rows = await connection.fetch(
            f"select {self.key} as id from {self.table} "  # noqa: S608 - only constants of this module
            f"where $1 = any(access_group_ids) order by {self.key}",
            group_id,
        )
        return [row["id"] for row in rows]

    async def assign(
        self, connection: Connection, group_id: str, ids: Sequence[str], actor: str
    ) -> list[tuple[str, list[str], list[str]]]:
        """Assigns a group to exactly these, those of them that there are.

        Answers whose groups have changed: id, groups before and after.
        """
        with refusing({}):
            rows = await connection.fetch(
                f"select {self.key} as id, access_group_ids from {self.table} "  # noqa: S608 - only constants of this module
                f"where ({self.key} = any($2::text[])) <> ($1 = any(access_group_ids)) "
                f"order by {self.key} for no key update",
                group_id,
                list(ids),
            )
        changes = []
        for row in rows:
            before = list(row["access_group_ids"])
            after = [each for each in before if each != group_id]
            changes.append((row["id"], before, after if group_id in before else [*after, group_id]))
        for gain in (True, False):
            await connection.execute(
                f"update {self.table} set access_group_ids = "  # noqa: S608 - only constants of this module
                f"{'array_append' if gain else 'array_remove'}(access_group_ids, $1), "
                "updated_at = clock_timestamp(), updated_by = $3 "
                f"where {self.key} = any($2::text[])",
                group_id,
                [owner for owner, before, _ in changes if (group_id not in before) is gain],
                actor,
            )
        return changes

    async def missing(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """Those of some ids that name nobody."""
        rows = await connection.fetch(
            f"select i from unnest($1::text[]) as i "  # noqa: S608 - only constants of this module
            f"where i not in (select {self.key} from {self.table} where {self.key} = any($1)) "
            "order by i",
            list(ids),
        )
        return [row["i"] for row in rows]


ASSIGNED_TEAMS = Assignees("team", "team_id")
ASSIGNED_KEYS = Assignees("virtual_key", "token")


async def all_access_groups(connection: Connection) -> list[Row]:
    """Every group, newest first."""
    return [ACCESS_GROUPS.read(row) for row in await connection.fetch(_ALL)]
