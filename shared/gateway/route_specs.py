"""Routes as data: what a service registers, and the matrix of what each instance serves."""

from __future__ import annotations

from itertools import product

from attrs import frozen

from shared.domain.capabilities import (
    LLM_FLAGS,
    MANAGEMENT_FLAGS,
    PROBE_FLAGS,
    UI_FLAGS,
    Binary,
    Capabilities,
    RouteClass,
    decide,
)
from shared.gateway.route_classes import families, known_paths, refusal


@frozen
class RouteSpec:
    """A route of a service. `path` is the exact path that the server matches."""

    method: str
    path: str
    route_class: RouteClass
    handler: str


def matrix() -> str:
    """Every known path with its class, and the outcome of each class by binary and flags.

    An outcome is `served` where the class' routes are registered, else the status that refuses
    every path of the class. A checked-in copy is compared in a test, so that a path can change
    sides only in a reviewed diff.
    """
    paths = known_paths()
    lines = ["# outcome by binary, flags set to true, and class; `probes` call upstreams"]
    for binary, flags in product(Binary, _flag_sets()):
        capabilities = decide(binary, dict.fromkeys(flags, True))
        outcomes = " ".join(
            f"{route_class}={_outcome(route_class, capabilities)}" for route_class in RouteClass
        )
        probes = "yes" if capabilities.probes else "no"
        lines.append(f"{binary} [{' '.join(flags)}] {outcomes} probes={probes}")
    lines.append("# class of every path")
    lines += [f"{route_class} {path}" for path, route_class in paths]
    lines.append("# class of whatever else is below a prefix")
    lines += [f"{route_class} {prefix}/..." for prefix, route_class in families()]
    return "\n".join(lines) + "\n"


def _flag_sets() -> list[tuple[str, ...]]:
    variables = (*LLM_FLAGS, *MANAGEMENT_FLAGS, *UI_FLAGS, *PROBE_FLAGS)
    return [
        tuple(name for name, is_set in zip(variables, chosen, strict=True) if is_set)
        for chosen in product((False, True), repeat=len(variables))
    ]


def _outcome(route_class: RouteClass, capabilities: Capabilities) -> str:
    if capabilities.serves(route_class):
        return "served"
    statuses = {
        refusal(sample(path), capabilities)[0]
        for path, found in known_paths()
        if found is route_class
    }
    assert len(statuses) == 1, f"paths of {route_class} are refused differently: {statuses}"
    return str(statuses.pop())


def sample(path: str) -> str:
    """A request path of a table's entry: parameters filled in."""
    parts = []
    for part in path.split("/"):
        name, star, suffix = part.partition("*}")
        filled = f"a-{name[1:]}{suffix}" if star else f"a-{part[1:-1]}"
        parts.append(filled if part.startswith("{") else part)
    return "/".join(parts)
