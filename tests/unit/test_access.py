"""Model access lists."""

from __future__ import annotations

import pytest

from shared.config.config_file import load
from shared.domain.keys import (
    AccessGroup,
    Budget,
    Member,
    Organization,
    Owners,
    Principal,
    Project,
    Team,
    User,
    VirtualKey,
)
from shared.keys.principal import build_principal
from shared.routing.access import aliased, allowed, denied_by, granted, team_aliased, visible
from shared.routing.catalog import Catalog

CONFIG = """
model_list:
  - {model_name: gpt, litellm_params: {model: openai/gpt-4o}, model_info: {access_groups: [beta]}}
  - {model_name: fast, litellm_params: {model: groq/llama}}
  - {model_name: mixed, litellm_params: {model: openai/gpt-4o}}
  - {model_name: mixed, litellm_params: {model: groq/llama}}
  - {model_name: 'groq/*', litellm_params: {model: 'groq/*'}, model_info: {access_groups: [wild]}}
router_settings: {model_group_alias: {alias: gpt}}
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    file = tmp_path_factory.mktemp("access") / "config.yaml"
    file.write_text(CONFIG)
    environ = {"OPENAI_API_KEY": "k", "GROQ_API_KEY": "k"}
    return Catalog.build(load(file, environ), lambda _provider, _model: None)


def principal(
    models: tuple[str, ...] = (),
    team: tuple[str, ...] | None = None,
    user: tuple[str, ...] | None = None,
    **key,
) -> Principal:
    team_id = "t" if team is not None else None
    return Principal(
        key=VirtualKey(token="h", models=models, team_id=team_id, **key),
        team=Team(team_id="t", models=team) if team is not None else None,
        user=User(user_id="u", models=user) if user is not None else None,
    )


@pytest.mark.parametrize(
    ("models", "requested", "expected"),
    [
        ((), "gpt", True),
        (("*",), "gpt", True),
        (("all-proxy-models",), "gpt", True),
        (("no-default-models",), "gpt", False),
        (("no-default-models", "gpt"), "gpt", True),
        (("gpt",), "gpt", True),
        (("fast",), "gpt", False),
        (("GPT",), "gpt", False),
        (("alias",), "alias", True),
        (("gpt",), "alias", True),
        (("alias",), "gpt", False),
        (("beta",), "gpt", True),
        (("beta",), "alias", True),
        (("beta",), "fast", False),
        (("wild",), "groq/anything", True),
        (("g*",), "gpt", True),
        (("f*",), "gpt", False),
        (("openai/*",), "gpt", True),
        (("openai/*",), "fast", False),
        (("groq/*",), "fast", True),
        (("groq/*",), "mixed", False),
        (("openai/*", "groq/*"), "mixed", False),
        (("groq/*",), "groq/new", True),
        (("groq/n*",), "groq/new", True),
        (("groq/o*",), "groq/new", False),
        (("groq/new",), "groq/new", True),
        (("groq/old",), "groq/new", False),
        (("gpt",), "openai/gpt-4o", True),
        (("fast",), "nowhere", False),
        (("nowhere",), "nowhere", True),
        (("no*",), "nowhere", True),
        ((), "nowhere", True),
        (("all-team-models",), "gpt", False),
    ],
)
def test_one_list(catalog, models, requested, expected):
    """What each kind of word in a list allows, by the name asked for and by the group."""
    assert granted(models, requested, catalog.resolve(requested)) is expected
    if models != ("all-team-models",):
        assert allowed(principal(models), requested, catalog.resolve(requested)) is expected


@pytest.mark.parametrize(
    ("key", "team", "expected"),
    [
        (("all-team-models",), ("gpt",), True),
        (("all-team-models",), ("fast",), False),
        (("all-team-models",), (), True),
        (("all-team-models", "gpt"), ("fast",), False),
        ((), ("gpt",), True),
        ((), ("fast",), False),
        (("gpt",), ("fast",), False),
        (("gpt",), (), True),
        (("fast",), ("gpt",), False),
        (("all-team-models",), ("all-team-models",), False),
    ],
)
def test_key_and_team(catalog, key, team, expected):
    """Both lists must allow; `all-team-models` stands for the team's."""
    assert allowed(principal(key, team), "gpt", catalog.resolve("gpt")) is expected


def test_a_users_list_counts_for_keys_without_a_team(catalog):
    """The user's list limits personal keys only."""
    group = catalog.resolve("gpt")
    assert not allowed(principal(user=("fast",)), "gpt", group)
    assert allowed(principal(user=("gpt",)), "gpt", group)
    assert allowed(principal(user=("fast",), team=("gpt",)), "gpt", group)
    assert not allowed(principal(user=("no-default-models",)), "gpt", group)
    orphan = Principal(
        key=VirtualKey(token="h", team_id="gone"), user=User(user_id="u", models=("fast",))
    )
    assert allowed(orphan, "gpt", group)


