"""Bodies and queries that are wrong, for everything that links to budgets: always a 4xx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.admin_api import AS_MASTER, Admin, StartAdmin, admins


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with one object of each kind, all called `x`."""
    admin = await start()
    await admin.sql("insert into team (team_id) values ('x')")
    await admin.sql(
        "insert into model (model_id, model_name, litellm_params) values ('x', 'x', '{}')"
    )
    for path, body in (
        ("/budget/new", {"budget_id": "x"}),
        ("/customer/new", {"user_id": "x"}),
        ("/tag/new", {"name": "x"}),
        ("/organization/new", {"organization_id": "x", "organization_alias": "x"}),
        ("/project/new", {"project_id": "x", "team_id": "x"}),
        ("/access_group/new", {"access_group": "x", "model_names": ["x"]}),
    ):
        status, answer = await admin.call("POST", path, body)
        assert status == 200, answer
    await admin.sql(
        "insert into access_group (access_group_id, access_group_name) values ('x', 'x')"
    )
    return admin


WRITES = (
    ("POST", "/budget/new"),
    ("POST", "/budget/update"),
    ("POST", "/budget/info"),
    ("POST", "/budget/delete"),
    ("POST", "/customer/new"),
    ("POST", "/customer/update"),
    ("POST", "/customer/delete"),
    ("POST", "/customer/block"),
    ("POST", "/customer/unblock"),
    ("POST", "/tag/new"),
    ("POST", "/tag/update"),
    ("POST", "/tag/info"),
    ("POST", "/tag/delete"),
    ("POST", "/organization/new"),
    ("PATCH", "/organization/update"),
    ("PATCH", "/v2/organization/x"),
    ("POST", "/organization/info"),
    ("POST", "/organization/member_add"),
    ("PATCH", "/organization/member_update"),
    ("DELETE", "/organization/member_delete"),
    ("POST", "/project/new"),
    ("POST", "/project/update"),
    ("POST", "/access_group/new"),
    ("PUT", "/access_group/x/update"),
    ("PUT", "/access_group/x/budget"),
    ("POST", "/v1/access_group"),
    ("PUT", "/v1/access_group/x"),
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["x", "30d", "-1", "1mo", "1e400", "\x00", "\x1f", "eu", "x" * 600]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)

NAMES = st.sampled_from(
    [
        "budget_id", "max_budget", "soft_budget", "budget_duration", "rpm_limit", "tpd_limit",
        "max_parallel_requests", "model_max_budget", "allowed_models", "temp_budget_expiry",
        "budget_reset_at", "id", "budgets", "user_id", "user_ids", "alias", "blocked", "spend",
        "allowed_model_region", "default_model", "models", "object_permission", "name", "names",
        "description", "organization_id", "organization_alias", "organizations", "metadata",
        "model_rpm_limit", "member", "role", "user_email", "max_budget_in_organization",
        "project_id", "project_alias", "team_id", "tags", "access_group", "model_names",
        "model_ids", "access_group_name", "access_model_names", "mcp_tool_permissions",
        "assigned_team_ids", "assigned_key_ids",
    ]
)  # fmt: skip
# What a call needs before it looks at anything else.
NEEDED: dict[str, Any] = {
    "user_id": "x", "name": "x", "organization_alias": "x", "organization_id": "x",
    "project_id": "x", "team_id": "x", "budget_id": "x", "user_ids": ["x"], "names": ["x"],
    "access_group_name": "y", "model_names": ["x"],
}  # fmt: skip


async def test_no_body_is_our_fault(admin: Admin) -> None:
    """Whatever JSON comes, the answer is a success or a 4xx in a shape of the contract."""
    bodies: list[tuple[tuple[str, str], Any, bool]] = []
    named = st.dictionaries(NAMES, VALUES, max_size=4)

    @settings(
        max_examples=250, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(st.sampled_from(WRITES), named | VALUES, st.booleans())
    def collect(call: tuple[str, str], body: Any, helped: bool) -> None:
        bodies.append((call, body, helped))

    collect()
    for (method, path), body, helped in bodies:
        if helped and isinstance(body, dict):
            body = {**NEEDED, **body}
            if path.startswith("/v2/"):
                body = {name: body[name] for name in ("models", "max_budget") if name in body}
        sent = body if body is not None else {}
        status, answer = await admin.call(method, path, sent)
        assert status in {200, 201, 400, 404, 409, 422}, (method, path, body, answer)
        if status >= 400:
            assert ("error" in answer) != ("detail" in answer)
    assert (await admin.call("GET", "/budget/list"))[0] == 200


async def test_no_path_or_query_is_our_fault(admin: Admin) -> None:
    """Whatever stands in a path or a query, the answer is a success or a 4xx."""
    for text in ("%ff", "a%00", "%F0%9F%94%91", "%ED%A0%80", "'", "%25", "x" * 3000, "a%1Fb"):
        for path in (
            f"/customer/info?end_user_id={text}",
            f"/customer/list?search={text}",
            f"/budget/settings?budget_id={text}",
            f"/management/v1/budgets?q={text}",
            f"/organization/info?organization_id={text}",
            f"/organization/list?org_alias={text}",
            f"/tag/list?start_date={text}",
            f"/project/info?project_id={text}",
            f"/access_group/{text}/info",
            f"/access_group/{text}/budget",
            f"/v1/access_group/{text}",
        ):
            async with admin.client.get(path, headers=AS_MASTER) as response:
                assert response.status in {200, 400, 404, 422}, (path, await response.text())
