"""Wildcard entries: groups made for the names that they cover."""

from __future__ import annotations

from attrs import define, evolve, field, frozen

from shared.config.gateway_config import LitellmParams, ModelEntry
from shared.domain.deployments import Deployment
from shared.providers.openai_compatible import OPENAI
from shared.providers.registry import Target, family_of, find_target
from shared.routing.groups import ModelGroup, weigh
from shared.routing.rating import ANY, Rating
from shared.routing.wildcards import LONGEST_NAME, captures, fill, specificity

_REMEMBERED = 1024


@frozen
class Pattern:
    """The entries of one `model_name` with `*`, each with its deployments as templates."""

    name: str
    entries: tuple[tuple[ModelEntry, tuple[Deployment, ...]], ...]


@define(slots=True, eq=False)
class Patterns:
    """Finds the most specific pattern that covers a name. Groups are remembered up to a bound."""

    _patterns: tuple[Pattern, ...]
    _rating: Rating
    _made: dict[str, ModelGroup | None] = field(factory=dict)

    @classmethod
    def of(
        cls, patterns: list[Pattern], rating: Rating, before: Patterns | None = None
    ) -> Patterns:
        """Patterns in order of specificity; of equals the earlier wins.

        If nothing differs from those of `before`, these stay with what they remember.
        """
        ordered = sorted(patterns, key=lambda pattern: specificity(pattern.name), reverse=True)
        made = cls(tuple(ordered), rating)
        if before is not None and before._alike(made):
            return before
        return made

    def _alike(self, other: Patterns) -> bool:
        return self._patterns == other._patterns and self._rating == other._rating

    @property
    def names(self) -> tuple[str, ...]:
        """The patterns, most specific first."""
        return tuple(pattern.name for pattern in self._patterns)

    def groups(self) -> tuple[ModelGroup, ...]:
        """Every pattern as a group of its templates."""
        return tuple(
            ModelGroup(
                pattern.name,
                tuple(each for _, templates in pattern.entries for each in templates),
                pattern.name,
            )
            for pattern in self._patterns
        )

    def find(self, name: str) -> ModelGroup | None:
        """The group for a name, also for one of OpenAI's that is covered with its prefix."""
        if not self._patterns or len(name) > LONGEST_NAME:
            return None
        try:
            return self._made[name]
        except KeyError:
            pass
        group = self._cover(name, name)
        if group is None and "/" not in name and family_of(name) == OPENAI.name:
            group = self._cover(f"{OPENAI.name}/{name}", name)
        if len(self._made) >= _REMEMBERED:
            self._made.clear()
        self._made[name] = group
        return group

    def _cover(self, covered: str, name: str) -> ModelGroup | None:
        for pattern in self._patterns:
            found = captures(pattern.name, covered)
            if found is None:
                continue
            members = [
                member
                for entry, templates in pattern.entries
                for member in self._fill(entry, templates, found, name)
            ]
            if members:
                return ModelGroup(name, weigh(members)[0], pattern.name)
        return None

    def _fill(
        self,
        entry: ModelEntry,
        templates: tuple[Deployment, ...],
        found: tuple[str, ...],
        name: str,
    ) -> list[tuple[Deployment, LitellmParams]]:
        params = entry.params
        text = fill(params.model, found)
        target = find_target(text, params.custom_llm_provider, params.api_base)
        if params.model != ANY and templates:
            # The prefix of the entry decides, whatever the name that was filled in looks like.
            target = Target(templates[0].provider, fill(templates[0].upstream_model, found))
        if target is None or not target.model:
            return []
        return [
            (
                evolve(
                    template,
                    model_group=name,
                    upstream_model=target.model,
                    rates=self._rating.of(entry, target),
                ),
                params,
            )
            for template in templates
            if template.provider == target.provider
        ]
