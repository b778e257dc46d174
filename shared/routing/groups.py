"""A model group: what a public name stands for."""

from __future__ import annotations

from attrs import evolve, field, frozen

from shared.config.gateway_config import LitellmParams
from shared.domain.deployments import Deployment


@frozen
class ModelGroup:
    """Deployments behind a name. `name` is the group's own, also where an alias led to it.

    `pattern` is the wildcard that matched, if one did: then `name` is of the client's choosing,
    and labels that must stay few should use the pattern.
    """

    name: str
    deployments: tuple[Deployment, ...]
    pattern: str | None = None
    access_groups: frozenset[str] = field(init=False)

    @access_groups.default
    def _all_access_groups(self) -> frozenset[str]:
        return frozenset(name for each in self.deployments for name in each.access_groups)

    @property
    def label(self) -> str:
        """The name from the configuration: few values, whatever clients send."""
        return self.pattern or self.name


def weigh(
    members: list[tuple[Deployment, LitellmParams]],
) -> tuple[tuple[Deployment, ...], bool]:
    """The deployments with their shares in the shuffle, and whether a share was left out.

    `weight` counts where any has one (the others weigh 1); else `rpm`, else `tpm`, where all have
    one; else all are equal (LLM contract §4.3, simple-shuffle).
    """
    params = [each for _, each in members]
    shares = [1.0] * len(members)
    partial = False
    if any(each.weight is not None for each in params):
        shares = [1.0 if each.weight is None else each.weight for each in params]
    else:
        for name in ("rpm", "tpm"):
            values = [getattr(each, name) for each in params]
            if None not in values:
                shares = [float(value) for value in values]
                break
            partial = partial or any(value is not None for value in values)
        else:
            partial = partial and len(members) > 1
            return tuple(each for each, _ in members), partial
        partial = False
    weighed = (evolve(each, weight=share) for (each, _), share in zip(members, shares, strict=True))
    return tuple(weighed), partial
