"""Scopes of calls that name more than their key: made once for each combination."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from shared.config.gateway_config import GatewayConfig, GeneralSettings, LitellmSettings
from shared.db.subjects import Name
from shared.domain.clock import Clock
from shared.domain.errors import AuthenticationFailed, ConfigError, InvalidRequest, PermissionDenied
from shared.domain.keys import Budget, Owners, Principal, Subject, SubjectKind, VirtualKey
from shared.gateway.call import Call
from shared.gateway.rules import CallRules, limit_policy
from shared.keys.levels import NO_POLICY, Policy
from shared.keys.principal import build_principal
from shared.keys.subjects import SubjectCache
from shared.routing.groups import ModelGroup

ONE = Decimal(1)


class Store:
    """What the database says; how often it was asked."""

    def __init__(self, *subjects: Subject) -> None:
        self.rows = {(subject.kind, subject.id): subject for subject in subjects}
        self.asked = 0

    async def load(self, names: Iterable[Name]) -> Mapping[Name, Subject]:
        self.asked += 1
        return {name: self.rows[name] for name in names if name in self.rows}

    async def names(self, _most: int) -> Mapping[SubjectKind, frozenset[str] | None]:
        return {}


def call(principal: Principal, model: str = "m", **fields: Any) -> Call:
    """A call whose model has been found."""
    made: Any = SimpleNamespace(
        principal=principal,
        scopes=None,
        end_user=None,
        tags=(),
        model_name=model,
        group=ModelGroup(model, ()),
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


async def scopes(rules: CallRules, made: Call) -> tuple[str, ...]:
    await rules.find(made)
    assert made.scopes is not None
    return tuple(ref.scope for ref in made.scopes)


def rules(store: Store, policy: Policy = NO_POLICY) -> CallRules:
    return CallRules(SubjectCache(store.load, store.names), policy, Clock())


async def test_plain_calls_have_their_keys_scopes() -> None:
    """Without an end user, tags and limits of models nothing is looked up or made."""
    principal = build_principal(Owners(VirtualKey("k", rpm_limit=1)))
    store = Store()
    made = call(principal)
    assert rules(store).apply(made)
    assert made.scopes is principal.scopes
    assert store.asked == 0


async def test_what_has_no_rules_adds_nothing() -> None:
    """An end user and tags without rows leave the key's scopes, read once."""
    principal = build_principal(Owners(VirtualKey("k", rpm_limit=1)))
    store = Store()
    subject = rules(store)
    for _ in range(3):
        made = call(principal, end_user="e", tags=("t",))
        await subject.find(made)
        assert made.scopes is principal.scopes
    assert store.asked == 1


async def test_the_same_combination_is_the_same_object() -> None:
    """Limits find scopes by identity, so equal calls, also of other models without limits, share
    them; another end user has its own."""
    key = VirtualKey("k", metadata={"model_rpm_limit": {"big-*": 5}})
    owners = Owners(key, end_user_budget=Budget("b", rpm_limit=9))
    principal = build_principal(owners)
    subject = rules(Store())
    made = [call(principal, model, end_user="e") for model in ("big-1", "big-2", "big-1", "small")]
    made.append(call(principal, "big-1", end_user="f"))
    for each in made:
        await subject.find(each)
    first, second, again, small, other = (each.scopes for each in made)
    assert first is second is again
    assert first is not None
    assert [ref.scope for ref in first] == ["model_per_key:k:big-*", "end_user:e"]
    assert small is not None
    assert [ref.scope for ref in small] == ["end_user:e"]
    assert other is not None
    assert [ref.scope for ref in other] == ["model_per_key:k:big-*", "end_user:f"]


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("gpt-4o", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4*"),
        ("gpt-5", "gpt-*"),
        ("claude", "*"),
    ],
)
async def test_which_entry_a_model_has(model: str, entry: str) -> None:
    """The exact name, else the most specific pattern, with or without the provider's prefix."""
    budgets = {name: {"max_budget": 1} for name in ("*", "gpt-*", "gpt-4*", "gpt-4o")}
    principal = build_principal(Owners(VirtualKey("k", model_max_budget=budgets)))
    assert await scopes(rules(Store()), call(principal, model)) == (f"model_per_key:k:{entry}",)


