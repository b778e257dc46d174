"""A key as somebody wants it to be, and which routes it may then call.

Whoever knows a plain key acts as the key's user. So a key that somebody else has made, rotated or
handed over is for using models alone, whatever its user may do besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from services.admin.api.auth import Caller
from services.admin.api.key_access import ROTATE, KeyAction
from services.admin.api.key_fields import KEY_TYPE_ROUTES
from shared.domain.capabilities import RouteClass
from shared.domain.errors import PermissionDenied
from shared.gateway.route_classes import classify

Row = Mapping[str, Any]

_MODELS_ALONE: Mapping[str, Any] = MappingProxyType(
    {"key_type": "llm_api", "allowed_routes": KEY_TYPE_ROUTES["llm_api"]}
)
# Groups that hold nothing but the use of models.
_LLM_GROUPS = frozenset(
    {
        "llm_api_routes",
        "llm_api_routes_without_mcp",
        "openai_routes",
        "anthropic_routes",
        "google_routes",
        "mcp_inference_routes",
        "agent_inference_routes",
        "litellm_native_routes",
        "mapped_pass_through_routes",
        "model_info_routes",
    }
)
_INFO = "info_routes"


@frozen
class KeyPlan:
    """A key as it is (or as one that nobody described would be) and as it shall be."""

    before: Row
    after: Row
    permission: Mapping[str, Any] | None
    new: bool

    def changes(self, name: str) -> bool:
        """Whether a column becomes another; absent and empty are alike."""
        return (self.before[name] or None) != (self.after[name] or None)

    def handed(self, caller: Caller, action: KeyAction) -> bool:
        """Whether somebody else than the key's user knows the plain key, then or by it."""
        user_id = self.after["user_id"]
        if user_id is None:
            return False
        others = bool(user_id != caller.user_id)
        if self.new:
            return others
        return self.changes("user_id") or (action is ROTATE and others)


def narrowed(plan: KeyPlan, caller: Caller, action: KeyAction) -> Mapping[str, Any]:
    """The columns that a key gets besides, where it is handed over and nobody says what for."""
    if caller.is_admin or plan.after["allowed_routes"] or not plan.handed(caller, action):
        return {}
    return _MODELS_ALONE


def check_routes(caller: Caller, plan: KeyPlan, action: KeyAction) -> None:
    """Raises `PermissionDenied` unless the caller may say what the key calls: its user narrows it,
    and one that others know never calls more than models. No list is wider than any."""
    routes = plan.after["allowed_routes"]
    changes, handed = plan.changes("allowed_routes"), plan.handed(caller, action)
    others = plan.after["user_id"] not in (None, caller.user_id)
    if handed or (changes and others):
        if not routes or not all(map(_uses_models, routes)):
            raise PermissionDenied(
                "A key of another user is for using models alone", param="allowed_routes"
            )
    elif changes and not (routes and all(each == _INFO or _uses_models(each) for each in routes)):
        raise PermissionDenied("Only a proxy admin may widen it so", param="allowed_routes")


def _uses_models(route: str) -> bool:
    """Whether an entry of `allowed_routes` names nothing but routes for using models."""
    if not route.startswith("/"):
        return route in _LLM_GROUPS
    path = route.rstrip("*").rstrip("/")
    return bool(path) and classify(path) is RouteClass.LLM
