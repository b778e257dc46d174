"""Users of every role, their keys, and calls about teams."""

from __future__ import annotations

import json
from typing import Any

from tests.support.admin_api import Admin

Answer = tuple[int, Any]


class TeamKit:
    """An admin with organization `o1` and the people of a test."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.keys: dict[str, str] = {}

    async def user(self, user_id: str, role: str | None = "internal_user", **columns: Any) -> str:
        """A user and a key of it."""
        values = {"user_id": user_id, "user_role": role, **columns}
        names = ", ".join(values)
        await self.admin.sql(
            f"insert into app_user ({names}) select {names} "
            "from jsonb_populate_record(null::app_user, $1::text::jsonb)",
            json.dumps(values),
        )
        self.keys[user_id] = (await self.admin.generate(user_id=user_id))["key"]
        return self.keys[user_id]

    async def organization(self, name: str, admin: str | None = None, **limits: Any) -> None:
        """An organization with an admin; `limits` are its budget's, but for `models`."""
        models = limits.pop("models", [])
        values = {"budget_id": f"b-{name}", **limits}
        names = ", ".join(values)
        await self.admin.sql(
            f"insert into budget ({names}) select {names} "
            "from jsonb_populate_record(null::budget, $1::text::jsonb)",
            json.dumps(values),
        )
        await self.admin.sql(
            "insert into organization (organization_id, organization_alias, budget_id, models) "
            "values ($1, $1, $2, $3)",
            name,
            f"b-{name}",
            models,
        )
        if admin is not None:
            await self.admin.sql(
                "insert into organization_member values ($1, $2, 'org_admin')", name, admin
            )

    async def team(self, team_id: str, **fields: Any) -> dict[str, Any]:
        """A new team, made by the master key."""
        status, body = await self.post("/team/new", team_id=team_id, **fields)
        assert status == 200, body
        return dict(body)

    async def post(self, path: str, by: str | None = None, **body: Any) -> Answer:
        """A POST, by the master key or by a user."""
        return await self._call("POST", path, by, body)

    async def get(self, path: str, by: str | None = None, **params: Any) -> Answer:
        """A GET, by the master key or by a user."""
        return await self._call("GET", path, by, None, params=params)

    async def call(self, method: str, path: str, by: str | None = None, body: Any = None) -> Answer:
        """Any other call."""
        return await self._call(method, path, by, body)

    async def info(self, team_id: str) -> dict[str, Any]:
        """What /team/info says of a team."""
        status, body = await self.get("/team/info", team_id=team_id)
        assert status == 200, body
        return dict(body)

    async def members(self, team_id: str) -> dict[str, str]:
        """The role of each member."""
        team = (await self.info(team_id))["team_info"]
        return {each["user_id"]: each["role"] for each in team["members_with_roles"]}

    async def audited(self, action: str, table: str, object_id: str) -> list[dict[str, Any]]:
        """What the audit log says of an object: before and after of each such entry."""
        rows = await self.admin.sql(
            "select before_value::text as before, updated_values::text as after from audit_log "
            "where action = $1 and table_name = $2 and object_id = $3 order by seq",
            action,
            table,
            object_id,
        )
        return [{name: json.loads(row[name] or "null") for name in row.keys()} for row in rows]  # noqa: SIM118 - a record is no mapping

    async def spend(self, kind: str, owner: str, amount: float, window_start_s: int = 0) -> None:
        """Writes a counter, as the ledger would."""
        await self.admin.sql(
            "insert into spend_counter (kind, id, window_start_s, spend) values ($1, $2, $3, $4)",
            kind,
            owner,
            window_start_s,
            amount,
        )

    async def _call(self, method: str, path: str, by: str | None, body: Any, **more: Any) -> Answer:
        if by is not None:
            more["key"] = self.keys.get(by, by)
        return await self.admin.call(method, path, body, **more)


def detail_of(answer: Answer, status: int) -> str:
    """The error of a D row, checked."""
    assert answer[0] == status, answer
    assert list(answer[1]) == ["detail"], answer
    assert list(answer[1]["detail"]) == ["error"], answer
    return str(answer[1]["detail"]["error"])
