"""May a key use a model (management contract §4.4). Pure.

A list is a tuple of words: names, wildcards (`gpt-*`, `openai/*`), access groups and the special
words below. An empty list, or `*`, gives everything that the next level up allows, so every
level's list must allow.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.domain.keys import Principal
from shared.routing.catalog import Catalog
from shared.routing.groups import ModelGroup
from shared.routing.wildcards import matches

ALL = "*"
ALL_PROXY_MODELS = "all-proxy-models"
ALL_TEAM_MODELS = "all-team-models"
NO_DEFAULT_MODELS = "no-default-models"
_SPECIAL = frozenset({ALL_PROXY_MODELS, ALL_TEAM_MODELS, NO_DEFAULT_MODELS})


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
    """Whether a caller may use a model: its key's list, its team's, and for a key without a team
    its user's. `requested` is the name after the key's own aliases."""
    team = principal.team
    team_models = None if team is None else team.models
    key = principal.key
    if key.models and not granted(key.models, requested, group, team_models):
        return False
    if team is not None:
        return granted(team.models, requested, group)
    user = principal.user
    return user is None or key.team_id is not None or granted(user.models, requested, group)


def aliased(principal: Principal, requested: str) -> str:
    """The name that the key's own alias stands for, else the name itself."""
    return principal.key.aliases.get(requested, requested)


def visible(principal: Principal, catalog: Catalog) -> tuple[str, ...]:
    """The names that a caller may use, for its model lists: those of the catalog, then those of
    its own lists that a wildcard serves, then its key's aliases."""
    names = [name for name in catalog.names() if _usable(principal, name, catalog)]
    names += [name for name in _listed(principal, catalog) if _usable(principal, name, catalog)]
    names += [
        alias
        for alias, target in principal.key.aliases.items()
        if _usable(principal, target, catalog)
    ]
    return tuple(dict.fromkeys(names))


def _usable(principal: Principal, name: str, catalog: Catalog) -> bool:
    group = catalog.resolve(name)
    return group is not None and allowed(principal, name, group)


def _listed(principal: Principal, catalog: Catalog) -> Iterator[str]:
    """Names in the caller's lists that are models only because a wildcard covers them."""
    team = principal.team
    for name in (*principal.key.models, *(team.models if team is not None else ())):
        if ALL in name or name in _SPECIAL or name in catalog.access_groups:
            continue
        group = catalog.resolve(name)
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
