"""The model catalog: entries into deployments, and names into groups."""

from __future__ import annotations

from decimal import Decimal

import pytest

from shared.config.config_file import load
from shared.config.settings import EXAMPLE_CONFIG
from shared.domain.deployments import Timeouts
from shared.domain.errors import ConfigError
from shared.domain.usage import Rates
from shared.routing.catalog import Catalog
from shared.routing.wildcards import captures, fill, matches, specificity

KEYS = {"OPENAI_API_KEY": "sk-openai", "GROQ_API_KEY": "sk-groq"}
LISTED = {
    ("openai", "gpt-4o"): Rates(Decimal(2), Decimal(8), cache_read=Decimal(1)),
    ("groq", "llama"): Rates(Decimal(3), Decimal(3)),
}


def price_of(provider: str, model: str) -> Rates | None:
    return LISTED.get((provider, model))


@pytest.fixture
def build(tmp_path):
    def build(text: str, environ=None) -> Catalog:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return Catalog.build(load(file, KEYS if environ is None else environ), price_of)

    return build


@pytest.fixture
def refused(build):
    def refused(text: str, environ=None) -> str:
        with pytest.raises(ConfigError) as caught:
            build(text, environ)
        return str(caught.value)

    return refused


def entry(name: str, params: str, info: str = "") -> str:
    text = f"  - model_name: '{name}'\n    litellm_params: {{{params}}}\n"
    return text + (f"    model_info: {{{info}}}\n" if info else "")


def models(*entries: str) -> str:
    return "model_list:\n" + "".join(entries)


def only(catalog: Catalog, name: str):
    (deployment,) = catalog.resolve(name).deployments
    return deployment


# -- entries


def test_the_example_is_served_without_an_account():
    """Every model of the example resolves to the demo provider."""
    catalog = Catalog.build(load(EXAMPLE_CONFIG, {}), price_of)
    assert catalog.notices == ()
    assert set(catalog.names()) >= {"demo", "demo-slow", "demo-tool", "demo-fail"}
    for name in catalog.names():
        assert only(catalog, name).api_base == "demo://local/v1"


def test_defaults_of_a_deployment(build):
    """Base, key, price and time-outs come from the provider, the environment and the table."""
    deployment = only(build(models(entry("m", "model: openai/gpt-4o"))), "m")
    assert deployment.api_base == "https://api.openai.com/v1"
    assert deployment.api_key == "sk-openai"
    assert deployment.rates == LISTED["openai", "gpt-4o"]
    assert deployment.timeouts == Timeouts(5, 600, 600, 600)
    assert deployment.stream_timeouts == Timeouts(5, 600, 600, 6000)
    assert deployment.num_retries is None
    assert "sk-openai" not in repr(deployment)


def test_base_and_key_of_the_operator(build):
    """An entry's base and key win over the variables; the variables over the provider's."""
    environ = {**KEYS, "OPENAI_BASE_URL": "https://proxy/v1"}
    text = models(
        entry("a", "model: openai/x, api_base: 'http://own/v1', api_key: mine"),
        entry("b", "model: openai/x"),
        entry("c", "model: openai/x, api_base: 'http://own/v1'"),
    )
    catalog = build(text, environ)
    assert (only(catalog, "a").api_base, only(catalog, "a").api_key) == ("http://own/v1", "mine")
    assert only(catalog, "b").api_base == "https://proxy/v1"
    keyless = build(models(entry("c", "model: openai/x, api_base: 'http://own/v1'")), {})
    assert only(keyless, "c").api_key is None


def test_parameters_of_an_entry(build):
    """Defaults, headers, drops, retries and token limits arrive."""
    deployment = only(
        build(
            models(
                entry(
                    "m",
                    "model: openai/x, temperature: 0.1, extra_body: {top_k: 4}, "
                    "extra_headers: {X-A: b}, additional_drop_params: [user], max_retries: 1, "
                    "region_name: eu",
                    "mode: embedding, max_tokens: 7, max_input_tokens: 9, access_groups: [g]",
                )
            )
        ),
        "m",
    )
    assert deployment.defaults == {"temperature": 0.1, "top_k": 4}
    assert deployment.extra_headers == (("x-a", "b"),)
    assert deployment.drop_params == ("user",)
    assert (deployment.num_retries, deployment.region) == (1, "eu")
    assert (deployment.max_input_tokens, deployment.max_output_tokens) == (9, 7)
    assert (deployment.mode, deployment.access_groups) == ("embedding", ("g",))
    assert deployment.timeouts.total_s == 6000


