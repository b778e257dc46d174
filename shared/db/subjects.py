"""What calls name besides their keys, as the store hands it over: end users, tags, model access
groups and default budgets (functions `load_subjects` and `subject_names` in 0002_feed.sql)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from shared.db.rows import Queryable
from shared.domain.keys import Subject, SubjectKind

Name = tuple[SubjectKind, str]

_LOAD = "select load_subjects($1::text[], $2::text[], $3::text[], $4::text[])"
_NAMES = "select subject_names($1::integer)"
_ORDER = (
    SubjectKind.END_USER,
    SubjectKind.TAG,
    SubjectKind.MODEL_ACCESS_GROUP,
    SubjectKind.BUDGET,
)


async def load_subjects(link: Queryable, names: Iterable[Name]) -> dict[Name, Subject]:
    """Those of the names that have a row. Names must be texts that the database can hold."""
    wanted: dict[SubjectKind, list[str]] = {kind: [] for kind in _ORDER}
    for kind, name in names:
        wanted[kind].append(name)
    data: bytes = await link.fetchval(_LOAD, *(wanted[kind] for kind in _ORDER))
    found = msgspec.json.decode(data, type=tuple[Subject, ...])
    return {(subject.kind, subject.id): subject for subject in found}


async def subject_names(link: Queryable, most: int) -> Mapping[SubjectKind, frozenset[str] | None]:
    """The ids that have rules, by kind; `None` where they are more than `most`."""
    data: bytes = await link.fetchval(_NAMES, most)
    return msgspec.json.decode(data, type=dict[SubjectKind, frozenset[str] | None])
