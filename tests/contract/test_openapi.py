"""The OpenAPI document is valid, says what is registered, and says it to those who may know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web
from schemathesis.specs.openapi.definitions import OPENAPI_31

from services.admin.api.access import ADMIN_ONLY, Role
from services.admin.api.calls import AdminRoute, OpenRoute, Shape
from services.admin.api.routes import OPEN_ROUTES, ROUTES
from services.admin.api.values import ValueReader
from services.admin.openapi.document import build_document
from services.admin.openapi.routes import DOCUMENT_ROUTES, DOCUMENTATION
from shared.domain.capabilities import RouteClass
from shared.gateway.route_specs import RouteSpec
from tests.support.admin_app import MASTER, admin_app
from tests.support.route_inputs import inputs

Json = dict[str, Any]
_METHODS = ("get", "post", "put", "patch", "delete", "options")
_ALL = (*ROUTES, *OPEN_ROUTES, *DOCUMENT_ROUTES)
_SHARED = (
    RouteSpec("POST", "/v1/chat/completions", RouteClass.LLM, "chat"),
    RouteSpec("GET", "/v1/models", RouteClass.PUBLIC, "list_models"),
)

route_name = pytest.mark.parametrize(
    "route", _ALL, ids=lambda route: f"{route.method} {route.path}"
)


@pytest.fixture(scope="module")
def document() -> Json:
    """The document of everything that can be registered."""
    return build_document(_ALL, _SHARED, version="1.2.3", root_path="/gateway")


@pytest.fixture
async def app(database: str, tmp_path: Path) -> AsyncIterator[web.Application]:
    """An admin with everything on."""
    async with admin_app(database, tmp_path) as built:
        yield built


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Method, path and object of every operation."""
    for path, item in document["paths"].items():
        assert set(item) <= set(_METHODS), path
        for method, operation in item.items():
            yield method.upper(), path, operation


def registered(app: web.Application) -> set[str]:
    """`METHOD path` of every registered route but the console's and the fallback."""
    found = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None
    }
    assert "* /{tail}" in found
    return {each for each in found - {"* /{tail}"} if not each.startswith("GET /ui")}


def documented(document: Json) -> set[str]:
    """The same of the document."""
    return {f"{method} {path}" for method, path, _ in operations(document)}


def resolve(document: Json, reference: str) -> Any:
    """What a reference leads to."""
    assert reference.startswith("#/"), reference
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def nodes(part: Any) -> Iterator[Json]:
    """Every object within."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from nodes(value)
    elif isinstance(part, list):
        for value in part:
            yield from nodes(value)


def test_valid_by_the_meta_schema(document: Json) -> None:
    """The document is OpenAPI 3.1, and each schema in it is JSON Schema 2020-12."""
    jsonschema_rs.validator_for(OPENAPI_31).validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    for node in nodes(document["paths"]):
        if "schema" in node:
            jsonschema_rs.meta.validate(node["schema"])


def test_references_lead_somewhere(document: Json) -> None:
    """Every reference resolves, and every component but the security schemes is referred to."""
    references = {node["$ref"] for node in nodes(document) if "$ref" in node}
    for reference in references:
        assert isinstance(resolve(document, reference), dict)
    for kind in ("schemas", "responses"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in references, name


def test_ids_are_unique(document: Json) -> None:
    """No two operations have one name."""
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert not [name for name, count in ids.items() if count > 1]


def test_parameters_are_declared_once(document: Json) -> None:
    """The parameters of each path are declared, each once, and no other is."""
    for method, path, operation in operations(document):
        names = [(each["in"], each["name"]) for each in operation["parameters"]]
        assert len(names) == len(set(names)), (method, path)
        in_path = [name for place, name in names if place == "path"]
        assert in_path == re.findall(r"{(\w+)}", path), (method, path)


def test_components_are_named_once(document: Json) -> None:
    """Each body holds the fields of its route, also where tables are much alike."""
    for route in _ALL:
        if route.body is None:
            continue
        path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
        operation = document["paths"][path][route.method.lower()]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        schema = resolve(document, body["$ref"])
        assert list(schema["properties"]) == list(dict.fromkeys(f.name for f in route.body))
        assert schema["required"] == [field.name for field in route.body if field.required]


async def test_says_what_is_registered(app: web.Application) -> None:
    """Every route that the application registers is in its document, and nothing else."""
    assert documented(app[DOCUMENTATION].document) == registered(app)


@pytest.mark.parametrize("flag", ["DISABLE_LLM_API_ENDPOINTS", "DISABLE_ADMIN_UI"])
async def test_flags_take_away(flag: str, database: str, tmp_path: Path) -> None:
    """What a flag takes away is not in the document."""
    async with admin_app(database, tmp_path, **{flag: "true"}) as app:
        assert documented(app[DOCUMENTATION].document) == registered(app)


async def test_no_document_without_management(database: str, tmp_path: Path) -> None:
    """An admin that serves no management API shows no document."""
    async with admin_app(database, tmp_path, DISABLE_ADMIN_ENDPOINTS="true") as app:
        assert DOCUMENTATION not in app
        assert not {"GET /docs", "GET /openapi.json"} & registered(app)


@route_name
def test_rows_name_what_handlers_read(route: AdminRoute | OpenRoute) -> None:
    """A row names every parameter that its handler reads and no other, a body if it reads one,
    and that it waits if it does."""
    read = inputs(route.handler)
    named = {parameter.name for parameter in route.query}
    assert read.names <= named
    assert named == read.names or read.open_ended
    assert (route.body is not None) == read.body
    if isinstance(route, AdminRoute):
        waits = "wait" in {parameter.name for parameter in route.parameters}
        assert waits == read.waits
        assert waits <= (route.method != "GET")


def test_readers_have_schemas() -> None:
    """Whatever reads a field says in a schema what it takes."""
    for route in _ALL:
        for field in route.body or ():
            assert isinstance(field.read, ValueReader), (route.path, field.name)
            assert isinstance(field.read.schema, dict)


def test_errors_by_shape(document: Json) -> None:
    """Each operation of the management API names the errors that every call can have, in the
    shape of its route."""
    shapes = {
        Shape.PROXY: "Error",
        Shape.DETAIL: "Detail",
        Shape.PLAIN_DETAIL: "PlainDetail",
        Shape.PROBLEM: "Problem",
    }
    for route in _ALL:
        path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
        answers = document["paths"][path][route.method.lower()]["responses"]
        for status in ("400", "401", "403", "404", "422", "429", "503"):
            body = resolve(document, answers[status]["$ref"])["content"]
            schemas = {node["$ref"].rpartition("/")[2] for node in nodes(body) if "$ref" in node}
            wanted = {"422": "Issues", "503": "Error"}.get(status, shapes[route.errors])
            assert wanted in schemas, (route.path, status)
        assert "501" not in answers


def test_access_is_told(document: Json) -> None:
    """`x-meridian-access` is the row's own access; open routes ask for no key."""
    for route in ROUTES:
        path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
        said = document["paths"][path][route.method.lower()]["x-meridian-access"]
        assert said["master_key_only"] == route.access.master_only
        if not route.access.master_only:
            assert set(map(str, route.access.roles)) <= set(said["roles"])
            assert said["relations"] == sorted(map(str, route.access.relations))
        if route.access == ADMIN_ONLY and route.method != "GET":
            assert said["roles"] == [str(Role.PROXY_ADMIN)]
    for route in OPEN_ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["security"] == []