def test_headers_from_the_environment(build):
    """Headers that variables give are sent; an entry's organization wins over the variable."""
    environ = {**KEYS, "OPENAI_ORG_ID": "org-env", "OPENROUTER_API_KEY": "k", "OR_APP_NAME": "app"}
    catalog = build(
        models(
            entry("a", "model: openai/x"),
            entry("b", "model: openai/x, organization: org-own"),
            entry("c", "model: openrouter/x"),
        ),
        environ,
    )
    assert only(catalog, "a").extra_headers == (("openai-organization", "org-env"),)
    assert only(catalog, "b").extra_headers == ()
    assert only(catalog, "b").organization == "org-own"
    assert only(catalog, "c").extra_headers == (("x-title", "app"),)


@pytest.mark.parametrize(
    ("entry_says", "router_says", "litellm_says", "whole", "pause"),
    [
        ("", "", "", 600, 600),
        ("", "timeout: 20", "", 20, 20),
        ("", "timeout: 20", "request_timeout: 30", 30, 30),
        ("timeout: 10", "timeout: 20", "request_timeout: 30", 10, 30),
        ("timeout: 10", "", "", 10, 10),
        ("stream_timeout: 3", "stream_timeout: 4", "request_timeout: 30", 30, 3),
        ("", "stream_timeout: 4", "request_timeout: 30", 30, 4),
        ("timeout: 2", "stream_timeout: 4", "", 2, 4),
    ],
)
def test_precedence_of_timeouts(build, entry_says, router_says, litellm_says, whole, pause):
    """Entry, then router or request_timeout, as the contract orders them for each form."""
    text = (
        models(entry("m", f"model: openai/x{', ' if entry_says else ''}{entry_says}"))
        + f"router_settings: {{{router_says}}}\nlitellm_settings: {{{litellm_says}}}\n"
    )
    deployment = only(build(text), "m")
    assert deployment.timeouts == Timeouts(min(5, whole), whole, whole, whole)
    assert deployment.stream_timeouts == Timeouts(min(5, pause), pause, pause, 6000)


def test_own_prices(build):
    """An entry's prices win over the table's, and replace what refines them."""
    catalog = build(
        models(
            entry("a", "model: openai/gpt-4o, output_cost_per_token: 5"),
            entry("b", "model: openai/gpt-4o, input_cost_per_token: 0, output_cost_per_token: 0"),
            entry("c", "model: openai/unknown", "input_cost_per_token: 1e-6"),
            entry("d", "model: openai/unknown"),
            entry("e", "model: openai/tuned", "base_model: gpt-4o"),
            entry("f", "model: openai/tuned", "base_model: groq/llama"),
        )
    )
    assert only(catalog, "a").rates == Rates(Decimal(2), Decimal(5), cache_read=Decimal(1))
    assert only(catalog, "b").rates.free
    assert only(catalog, "c").rates == Rates(Decimal("0.000001"), Decimal(0))
    assert only(catalog, "d").rates is None
    assert only(catalog, "e").rates == LISTED["openai", "gpt-4o"]
    assert only(catalog, "f").rates == LISTED["groq", "llama"]


@pytest.mark.parametrize(
    ("first", "second", "weights", "noticed"),
    [
        ("weight: 3", "weight: 1", [3, 1], 0),
        ("weight: 3, rpm: 1", "rpm: 9", [3, 1], 0),
        ("rpm: 10, tpm: 5", "rpm: 30, tpm: 5", [10, 30], 0),
        ("tpm: 10", "tpm: 30", [10, 30], 0),
        ("rpm: 10", "region_name: x", [1, 1], 1),
        ("region_name: x", "region_name: x", [1, 1], 0),
    ],
)
def test_shares_in_the_shuffle(build, first, second, weights, noticed):
    """`weight` before `rpm` before `tpm`; a share that only some have is noticed, not guessed."""
    catalog = build(
        models(
            entry("m", f"model: openai/a, {first}"),
            entry("m", f"model: openai/b, {second}"),
        )
    )
    assert [d.weight for d in catalog.resolve("m").deployments] == weights
    assert len(catalog.notices) == noticed


