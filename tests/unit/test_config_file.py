"""The configuration file: what it may say, what is refused and what is noticed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from shared.config import gateway_config
from shared.config.config_file import load
from shared.config.config_pending import (
    PENDING_MODEL_INFO,
    PENDING_PARAMS,
    PENDING_SECTIONS,
    PENDING_TOP_LEVEL,
)
from shared.config.config_schema import (
    LITELLM_PARAMS,
    MODEL_INFO,
    PRICES,
    SECTIONS,
    TOP_LEVEL,
    names,
)
from shared.config.gateway_config import AliasTarget, GatewayConfig
from shared.config.secret import Secret
from shared.config.settings import EXAMPLE_CONFIG
from shared.domain.errors import ConfigError

MODEL = "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/gpt-4o\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "config.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def read(write):
    def read(text: str, **environ: str) -> GatewayConfig:
        return load(write(text), environ)

    return read


@pytest.fixture
def refused(write):
    def refused(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(write(text), environ)
        return str(caught.value)

    return refused


def params(text: str) -> str:
    """A file with one model and further members of its `litellm_params`."""
    return MODEL + "".join(f"      {line}\n" for line in text.splitlines())


def info(text: str) -> str:
    return MODEL + "    model_info:\n" + "".join(f"      {line}\n" for line in text.splitlines())


# -- the tables


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (SECTIONS["general_settings"], gateway_config.GeneralSettings),
        (SECTIONS["litellm_settings"], gateway_config.LitellmSettings),
        (SECTIONS["router_settings"], gateway_config.RouterSettings),
        (LITELLM_PARAMS, gateway_config.LitellmParams),
        (MODEL_INFO, gateway_config.ModelInfo),
    ],
)
def test_tables_and_values_agree(keys, value):
    """Every name in force has its field, and every field its name."""
    fields = {field.name for field in attrs.fields(value)} - {"extra", "prices"}
    assert set(names(keys)) - set(names(PRICES)) - {"litellm_credential_name"} == fields


@pytest.mark.parametrize(
    ("keys", "pending"),
    [
        *((SECTIONS[name], PENDING_SECTIONS[name]) for name in SECTIONS),
        (LITELLM_PARAMS, PENDING_PARAMS),
        (MODEL_INFO, PENDING_MODEL_INFO),
        (TOP_LEVEL, PENDING_TOP_LEVEL),
    ],
)
def test_a_name_is_in_force_or_pending_not_both(keys, pending):
    """No name stands in both tables or twice in one."""
    both = [*names(keys), *(row.name for row in pending)]
    assert len(both) == len(set(both))


# -- what a file may say


def test_the_example_is_clean():
    """The example in the package loads without an environment, a problem or a notice."""
    config = load(EXAMPLE_CONFIG, {})
    assert config.notices == ()
    assert [entry.model_name for entry in config.models][:2] == ["demo", "demo-slow"]
    assert any(entry.info.mode == "embedding" for entry in config.models)


def test_the_examples_hints_are_valid(read):
    """Every commented entry of the example is valid once its marks are taken away."""
    models = EXAMPLE_CONFIG.read_text(encoding="utf-8").partition("router_settings:")[0]
    lines = models.splitlines()
    entries = [line.replace("  # ", "  ", 1) for line in lines if line.startswith("  # ")]
    text = "\n".join(
        line for line in entries if line.startswith(("  - ", "    ")) or line.strip() == ""
    )
    config = read(
        f"model_list:\n{text}\n", OPENAI_API_KEY="k", OPENROUTER_API_KEY="k", GROQ_API_KEY="k"
    )
    assert {entry.model_name for entry in config.models} == {"gpt-4o", "llama", "groq/*"}
    assert config.notices == ()


def test_empty_files_are_empty(read):
    """An empty file, and sections without content, give the defaults."""
    for text in ("", "# nothing\n", "model_list:\ngeneral_settings:\nlitellm_settings: {}\n"):
        config = read(text)
        assert config.models == ()
        assert config.num_retries == 2
        assert config.litellm.budget_exceeded_status_code == 422
        assert config.litellm.require_auth_for_metrics_endpoint


def test_a_whole_entry(read):
    """Every member of an entry that is in force arrives with its type."""
    text = (
        params(
            "api_key: sk-upstream\napi_base: https://h/v1\norganization: [a, b]\nrpm: 10\ntpm: 20\n"
            "weight: 1.5\ntimeout: 30\nstream_timeout: 2.5\nnum_retries: 1\nmax_retries: 3\n"
            "input_cost_per_token: 0.0000015\noutput_cost_per_token: 6e-6\n"
            "extra_headers: {X-A: b}\nextra_body: {a: {b: 1}}\ndrop_params: true\n"
            "additional_drop_params: [user]\nregion_name: eu\ntemperature: 0.2\ntop_k: 5"
        )
        + "    model_info: {id: one, mode: chat, access_groups: [g], note: hi}\n"
    )
    (entry,) = read(text).models
    assert entry.params.api_key == Secret("sk-upstream")
    assert entry.params.organization == ("a", "b")
    assert (entry.params.timeout, entry.params.stream_timeout) == (30, 2.5)
    assert entry.params.prices == {
        "input_cost_per_token": Decimal("0.0000015"),
        "output_cost_per_token": Decimal("0.000006"),
    }
    assert entry.params.extra == {"temperature": 0.2, "top_k": 5}
    assert entry.params.extra_body == {"a": {"b": 1}}
    assert (entry.info.id, entry.info.access_groups) == ("one", ("g",))
    assert entry.info.extra == {"note": "hi"}
    assert entry.path == "model_list[0]"
    assert "sk-upstream" not in repr(entry)


@pytest.mark.parametrize("text", ["1e-06", "'0.000001'", "0.000001", "1.0e-6"])
def test_prices_in_every_notation(read, text):
    """YAML reads some notations of a price as text; all mean the same amount."""
    (entry,) = read(params(f"input_cost_per_token: {text}")).models
    assert entry.params.prices["input_cost_per_token"] == Decimal("0.000001")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("12:30", "12:30:00"),
        ("'00:00'", "00:00:00"),
        ("08:15:30", "08:15:30"),
        ("23:59:59", "23:59:59"),
    ],
)
def test_times_of_day_although_yaml_reads_base_60(read, text, time):
    """A time of day without quotes is the time that was written."""
    assert (
        read(f"litellm_settings: {{budget_reset_time: {text}}}").litellm.budget_reset_time == time
    )


def test_router_and_aliases(read):
    """Aliases in both notations, and the retries of either section."""
    config = read(
        "router_settings:\n  num_retries: 5\n  model_group_alias:\n    a: m\n"
        "    b: {model: m, hidden: true}\n"
        "litellm_settings: {num_retries: 1, timezone: Europe/Oslo}\n"
    )
    assert config.router.model_group_alias == {
        "a": AliasTarget(model="m"),
        "b": AliasTarget(model="m", hidden=True),
    }
    assert config.num_retries == 5
    assert read("litellm_settings: {num_retries: 1}").num_retries == 1


def test_anchors_and_merges(read):
    """YAML's own way to share members works."""
    config = read(
        "model_list:\n"
        "  - &first\n    model_name: a\n    litellm_params: &params {model: openai/a, rpm: 5}\n"
        "  - <<: *first\n    model_name: b\n"
        "  - model_name: c\n    litellm_params: {<<: *params, rpm: 6}\n"
    )
    assert [(e.model_name, e.params.rpm) for e in config.models] == [("a", 5), ("b", 5), ("c", 6)]


