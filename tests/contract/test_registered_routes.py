"""What the two applications really register, for every binary and every set of flags."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from services.admin.app import build_app as build_admin
from services.worker.app import build_app as build_worker
from shared.config.secret import Secret
from shared.config.startup import read_configuration
from shared.domain.capabilities import Binary, RouteClass, decide
from shared.gateway.build import Start, open_runtime
from shared.gateway.route_classes import Match, classify, find, plain_segments
from shared.gateway.route_specs import sample
from shared.gateway.runtime import Runtime
from tests.support.served_routes import SERVED, Matrix

MATRIX = Matrix(Path(__file__).with_name("route_matrix.txt"))
ROOT = Path(__file__).parent.parent.parent
# What a worker must not have in memory, whatever its environment says.
ADMIN_ONLY = {"services.admin", "jinja2", "aiohttp_jinja2"}


@pytest.fixture
def start(database: str, tmp_path: Path) -> Start:
    """What an admin starts with."""
    environ = {
        "DATABASE_URL": database,
        "LITELLM_MASTER_KEY": "sk-master-of-this-test-0123456789",
        "MERIDIAN_ENV": "test",
        "MERIDIAN_STATE_DIR": str(tmp_path),
    }
    configuration = read_configuration(environ, Binary.ADMIN)
    master = Secret(environ["LITELLM_MASTER_KEY"])
    settings, gateway = configuration.settings, configuration.gateway
    return Start(Binary.ADMIN, settings, gateway, master, database, database)


@pytest.fixture
async def rt(start: Start) -> AsyncIterator[Runtime]:
    """A running data plane."""
    async with open_runtime(start) as runtime:
        yield runtime


def registered(rt: Runtime, start: Start, binary: Binary, flags: frozenset[str]) -> set[str]:
    """`METHOD path` of every route of an instance, without the fallback."""
    build = build_admin if binary is Binary.ADMIN else build_worker
    capabilities = decide(binary, dict.fromkeys(flags, True))
    app = build(evolve(rt, binary=binary, capabilities=capabilities), start)
    found: list[str] = []
    for route in app.router.routes():
        assert route.resource is not None
        found.append(f"{route.method} {route.resource.canonical}")
    assert found.pop() == "* /{tail}", "the fallback is the last route"
    assert len(found) == len(set(found)), "a route is registered twice"
    return set(found)


def stated(route_class: RouteClass) -> set[str]:
    """The routes of a class in this release, in the notation of `registered`."""
    return {
        f"{method} {path.replace('{id*}', '{model}').replace('*}', '}')}"
        for method, path in SERVED[route_class]
    }


async def test_registered_as_stated(rt: Runtime, start: Start) -> None:
    """Each of the 64 instances registers exactly the routes of the classes that the matrix says it
    serves, and not one of another class."""
    assert len(MATRIX.instances) == 64
    for binary, flags in MATRIX.instances:
        row = MATRIX.row(binary, flags)
        held = [each for each in RouteClass if row[each.value] == "served"]
        wanted = set().union(*(stated(each) for each in held))
        assert registered(rt, start, binary, flags) == wanted, (binary, flags)


async def test_registered_in_their_class(rt: Runtime, start: Start) -> None:
    """Every registered path has the class that the table gives it: that of the capability under
    which it was registered."""
    for binary, flags in MATRIX.instances:
        capabilities = decide(binary, dict.fromkeys(flags, True))
        for route in registered(rt, start, binary, flags):
            path = sample(route.partition(" ")[2])
            route_class = classify(path)
            assert route_class is not None, path
            assert capabilities.serves(route_class), (binary, flags, path)
            assert route in stated(route_class), path


def test_stated_routes_are_known() -> None:
    """No route is served whose path only a family of the table gives a class to."""
    for route_class, routes in SERVED.items():
        for _, path in routes:
            match = find(plain_segments(sample(path)))
            assert match == Match(route_class, known=True), path


def test_worker_imports_nothing_of_the_admin() -> None:
    """Importing all that a worker process runs leaves the admin and its templates out."""
    code = "import sys, services.worker.__main__\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.split())
    assert "shared.gateway.pipeline" in modules
    assert not {
        module
        for module in modules
        for banned in ADMIN_ONLY
        if module == banned or module.startswith(f"{banned}.")
    }
