"""All models of a configuration, by every name that a client may use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from shared.config.gateway_config import AliasTarget, GatewayConfig, LitellmParams, ModelEntry
from shared.config.reports import Notice, Report, did_you_mean
from shared.domain.deployments import Deployment
from shared.routing.groups import ModelGroup, weigh
from shared.routing.patterns import Pattern, Patterns
from shared.routing.resolve import PriceOf, Resolver
from shared.routing.wildcards import LONGEST_NAME, matches

__all__ = ("Catalog", "ModelGroup")


@frozen(eq=False)
class Catalog:
    """Finds model groups; a name of the configuration is one dict lookup.

    Immutable but for the memory of names that wildcards cover. Not for several threads.
    `access_groups` are the names of the groups in each, `notices` what is not served and why.
    """

    _exact: Mapping[str, ModelGroup]
    _strings: Mapping[str, ModelGroup]
    _patterns: Patterns
    _listed: tuple[str, ...]
    _unserved: Mapping[str, str]
    access_groups: Mapping[str, tuple[str, ...]]
    notices: tuple[Notice, ...] = ()

    @classmethod
    def build(cls, config: GatewayConfig, price_of: PriceOf) -> Catalog:
        """Resolve every entry; one `ConfigError` lists all that are wrong."""
        report = Report()
        resolver = Resolver(config, price_of, report)
        draft = _Draft(report, resolver)
        for entry in config.models:
            if not entry.info.blocked:
                draft.add(entry)
        draft.close()
        for alias, target in _aliases(config).items():
            draft.alias(alias, target, config)
        draft.add_ids()
        report.raise_problems()
        return cls(
            exact=MappingProxyType(draft.exact),
            strings=MappingProxyType(draft.strings),
            patterns=draft.patterns,
            listed=tuple(draft.listed),
            unserved=MappingProxyType(
                {
                    name: reason
                    for name, reason in resolver.unsupported.items()
                    if name not in draft.exact
                }
            ),
            access_groups=draft.access_groups(),
            notices=tuple(report.notices),
        )

    def resolve(self, name: str) -> ModelGroup | None:
        """The group behind a name: exact, alias or deployment id, then wildcard, then the exact
        upstream string of an entry (LLM contract §1.0)."""
        return self._exact.get(name) or self._patterns.find(name) or self._strings.get(name)

    def names(self) -> tuple[str, ...]:
        """Public names for model lists: groups and aliases, without wildcards and hidden ones."""
        return self._listed

    def patterns(self) -> tuple[str, ...]:
        """The names with `*`, most specific first."""
        return self._patterns.names

    def groups(self) -> tuple[ModelGroup, ...]:
        """Every group of the configuration once, without aliases and wildcards."""
        return tuple(group for name, group in self._exact.items() if name == group.name)

    def why_not(self, name: str) -> str | None:
        """Why a configured name is not served, for an honest refusal; `None` otherwise."""
        reason = self._unserved.get(name)
        if reason is None and len(name) <= LONGEST_NAME:
            covering = (each for each in self._unserved if "*" in each and matches(each, name))
            reason = next((self._unserved[each] for each in covering), None)
        return reason


_Members = list[tuple[ModelEntry, tuple[Deployment, ...]]]


@define(slots=True)
class _Draft:
    """A catalog in the making: `add` entries, `close`, then aliases and ids."""

    report: Report
    resolver: Resolver
    exact: dict[str, ModelGroup] = field(factory=dict)
    strings: dict[str, ModelGroup] = field(factory=dict)
    listed: list[str] = field(factory=list)
    patterns: Patterns = field(init=False)
    _members: dict[str, _Members] = field(factory=dict)
    _ids: dict[str, ModelEntry] = field(factory=dict)

    def add(self, entry: ModelEntry) -> None:
        deployments = self.resolver.deployments(entry)
        if not deployments:
            return
        for deployment in deployments:
            other = self._ids.setdefault(deployment.id, entry)
            if other is not entry:
                self.report.problem(
                    entry.source,
                    f"{entry.path}.model_info.id",
                    f"`{deployment.id}` is the id of {other.path} too",
                )
        self._members.setdefault(entry.model_name, []).append((entry, deployments))

    def close(self) -> None:
        """Make groups of what was added."""
        wild: list[Pattern] = []
        for name, members in self._members.items():
            if "*" in name:
                wild.append(Pattern(name, tuple(members)))
                continue
            pairs: list[tuple[Deployment, LitellmParams]] = [
                (each, entry.params) for entry, deployments in members for each in deployments
            ]
            deployments, partial = weigh(pairs)
            if partial:
                first = members[0][0]
                self.report.notice(
                    first.source,
                    first.path,
                    "`rpm` or `tpm` does not weigh in the shuffle: not every entry of the group "
                    "has it",
                )
            self.exact[name] = ModelGroup(name, deployments)
            self.listed.append(name)
            for entry, own in members:
                ids = {each.id for each in own}
                served = tuple(each for each in deployments if each.id in ids)
                before = self.strings.get(entry.params.model)
                if before is None or before.name == name:
                    served = (*(before.deployments if before else ()), *served)
                    self.strings[entry.params.model] = ModelGroup(name, served)
        self.patterns = Patterns.of(wild, self.resolver)

    def alias(self, alias: str, target: AliasTarget, config: GatewayConfig) -> None:
        """Another name for a group; a group of that name comes first."""
        path = f"router_settings.model_group_alias.{alias}"
        if alias not in config.router.model_group_alias:
            path = f"litellm_settings.model_alias_map.{alias}"
        group = self.exact.get(target.model) if target.model in self._members else None
        group = group or self.patterns.find(target.model) or self.strings.get(target.model)
        if alias in self._members:
            self.report.notice(config.source, path, "not in force: a model group has this name")
        elif reason := self.resolver.unsupported.get(target.model):
            self.resolver.unsupported[alias] = reason
        elif not group:
            hint = did_you_mean(target.model, self._members)
            self.report.problem(config.source, path, f"no such model group{hint}")
        else:
            self.exact[alias] = group
            if not target.hidden:
                self.listed.append(alias)

    def add_ids(self) -> None:
        """Deployment ids as names, after everything that people chose as a name."""
        for group in list(self.exact.values()):
            for deployment in group.deployments:
                self.exact.setdefault(deployment.id, ModelGroup(group.name, (deployment,)))

    def access_groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the groups in each access group."""
        found: dict[str, dict[str, None]] = {}
        for name, members in self._members.items():
            for entry, _ in members:
                for access_group in entry.info.access_groups:
                    found.setdefault(access_group, {})[name] = None
        return MappingProxyType({name: tuple(groups) for name, groups in found.items()})


def _aliases(config: GatewayConfig) -> dict[str, AliasTarget]:
    plain = {
        alias: AliasTarget(model=model) for alias, model in config.litellm.model_alias_map.items()
    }
    return plain | dict(config.router.model_group_alias)
