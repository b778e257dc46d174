"""Rules that hang on what a call names besides its key: its model, its end user, its tags.

Most calls are of keys and name nothing that has rules: their scopes are their key's. The others'
are composed once for each combination, so that limits find them by identity.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from attrs import frozen

from shared.config.gateway_config import GatewayConfig
from shared.domain.clock import Clock
from shared.domain.errors import (
    AuthenticationFailed,
    ConfigError,
    InvalidRequest,
    PermissionDenied,
)
from shared.domain.keys import Budget, Subject, SubjectKind
from shared.domain.limits import ScopeRef, scope_id
from shared.keys.cache import MISSING
from shared.keys.levels import Case, Policy, expiry_s, scopes_of
from shared.keys.model_limits import Pick
from shared.keys.subjects import Name, SubjectCache
from shared.routing.access import granted
from shared.routing.wildcards import matches, specificity

if TYPE_CHECKING:
    from shared.gateway.call import Call

_KEPT = 20_000
_MOST_SUBJECTS = 64
_LIMITING = frozenset({SubjectKind.TAG, SubjectKind.MODEL_ACCESS_GROUP})


@frozen(eq=False)
class _Composed:
    """Scopes until `until_s` (epoch), and what they were made of, which keeps its identity."""

    scopes: tuple[ScopeRef, ...]
    until_s: float
    parts: tuple[Any, ...]


def limit_policy(config: GatewayConfig) -> Policy:
    """What the configuration says of everybody's limits; raises `ConfigError`."""
    general, litellm = config.general, config.litellm
    service = general.service_account_settings.get("enforced_params") or ()
    if not isinstance(service, list | tuple) or not all(isinstance(each, str) for each in service):
        raise ConfigError(
            f"{config.source}: general_settings.service_account_settings.enforced_params: "
            "expected a list of texts"
        )
    return Policy(
        max_budget=litellm.max_budget,
        budget_duration=litellm.budget_duration,
        user_budget_for_team_keys=general.apply_user_budget_to_team_keys,
        end_user_budget_id=litellm.max_end_user_budget_id,
        enforced_params=tuple(general.enforced_params),
        service_params=tuple(service),
    )


class CallRules:
    """Owner of the scopes of calls, for one event loop."""

    __slots__ = ("_clock", "_composed", "_policy", "_same", "_subjects")

    def __init__(self, subjects: SubjectCache, policy: Policy, clock: Clock) -> None:
        self._subjects = subjects
        self._policy = policy
        self._clock = clock
        self._composed: dict[tuple[Any, ...], _Composed] = {}
        # Equal scopes are one object, however many names of models lead to them.
        self._same: dict[tuple[ScopeRef, ...], tuple[ScopeRef, ...]] = {}

    def obey(self, policy: Policy) -> None:
        """From now on the operator says this of limits."""
        self._policy = policy
        self._composed.clear()
        self._same.clear()

    def apply(self, call: Call) -> bool:
        """Set the call's scopes; `False` when something that it names has to be read first.

        Raises `AuthenticationFailed` or `PermissionDenied` for what its end user may not do.
        """
        principal = call.principal
        if principal.master or not (
            principal.per_model or call.end_user or call.tags or call.group.access_groups
        ):
            call.scopes = principal.scopes
            return True
        subjects: list[Subject] = []
        for kind, name in self._names(call):
            found = self._subjects.get(kind, name)
            if found is MISSING:
                return False
            if found is not None:
                subjects.append(found)
        call.scopes = self._scopes(call, subjects)
        return True

    async def find(self, call: Call) -> None:
        """The same, reading what is not known. Raises `StoreUnavailable` too."""
        while not self.apply(call):
            await self._subjects.find(self._names(call))

    def _names(self, call: Call) -> list[Name]:
        names = [(SubjectKind.TAG, tag) for tag in call.tags]
        names += [(SubjectKind.MODEL_ACCESS_GROUP, each) for each in call.group.access_groups]
        if call.end_user:
            names.append((SubjectKind.END_USER, call.end_user))
            if self._policy.end_user_budget_id is not None:
                names.append((SubjectKind.BUDGET, self._policy.end_user_budget_id))
        return names

    def _scopes(self, call: Call, subjects: list[Subject]) -> tuple[ScopeRef, ...]:
        principal = call.principal
        limiting = tuple(each for each in subjects if each.kind in _LIMITING and each.budget)
        if len(limiting) > _MOST_SUBJECTS:
            raise InvalidRequest(
                f"More than {_MOST_SUBJECTS} of the request's tags have budgets.", param="tags"
            )
        budget = self._end_user_budget(call, subjects) if call.end_user else None
        tags = call.tags if principal.per_tag else ()
        per_model = principal.per_model or (budget is not None and bool(budget.model_max_budget))
        if not (per_model or tags or limiting or budget):
            return principal.scopes
        models = _model_names(call) if per_model else ()
        end_user = scope_id("", call.end_user or "") if budget is not None else ""
        key = (id(principal), models, end_user, id(budget), tags, tuple(map(id, limiting)))
        known = self._composed.get(key)
        if known is None or known.until_s <= self._clock.now():
            if len(self._composed) >= _KEPT:
                self._composed.clear()
                self._same.clear()
            known = self._composed[key] = self._compose(call, models, budget, tags, limiting)
        return known.scopes

    def _compose(
        self,
        call: Call,
        models: tuple[str, ...],
        budget: Budget | None,
        tags: tuple[str, ...],
        limiting: tuple[Subject, ...],
    ) -> _Composed:
        principal, now_s = call.principal, self._clock.now()
        scopes = scopes_of(
            Case(
                principal.owners,
                self._policy,
                now_s,
                _pick(models),
                call.end_user if budget is not None else None,
                budget,
                tags,
                limiting,
            )
        )
        scopes = principal.scopes if scopes == principal.scopes else scopes
        budgets = (budget, *(each.budget for each in limiting))
        return _Composed(
            self._same.setdefault(scopes, scopes),
            expiry_s(budgets, now_s),
            (principal, budget, limiting),
        )

    def _end_user_budget(self, call: Call, subjects: list[Subject]) -> Budget | None:
        """Its own, else the key's for end users, else the operator's; after a check that the end
        user may make the call."""
        default: Budget | None = None
        for subject in subjects:
            if subject.kind is SubjectKind.BUDGET:
                default = subject.budget
            elif subject.kind is SubjectKind.END_USER:
                _check_end_user(call, subject)
                if subject.budget is not None:
                    return subject.budget
        return call.principal.owners.end_user_budget or default


def _check_end_user(call: Call, end_user: Subject) -> None:
    if end_user.blocked:
        raise AuthenticationFailed(
            "The end user of this request is blocked. An administrator can unblock it."
        )
    if not granted(end_user.models, call.model_name, call.group):
        raise PermissionDenied(
            "The end user of this request may not use this model.",
            type="customer_model_access_denied",
            param="model",
        )


def _model_names(call: Call) -> tuple[str, ...]:
    """What limits may call the call's model: its group, the name sent, and the group without its
    provider."""
    group = call.group.name
    names = (group, call.model_name, group.partition("/")[2])
    return tuple(dict.fromkeys(name for name in names if name))


def _pick(names: tuple[str, ...]) -> Pick | None:
    if not names:
        return None

    def pick(entries: Collection[str]) -> str | None:
        for name in names:
            if name in entries:
                return name
        covering = (
            entry
            for entry in entries
            if "*" in entry and any(matches(entry, name) for name in names)
        )
        return max(covering, key=specificity, default=None)

    return pick