async def test_whose_budget_an_end_user_has() -> None:
    """Its own, else its key's for end users, else the operator's."""
    own = Subject(SubjectKind.END_USER, "own", Budget("own", max_budget=Decimal(3)))
    default = Subject(SubjectKind.BUDGET, "of-all", Budget("of-all", max_budget=ONE))
    store = Store(own, default, Subject(SubjectKind.END_USER, "bare"))
    subject = rules(store, Policy(end_user_budget_id="of-all"))
    plain = build_principal(Owners(VirtualKey("k")))
    with_default = build_principal(
        Owners(VirtualKey("l"), end_user_budget=Budget("k", max_budget=Decimal(2)))
    )
    for principal, end_user, amount in (
        (plain, "own", 3),
        (plain, "bare", 1),
        (plain, "unknown", 1),
        (with_default, "own", 3),
        (with_default, "bare", 2),
    ):
        made = call(principal, end_user=end_user)
        await subject.find(made)
        assert made.scopes is not None
        assert [(ref.scope, ref.limit) for ref in made.scopes] == [(f"end_user:{end_user}", amount)]


async def test_what_an_end_user_may_not_do() -> None:
    """A blocked end user is a 401, a model that is not on its list a 403."""
    store = Store(
        Subject(SubjectKind.END_USER, "blocked", blocked=True),
        Subject(SubjectKind.END_USER, "listed", models=("m",)),
    )
    principal, subject = build_principal(Owners(VirtualKey("k"))), rules(store)
    with pytest.raises(AuthenticationFailed):
        await subject.find(call(principal, end_user="blocked"))
    with pytest.raises(PermissionDenied) as refused:
        await subject.find(call(principal, "other", end_user="listed"))
    assert refused.value.type == "customer_model_access_denied"
    await subject.find(call(principal, "m", end_user="listed"))


async def test_more_limited_tags_than_a_request_may_have() -> None:
    """A request cannot make limits check any number of budgets."""
    tags = [Subject(SubjectKind.TAG, f"t{n}", Budget(f"b{n}", max_budget=ONE)) for n in range(65)]
    principal, subject = build_principal(Owners(VirtualKey("k"))), rules(Store(*tags))
    names = tuple(tag.id for tag in tags)
    assert len(await scopes(subject, call(principal, tags=names[:64]))) == 64
    with pytest.raises(InvalidRequest) as refused:
        await subject.find(call(principal, tags=names))
    assert refused.value.param == "tags"


async def test_the_master_key_has_no_rules() -> None:
    """Whatever it names."""
    master = Principal(VirtualKey("master"), master=True)
    store = Store(Subject(SubjectKind.END_USER, "e", blocked=True))
    assert await scopes(rules(store), call(master, end_user="e")) == ()
    assert store.asked == 0


def test_what_the_configuration_says() -> None:
    """Settings of limits, and a list that is none."""
    general = GeneralSettings(
        apply_user_budget_to_team_keys=True,
        enforced_params=["user"],
        service_account_settings={"enforced_params": ["seed"]},
    )
    litellm = LitellmSettings(max_budget=ONE, budget_duration="1d", max_end_user_budget_id="b")
    assert limit_policy(GatewayConfig(general=general, litellm=litellm)) == Policy(
        max_budget=ONE,
        budget_duration="1d",
        user_budget_for_team_keys=True,
        end_user_budget_id="b",
        enforced_params=("user",),
        service_params=("seed",),
    )
    wrong = GeneralSettings(service_account_settings={"enforced_params": "seed"})
    with pytest.raises(ConfigError, match="service_account_settings"):
        limit_policy(GatewayConfig(general=wrong))
