"""Models, credentials and settings that the database holds, read as those of the file are.

What is wrong with one is a problem with `database` for its file and `model[<id>].…` or
`credential[<name>].…` for its path. What merely this instance lacks, a variable for one, is no
problem: the entry is read without it and `lacks` says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import evolve, field, frozen

from shared.config.config_check import Checker
from shared.config.config_models import ModelReader
from shared.config.config_references import References, missing_variables
from shared.config.config_source import Located
from shared.config.gateway_config import GatewayConfig, ModelEntry
from shared.config.reports import Report

DATABASE = "database"

# Members that say something of the row, or steer what is no matter of the readers.
_OF_THE_ROW = frozenset(
    {
        "id",
        "db_model",
        "blocked",
        "team_id",
        "team_public_model_name",
        "created_at",
        "created_by",
        "updated_at",
        "updated_by",
    }
)


def model_path(model_id: str) -> str:
    """Where a stored model stands, for messages."""
    return f"model[{model_id}]"


def credential_path(credential_name: str) -> str:
    """Where a stored credential stands, for messages."""
    return f"credential[{credential_name}]"


@frozen(kw_only=True)
class StoredModel:
    """A row of the model table. The JSON columns are as they are stored, secrets sealed."""

    model_id: str
    model_name: str
    litellm_params: bytes
    model_info: bytes
    blocked: bool = False

    def params(self) -> dict[str, Any]:
        """`litellm_params`, secrets sealed."""
        return _members(self.litellm_params)

    def info(self) -> dict[str, Any]:
        """`model_info`."""
        return _members(self.model_info)

    @property
    def path(self) -> str:
        """Where it stands, for messages."""
        return model_path(self.model_id)


@frozen(kw_only=True)
class StoredCredential:
    """A row of the credential table; `credential_values` are as they are stored, sealed."""

    credential_id: str
    credential_name: str
    credential_values: bytes
    credential_info: bytes

    def values(self) -> dict[str, Any]:
        """`credential_values`, sealed."""
        return _members(self.credential_values)

    @property
    def path(self) -> str:
        """Where it stands, for messages."""
        return credential_path(self.credential_name)


@frozen(kw_only=True)
class Stored:
    """All that a snapshot of the database says of models, in the order of their making, and of
    settings: by section, as they are stored, secrets sealed."""

    models: tuple[StoredModel, ...] = ()
    credentials: tuple[StoredCredential, ...] = ()
    settings: Mapping[str, bytes] = field(factory=dict)

    def sections(self) -> dict[str, dict[str, Any]]:
        """The settings, secrets sealed."""
        return {name: _members(value) for name, value in self.settings.items()}


@frozen
class ReadModel:
    """A row as an entry. `lacks` is what this instance would need to serve it. `entry` is `None`
    when it is for instances of other environments, or when what it lacks leaves nothing."""

    entry: ModelEntry | None
    lacks: str | None = None


class StoredReader:
    """Reads the rows of one snapshot; what is wrong with them goes to the report.

    Credentials, opened, have to be given first.
    """

    def __init__(self, file: GatewayConfig, report: Report) -> None:
        self._file = file
        self._report = report
        self._environ = file.environment
        # What the readers notice was said to whoever stored the row.
        checker = Checker(report, References(self._environ, report))
        environment_name = self._environ.get("LITELLM_ENVIRONMENT") or None
        self._reader = ModelReader(checker, environment_name, team_models=True)
        self._missing: dict[str, tuple[str, ...]] = {}
        for name, members in file.credentials.items():
            self._lend(name, dict(members))

    def credential(self, row: StoredCredential, values: Mapping[str, Any]) -> None:
        """Take in a credential."""
        name = row.credential_name
        if name in self._file.credentials:
            text = f"a credential of this name is in {self._file.source} too"
            self._report.problem(DATABASE, row.path, text)
            return
        path = f"{row.path}.credential_values"
        members = {key: Located(value, DATABASE, f"{path}.{key}") for key, value in values.items()}
        provider = _members(row.credential_info).get("custom_llm_provider")
        if provider:
            where = f"{row.path}.credential_info.custom_llm_provider"
            members.setdefault("custom_llm_provider", Located(provider, DATABASE, where))
        self._lend(name, members)

    def model(self, row: StoredModel, params: Mapping[str, Any]) -> ReadModel:
        """A model; the report has what is wrong with it."""
        missing = missing_variables(dict(params), self._environ)
        kept = {
            name: value
            for name, value in params.items()
            if not missing_variables(value, self._environ)
        }
        credential = params.get("litellm_credential_name")
        if isinstance(credential, str):
            missing += self._missing.get(credential, ())
        lacks = None
        if missing:
            plural = "s are" if len(missing) > 1 else " is"
            listed = ", ".join(f"`{name}`" for name in missing)
            lacks = f"the variable{plural} not set on this instance: {listed}"
        if "model" in params and "model" not in kept:
            return ReadModel(None, lacks)
        info = row.info()
        team_id, public = info.get("team_id"), info.get("team_public_model_name")
        members = {
            "model_name": (public if team_id and public else row.model_name),
            "litellm_params": kept,
            "model_info": {n: v for n, v in info.items() if n not in _OF_THE_ROW},
        }
        entry = self._reader.entry(Located(members, DATABASE, row.path))
        if entry is None:
            return ReadModel(None, lacks)
        return ReadModel(
            evolve(
                entry,
                info=evolve(entry.info, id=row.model_id, blocked=row.blocked),
                stored=True,
                team_id=team_id or None,
            ),
            lacks,
        )

    def _lend(self, name: str, members: dict[str, Located]) -> None:
        for member, located in list(members.items()):
            missing = missing_variables(located.value, self._environ)
            if missing:
                self._missing[name] = (*self._missing.get(name, ()), *missing)
                del members[member]
        self._reader.credentials[name] = members


def _members(data: bytes) -> dict[str, Any]:
    """A JSON object; what else may be stored counts as an empty one."""
    value = msgspec.json.decode(data)
    return value if isinstance(value, dict) else {}
