"""Models and credentials: opened with the source's salt key, sealed with our own.

What cannot be opened is not taken over, nor what could not be in force: all stored models stand or
fall together (`Wholes`), so each is tried before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from attrs import evolve

from services.admin.api.model_writes import sealed, sealed_column
from services.admin.litellm_import.ciphers import Undecipherable
from services.admin.litellm_import.cleaning import Fields, Refused
from services.admin.litellm_import.kinds import (
    STAMP_COLUMNS,
    Circumstances,
    Item,
    Kind,
    Taken,
    Unique,
    stamps,
)
from shared.config.stored import Stored, StoredCredential, StoredModel
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceTable
from shared.db.models import load_stored, lock_models
from shared.db.rows import Connection
from shared.routing.whole import Problem, WholeReport, Wholes
from shared.secrets.members import credential_values, paths_of
from shared.secrets.sealing import is_sealed
from shared.telemetry.redact import Redactor


def _opened(fields: Fields, name: str, at: Circumstances) -> dict[str, Any]:
    members = fields.document(name, limits=True)
    try:
        found = at.opener.members(members)
    except Undecipherable as error:
        member = f".{error}" if str(error) else ""
        raise Refused(f"{name}{member}", "does not open with this salt key") from None
    if paths_of(found, is_sealed, name):
        raise Refused(name, "holds a value that looks like one sealed here")
    return {name: value for name, value in found.items() if value is not None}


def _credential(fields: Fields, at: Circumstances) -> Taken:
    credential_id = fields.id("credential_id")
    opened = _opened(fields, "credential_values", at)
    within = credential_values(credential_id)
    return Taken(
        {
            "credential_id": credential_id,
            "credential_name": fields.id("credential_name"),
            "display_name": fields.words("display_name"),
            **sealed_column("credential_values", within, opened, at.sealer),
            "credential_info": fields.document("credential_info"),
            **stamps(fields, at),
        }
    )


def _model(fields: Fields, at: Circumstances) -> Taken:
    model_id = fields.id("model_id")
    params = _opened(fields, "litellm_params", at)
    info = fields.document("model_info", limits=True)
    blocked = bool(info.pop("blocked", False)) or bool(fields.flag("blocked"))
    return Taken(
        {
            "model_id": model_id,
            "model_name": fields.id("model_name"),
            "blocked": blocked,
            **sealed(model_id, params, at.sealer),
            "model_info": {**info, "id": model_id, "db_model": True},
            **stamps(fields, at),
        }
    )


def new_problems(at: Circumstances, before: Stored, after: Stored) -> list[Problem]:
    """What is wrong with what would be stored, and not with what is."""
    wholes = Wholes(at.gateway, lambda *_: None, at.sealer)

    def found(stored: Stored) -> list[Problem]:
        report = WholeReport()
        wholes.make(stored, report)
        return report.found

    known = set(found(before))
    return [problem for problem in found(after) if problem not in known]


def _tried(
    at: Circumstances, stored: Stored, paths: Mapping[str, str], put: Callable[[set[str]], Stored]
) -> dict[str, tuple[str, str]]:
    """What is wrong with new rows, by id: the field and what. `paths` lead to their ids; `put` is
    what would be stored without some of them."""
    wrong: dict[str, tuple[str, str]] = {}
    while problems := new_problems(at, stored, put(set(wrong))):
        found: dict[str, tuple[str, str]] = {}
        for problem in problems:
            head, bracket, rest = problem.path.partition("].")
            owner = paths.get(head + "]" if bracket else head)
            if owner is not None and owner not in wrong:
                found.setdefault(owner, (rest or "row", f"could not be: {said(problem)}"))
        # One that is nobody's own, such as an alias that leads nowhere now, is everybody's.
        text = f"could not be in force: {problems[0].path}: {said(problems[0])}"
        left = set(paths.values()) - wrong.keys()
        if not left:
            return wrong
        wrong |= found or dict.fromkeys(left, ("row", text))
    return wrong


def said(problem: Problem) -> str:
    """What is wrong, without anything that looks like a secret."""
    return Redactor().text(problem.text)


def _replaced(stored: tuple[Any, ...], rows: list[Any], key: str, without: set[str]) -> Any:
    by_id = {getattr(each, key): each for each in rows if getattr(each, key) not in without}
    kept = [each for each in stored if getattr(each, key) not in by_id]
    return (*kept, *by_id.values())


async def _screen_models(
    connection: Connection, at: Circumstances, items: list[Item]
) -> dict[str, tuple[str, str]]:
    await lock_models(connection)
    rows = [
        StoredModel(
            model_id=item.id,
            model_name=item.taken.columns["model_name"],
            litellm_params=msgspec.json.encode(item.taken.columns["litellm_params"]),
            model_info=msgspec.json.encode(item.taken.columns["model_info"]),
            blocked=item.taken.columns["blocked"],
        )
        for item in items
    ]
    stored = await load_stored(connection)
    return _tried(
        at,
        stored,
        {row.path: row.model_id for row in rows},
        lambda without: evolve(stored, models=_replaced(stored.models, rows, "model_id", without)),
    )


async def _screen_credentials(
    connection: Connection, at: Circumstances, items: list[Item]
) -> dict[str, tuple[str, str]]:
    await lock_models(connection)
    rows = [
        StoredCredential(
            credential_id=item.id,
            credential_name=item.taken.columns["credential_name"],
            credential_values=msgspec.json.encode(item.taken.columns["credential_values"]),
            credential_info=msgspec.json.encode(item.taken.columns["credential_info"]),
        )
        for item in items
    ]
    stored = await load_stored(connection)
    return _tried(
        at,
        stored,
        {row.path: row.credential_id for row in rows},
        lambda without: evolve(
            stored, credentials=_replaced(stored.credentials, rows, "credential_id", without)
        ),
    )


CREDENTIALS = Kind(
    name="credentials",
    kind="credential",
    source=SourceTable(
        "CredentialsTable",
        ("credential_id",),
        ("credential_name", "display_name", "credential_values", "credential_info", "created_at",
         "created_by", "updated_by"),
        ("updated_at",),
    ),
    target=ImportTable(
        "credential",
        ("credential_id",),
        ("credential_id", "credential_name", "display_name", "credential_values",
         "credential_info", "secret_key_id", *STAMP_COLUMNS),
    ),
    read=_credential,
    screen=_screen_credentials,
    unique=(Unique("credential_name", needed=True),),
)  # fmt: skip

MODELS = Kind(
    name="models",
    kind="model",
    source=SourceTable(
        "ProxyModelTable",
        ("model_id",),
        ("model_name", "litellm_params", "model_info", "blocked", "created_at", "created_by",
         "updated_by"),
        ("updated_at",),
    ),
    target=ImportTable(
        "model",
        ("model_id",),
        ("model_id", "model_name", "litellm_params", "model_info", "blocked", "secret_key_id",
         *STAMP_COLUMNS),
    ),
    read=_model,
    screen=_screen_models,
)  # fmt: skip
