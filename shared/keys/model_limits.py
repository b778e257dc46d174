"""Limits of single models: whose they are, and which entry a call's model has.

They stand in `model_max_budget` of an owner or of its budget row, and in `model_rpm_limit` and
`model_tpm_limit` of its metadata, by model name or pattern. What counts is the entry: all models
that a pattern covers share its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from attrs import evolve, frozen

from shared.domain.keys import Budget, Owners
from shared.domain.limits import scope_id
from shared.keys.amounts import Limits, count, first, mapping, model_budget

Pick = Callable[[Collection[str]], str | None]
"""The entry for a call's model among names and patterns, `None` if there is none."""


@frozen
class ModelLimits:
    """One owner's limits of single models; `scope` is what its scopes begin with."""

    scope: str
    budgets: Mapping[str, Any]
    requests: Mapping[str, Any] = {}
    tokens: Mapping[str, Any] = {}

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.budgets or self.requests or self.tokens)

    def find(self, kind: str, pick: Pick) -> Iterator[tuple[str, Limits]]:
        """Scope ids and limits of the entries for a model."""
        found: dict[str, Limits] = {}
        entry = pick(self.budgets)
        if entry is not None:
            found[entry] = model_budget(self.budgets[entry])
        entry = pick(self.requests)
        if entry is not None:
            known = found.get(entry, Limits())
            found[entry] = evolve(
                known, requests=first(count(self.requests[entry]), known.requests)
            )
        entry = pick(self.tokens)
        if entry is not None:
            known = found.get(entry, Limits())
            found[entry] = evolve(known, tokens=first(count(self.tokens[entry]), known.tokens))
        for entry, limits in found.items():
            yield scope_id(kind, f"{self.scope}:{entry}"), limits


_NONE = ModelLimits("", {})


def of_key(owners: Owners) -> ModelLimits:
    """The key's own; its linked budget's for models that it does not name."""
    key = owners.key
    budgets = {**_budgets(owners.budget), **key.model_max_budget}
    return _with_rates(key.counter_id, budgets, key.metadata)


def of_project(owners: Owners) -> ModelLimits:
    """The project's."""
    project = owners.project
    if project is None:
        return _NONE
    return _with_rates(project.project_id, _budgets(owners.project_budget), project.metadata)


def of_team(owners: Owners) -> ModelLimits:
    """The team's."""
    team = owners.team
    if team is None:
        return _NONE
    return _with_rates(team.team_id, team.model_max_budget, team.metadata)


def of_organization(owners: Owners) -> ModelLimits:
    """The organization's."""
    organization = owners.organization
    if organization is None:
        return _NONE
    budgets = _budgets(owners.organization_budget)
    return _with_rates(organization.organization_id, budgets, organization.metadata)


def of_user(owners: Owners) -> ModelLimits:
    """The user's."""
    user = owners.user
    return _NONE if user is None else ModelLimits(user.user_id, user.model_max_budget)


def of_member(owners: Owners) -> ModelLimits:
    """The user's in the team."""
    key, budget = owners.key, owners.member_budget
    return ModelLimits(f"{key.user_id}:{key.team_id}", _budgets(budget))


def of_end_user(name: str, budget: Budget) -> ModelLimits:
    """An end user's."""
    return ModelLimits(name, _budgets(budget))


_ALL = (of_key, of_project, of_team, of_organization, of_user, of_member)


def varies_by_model(owners: Owners) -> bool:
    """Whether some owner has limits of single models."""
    return any(find(owners).any for find in _ALL)


def _with_rates(scope: str, budgets: Mapping[str, Any], metadata: Mapping[str, Any]) -> ModelLimits:
    requests, tokens = metadata.get("model_rpm_limit"), metadata.get("model_tpm_limit")
    return ModelLimits(scope, budgets, mapping(requests), mapping(tokens))


def _budgets(budget: Budget | None) -> Mapping[str, Any]:
    return {} if budget is None else budget.model_max_budget
