"""May a key use a model (management contract §4.4). Pure.

A list is a tuple of words: names, wildcards (`gpt-*`, `openai/*`), access groups and the special
words below. An empty list, or `*`, gives everything that the next level up allows, so every
level's list must allow.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.domain.keys import AccessGroup, Owners, Principal, Team
from shared.routing.catalog import Catalog
from shared.routing.groups import ModelGroup
from shared.routing.wildcards import matches

ALL = "*"
ALL_PROXY_MODELS = "all-proxy-models"
ALL_TEAM_MODELS = "all-team-models"
NO_DEFAULT_MODELS = "no-default-models"
SPECIAL_NAMES = frozenset({ALL_PROXY_MODELS, ALL_TEAM_MODELS, NO_DEFAULT_MODELS})


def granted(
    models: tuple[str, ...],
    requested: str,
    group: ModelGroup | None,
    team_models: tuple[str, ...] | None = None,
) -> bool:
    """Whether one list allows a model, by the name asked for or by the group's.

    `group` is `None` for a name that nothing answers to. `team_models` is the team's list, which
    `all-team-models` stands for; `None` where there is no team.
    """
    if not models or requested in models or (group is not None and group.name in models):
        return True
    if ALL in models or ALL_PROXY_MODELS in models:
        return True
    if group is not None and not group.access_groups.isdisjoint(models):
        return True
    if any(ALL in word and _covers(word, requested, group) for word in models):
        return True
    return (
        ALL_TEAM_MODELS in models
        and team_models is not None
        and granted(team_models, requested, group)
    )


def allowed(principal: Principal, requested: str, group: ModelGroup | None) -> bool:
    """Whether every list of a caller allows a model."""
    return denied_by(principal, requested, group) is None


def denied_by(principal: Principal, requested: str, group: ModelGroup | None) -> str | None:
    """Whose list denies a model, as the contract's error types begin (§3.0); `None` if none does.

    Lists are those of the key, its team, the user's place in the team, the organization, for a key
    without a team the user, and the project. Unified access groups of the key and the team add to
    theirs. `requested` is the name after the key's own aliases, not after its team's, whose
    aliases allow what they lead to.
    """
    owners, key, team = principal.owners, principal.key, principal.team
    team_models = None if team is None else team.models
    if key.models and not granted(key.models, requested, group, team_models):
        groups = owners.access_groups
        if ALL_TEAM_MODELS in key.models:
            groups += owners.team_access_groups
        if not _grouped(groups, requested, group):
            return "key"
    if team is not None and not _team_allows(owners, team, requested, group):
        return "team"
    organization = owners.organization
    if organization is not None and not granted(organization.models, requested, group):
        return "org"
    user = principal.user
    if user is not None and key.team_id is None and not granted(user.models, requested, group):
        return "key" if NO_DEFAULT_MODELS in user.models else "user"
    project = owners.project
    if project is not None and not granted(project.models, requested, group, team_models):
        return "project"
    return None


def _team_allows(owners: Owners, team: Team, requested: str, group: ModelGroup | None) -> bool:
    if not granted(team.models, requested, group):
        groups = (*owners.team_access_groups, *owners.access_groups)
        if not _grouped(groups, requested, group):
            return False
    if owners.member is None:
        return True
    budget = owners.member_budget
    own = budget.allowed_models if budget is not None else ()
    return granted(own or team.default_team_member_models, requested, group, team.models)


def _grouped(groups: tuple[AccessGroup, ...], requested: str, group: ModelGroup | None) -> bool:
    return any(
        each.access_model_names and granted(each.access_model_names, requested, group)
        for each in groups
    )


def find_group(principal: Principal, name: str, catalog: Catalog) -> ModelGroup | None:
    """What a caller means by a name: its team's own models come first, and the master key finds
    those of every team, by deployment id for one. Whether it may use it is another matter."""
    if not catalog.teams:
        return catalog.resolve(name)
    team_id = principal.key.team_id
    if team_id is not None:
        return catalog.of_team(name, team_id)
    group = catalog.resolve(name)
    return catalog.of_any_team(name) if group is None and principal.master else group


def aliased(principal: Principal, requested: str) -> str:
    """The name that the key's own alias stands for, else the name itself."""
    return principal.key.aliases.get(requested, requested)


def team_aliased(principal: Principal, requested: str) -> str:
    """The same for aliases of the key's team, to be asked after the key's."""
    team = principal.team
    if team is None or not team.model_aliases:
        return requested
    target = team.model_aliases.get(requested)
    return target if isinstance(target, str) else requested


def visible(principal: Principal, catalog: Catalog) -> tuple[str, ...]:
    """The names that a caller may use, for its model lists: its team's own, those of the catalog,
    those of its own lists that a wildcard serves, and its key's and its team's aliases."""
    own = catalog.teams.get(principal.key.team_id or "")
    names = [name for name in (own.names() if own else ()) if _usable(principal, name, catalog)]
    names += [name for name in catalog.names() if _usable(principal, name, catalog)]
    names += [name for name in _listed(principal, catalog) if _usable(principal, name, catalog)]
    names += [
        alias
        for alias, target in principal.key.aliases.items()
        if _usable(principal, target, catalog)
    ]
    team = principal.team
    for alias in team.model_aliases if team is not None else ():
        group = find_group(principal, team_aliased(principal, alias), catalog)
        if group is not None and allowed(principal, alias, group):
            names.append(alias)
    return tuple(dict.fromkeys(names))


def _usable(principal: Principal, name: str, catalog: Catalog) -> bool:
    group = find_group(principal, name, catalog)
    return group is not None and allowed(principal, name, group)


def _listed(principal: Principal, catalog: Catalog) -> Iterator[str]:
    """Names in the caller's lists that are models only because a wildcard covers them."""
    owners, team = principal.owners, principal.team
    groups = (*owners.access_groups, *owners.team_access_groups)
    for name in (
        *principal.key.models,
        *(team.models if team is not None else ()),
        *(name for each in groups for name in each.access_model_names),
    ):
        if ALL in name or name in SPECIAL_NAMES or name in catalog.access_groups:
            continue
        group = find_group(principal, name, catalog)
        if group is not None and group.pattern is not None:
            yield name


def _covers(pattern: str, requested: str, group: ModelGroup | None) -> bool:
    if matches(pattern, requested):
        return True
    if group is None:
        return False
    if matches(pattern, group.name):
        return True
    # `openai/*` means whatever is resolved to that provider; any deployment may be drawn.
    return "/" in pattern and all(
        matches(pattern, f"{each.provider}/{each.upstream_model}") for each in group.deployments
    )
