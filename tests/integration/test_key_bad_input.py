"""Bodies and queries that are wrong: always a 4xx in a shape of the contract."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.admin_api import (
    Admin,
    StartAdmin,
    admins,
)


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


WRITES = (
    "generate", "update", "delete", "block", "unblock", "regenerate", "bulk_update",
    "service-account/generate",
)  # fmt: skip


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["30d", "-1", "1mo", "sk-1", "0" * 64, "1e400", "\x00", "..", "dynamic"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


NAMES = st.sampled_from(
    [
        "key", "key_alias", "keys", "key_aliases", "duration", "models", "spend", "max_budget",
        "soft_budget", "budget_duration", "budget_limits", "budget_id", "user_id", "tpm_limit",
        "max_parallel_requests", "model_rpm_limit", "rpm_limit_type", "model_max_budget",
        "budget_fallbacks", "aliases", "config", "permissions", "metadata", "tags",
        "allowed_routes", "key_type", "object_permission", "access_group_ids", "auto_rotate",
        "rotation_interval", "router_settings", "blocked", "temp_budget_increase",
        "temp_budget_expiry", "end_user_budget_id", "secret_manager_settings", "logging",
        "new_key", "grace_period", "new_master_key",
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"metadata": {"a": NaN}}', 422),
        (b'{"metadata": {"a": "\\ud800"}}', 422),
        (b'{"max_budget": 1e400}', 422),
        (b"[" * 100_000, 422),
        (b'{"metadata":' + b'{"a":' * 500 + b"1" + b"}" * 501, 400),
        (b'{"key_alias": "' + b"x" * 2_000_000 + b'"}', 413),
    ],
)
async def test_broken_bodies(admin: Admin, data: bytes, status: int) -> None:
    """What is no JSON object is 422, what is too large 413; never a fault of ours."""
    answer = await admin.call("POST", "/key/generate", data=io.BytesIO(data))
    assert answer[0] == status, answer
    await admin.generate()


async def test_body_that_is_not_what_its_encoding_says(admin: Admin) -> None:
    """A body that cannot be decompressed is a 400."""
    headers = {"content-encoding": "gzip"}
    answer = await admin.call("POST", "/key/generate", data=b"plain text", headers=headers)
    assert answer[0] == 400


async def test_no_body_is_our_fault(admin: Admin) -> None:
    """Whatever JSON comes, the answer is a success or a 4xx in a shape of the contract."""
    target = (await admin.generate())["key"]
    bodies: list[Any] = []
    named = st.dictionaries(NAMES, VALUES, max_size=4)

    @settings(
        max_examples=150, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(st.sampled_from(WRITES), named | VALUES)
    def collect(name: str, body: Any) -> None:
        bodies.append((name, body))

    collect()
    for name, body in bodies:
        if isinstance(body, dict) and name in {"update", "regenerate"}:
            body = {**body, "key": target}
        if name == "bulk_update":
            body = {"keys": [body, {"key": target}]}
        status, answer = await admin.call("POST", f"/key/{name}", body if body is not None else {})
        assert status in {200, 400, 404, 422}, (name, body, answer)
        if status != 200:
            assert ("error" in answer) != ("detail" in answer)
    await admin.generate()


async def test_no_query_is_our_fault(admin: Admin) -> None:
    """Whatever the query, the answer is a success or a 4xx."""
    for query in ("%ff", "a%00", "%f0%9f%94%91", "%ED%A0%80", "'", "%", "%25", "x" * 3000):
        for name in ("key", "user_id", "search", "key_hash", "page", "sort_by", "status"):
            path = "/key/info" if name == "key" else "/key/list"
            status, answer = await admin.call("GET", f"{path}?{name}={query}")
            assert status in {200, 404, 422}, (name, query, answer)


async def test_no_path_is_our_fault(admin: Admin) -> None:
    """Whatever stands for a key in a path, the answer is a 4xx."""
    for key in ("%00", "%ff", "%ED%A0%80", "a/b/c", "%2F", "..%2F..", "'", "x" * 3000, "🔑"):
        for name in ("regenerate", "reset_spend"):
            status, answer = await admin.call("POST", f"/key/{key}/{name}", {"reset_to": 0})
            assert status in {400, 404}, (key, answer)
