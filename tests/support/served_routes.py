"""The routes that this release serves, stated once more and independently of the code.

Templates are those of `route_matrix.txt`; `{model*}` stands for a model name, slashes and all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from shared.domain.capabilities import Binary, RouteClass

_MANAGEMENT = Path(__file__).parent.parent / "contract" / "management_routes.txt"
_MODELS = ("/engines/{model*}", "/openai/deployments/{model*}")
SERVED: Mapping[RouteClass, frozenset[tuple[str, str]]] = MappingProxyType(
    {
        RouteClass.LLM: frozenset(
            {("POST", "/queue/chat/completions")}
            | {
                ("POST", f"{prefix}/{name}")
                for prefix in ("", "/v1", *_MODELS)
                for name in ("chat/completions", "completions", "embeddings")
            }
        ),
        RouteClass.MANAGEMENT: frozenset(
            tuple(line.split(" ", 2)[:2]) for line in _MANAGEMENT.read_text("utf-8").splitlines()
        ),
        RouteClass.UI: frozenset({("GET", "/ui"), ("GET", "/ui/"), ("GET", "/ui/ui.css")}),
        RouteClass.HEALTH: frozenset(
            {("GET", f"/health{rest}") for rest in ("", "/readiness/details")}
            | {("GET", "/metrics")}
            | {
                (method, f"/health/{name}")
                for method in ("GET", "OPTIONS")
                for name in ("liveliness", "liveness", "readiness")
            }
        ),
        RouteClass.PUBLIC: frozenset(
            {("GET", f"{prefix}/models{rest}") for prefix in ("", "/v1") for rest in ("", "/{id*}")}
            | {("GET", f"{prefix}/model/info") for prefix in ("", "/v1")}
            | {("GET", "/model_group/info")}
        ),
    }
)


def methods_at(path: str) -> set[str]:
    """The methods that some instance serves at a request path."""
    return {
        method
        for routes in SERVED.values()
        for method, template in routes
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\w+\*\}", ".+", template)), path)
    }


class Matrix:
    """The checked-in matrix, read back: classes by path, outcomes by binary, flags and class."""

    def __init__(self, file: Path) -> None:
        outcomes, classes, _ = re.split(r"(?m)^# class .*\n", file.read_text(encoding="utf-8"))
        self.paths: list[tuple[str, RouteClass]] = []
        for line in classes.splitlines():
            name, _, path = line.partition(" ")
            self.paths.append((path, RouteClass(name)))
        self._rows: dict[tuple[str, frozenset[str]], dict[str, str]] = {}
        for line in outcomes.splitlines()[1:]:
            binary, flags, rest = re.fullmatch(r"(\w+) \[(.*)\] (.*)", line).groups()  # type: ignore[union-attr]
            row = dict(pair.split("=") for pair in rest.split())
            self._rows[binary, frozenset(flags.split())] = row

    @property
    def instances(self) -> list[tuple[Binary, frozenset[str]]]:
        """Every combination of binary and flags."""
        return [(Binary(binary), flags) for binary, flags in self._rows]

    def row(self, binary: Binary, flags: frozenset[str]) -> dict[str, str]:
        """The outcomes of one instance by class, and `probes`."""
        return self._rows[binary.value, flags]
