"""Requests made from the admin's own OpenAPI document, sent to the admin, a real process.

Its database is its own, so that nothing that they break is another test's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from schemathesis import Case

from shared.domain.capabilities import Binary
from tests.support.fleet import Fleet, Member
from tests.support.openapi_cases import cases, problem_of
from tests.support.postgres import Postgres

pytestmark = pytest.mark.xdist_group("fleet")

# The reference's routes by other names: what they read is what these read.
_ALIASES = ("/end_user/", "/v1/unified_access_group", "/engines/", "/openai/deployments/")


@pytest.fixture(scope="module")
def admin(fleet: Fleet, postgres: Postgres) -> Iterator[Member]:
    """An admin with a database of its own."""
    database = postgres.create()
    with fleet.member("fuzzed", Binary.ADMIN, DATABASE_URL=database) as member:
        yield member
    postgres.drop(database)


@pytest.fixture(scope="module")
def document(admin: Member, fleet: Fleet) -> dict[str, Any]:
    """The document that the admin serves."""
    return dict(_call(admin, fleet.master_key, "GET", "/openapi.json").json())


@pytest.fixture(scope="module")
def made(admin: Member, document: dict[str, Any]) -> list[Case]:
    """Requests to every operation."""
    paths = {
        path: item for path, item in document["paths"].items() if not path.startswith(_ALIASES)
    }
    return cases(document | {"paths": paths}, admin.url)


@pytest.fixture(params=["master", "internal user"])
def key(request: pytest.FixtureRequest, admin: Member, fleet: Fleet) -> str:
    """The key that the requests are sent with."""
    if request.param == "master":
        return fleet.master_key
    body = {"user_role": "internal_user"}
    return str(_call(admin, fleet.master_key, "POST", "/user/new", json=body).json()["key"])


def test_answers_are_as_the_document_says(made: list[Case], key: str) -> None:
    """No request fails in the gateway, none meets a route that is not there, and every answer has
    a status, a type and a body that the document names."""
    statuses: Counter[int] = Counter()
    problems = []
    with requests.Session() as session:
        for case in made:
            status, problem = problem_of(case, key, session)
            statuses[status] += 1
            problems += [problem] if problem else []
    assert not problems, "\n".join(problems[:10])
    assert statuses[501] == 0
    assert statuses[200] > 50, statuses
    assert statuses[400] + statuses[422] > 50, statuses


def test_every_operation_is_tried(made: list[Case], document: dict[str, Any]) -> None:
    """There is a request to each operation but the aliases."""
    wanted = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if not path.startswith(_ALIASES)
    }
    assert {case.operation.label for case in made} == wanted


def test_what_differs_is_found(admin: Member, fleet: Fleet, document: dict[str, Any]) -> None:
    """An answer that is not what a document says, is found to be none."""
    listing = document["paths"]["/key/list"]["get"]
    wrong = {"200": {"description": "OK", "content": {"application/json": {"schema": False}}}}
    changed = {"/key/list": {"get": listing | {"responses": wrong, "parameters": []}}}
    with requests.Session() as session:
        found = [
            problem_of(case, fleet.master_key, session)
            for case in cases(document | {"paths": changed}, admin.url)
        ]
    assert found
    assert all(status == 200 and problem for status, problem in found)


def _call(admin: Member, key: str, method: str, path: str, **more: Any) -> requests.Response:
    headers = {"authorization": f"Bearer {key}"}
    response = requests.request(method, admin.url + path, headers=headers, timeout=10, **more)
    assert response.status_code == 200, response.text
    return response
