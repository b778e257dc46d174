"""All models of a configuration, by every name that a client may use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import field, frozen

from shared.config.gateway_config import AliasTarget, GatewayConfig, ModelEntry
from shared.config.reports import Notice, Report, did_you_mean
from shared.routing.adjustments import Adjustments
from shared.routing.groups import ModelGroup
from shared.routing.names import Names, NamesDraft
from shared.routing.rating import PriceOf, Rating
from shared.routing.resolve import Resolved, Resolver
from shared.routing.wildcards import LONGEST_NAME, matches

__all__ = ("Catalog", "Draft", "ModelGroup")


@frozen(eq=False)
class Catalog:
    """The names for everybody, and beside them those of each team.

    `notices` say what is not served and why. `entries` tells the entry of a deployment's id.
    """

    common: Names
    teams: Mapping[str, Names]
    _unserved: Mapping[str, str]
    _resolved: Mapping[int, tuple[ModelEntry, Resolved]] = field(repr=False)
    entries: Mapping[str, ModelEntry] = field(repr=False)
    notices: tuple[Notice, ...] = ()

    @classmethod
    def build(cls, config: GatewayConfig, price_of: PriceOf) -> Catalog:
        """Resolve every entry; one `ConfigError` lists all that are wrong."""
        report = Report()
        draft = Draft(config, price_of, report)
        for entry in config.models:
            draft.add(entry)
        catalog = draft.finish()
        report.raise_problems()
        return catalog

    def resolve(self, name: str) -> ModelGroup | None:
        """The group that everybody knows by this name."""
        return self.common.resolve(name)

    def of_team(self, name: str, team_id: str) -> ModelGroup | None:
        """The group that a team's keys know by this name: the team's own first."""
        own = self.teams.get(team_id)
        return (own.resolve(name) if own is not None else None) or self.common.resolve(name)

    def of_any_team(self, name: str) -> ModelGroup | None:
        """The group of the first team that has one by this name, an id as a rule."""
        found = (names.resolve(name) for names in self.teams.values())
        return next((group for group in found if group is not None), None)

    def names(self) -> tuple[str, ...]:
        """Public names for model lists, but for those of teams."""
        return self.common.names()

    def patterns(self) -> tuple[str, ...]:
        """The names with `*`, most specific first."""
        return self.common.patterns()

    def groups(self) -> tuple[ModelGroup, ...]:
        """Every group once, without aliases, wildcards and those of teams."""
        return self.common.groups()

    @property
    def access_groups(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the groups in each access group."""
        return self.common.access_groups

    def why_not(self, name: str) -> str | None:
        """Why a configured name is not served, for an honest refusal; `None` otherwise."""
        reason = self._unserved.get(name)
        if reason is None and len(name) <= LONGEST_NAME:
            covering = (each for each in self._unserved if "*" in each and matches(each, name))
            reason = next((self._unserved[each] for each in covering), None)
        return reason

    def known(self, entry: ModelEntry) -> Resolved | None:
        """What became of this very entry object."""
        known = self._resolved.get(id(entry))
        return None if known is None else known[1]


class Draft:
    """A catalog in the making: `add` the entries, then `finish`. What is wrong goes to the report;
    then the catalog is not to be used.

    Entries that are known from `before`, made with the same settings, are not resolved again, and
    deployments that have not changed stay the same objects.
    """

    def __init__(
        self,
        config: GatewayConfig,
        price_of: PriceOf,
        report: Report,
        before: Catalog | None = None,
    ) -> None:
        self._config = config
        self._rating = Rating(price_of, Adjustments.of(config, report))
        self._report = report
        self._before = before
        self._resolver = Resolver(config, self._rating, report)
        self._known: set[str] = set()
        self._unserved: dict[str, str] = {}
        self._entries: dict[str, ModelEntry] = {}
        self._resolved: dict[int, tuple[ModelEntry, Resolved]] = {}
        self._common = NamesDraft()
        self._teams: dict[str, NamesDraft] = {}

    def add(self, entry: ModelEntry, lacks: str | None = None) -> Resolved:
        """Take in an entry. One that is blocked, or that this instance `lacks` something for, is
        known and not served."""
        names, public = self._common, entry.team_id is None
        if entry.team_id is not None:
            names = self._teams.setdefault(entry.team_id, NamesDraft())
        else:
            self._known.add(entry.model_name)
        if entry.info.blocked:
            return Resolved(reason="it is blocked")
        resolved = Resolved(reason=lacks, elsewhere=True)
        if lacks is None:
            resolved = self._resolve(entry)
        if resolved.reason is not None and public:
            self._unserved[entry.model_name] = resolved.reason
        for deployment in resolved.deployments:
            other = self._entries.setdefault(deployment.id, entry)
            if other is not entry:
                self._report.problem(
                    entry.source,
                    f"{entry.path}.model_info.id",
                    f"`{deployment.id}` is the id of {other.path} too ({other.source})",
                )
        if resolved.deployments:
            names.members.setdefault(entry.model_name, []).append((entry, resolved.deployments))
        return resolved

    def finish(self) -> Catalog:
        """The catalog of what was added and of the configuration's aliases."""
        before = self._before
        self._common.close(self._rating, self._report, before.common if before else None)
        for alias, target in _aliases(self._config).items():
            self._alias(alias, target)
        for team_id, names in self._teams.items():
            own = before.teams.get(team_id) if before else None
            names.close(self._rating, self._report, own)
        exact = self._common.exact
        return Catalog(
            common=self._common.finish(),
            teams=MappingProxyType({team: names.finish() for team, names in self._teams.items()}),
            unserved=MappingProxyType(
                {name: reason for name, reason in self._unserved.items() if name not in exact}
            ),
            resolved=MappingProxyType(self._resolved),
            entries=MappingProxyType(self._entries),
            notices=tuple(self._report.notices),
        )

    def _resolve(self, entry: ModelEntry) -> Resolved:
        known = self._before.known(entry) if self._before is not None else None
        resolved = self._resolver.resolve(entry) if known is None else known
        self._resolved[id(entry)] = (entry, resolved)
        return resolved

    def _alias(self, alias: str, target: AliasTarget) -> None:
        """Another name for a group; a group of that name comes first."""
        config, common = self._config, self._common
        section, member = "router_settings", "model_group_alias"
        if alias not in config.router.model_group_alias:
            section, member = "litellm_settings", "model_alias_map"
        path = f"{section}.{member}.{alias}"
        located = config.stored.get(section, {}).get(member)
        source = config.source if located is None else located.source
        group = common.find(target.model)
        if alias in common.members:
            self._report.notice(source, path, "not in force: a model group has this name")
        elif group is not None:
            common.exact[alias] = group
            if not target.hidden:
                common.listed.append(alias)
        elif target.model in self._known:
            self._unserved[alias] = self._unserved.get(target.model, "it is blocked")
        else:
            hint = did_you_mean(target.model, common.members)
            self._report.problem(source, path, f"no such model group{hint}")


def _aliases(config: GatewayConfig) -> dict[str, AliasTarget]:
    plain = {
        alias: AliasTarget(model=model) for alias, model in config.litellm.model_alias_map.items()
    }
    return plain | dict(config.router.model_group_alias)
