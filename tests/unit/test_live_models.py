"""The catalog of file and database: what is kept, what is freed, all or nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from attrs import evolve

from shared.config.config_file import load
from shared.config.secret import Secret
from shared.config.stored import Stored, StoredCredential, StoredModel
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable
from shared.gateway.live_models import LiveModels
from shared.routing.whole import WholeReport, Wholes
from shared.secrets.members import model_params
from shared.secrets.sealing import Sealer

FILE: dict[str, Any] = {
    "model_list": [
        {
            "model_name": "from-file",
            "litellm_params": {"model": "openai/f", "api_base": "http://h/v1"},
            "model_info": {"id": "file-1"},
        },
        {
            "model_name": "wild/*",
            "litellm_params": {"model": "openai/*", "api_base": "http://h/v1"},
        },
    ]
}


def sealer() -> Sealer:
    return Sealer(Secret("sk-salt"))


class Database:
    """What is stored, as a test sets it."""

    def __init__(self, *models: StoredModel) -> None:
        self.stored = Stored(models=models)
        self.error: Exception | None = None

    async def read(self) -> Stored:
        if self.error is not None:
            raise self.error
        return self.stored

    def set(self, *models: StoredModel, credentials: tuple[StoredCredential, ...] = ()) -> None:
        self.stored = Stored(models=models, credentials=credentials)


def model(
    model_id: str, name: str = "m", *, info: Mapping[str, Any] | None = None, **params: Any
) -> StoredModel:
    """A row."""
    given = {"model": "openai/x", "api_base": "http://h/v1", "api_key": "k", **params}
    given = {member: value for member, value in given.items() if value is not None}
    return StoredModel(
        model_id=model_id,
        model_name=name,
        litellm_params=msgspec.json.encode(model_params(model_id).seal(given, sealer)),
        model_info=msgspec.json.encode(dict(info or {})),
    )


def credential(name: str, **values: str) -> StoredCredential:
    """A row, its values not sealed."""
    return StoredCredential(
        credential_id=name,
        credential_name=name,
        credential_values=msgspec.json.encode(values),
        credential_info=b"{}",
    )


@pytest.fixture
def live(tmp_path: Path) -> Any:
    def make(
        database: Database | None = None,
        file: Mapping[str, Any] = FILE,
        environ: Mapping[str, str] | None = None,
    ) -> LiveModels:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(dict(file)))
        wholes = Wholes(load(path, environ or {}), lambda *_: None, cache(sealer))
        return LiveModels(wholes, Clock(), database.read if database is not None else None)

    return make


def one(models: LiveModels, name: str) -> Any:
    (deployment,) = models.catalog.resolve(name).deployments  # type: ignore[union-attr]
    return deployment


async def test_file_and_database_together(live: Any) -> None:
    """Entries of one name form a group, wherever they stand; the file comes first."""
    database = Database(model("m1", "from-file"), model("m2", "new"))
    models = live(database)
    assert models.catalog.names() == ("from-file",)
    await models.take_over()
    group = models.catalog.resolve("from-file")
    assert [each.id for each in group.deployments] == ["file-1", "m1"]
    assert one(models, "new").api_key == "k"
    assert models.catalog.entries["m2"].stored
    assert models.details()["unserved"] == {}


async def test_unchanged_deployments_stay(live: Any) -> None:
    """What has not changed is the same object with what was derived from it, wildcards' names
    included; what has changed is another."""
    database = Database(model("m1", "a"), model("m2", "b"), model("m3", "c", rpm=5))
    models = live(database)
    await models.take_over()
    kept = {name: one(models, name) for name in ("from-file", "a", "c", "wild/x")}
    changed = one(models, "b")
    for each in (*kept.values(), changed):
        each.derived["seen"] = True
    again = model("m1", "a")
    database.set(
        evolve(again, model_info=b'{"note": 1}'),
        model("m2", "b", rpm=9, tpm=2),
        database.stored.models[2],
        model("m4", "d"),
    )
    await models.take_over()
    for name, deployment in kept.items():
        assert one(models, name) is deployment, name
    assert one(models, "b") is not changed
    assert "seen" not in one(models, "b").derived
    assert changed.api_key == "k", "calls in flight keep theirs"


async def test_dropped_deployments_are_freed(live: Any) -> None:
    """Nothing holds what is gone."""
    database = Database(*(model(f"m{number}", f"n{number}") for number in range(50)))
    models = live(database)
    await models.take_over()
    gone = [weakref.ref(one(models, f"n{number}")) for number in range(50)]
    catalog = weakref.ref(models.catalog)
    database.set(model("m1", "n1"))
    await models.take_over()
    gc.collect()
    assert catalog() is None
    assert [ref() is not None for ref in gone].count(True) == 1


async def test_all_or_nothing(live: Any) -> None:
    """Of a change that is wrong nothing is taken over; it is told, and the next good one is."""
    database = Database(model("m1", "a"))
    models = live(database)
    await models.take_over()
    before = models.catalog
    database.set(model("m1", "renamed"), model("m2", "b", rpm="many"))
    with pytest.raises(ConfigError, match=r"database: model\[m2\]\.litellm_params\.rpm"):
        await models.take_over()
    assert models.catalog is before
    assert "model[m2]" in models.details()["refused"]
    assert models.behind_s > 0
    database.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await models.take_over()
    database.error = None
    database.set(model("m1", "renamed"))
    await models.take_over()
    assert set(models.catalog.names()) == {"from-file", "renamed"}
    assert (models.details()["refused"], models.behind_s) == (None, 0.0)


@pytest.mark.parametrize(
    ("rows", "credentials", "expected"),
    [
        ((model("file-1"),), (), r"model\[file-1\].*is the id of model_list\[0\] too"),
        ((model("m", litellm_credential_name="x"),), (), r"litellm_credential_name: no such"),
        ((evolve(model("a"), model_id="b"),), (), r"model\[b\]\.litellm_params\.api_key"),
        ((evolve(model("a"), litellm_params=b"[]"),), (), r"model\[a\]\.litellm_params\.model"),
        ((), (credential("mine", api_key="x"),), r"credential\[mine\]: .*config\.yaml too"),
    ],
    ids=["id-of-the-file", "no-credential", "moved-secret", "no-object", "credential-of-the-file"],
)
async def test_what_cannot_be_in_force(
    live: Any,
    rows: tuple[StoredModel, ...],
    credentials: tuple[StoredCredential, ...],
    expected: str,
) -> None:
    """Each fault names its place, clashes both places; no message holds a secret."""
    database = Database()
    listed = [{"credential_name": "mine", "credential_values": {"api_key": "y"}}]
    models = live(database, {**FILE, "credential_list": listed})
    database.set(*rows, credentials=credentials)
    with pytest.raises(ConfigError, match=expected):
        await models.take_over()


async def test_what_this_instance_lacks(live: Any) -> None:
    """A missing variable, a missing provider key and another environment leave one model out and
    say so; the rest is in force."""
    database = Database(
        model("m1", "a", api_key="os.environ/HERE"),
        model("m2", "b", api_key="os.environ/NOT_HERE"),
        model("m3", "c", api_base=None, api_key=None),
        model("m4", "d", info={"supported_environments": ["other"]}),
        model("m5", "e", api_key=None, api_base=None, litellm_credential_name="lent"),
    )
    database.set(
        *database.stored.models, credentials=(credential("lent", api_key="os.environ/NOR_THIS"),)
    )
    models = live(database, environ={"HERE": "found"})
    await models.take_over()
    assert one(models, "a").api_key == "found"
    assert {"b", "c", "d", "e"}.isdisjoint(models.catalog.names())
    unserved = models.details()["unserved"]
    assert set(unserved) == {"m2", "m3", "m5"}
    assert "NOT_HERE" in unserved["m2"]
    assert "NOT_HERE" in models.catalog.why_not("b")
    assert "OPENAI_API_KEY" in unserved["m3"]
    assert "NOR_THIS" in unserved["m5"]


async def test_a_credential_that_changes(live: Any) -> None:
    """A model takes up the new values of the credential that it names; others stay as they are."""
    named = model("m1", "a", api_key=None, api_base=None, litellm_credential_name="lent")
    database = Database()
    models = live(database)
    values = {"api_key": "first", "api_base": "http://c/v1"}
    database.set(named, model("m2", "b"), credentials=(credential("lent", **values),))
    await models.take_over()
    other = one(models, "b")
    assert one(models, "a").api_key == "first"
    values["api_key"] = "second"
    database.set(named, model("m2", "b"), credentials=(credential("lent", **values),))
    await models.take_over()
    assert one(models, "a").api_key == "second"
    assert one(models, "b") is other


async def test_an_alias_for_a_stored_model(live: Any) -> None:
    """An alias of the file may stand for what the database has; without it there is no start."""
    file = {**FILE, "router_settings": {"model_group_alias": {"alias": "stored"}}}
    database = Database(model("m1", "stored"))
    models = live(database, file)
    await models.take_over()
    assert one(models, "alias").id == "m1"
    database.set(evolve(model("m1", "stored"), blocked=True))
    await models.take_over()
    assert models.catalog.resolve("alias") is None
    assert models.catalog.why_not("alias") == "it is blocked"
    database.set()
    with pytest.raises(ConfigError, match=r"model_group_alias\.alias"):
        await models.take_over()
    with pytest.raises(ConfigError, match=r"model_group_alias\.alias"):
        live(None, file)


async def test_models_of_teams(live: Any) -> None:
    """A team's names are its own: exact, by wildcard and by id."""
    info = {"team_id": "t", "team_public_model_name": "from-file"}
    wild = {"team_id": "t", "team_public_model_name": "own/*"}
    database = Database(
        model("m1", "model_name_t_1", info=info),
        model("m2", "model_name_t_2", info=wild, model="openai/*"),
    )
    models = live(database)
    await models.take_over()
    catalog = models.catalog
    assert one(models, "from-file").id == "file-1"
    assert catalog.of_team("from-file", "t").deployments[0].id == "m1"
    assert catalog.of_team("from-file", "u").deployments[0].id == "file-1"
    assert catalog.of_team("own/x", "t").deployments[0].upstream_model == "x"
    for name in ("m1", "own/x", "model_name_t_1"):
        assert catalog.resolve(name) is None
    assert catalog.of_any_team("m1").deployments[0].id == "m1"
    assert catalog.names() == ("from-file",)


async def test_the_loop_is_not_held_up(live: Any) -> None:
    """While hundreds of models are taken over, other work goes on in between."""
    database = Database(*(model(f"m{number}", f"n{number}") for number in range(400)))
    models = live(database)
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    await models.take_over()
    working.cancel()
    assert turns >= 3


def test_wholes_are_values(live: Any) -> None:
    """Making a whole from another changes neither that one nor what it was made of."""
    models = live(Database())
    first = models.wholes.make(Stored(models=(model("m1", "a"),)), WholeReport())
    report = WholeReport()
    models.wholes.make(Stored(models=(model("m1", "a", rpm="x"),)), report, first)
    assert [problem.path for problem in report.found] == ["model[m1].litellm_params.rpm"]
    again = models.wholes.make(Stored(models=(model("m1", "a"),)), WholeReport(), first)
    assert again.catalog.resolve("a").deployments[0] == first.catalog.resolve("a").deployments[0]
