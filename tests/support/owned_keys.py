"""Owners and keys put into a fleet's database by SQL, without the admin."""

from __future__ import annotations

import json
import secrets
from typing import Any

from shared.domain.keys import hash_key
from tests.support.fleet import Calls, until


class Owned:
    """Makes rows through a test's connection. Ids are new for every maker, so that tests on one
    fleet share no owner."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.mark = secrets.token_hex(4)

    def name(self, kind: str) -> str:
        """An id of this maker."""
        return f"{kind}-{self.mark}"

    async def row(self, table: str, **columns: Any) -> None:
        """One row; mappings and lists of mappings go as JSON."""
        names = ", ".join(columns)
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        values = [_plain(value) for value in columns.values()]
        await self.calls.sql(f"insert into {table} ({names}) values ({places})", *values)

    async def budget(self, **columns: Any) -> str:
        """A budget; its id."""
        budget_id = f"budget-{secrets.token_hex(4)}"
        await self.row("budget", budget_id=budget_id, **columns)
        return budget_id

    async def key(self, **columns: Any) -> str:
        """A key; its plain value."""
        plain = f"sk-{secrets.token_hex(16)}"
        await self.row("virtual_key", token=hash_key(plain), key_name="sk-...test", **columns)
        return plain

    async def applied(self) -> None:
        """Wait until every living worker has applied what has been written."""
        ((version,),) = await self.calls.sql("select version from change_head")
        await self.calls.sql("update change_ack set wanted = greatest(wanted, $1)", version)
        query = """
            select count(*) from instance
            where applied_version < $1 and stopped_at is null
              and last_seen > clock_timestamp() - interval '6 seconds'
        """

        async def obeyed() -> bool:
            ((behind,),) = await self.calls.sql(query, version)
            return not behind

        await until(obeyed, what="the change to be applied everywhere")

    async def spent(self, kind: str, owner: str) -> Any:
        """What the owner's lifetime counter says."""
        rows = await self.calls.sql(
            "select sum(spend) from spend_counter "
            "where kind = $1 and id = $2 and window_start_s = 0",
            kind,
            owner,
        )
        return rows[0][0]


async def of_user(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    """A user with limits; the columns of its keys."""
    await owned.row("app_user", user_id=owned.name("user"), **limits)
    return {"user_id": owned.name("user")}


async def of_team(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    """A team with limits; the columns of its keys."""
    await owned.row("team", team_id=owned.name("team"), **limits)
    return {"team_id": owned.name("team")}


def _plain(value: Any) -> Any:
    json_like = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(each, dict) for each in value)
    )
    return json.dumps(value) if json_like else value
