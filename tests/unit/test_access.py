"""Model access lists."""

from __future__ import annotations

import pytest

from shared.config.config_file import load
from shared.domain.keys import Principal, Team, User, VirtualKey
from shared.routing.access import aliased, allowed, granted, visible
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