def test_llm_calls_forward_what_they_do_not_know(document: Json) -> None:
    """The body of a chat names the members that steer, asks for `messages` and closes nothing."""
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["required"] == ["messages"]
    assert {"model", "stream", "max_tokens", "metadata"} <= set(schema["properties"])
    assert schema.get("additionalProperties", True) is True


async def test_who_may_read_it(app: web.Application, aiohttp_client: Any) -> None:
    """Any valid key reads the document and the page; without one both answer 401."""
    client = await aiohttp_client(app)
    as_master = {"authorization": f"Bearer {MASTER}"}
    made = await client.post("/key/generate", json={}, headers=as_master)
    key = (await made.json())["key"]
    for path in ("/openapi.json", "/docs"):
        assert (await client.get(path)).status == 401
        assert (await client.get(path, headers={"authorization": "Bearer sk-no"})).status == 401
        for plain in (MASTER, key):
            answer = await client.get(path, headers={"authorization": f"Bearer {plain}"})
            assert answer.status == 200
            assert answer.headers["cache-control"] == "no-store"


async def test_public_by_setting(database: str, tmp_path: Path, aiohttp_client: Any) -> None:
    """With MERIDIAN_PUBLIC_API_DOCS anybody reads both, and the document says so."""
    async with admin_app(database, tmp_path, MERIDIAN_PUBLIC_API_DOCS="true") as app:
        client = await aiohttp_client(app)
        answer = await client.get("/openapi.json")
        assert answer.status == 200
        assert answer.content_type == "application/json"
        body = await answer.json()
        assert body["paths"]["/docs"]["get"]["security"] == []
        assert documented(body) == registered(app)
        assert (await client.get("/docs")).status == 200
        assert (await client.get("/key/list")).status == 401


async def test_page(app: web.Application, aiohttp_client: Any) -> None:
    """The page shows every operation, and needs nothing that its policy does not let it have."""
    client = await aiohttp_client(app)
    answer = await client.get("/docs", headers={"authorization": f"Bearer {MASTER}"})
    html = await answer.text()
    assert answer.content_type == "text/html"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r"<(script|img|iframe|link|object|form)|\son\w+=|style=|https?://", html)
    assert set(re.findall(r'href="([^"#]+)', html)) == {"/openapi.json"}
    for _, path, operation in operations(app[DOCUMENTATION].document):
        assert f'id="{operation["operationId"]}"' in html
        assert path in html


async def test_page_below_a_root_path(database: str, tmp_path: Path, aiohttp_client: Any) -> None:
    """Links and the server's address lead to where a proxy puts the gateway."""
    async with admin_app(database, tmp_path, SERVER_ROOT_PATH="/gate") as app:
        documentation = app[DOCUMENTATION]
        assert documentation.document["servers"] == [{"url": "/gate"}]
        assert 'href="/gate/openapi.json"' in documentation.page.html