# -- ids


def test_ids_are_stable_and_blind_to_secrets(build):
    """A new key does not change a deployment's id, another base does; equal entries get numbers."""

    def ids(text: str, environ=KEYS) -> list[str]:
        return [d.id for d in build(models(text), environ).resolve("m").deployments]

    one = ids(entry("m", "model: openai/x, api_key: one"))
    assert ids(entry("m", "model: openai/x, api_key: two")) == one
    assert ids(entry("m", "model: openai/x, api_base: 'http://h/v1'")) != one
    twins = ids(
        entry("m", "model: openai/x, api_key: one") + entry("m", "model: openai/x, api_key: two")
    )
    assert twins == [one[0], f"{one[0]}-2"]


def test_own_ids_must_differ(refused):
    """Two entries of one id are refused, naming both."""
    message = refused(
        models(entry("a", "model: openai/x", "id: same"), entry("b", "model: openai/y", "id: same"))
    )
    assert "model_list[1].model_info.id" in message
    assert "model_list[0]" in message


def test_an_organization_each(build):
    """A list of organizations makes one deployment of each, with ids of their own."""
    catalog = build(models(entry("m", "model: openai/x, organization: [o1, o2]", "id: d")))
    found = [(d.id, d.organization) for d in catalog.resolve("m").deployments]
    assert found == [("d:o1", "o1"), ("d:o2", "o2")]


# -- what is refused or left out


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("model: opnai/gpt-4o", "did you mean `openai`?"),
        ("model: nobody-knows", "write `provider/nobody-knows`"),
        ("model: openai/x, custom_llm_provider: grog", "did you mean `groq`?"),
        ("model: hosted_vllm/x", "needs `api_base` or the variable HOSTED_VLLM_API_BASE"),
        ("model: mistral/x", "needs `api_key` or the variable MISTRAL_API_KEY"),
        ("model: openai/x, api_base: 'nowhere'", "litellm_params.api_base: expected a URL"),
        ("model: openai/x, extra_headers: {host: x}", "extra_headers.host: is set by the gateway"),
        ('model: openai/x, extra_headers: {a: "b\\r\\nc"}', "extra_headers.a: has a value"),
        ("model: 'openai/*'", "more `*` than `model_name`"),
        ("model: openai/x, stream: true", "litellm_params.stream: is for the client"),
        ("model: openai/x, extra_body: {messages: []}", "litellm_params.messages"),
    ],
)
def test_refusals(refused, params, expected):
    """What could not be called is refused at start, with path and fix."""
    message = refused(models(entry("m", params)))
    assert "model_list[0].litellm_params" in message
    assert expected in message


def test_all_problems_at_once(refused):
    """One error lists the problems of all entries."""
    message = refused(models(entry("a", "model: opnai/x"), entry("b", "model: grog/y")))
    assert message.startswith("2 problems")


@pytest.mark.parametrize(
    ("params", "info"),
    [
        ("model: anthropic/claude-x", ""),
        ("model: claude-x", ""),
        ("model: azure/x, api_base: 'https://h'", ""),
        ("model: openai/responses/x", ""),
        ("model: openai/dall-e-3", "mode: image_generation"),
    ],
)
def test_what_this_release_cannot_serve(build, params, info):
    """Such entries are left out with a notice, and the reason is at hand for the refusal."""
    catalog = build(models(entry("m", params, info), entry("ok", "model: openai/x")))
    assert catalog.resolve("m") is None
    assert "not supported in this release" in catalog.why_not("m")
    assert "not supported in this release" in catalog.notices[0].text
    assert catalog.names() == ("ok",)
    assert catalog.why_not("ok") is None
    assert catalog.why_not("other") is None


def test_a_group_keeps_what_can_be_served(build):
    """A group with one entry of another dialect is served by the rest."""
    catalog = build(models(entry("m", "model: anthropic/claude-x"), entry("m", "model: openai/x")))
    assert only(catalog, "m").provider == "openai"
    assert catalog.why_not("m") is None
    assert len(catalog.notices) == 1


