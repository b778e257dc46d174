"""`model_list` and `credential_list`: entries into values."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import define, field

from shared.config.config_check import Checker
from shared.config.config_pending import PENDING_MODEL_INFO, PENDING_PARAMS
from shared.config.config_schema import (
    CREDENTIAL,
    LITELLM_PARAMS,
    MAPPING,
    MODEL_ENTRY,
    MODEL_INFO,
    OPENAI_PARAMS,
    PRICES,
    Key,
    names,
)
from shared.config.config_source import Located
from shared.config.gateway_config import LitellmParams, ModelEntry, ModelInfo
from shared.config.reports import did_you_mean, nearest

# Entries of one team only: serving them to everybody would be worse than not serving them.
_TEAM_ONLY = ("team_id", "team_public_model_name")


@define(slots=True)
class ModelReader:
    """Reads entries; `credentials` are the members that named ones bring in.

    `team_models` says that the caller sees to it that an entry of one team serves no other.
    """

    checker: Checker
    environment_name: str | None = None
    credentials: dict[str, Mapping[str, Located]] = field(factory=dict)
    team_models: bool = False

    def credential(self, located: Located) -> None:
        """Take in an item of `credential_list`."""
        members = self._members(located, CREDENTIAL)
        if members is None:
            return
        name = self._head(members, CREDENTIAL, "a credential").get("credential_name")
        report = self.checker.report
        if name is None:
            report.problem(located.source, f"{located.path}.credential_name", "is missing")
        elif name in self.credentials:
            report.problem(located.source, located.path, f"credential `{name}` is there twice")
        else:
            inner = self._mapping(members.get("credential_values"))
            info = self._mapping(members.get("credential_info"))
            if provider := info.get("custom_llm_provider"):
                inner.setdefault("custom_llm_provider", provider)
            self.credentials[name] = inner

    def entry(self, located: Located) -> ModelEntry | None:
        """An item of `model_list`; `None` when it is wrong or not to be served here."""
        members = self._members(located, MODEL_ENTRY)
        if members is None:
            return None
        report = self.checker.report
        found = len(report.problems)
        head = self._head(members, MODEL_ENTRY, "an entry of `model_list`")
        for name in ("model_name", "litellm_params"):
            if members.get(name) is None or members[name].value is None:
                report.problem(located.source, f"{located.path}.{name}", "is missing")
        params = self._params(members.get("litellm_params"))
        info = self._info(members.get("model_info"))
        if params is None or info is None or len(report.problems) > found:
            return None
        entry = ModelEntry(
            model_name=head["model_name"],
            params=params,
            info=info,
            source=located.source,
            path=located.path,
        )
        return entry if self._served(entry) else None

    def _params(self, located: Located | None) -> LitellmParams | None:
        if located is None or located.value is None:
            return None
        members = self._mapping(located)
        report = self.checker.report
        if name := members.get("litellm_credential_name"):
            self._lend(name, members)
        values, rest = self.checker.known(members, LITELLM_PARAMS, PENDING_PARAMS)
        values.pop("litellm_credential_name", None)
        if "model" not in values:
            if "model" not in members or members["model"].value is None:
                report.problem(located.source, f"{located.path}.model", "is missing")
            return None
        organization = values.get("organization", ())
        values["organization"] = (
            (organization,) if isinstance(organization, str) else tuple(organization)
        )
        values["additional_drop_params"] = tuple(values.get("additional_drop_params", ()))
        values["prices"] = _take_prices(values)
        return LitellmParams(
            **values, extra=self._free(rest, names(LITELLM_PARAMS), "goes upstream as it is")
        )

    def _info(self, located: Located | None) -> ModelInfo | None:
        if located is None or located.value is None:
            return ModelInfo()
        values, rest = self.checker.known(self._mapping(located), MODEL_INFO, PENDING_MODEL_INFO)
        for name in ("access_groups", "supported_environments"):
            values[name] = tuple(values.get(name, ()))
        values["prices"] = _take_prices(values)
        return ModelInfo(
            **values, extra=self._free(rest, names(MODEL_INFO), "is shown and has no effect")
        )

    def _free(
        self, rest: Mapping[str, Located], known: tuple[str, ...], fate: str
    ) -> dict[str, Any]:
        """Members of names that are the author's own; one like ours is noticed."""
        report = self.checker.report
        values: dict[str, Any] = {}
        for name, located in rest.items():
            similar = nearest(name, known, cutoff=0.82)
            if similar and name not in OPENAI_PARAMS:
                report.notice(located.source, located.path, f"{fate}; did you mean `{similar}`?")
            values[name] = self.checker.references.resolve(located).value
        return values

    def _lend(self, reference: Located, members: dict[str, Located]) -> None:
        name = self.checker.references.resolve(reference).value
        credential = self.credentials.get(name) if isinstance(name, str) else None
        if credential is None:
            hint = did_you_mean(str(name), self.credentials)
            self.checker.report.problem(
                reference.source, reference.path, f"no such credential{hint}"
            )
            return
        for member, located in credential.items():
            if member not in members or members[member].value is None:
                members[member] = located

    def _served(self, entry: ModelEntry) -> bool:
        report = self.checker.report
        path = f"{entry.path}.model_info"
        if not self.team_models and any(entry.info.extra.get(name) for name in _TEAM_ONLY):
            report.notice(
                entry.source,
                f"{path}.team_id",
                "the entry is not served: models of one team are not part of this release",
            )
            return False
        environments = entry.info.supported_environments
        return not (environments and self.environment_name not in environments)

    def _members(self, located: Located, keys: tuple[Key, ...]) -> dict[str, Located] | None:
        if not isinstance(located.value, dict):
            self.checker.report.problem(
                located.source, located.path, f"expected a mapping with `{keys[0].name}`"
            )
            return None
        return self._mapping(located)

    def _mapping(self, located: Located | None) -> dict[str, Located]:
        if located is None or located.value is None:
            return {}
        report = self.checker.report
        if not isinstance(located.value, dict):
            report.problem(located.source, located.path, "expected a mapping")
            return {}
        members: dict[str, Located] = {}
        for name, value in located.value.items():
            member = located.member(str(name), value)
            if isinstance(name, str):
                members[name] = member
            else:
                report.problem(member.source, member.path, "names must be text; put it in quotes")
        return members

    def _head(
        self, members: Mapping[str, Located], keys: tuple[Key, ...], where: str
    ) -> dict[str, Any]:
        """The checked members but for mappings, which are read member by member."""
        inner = {key.name for key in keys if key.type is MAPPING}
        head = {name: member for name, member in members.items() if name not in inner}
        return self.checker.section(head, keys, (), where)


def _take_prices(values: dict[str, Any]) -> dict[str, Decimal]:
    return {key.name: values.pop(key.name) for key in PRICES if key.name in values}
