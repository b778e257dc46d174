"""Bodies and queries about users and invitations that are wrong: never a 5xx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.admin.api.attempts import Attempts
from services.admin.api.invitations import INVITATION_OPEN_ROUTES, INVITATION_ROUTES
from services.admin.api.passwords import PASSWORD_ROUTES
from services.admin.api.users import USER_ROUTES
from tests.support.admin_api import Admin, admins

POSTS = (
    "/user/new",
    "/user/update",
    "/user/bulk_update",
    "/user/delete",
    "/user/password/change",
    "/invitation/new",
    "/invitation/update",
    "/invitation/delete",
    "/onboarding/claim_token",
)
GETS = (
    "/user/info",
    "/v2/user/info",
    "/user/list",
    "/user/filter/ui",
    "/invitation/info",
    "/onboarding/get_token",
)
NAMES = st.sampled_from(
    [
        "user_id", "user_email", "user_alias", "user_role", "teams", "organizations",
        "auto_create_key", "sso_user_id", "key_alias", "duration", "models", "spend", "max_budget",
        "soft_budget", "budget_duration", "budget_limits", "tpm_limit", "rpm_limit", "tpd_limit",
        "max_parallel_requests", "model_max_budget", "aliases", "permissions", "metadata",
        "guardrails", "model_rpm_limit", "object_permission", "allowed_cache_controls", "users",
        "all_users", "user_updates", "user_ids", "invitation_id", "invitation_link", "is_accepted",
        "password", "current_password", "new_password", "team_id", "organization_id",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["30d", "u1", "internal_user", "proxy_admin", "1e400", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
QUERY_NAMES = st.sampled_from(
    [
        "user_id", "user_email", "role", "user_ids", "sso_user_ids", "search", "team", "page",
        "organization_ids", "page_size", "sort_by", "sort_order", "invitation_id", "invite_link",
    ]
)  # fmt: skip
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["asc", "user_id", "1", "100", "internal_user", "u1,u2"]
)


@pytest.fixture
async def admin(database: str, aiohttp_client: Any) -> AsyncIterator[Admin]:
    """An admin who lets one guess on, with a user."""
    async with admins(database, aiohttp_client) as start:
        admin = await start(invitation_attempts=Attempts(10**6, 60.0))
        await admin.call("POST", "/user/new", {"user_id": "u1"})
        yield admin


def test_every_route_is_tried() -> None:
    """The lists above hold every route about users that takes a body or a query."""
    routes = (*USER_ROUTES, *INVITATION_ROUTES, *PASSWORD_ROUTES, *INVITATION_OPEN_ROUTES)
    without_input = {"/user/available_roles", "/user/available_users", "/session/logout"}
    assert {route.path for route in routes} - without_input == {*POSTS, *GETS}


async def test_random_bodies(admin: Admin) -> None:
    """Whatever members a body has, the answer is one of the contract's, and quick."""

    @settings(max_examples=250, deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(POSTS), st.dictionaries(NAMES, VALUES, max_size=6))
    def collect(path: str, body: dict[str, Any]) -> None:
        sent.append((path, body))

    sent: list[tuple[str, dict[str, Any]]] = []
    collect()
    for path, body in sent:
        status, answered = await admin.call("POST", path, body)
        assert status < 500, (path, body, answered)


async def test_random_queries(admin: Admin) -> None:
    """Whatever a query says, it is answered."""

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.sampled_from(GETS), st.dictionaries(QUERY_NAMES, TEXTS, max_size=4))
    def collect(path: str, query: dict[str, str]) -> None:
        sent.append((path, query))

    sent: list[tuple[str, dict[str, str]]] = []
    collect()
    for path, query in sent:
        status, answered = await admin.call("GET", path, params=query)
        assert status < 500, (path, query, answered)


async def test_bodies_that_are_no_objects(admin: Admin) -> None:
    """What is no JSON object is a 422."""
    bodies = (b"", b"[]", b"null", b'"x"', b"{", b'{"user_id": "\xff"}', b"[" * 5000)
    for path in POSTS:
        for data in bodies:
            status, body = await admin.call("POST", path, data=data)
            assert (status, list(body)) == (422, ["detail"]), (path, data)
