"""Names that lead to model groups: those for everybody, or those of one team."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from shared.config.gateway_config import LitellmParams, ModelEntry
from shared.config.reports import Report
from shared.domain.deployments import Deployment
from shared.routing.groups import ModelGroup, weigh
from shared.routing.patterns import Pattern, Patterns
from shared.routing.rating import Rating

Member = tuple[ModelEntry, tuple[Deployment, ...]]


@frozen(eq=False)
class Names:
    """Finds model groups; a name of the configuration is one dict lookup.

    Immutable but for the memory of names that wildcards cover. Not for several threads.
    `access_groups` are the names of the groups in each; `members` what a group was made of.
    """

    _exact: Mapping[str, ModelGroup]
    _strings: Mapping[str, ModelGroup]
    wildcards: Patterns
    _listed: tuple[str, ...]
    access_groups: Mapping[str, tuple[str, ...]]
    members: Mapping[str, list[Member]] = field(repr=False)

    def resolve(self, name: str) -> ModelGroup | None:
        """The group behind a name: exact, alias or deployment id, then wildcard, then the exact
        upstream string of an entry (LLM contract §1.0)."""
        return self._exact.get(name) or self.wildcards.find(name) or self._strings.get(name)

    def names(self) -> tuple[str, ...]:
        """Public names for model lists: groups and aliases, without wildcards and hidden ones."""
        return self._listed

    def patterns(self) -> tuple[str, ...]:
        """The names with `*`, most specific first."""
        return self.wildcards.names

    def groups(self) -> tuple[ModelGroup, ...]:
        """Every group once, without aliases and wildcards."""
        return tuple(group for name, group in self._exact.items() if name == group.name)

    def group(self, name: str) -> ModelGroup | None:
        """The group of an exact name."""
        return self._exact.get(name)

    def deployment(self, deployment_id: str) -> Deployment | None:
        """A deployment by its id, unless that is the name of something else or of a wildcard."""
        group = self._exact.get(deployment_id)
        found = group.deployments if group is not None else ()
        return found[0] if len(found) == 1 and found[0].id == deployment_id else None


@define(slots=True)
class NamesDraft:
    """Names in the making: fill `members`, `close`, then add aliases to `exact` and `listed`."""

    members: dict[str, list[Member]] = field(factory=dict)
    exact: dict[str, ModelGroup] = field(factory=dict)
    listed: list[str] = field(factory=list)
    patterns: Patterns = field(init=False)
    _strings: dict[str, ModelGroup] = field(factory=dict)
    _before: Names | None = None

    def close(self, rating: Rating, report: Report, before: Names | None) -> None:
        """Make groups of the members. Groups and deployments that were there before and have not
        changed stay the same objects."""
        self._before = before
        wild: list[Pattern] = []
        for name, members in self.members.items():
            if "*" in name:
                wild.append(Pattern(name, tuple(members)))
                continue
            group = self._unchanged(name, members) or self._group(name, members, report)
            self.exact[name] = group
            self.listed.append(name)
            self._add_strings(members, group)
        self.patterns = Patterns.of(wild, rating, before.wildcards if before else None)

    def find(self, name: str) -> ModelGroup | None:
        """What an alias of that target stands for."""
        group = self.exact.get(name) if name in self.members else None
        return group or self.patterns.find(name) or self._strings.get(name)

    def finish(self) -> Names:
        """The names. Ids of deployments become names too, after all that people chose as one."""
        for group in list(self.exact.values()):
            for deployment in group.deployments:
                if deployment.id not in self.exact:
                    self.exact[deployment.id] = self._of_one(group.name, deployment)
        access: dict[str, dict[str, None]] = {}
        for name, members in self.members.items():
            for entry, _ in members:
                for access_group in entry.info.access_groups:
                    access.setdefault(access_group, {})[name] = None
        return Names(
            exact=MappingProxyType(self.exact),
            strings=MappingProxyType(self._strings),
            wildcards=self.patterns,
            listed=tuple(self.listed),
            access_groups=MappingProxyType({n: tuple(groups) for n, groups in access.items()}),
            members=MappingProxyType(self.members),
        )

    def _group(self, name: str, members: list[Member], report: Report) -> ModelGroup:
        pairs: list[tuple[Deployment, LitellmParams]] = [
            (each, entry.params) for entry, deployments in members for each in deployments
        ]
        weighed, partial = weigh(pairs)
        if partial:
            first = members[0][0]
            report.notice(
                first.source,
                first.path,
                "`rpm` or `tpm` does not weigh in the shuffle: not every entry of the group has it",
            )
        return ModelGroup(name, tuple(self._known(each) for each in weighed))

    def _add_strings(self, members: list[Member], group: ModelGroup) -> None:
        for entry, own in members:
            served = group.deployments
            if len(members) > 1:
                ids = {each.id for each in own}
                served = tuple(each for each in served if each.id in ids)
            before = self._strings.get(entry.params.model)
            if before is None:
                whole = served == group.deployments
                self._strings[entry.params.model] = (
                    group if whole else ModelGroup(group.name, served)
                )
            elif before.name == group.name:
                self._strings[entry.params.model] = ModelGroup(
                    group.name, (*before.deployments, *served)
                )

    def _unchanged(self, name: str, members: list[Member]) -> ModelGroup | None:
        before = self._before
        if before is None or before.members.get(name) != members:
            return None
        return before.group(name)

    def _known(self, deployment: Deployment) -> Deployment:
        known = None if self._before is None else self._before.deployment(deployment.id)
        return known if known is not None and known == deployment else deployment

    def _of_one(self, name: str, deployment: Deployment) -> ModelGroup:
        before = None if self._before is None else self._before.group(deployment.id)
        if before is not None and before.name == name and before.deployments == (deployment,):
            return before
        return ModelGroup(name, (deployment,))