def test_why_not_knows_wildcards_and_aliases(build):
    """Names under an unserved wildcard, and aliases of unserved groups, know their reason."""
    text = models(entry("anthropic/*", "model: 'anthropic/*'"), entry("c", "model: claude-x"))
    catalog = build(text + "router_settings: {model_group_alias: {a: c}}\n")
    assert "anthropic" in catalog.why_not("anthropic/claude-x")
    assert "anthropic" in catalog.why_not("a")


def test_blocked_entries_are_not_served(build):
    """A blocked entry is out of service."""
    catalog = build(models(entry("m", "model: openai/x", "blocked: true")))
    assert catalog.resolve("m") is None
    assert catalog.names() == ()


# -- names


def test_ways_to_a_group(build):
    """Group, alias, id and upstream string lead to deployments; other names to nothing."""
    catalog = build(
        models(
            entry("m", "model: openai/x", "id: d1"),
            entry("m", "model: groq/llama", "id: d2"),
        )
        + "router_settings: {model_group_alias: {a: m, h: {model: m, hidden: true}}}\n"
        + "litellm_settings: {model_alias_map: {b: m}}\n"
    )
    assert [d.id for d in catalog.resolve("m").deployments] == ["d1", "d2"]
    for alias in ("a", "b", "h"):
        assert catalog.resolve(alias) is catalog.resolve("m")
    assert only(catalog, "d2").provider == "groq"
    assert catalog.resolve("d2").name == "m"
    assert only(catalog, "openai/x").id == "d1"
    assert catalog.resolve("openai/x").name == "m"
    assert catalog.resolve("x") is None
    assert catalog.names() == ("m", "b", "a")
    assert [group.name for group in catalog.groups()] == ["m"]


def test_names_beat_aliases_and_ids(build):
    """A group wins over an alias and over another deployment's id of the same text."""
    catalog = build(
        models(entry("m", "model: openai/x", "id: n"), entry("n", "model: openai/y"))
        + "router_settings: {model_group_alias: {n: m}}\n"
    )
    assert only(catalog, "n").upstream_model == "y"
    assert "a model group has this name" in catalog.notices[0].text


def test_an_alias_of_nothing_is_refused(refused):
    """An alias must lead somewhere."""
    message = refused(
        models(entry("model-a", "model: openai/x"))
        + "router_settings: {model_group_alias: {z: model-b}}\n"
    )
    assert "router_settings.model_group_alias.z" in message
    assert "did you mean `model-a`?" in message


def test_access_groups(build):
    """Access groups list the groups that are in them."""
    catalog = build(
        models(
            entry("a", "model: openai/x", "access_groups: [g, h]"),
            entry("b", "model: openai/y", "access_groups: [g]"),
            entry("w/*", "model: 'openai/*'", "access_groups: [h]"),
        )
    )
    assert catalog.access_groups == {"g": ("a", "b"), "h": ("a", "w/*")}
    assert catalog.resolve("w/1").access_groups == {"h"}


# -- wildcards


def test_a_wildcard_fills_the_target(build):
    """What the star matched goes upstream, priced as that model."""
    catalog = build(models(entry("openai/*", "model: 'openai/*'", "id: w")))
    group = catalog.resolve("openai/gpt-4o")
    assert (group.name, group.pattern, group.label) == ("openai/gpt-4o", "openai/*", "openai/*")
    deployment = only(catalog, "openai/gpt-4o")
    assert (deployment.id, deployment.upstream_model) == ("w", "gpt-4o")
    assert deployment.model_group == "openai/gpt-4o"
    assert deployment.rates == LISTED["openai", "gpt-4o"]
    assert catalog.resolve("openai/gpt-4o") is group
    assert catalog.names() == ()
    assert catalog.patterns() == ("openai/*",)
    assert catalog.resolve("groq/x") is None
    assert catalog.resolve("openai/") is None
    assert catalog.resolve("openai/" + "x" * 2000) is None


def test_plain_names_of_openai_are_covered_with_their_prefix(build):
    """`gpt-4o` is served by `openai/*`."""
    catalog = build(models(entry("openai/*", "model: 'openai/*'")))
    assert only(catalog, "gpt-4o").upstream_model == "gpt-4o"
    assert catalog.resolve("gpt-4o").name == "gpt-4o"
    assert catalog.resolve("llama") is None