def test_environments(read):
    """An entry for other environments is left out, one for this one is kept."""
    text = info("supported_environments: [production]")
    assert read(text).models == ()
    assert len(read(text, LITELLM_ENVIRONMENT="production").models) == 1


def test_an_entry_of_one_team_is_not_everybodys(read):
    """An entry of a team is left out and noticed."""
    config = read(info("team_id: t1"))
    assert config.models == ()
    assert "not served" in config.notices[0].text


# -- references


def test_references_anywhere(read):
    """References are replaced as a whole text, within one, in nested values, and as numbers."""
    text = params(
        "api_key: os.environ/KEY\nrpm: os.environ/RPM\n"
        "extra_headers: {X-Auth: Basic os.environ/KEY}\nextra_body: {a: [os.environ/KEY]}\n"
        "custom: os.environ/KEY"
    )
    (entry,) = read(text, KEY="k-1", RPM="50").models
    assert entry.params.api_key == Secret("k-1")
    assert entry.params.rpm == 50
    assert entry.params.extra_headers == {"X-Auth": "Basic k-1"}
    assert entry.params.extra_body == {"a": ["k-1"]}
    assert entry.params.extra == {"custom": "k-1"}


def test_every_missing_variable_is_named(refused):
    """Each reference to a variable that is not set is reported with its path and line."""
    message = refused(
        params("api_key: os.environ/OPENAI_API_KEI\nextra_body: {a: [os.environ/NOPE]}"),
        OPENAI_API_KEY="k",
        NOPE="",
    )
    assert "config.yaml:5: model_list[0].litellm_params.api_key" in message
    assert "`OPENAI_API_KEI`, which is not set; did you mean `OPENAI_API_KEY`?" in message
    assert "model_list[0].litellm_params.extra_body.a[0]" in message