def test_a_keys_alias_counts_as_its_target(catalog):
    """A key's own alias leads to a name, and only that name must be allowed."""
    caller = principal(("fast",), aliases={"mine": "fast", "other": "gpt"})
    assert aliased(caller, "mine") == "fast"
    assert aliased(caller, "fast") == "fast"
    assert allowed(caller, aliased(caller, "mine"), catalog.resolve("fast"))
    assert not allowed(caller, aliased(caller, "other"), catalog.resolve("gpt"))


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((), ("gpt", "fast", "mixed", "alias")),
        (("gpt",), ("gpt", "alias")),
        (("beta",), ("gpt", "alias")),
        (("groq/*",), ("fast",)),
        (("fast", "groq/new"), ("fast", "groq/new")),
        (("no-default-models",), ()),
        (("nowhere",), ()),
        (("all-proxy-models", "wild"), ("gpt", "fast", "mixed", "alias")),
    ],
)
def test_visible_names(catalog, models, expected):
    """Model lists hold what may be used, and names that only a wildcard serves."""
    assert visible(principal(models), catalog) == expected


def test_visible_names_of_teams_and_aliases(catalog):
    """The team's list narrows the list; the key's aliases join it."""
    assert visible(principal((), ("fast", "groq/x")), catalog) == ("fast", "groq/x")
    caller = principal(("fast",), aliases={"mine": "fast", "no": "gpt", "nothing": "x"})
    assert visible(caller, catalog) == ("fast", "mine")


GPT, FAST = ("gpt",), ("fast",)


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ({}, None),
        ({"key": FAST}, "key"),
        ({"key": FAST, "groups": GPT}, None),
        ({"key": FAST, "groups": ()}, "key"),
        ({"team": FAST}, "team"),
        ({"team": FAST, "groups": GPT}, None),
        ({"team": FAST, "team_groups": GPT}, None),
        ({"key": FAST, "team_groups": GPT, "team": ()}, "key"),
        ({"key": ("all-team-models",), "team": FAST, "team_groups": GPT}, None),
        ({"team": GPT, "member": FAST}, "team"),
        ({"team": GPT, "member": GPT}, None),
        ({"team": GPT, "member": (), "defaults": FAST}, "team"),
        ({"team": GPT, "member": GPT, "defaults": FAST}, None),
        ({"team": GPT, "defaults": FAST}, None),
        ({"team": GPT, "member": ("all-team-models",)}, None),
        ({"org": FAST}, "org"),
        ({"team": GPT, "org": FAST}, "org"),
        ({"user": FAST}, "user"),
        ({"user": ("no-default-models",)}, "key"),
        ({"team": GPT, "user": FAST}, None),
        ({"project": FAST}, "project"),
        ({"project": GPT, "user": GPT, "org": GPT}, None),
        ({"key": FAST, "team": FAST, "org": FAST}, "key"),
    ],
)
def test_whose_list_denies(catalog, owners, expected):
    """Every owner's list must allow, and the first that does not is named."""
    team = owners.get("team")
    caller = build_principal(
        Owners(
            VirtualKey("h", models=owners.get("key", ()), team_id=None if team is None else "t"),
            user=User("u", models=owners["user"]) if "user" in owners else None,
            team=None
            if team is None
            else Team("t", models=team, default_team_member_models=owners.get("defaults", ())),
            member=Member("t", "u") if "member" in owners else None,
            member_budget=Budget("b", allowed_models=owners.get("member", ())),
            organization=Organization("o", models=owners["org"]) if "org" in owners else None,
            project=Project("p", models=owners["project"]) if "project" in owners else None,
            access_groups=(AccessGroup("g", owners.get("groups", ())),),
            team_access_groups=(AccessGroup("h", owners.get("team_groups", ())),),
        )
    )
    assert denied_by(caller, "gpt", catalog.resolve("gpt")) == expected


def test_a_teams_alias_or_its_target_must_be_allowed(catalog):
    """A team's own alias leads to a name, and either of the two may stand in the lists."""
    for models, expected in ((("mine",), True), (("gpt",), True), (("fast",), False)):
        team = Team("t", models=models, model_aliases={"mine": "gpt", "odd": 1})
        caller = Principal(VirtualKey("h", team_id="t"), team=team)
        assert team_aliased(caller, "mine") == "gpt"
        assert team_aliased(caller, "odd") == "odd"
        assert allowed(caller, "mine", catalog.resolve("gpt")) is expected
        assert ("mine" in visible(caller, catalog)) is expected


def test_models_of_access_groups_are_visible(catalog):
    """What only a unified access group allows is in the list, names behind wildcards too."""
    group = AccessGroup("g", ("gpt", "groq/new"))
    caller = build_principal(Owners(VirtualKey("h", models=FAST), access_groups=(group,)))
    assert visible(caller, catalog) == ("gpt", "fast", "alias", "groq/new")