def test_the_most_specific_pattern_wins(build):
    """Longer beats shorter, an exact name beats all, and special characters break ties."""
    catalog = build(
        models(
            entry("*", "model: 'groq/*'"),
            entry("gpt-*", "model: 'openai/gpt-*'"),
            entry("gpt-4*", "model: 'openai/four-*'"),
            entry("gpt-4o", "model: openai/exact"),
        )
    )
    assert only(catalog, "gpt-4o").upstream_model == "exact"
    assert only(catalog, "gpt-4.1").upstream_model == "four-.1"
    assert only(catalog, "gpt-5").upstream_model == "gpt-5"
    assert only(catalog, "else").upstream_model == "else"
    assert catalog.patterns() == ("gpt-4*", "gpt-*", "*")


def test_a_target_without_star_is_fixed(build):
    """All names of such a pattern go to one model."""
    catalog = build(models(entry("any/*", "model: openai/fixed")))
    assert only(catalog, "any/thing").upstream_model == "fixed"


def test_a_wildcard_group_of_several_entries(build):
    """Entries of one pattern share the load."""
    catalog = build(
        models(
            entry("w-*", "model: 'openai/*', weight: 2"),
            entry("w-*", "model: 'groq/*', weight: 1"),
        )
    )
    found = [(d.provider, d.upstream_model, d.weight) for d in catalog.resolve("w-x").deployments]
    assert found == [("openai", "x", 2), ("groq", "x", 1)]


def test_the_bare_star_serves_providers_with_a_key(build, refused):
    """`*` to `*` calls the provider that the name says, if the environment has its key; each has
    an id of its own, since heads are kept by id."""
    text = models(entry("*", "model: '*'", "id: all"))
    catalog = build(text)
    groq = only(catalog, "groq/llama")
    assert (groq.id, groq.provider, groq.api_key) == ("all:groq", "groq", "sk-groq")
    assert groq.rates == LISTED["groq", "llama"]
    assert only(catalog, "gpt-4o").id == "all:openai"
    assert catalog.resolve("mistral/x") is None
    assert catalog.resolve("demo/echo") is None
    assert catalog.resolve("anthropic/claude-x") is None
    assert "whose key is in the environment" in refused(text, {})
    keyed = models(entry("*", "model: '*', api_key: k"))
    assert "whichever provider" in refused(keyed)


def test_an_alias_into_a_wildcard(build):
    """An alias may lead to a name that only a wildcard covers."""
    catalog = build(
        models(entry("openai/*", "model: 'openai/*'"))
        + "router_settings: {model_group_alias: {best: openai/gpt-4o}}\n"
    )
    assert only(catalog, "best").upstream_model == "gpt-4o"
    assert catalog.names() == ("best",)


def test_memory_of_names_is_bounded(build):
    """Any number of made-up names keeps working and is not all remembered."""
    catalog = build(models(entry("*", "model: 'groq/*'")))
    for number in range(3000):
        assert only(catalog, f"m{number}").upstream_model == f"m{number}"
    assert len(catalog.common.wildcards._made) <= 1024


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("*", "", ("",)),
        ("a*", "abc", ("bc",)),
        ("*c", "abc", ("ab",)),
        ("a*c", "ac", ("",)),
        ("a*c", "a", None),
        ("aa*aa", "aaa", None),
        ("a*b*c", "a1b2c", ("1", "2")),
        ("a*b*c", "acb", None),
        ("*a*", "xay", ("x", "y")),
        ("**", "x", ("", "x")),
        ("a.c", "abc", None),
        ("abc", "abc", ()),
    ],
)
def test_stars(pattern, name, found):
    """A star is any text, other characters are themselves."""
    assert captures(pattern, name) == found
    assert matches(pattern, name) is (found is not None)


def test_filling():
    """Stars are replaced in order; further texts are dropped."""
    assert fill("x-*-*", ("1", "2")) == "x-1-2"
    assert fill("x", ("1",)) == "x"
    assert fill("x-*", ("1", "2")) == "x-1"
    assert specificity("a-*") > specificity("ab*") > specificity("*")
