"""What goes into the audit log holds no secret, and says what differs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from services.admin.api.audit import clean
from shared.domain.keys import MASTER_KEY_NAME, hash_key

SECRET = "Zx81-very-Secret-value-0123456789"


@pytest.mark.parametrize(
    "members",
    [
        {"password": SECRET},
        {"password_hash": SECRET},
        {"token": SECRET},
        {"token": f"sk-{SECRET}"},
        {"key": f"sk-{SECRET}"},
        {"active_token": SECRET},
        {"litellm_params": {"model": "a/b", "api_key": SECRET}},
        {"credential_values": {"api_key": SECRET, "aws_secret_access_key": SECRET}},
        {"metadata": {"logging": [{"callback_vars": {"langfuse_secret_key": SECRET}}]}},
        {"metadata": {"note": f"the key is sk-{SECRET}"}},
        {"metadata": {"url": f"https://user:{SECRET}@example.test/"}},
        {"environment_variables": {"OPENAI_API_KEY": SECRET}},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"value": f"Authorization: Bearer {SECRET}"},
        {"value": ["-----BEGIN PRIVATE KEY-----\n" + SECRET + "\n-----END PRIVATE KEY-----"]},
    ],
)
def test_secrets_stay_out(members: dict[str, Any]):
    """Under the names that secrets have, and in the shapes that they have, however deep."""
    for before, after in ((members, None), (None, members), (members, {}), ({}, members)):
        assert SECRET not in json.dumps(clean(before, after))


def test_hashes_of_keys_stay():
    """A stored form names its key and says nothing of it."""
    token = hash_key(f"sk-{SECRET}")
    assert clean(None, {"token": token})[1] == {"token": token}
    assert clean(None, {"key": MASTER_KEY_NAME})[1] == {"key": MASTER_KEY_NAME}


def test_an_update_is_what_differs():
    """Members that are equal are left out on both sides, absent ones are null."""
    before = {"a": 1, "b": [1], "gone": "x", "same": {"x": 1}}
    after = {"a": 2, "b": [1, 2], "same": {"x": 1}, "new": True}
    assert clean(before, after) == (
        {"a": 1, "b": [1], "gone": "x", "new": None},
        {"a": 2, "b": [1, 2], "gone": None, "new": True},
    )


def test_values_of_the_store_become_json():
    """Money is a number, times are texts, and odd texts survive."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    _, after = clean(None, {"max_budget": Decimal("1.5"), "expires": at, "alias": "💩\ud800"})
    assert after is not None
    assert json.loads(json.dumps(after)) == {
        "max_budget": 1.5,
        "expires": "2026-01-02T00:00:00+00:00",
        "alias": "💩\\ud800",
    }
