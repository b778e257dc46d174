"""What an instance may serve, decided once at start (DESIGN §1.2).

A binary owns capabilities; environment flags only ever take away. Every route belongs to exactly
one class, and a class is served when the capability of the same name is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import frozen


class Binary(StrEnum):
    """The two deployable services."""

    WORKER = "worker"
    ADMIN = "admin"


class RouteClass(StrEnum):
    """The one class of a route."""

    LLM = "llm"
    MANAGEMENT = "management"
    UI = "ui"
    HEALTH = "health"
    PUBLIC = "public"


# Capability -> the variables that take it away. Two spellings exist for the LLM switch: the code
# of the reference reads the first, its documentation names the second.
LLM_FLAGS = ("DISABLE_LLM_API_ENDPOINTS", "DISABLE_LLM_ENDPOINTS")
MANAGEMENT_FLAGS = ("DISABLE_ADMIN_ENDPOINTS",)
UI_FLAGS = ("DISABLE_ADMIN_UI",)
PROBE_FLAGS = ("DISABLE_HEALTH_CHECKS",)


@frozen
class Capabilities:
    """What this instance serves. `probes` are health checks that call upstreams.

    `reasons` says for each capability that is not held why, for answers and the start-up log.
    """

    llm: bool
    management: bool
    ui: bool
    probes: bool
    reasons: Mapping[str, str]

    def serves(self, route_class: RouteClass) -> bool:
        """Whether routes of the class are registered. Health and public ones always are."""
        match route_class:
            case RouteClass.LLM:
                return self.llm
            case RouteClass.MANAGEMENT:
                return self.management
            case RouteClass.UI:
                return self.ui
            case RouteClass.HEALTH | RouteClass.PUBLIC:
                return True

    def held(self) -> tuple[str, ...]:
        """The names of the capabilities held, for logs and readiness."""
        names = ("llm", "management", "ui", "probes")
        return tuple(name for name in names if getattr(self, name))


def decide(binary: Binary, flags: Mapping[str, bool]) -> Capabilities:
    """The capabilities of a binary under a set of flags (variable name -> set to true)."""
    reasons: dict[str, str] = {}

    def held(name: str, owned: bool, variables: tuple[str, ...]) -> bool:
        if not owned:
            reasons[name] = f"a {binary} never serves it"
            return False
        taken = next((variable for variable in variables if flags.get(variable)), None)
        if taken is not None:
            reasons[name] = f"switched off by {taken}"
        return taken is None

    admin = binary is Binary.ADMIN
    return Capabilities(
        llm=held("llm", True, LLM_FLAGS),
        management=held("management", admin, MANAGEMENT_FLAGS),
        ui=held("ui", admin, UI_FLAGS),
        probes=held("probes", True, PROBE_FLAGS),
        reasons=reasons,
    )