def test_the_master_keys_variable_may_be_absent(read):
    """A reference for the master key counts as absent, so that its own rules apply."""
    text = "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}"
    assert read(text).general.master_key is None
    assert read(text, LITELLM_MASTER_KEY="sk-x").general.master_key == Secret("sk-x")


@pytest.mark.parametrize(
    "text", ["os.environ.KEY", "os.environ['KEY']", "os.environ/", "os.environ/1"]
)
def test_misspelt_references(refused, text):
    """What looks like a reference and is none is refused, not sent upstream."""
    assert "os.environ/NAME" in refused(params(f'api_base: "{text}"'), KEY="k")


def test_references_in_what_is_not_in_force_are_left_alone(read):
    """A section that has no effect needs none of its variables."""
    config = read(
        "guardrails:\n  - guardrail_name: g\n    litellm_params: {api_key: os.environ/NOPE}\n"
    )
    assert config.notices[0].weakens


def test_environment_variables_section(read):
    """The file's variables serve references, win over the process's, and a change is noticed."""
    text = (
        "environment_variables:\n  A: from-file\n  B: os.environ/C\n  N: 5\n  T: true\n"
        + params("api_key: os.environ/A\napi_base: os.environ/B")
    )
    config = read(text, A="from-process", C="https://c/v1")
    (entry,) = config.models
    assert entry.params.api_key == Secret("from-file")
    assert entry.params.api_base == "https://c/v1"
    assert (config.environment["N"], config.environment["T"]) == ("5", "true")
    assert [notice.path for notice in config.notices] == ["A"]
    assert "from-process" not in str(config.notices)
    assert "from-file" not in repr(config)
    assert read(text, C="https://c/v1").notices == ()


def test_credentials(read, refused):
    """A named credential fills what an entry leaves open; an unknown name is refused."""
    listed = (
        "credential_list:\n  - credential_name: main\n"
        "    credential_values: {api_key: os.environ/KEY, api_base: https://main/v1}\n"
        "    credential_info: {custom_llm_provider: openai, description: x}\n"
    )
    (entry,) = read(
        listed + params("litellm_credential_name: main\napi_base: https://own/v1"), KEY="k"
    ).models
    assert entry.params.api_key == Secret("k")
    assert entry.params.api_base == "https://own/v1"
    assert entry.params.custom_llm_provider == "openai"
    message = refused(listed + params("litellm_credential_name: mian"), KEY="k")
    assert "did you mean `main`?" in message
    twice = listed + listed.split("\n", 1)[1]
    assert "there twice" in refused(twice, KEY="k")


# -- includes


def test_includes_merge(write):
    """Lists are appended, mappings updated, places relative; a change is noticed."""
    write("model_list: [{model_name: b, litellm_params: {model: openai/b}}]\n", "b.yaml")
    write("include: b.yaml\nlitellm_settings: {drop_params: true, num_retries: 4}\n", "a.yaml")
    main = write(
        "include: [a.yaml]\nlitellm_settings: {drop_params: false, request_timeout: 5}\n"
        "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
    )
    config = load(main, {})
    assert [entry.model_name for entry in config.models] == ["a", "b"]
    assert config.litellm.drop_params
    assert (config.litellm.num_retries, config.litellm.request_timeout) == (4, 5)
    (notice,) = config.notices
    assert notice.path == "litellm_settings.drop_params"


