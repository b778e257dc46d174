"""The catalog of the configuration file and of what the database holds, together.

All or nothing: either everything that is stored can be in force, or nothing of it is taken over.
What has not changed since the whole before costs next to nothing, so that every change is checked
and taken over as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import define, field, frozen

from shared.config.gateway_config import GatewayConfig, ModelEntry
from shared.config.reports import Report
from shared.config.stored import (
    DATABASE,
    ReadModel,
    Stored,
    StoredCredential,
    StoredModel,
    StoredReader,
)
from shared.config.stored_settings import STORED_SECTIONS, overlaid
from shared.routing.catalog import Catalog, Draft
from shared.routing.rating import PriceOf
from shared.routing.resolve import Resolved
from shared.secrets.members import config_section, credential_values, model_params
from shared.secrets.sealing import SealBroken, Sealer


@frozen
class Problem:
    """Something wrong: where, by source and dotted path, and what."""

    source: str
    path: str
    text: str


@define(slots=True)
class WholeReport(Report):
    """A report that also keeps its problems apart."""

    found: list[Problem] = field(factory=list)

    def problem(self, source: str, path: str, text: str) -> None:
        super().problem(source, path, text)
        self.found.append(Problem(source, path, text))


@frozen
class _Known:
    """A row that was read, with the credential that it named."""

    row: StoredModel
    credential: StoredCredential | None
    read: ReadModel


@frozen(eq=False)
class Whole:
    """A catalog with what it was made of.

    `config` is that of file and database together. `entries` has every entry that could be read,
    the file's first, blocked ones too; `unserved` what became of stored models, by id, that this
    instance does not serve.
    """

    config: GatewayConfig
    catalog: Catalog
    entries: tuple[ModelEntry, ...]
    unserved: Mapping[str, Resolved] = field(factory=dict)
    _known: Mapping[str, _Known] = field(factory=dict, repr=False)
    _settings: tuple[GatewayConfig, Mapping[str, bytes]] | None = field(default=None, repr=False)


@frozen(eq=False)
class Wholes:
    """Makes wholes. `sealer` is asked for only where there is a sealed value, and may raise
    `ConfigError`."""

    file: GatewayConfig
    price_of: PriceOf
    sealer: Callable[[], Sealer]

    def make(self, stored: Stored, report: WholeReport, before: Whole | None = None) -> Whole:
        """The whole, of no use if the report has a problem then."""
        steps = self.steps(stored, report, before)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                whole: Whole = done.value
                return whole

    def steps(
        self, stored: Stored, report: WholeReport, before: Whole | None = None
    ) -> Generator[None, None, Whole]:
        """The same in small steps, for a loop that has other things to do between them."""
        config = self._config(stored, report, before)
        if before is not None and not _resolve_alike(before.config, config):
            before = None
        reader = StoredReader(config, report)
        credentials = {row.credential_name: row for row in stored.credentials}
        for credential in stored.credentials:
            self._lend(credential, reader, report)
            yield
        draft = Draft(config, self.price_of, report, before.catalog if before else None)
        entries: list[ModelEntry] = []
        for entry in self.file.models:
            draft.add(entry)
            entries.append(entry)
            yield
        unserved: dict[str, Resolved] = {}
        known: dict[str, _Known] = {}
        for row in stored.models:
            read = self._read(row, credentials, reader, report, before)
            known[row.model_id] = read
            resolved = Resolved(reason=read.read.lacks, elsewhere=True)
            if read.read.entry is not None:
                entries.append(read.read.entry)
                resolved = draft.add(read.read.entry, read.read.lacks)
            if resolved.reason is not None:
                unserved[row.model_id] = resolved
            yield
        catalog = draft.finish()
        return Whole(
            config,
            catalog,
            tuple(entries),
            MappingProxyType(unserved),
            MappingProxyType(known),
            (self.file, stored.settings),
        )

    def _config(self, stored: Stored, report: WholeReport, before: Whole | None) -> GatewayConfig:
        if before is not None and before._settings is not None:
            file, settings = before._settings
            if file is self.file and settings == stored.settings:
                return before.config
        opened: dict[str, dict[str, Any]] = {}
        sections = stored.sections()
        for section in STORED_SECTIONS:
            try:
                members = sections.get(section, {})
                opened[section] = config_section(section).open(members, self.sealer)
            except SealBroken as broken:
                report.problem(DATABASE, broken.place.path, broken.what)
        return overlaid(self.file, opened, report)

    def _lend(self, row: StoredCredential, reader: StoredReader, report: WholeReport) -> None:
        members = credential_values(row.credential_id)
        try:
            reader.credential(row, members.open(row.values(), self.sealer))
        except SealBroken as broken:
            report.problem(DATABASE, f"{row.path}.{broken.place.path}", broken.what)

    def _read(
        self,
        row: StoredModel,
        credentials: Mapping[str, StoredCredential],
        reader: StoredReader,
        report: WholeReport,
        before: Whole | None,
    ) -> _Known:
        known = before._known.get(row.model_id) if before is not None else None
        if known is not None and known.row == row:
            if known.credential is None:
                return known
            # The memory of an old credential's members is not to outlive it.
            if credentials.get(known.credential.credential_name) == known.credential:
                return known
        params = row.params()
        try:
            opened = model_params(row.model_id).open(params, self.sealer)
        except SealBroken as broken:
            report.problem(DATABASE, f"{row.path}.{broken.place.path}", broken.what)
            return _Known(row, None, ReadModel(None))
        name = params.get("litellm_credential_name")
        return _Known(
            row,
            credentials.get(name) if isinstance(name, str) else None,
            reader.model(row, opened),
        )


def _resolve_alike(one: GatewayConfig, other: GatewayConfig) -> bool:
    """Whether entries become the same deployments with either configuration."""
    return one is other or _resolved_with(one) == _resolved_with(other)


def _resolved_with(config: GatewayConfig) -> tuple[Any, ...]:
    litellm, router = config.litellm, config.router
    return (
        config.environment,
        litellm.drop_params,
        litellm.request_timeout,
        litellm.cost_discount_config,
        litellm.cost_margin_config,
        router.timeout,
        router.stream_timeout,
    )