def test_include_errors(write):
    """Cycles, files included twice, missing files and wrong types are refused."""
    main = write("include: [config.yaml]\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load(main, {})
    write("include: main.yaml\n", "loop.yaml")
    with pytest.raises(ConfigError, match="includes itself"):
        load(write("include: loop.yaml\n", "main.yaml"), {})
    write("", "x.yaml")
    with pytest.raises(ConfigError, match="included twice"):
        load(write("include: [x.yaml, ./x.yaml]\n"), {})
    with pytest.raises(ConfigError, match=r"nope\.yaml"):
        load(write("include: [nope.yaml]\n"), {})
    with pytest.raises(ConfigError, match="include"):
        load(write("include: {a: b}\n"), {})


def test_errors_in_an_include_name_it(write):
    """A problem is reported at its place in the file that it stands in."""
    write("model_list: [{model_name: b, litellm_params: {model: openai/b, rpm: x}}]\n", "b.yaml")
    main = write("include: [b.yaml]\n" + MODEL)
    with pytest.raises(ConfigError, match=r"b\.yaml:1: model_list\[0\]\.litellm_params\.rpm"):
        load(main, {})


# -- what is refused


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("model_lst: []", "model_lst", "did you mean `model_list`?"),
        ("model_list: {}", "model_list", "expected a list"),
        ("litellm_settings: []", "litellm_settings", "expected a mapping"),
        ("model_list: [5]", "model_list[0]", "expected a mapping"),
        ("model_list: [{}]", "model_list[0].model_name", "is missing"),
        ("model_list: [{model_name: m}]", "model_list[0].litellm_params", "is missing"),
        (
            "model_list: [{model_name: m, litellm_params: {}}]",
            "model_list[0].litellm_params.model",
            "is missing",
        ),
        (
            "model_list: [{model_name: m, litellm_params: {model: }}]",
            "model_list[0].litellm_params.model",
            "is missing",
        ),
        ("model_list: [{model_name: m, litellm_params: 5}]", "litellm_params", "a mapping"),
        (
            "model_list: [{model_name: m, litellm_param: {}, litellm_params: {model: x/y}}]",
            "model_list[0].litellm_param",
            "did you mean `litellm_params`?",
        ),
        (params("rpm: many"), "model_list[0].litellm_params.rpm", "a whole number"),
        (params("rpm: -1"), "model_list[0].litellm_params.rpm", "not -1"),
        (params("rpm: true"), "model_list[0].litellm_params.rpm", "a whole number"),
        (params("timeout: 0"), "model_list[0].litellm_params.timeout", "above 0"),
        (params("timeout: .inf"), "model_list[0].litellm_params.timeout", "above 0"),
        (params("weight: .nan"), "model_list[0].litellm_params.weight", "0 or more"),
        (params("weight: -1"), "model_list[0].litellm_params.weight", "0 or more"),
        (params("input_cost_per_token: cheap"), "input_cost_per_token", "USD per token"),
        (params("input_cost_per_token: -1"), "input_cost_per_token", "USD per token"),
        (params("extra_headers: {a: 1}"), "extra_headers", "texts to texts"),
        (params("api_key: 5"), "model_list[0].litellm_params.api_key", "text"),
        (params("drop_params: 'yes'"), "drop_params", "`true` or `false`"),
        (info("mode: chatting"), "model_list[0].model_info.mode", "one of chat"),
        (info("access_groups: g"), "model_list[0].model_info.access_groups", "a list of texts"),
        ("litellm_settings: {drop_param: true}", "drop_param", "did you mean `drop_params`?"),
        ("litellm_settings: {budget_exceeded_status_code: 200}", "status_code", "400 to 599"),
        ("litellm_settings: {timezone: Oslo}", "litellm_settings.timezone", "IANA"),
        ("litellm_settings: {budget_reset_time: 25:00}", "budget_reset_time", "HH:MM"),
        ("litellm_settings: {budget_reset_time: noon}", "budget_reset_time", "HH:MM"),
        ("router_settings: {routing_strategy: shuffle}", "routing_strategy", "simple-shuffle"),
        ("router_settings: {num_retrys: 1}", "num_retrys", "did you mean `num_retries`?"),
        (
            "router_settings: {model_group_alias: {a: {group: b}}}",
            "model_group_alias.a",
            "{model, hidden}",
        ),
        ("general_settings: {master_kei: x}", "master_kei", "did you mean `master_key`?"),
        ("general_settings: {1: x}", "general_settings.1", "must be text"),
        ("credential_list: [{credential_values: {}}]", "credential_name", "is missing"),
        ("environment_variables: {A: [1]}", "environment_variables.A", "text or a number"),
        ("- a\n- b", "", "expected a mapping"),
        ("a: b: c", "", "not valid YAML (line 1"),
        ("a: !!python/object:os.system {}", "", "not valid YAML"),
        ("a: 2024-13-45", "", "in quotes"),
        ("a: &x [*x]", "", "refers to itself"),
        ("a: {b: 1}\na: {c: 2}", "a", "first in line 1"),
        (params("rpm: 1\nrpm: 2"), "model_list[0].litellm_params.rpm", "there twice"),
    ],
)
def test_refusals_name_path_and_fix(refused, text, path, expected):
    """Everything mistyped or unknown is refused with its path and what was expected."""
    message = refused(text)
    assert path in message
    assert expected in message
    assert "config.yaml" in message


def test_lines_are_named(refused):
    """A problem names the line that it stands in."""
    message = refused("general_settings:\n  master_key: sk-x\n\n  max_request_size_mb: big\n")
    assert "config.yaml:4: general_settings.max_request_size_mb" in message


def test_all_problems_are_shown_at_once(refused):
    """One error lists every problem of the file."""
    message = refused(params("rpm: x\ntpm: y") + "general_settings: {nope: 1}\nextra: {}\n")
    assert message.startswith("4 problems")


def test_problems_never_quote_texts(refused):
    """No message quotes a value, which may be a secret in the wrong place."""
    for text in (
        params("rpm: hidden-pw"),
        params("api_key: [hidden-pw]"),
        "general_settings: {max_request_size_mb: hidden-pw}",
        'general_settings: {master_key: "hidden-pw\\n"}',
        "general_settings:\n  master_key: 'hidden-pw\n",
        "general_settings: {database_url: [hidden-pw",
    ):
        assert "hidden-pw" not in refused(text)


def test_unreadable_files(tmp_path):
    """A file that is missing, a directory or not UTF-8 is refused by name."""
    bad = tmp_path / "latin.yaml"
    bad.write_bytes(b"a: \xff\n")
    for path in (tmp_path / "nope.yaml", tmp_path, bad):
        with pytest.raises(ConfigError, match=path.name):
            load(path, {})


def test_a_bomb_of_aliases_is_refused(refused):
    """Aliases that multiply are refused before they are made."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "nested too deeply" in refused("\n".join(lines))


# -- what is noticed


@pytest.mark.parametrize(
    ("text", "path", "weakens"),
    [
        ("litellm_settings: {callbacks: [otel]}", "litellm_settings.callbacks", False),
        ("litellm_settings: {cache: true}", "litellm_settings.cache", False),
        ("litellm_settings: {max_user_budget: 10}", "litellm_settings.max_user_budget", True),
        ("router_settings: {fallbacks: [{a: [b]}]}", "router_settings.fallbacks", False),
        ("router_settings: {routing_strategy: least-busy}", "routing_strategy", False),
        ("general_settings: {allowed_ips: [10.0.0.1]}", "general_settings.allowed_ips", True),
        ("mcp_servers: {a: {url: x}}", "mcp_servers", False),
        ("guardrails: [{guardrail_name: g}]", "guardrails", True),
        (params("max_parallel_requests: 5"), "litellm_params.max_parallel_requests", True),
        (params("aws_region_name: eu"), "litellm_params.aws_region_name", False),
        (params("api_bse: x"), "litellm_params.api_bse", False),
        (info("cooldown_time: 5"), "model_info.cooldown_time", False),
        (info("acces_groups: [a]"), "model_info.acces_groups", False),
    ],
)
def test_notices(read, text, path, weakens):
    """What is valid and not in force is noticed, louder where it was to restrict."""
    (notice,) = read(text).notices
    assert notice.path.endswith(path)
    assert notice.weakens is weakens


@pytest.mark.parametrize(
    "text",
    [
        "litellm_settings: {set_verbose: false, cache: false, callbacks: []}",
        "general_settings: {store_prompts_in_spend_logs: false, token_rate_limit_type: total}",
        "router_settings: {fallbacks: [], routing_strategy: simple-shuffle}",
        params("temperature: 0\ntop_p: 1\nmax_tokens: 5\ntop_k: 5\nmetadata: {a: b}"),
        params("tags:"),
        info("supports_vision: true\nlitellm_provider: openai"),
    ],
)
def test_nothing_to_notice(read, text):
    """Values that ask for what happens anyway, and upstream's own parameters, are quiet."""
    assert read(text).notices == ()


def test_pending_params_do_not_go_upstream(read):
    """A name of the reference that is not in force is not sent to the provider."""
    (entry,) = read(params("tags: [a]\ntemperature: 1")).models
    assert entry.params.extra == {"temperature": 1}
