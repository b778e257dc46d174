"""The names of the configuration file that are in force: type, unit, meaning.

`config_pending.py` has those that the reference knows and this release does not act on. The
tables of `docs/configuration.md` are made from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from attrs import frozen
from msgspec import Meta


class CostKind:
    """Marks a price: a number, or its text, since YAML reads `1e-6` as text."""


class SecretKind:
    """Marks a text that becomes a `Secret`."""


class TimeOfDayKind:
    """Marks `HH:MM[:SS]`, which YAML may have read as a number in base 60."""


@frozen
class Type:
    """A type of value. `wire` is what msgspec converts to; `expected` is for messages."""

    label: str
    wire: Any
    expected: str


@frozen
class Key:
    """A name in force. A reference to a variable that is not set is an error, unless
    `optional_reference`: then the name counts as absent."""

    name: str
    type: Type
    help: str
    unit: str = ""
    default: str = ""
    optional_reference: bool = False


_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Retries = Annotated[int, Meta(ge=0, le=100)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Pause = Annotated[float, Meta(ge=0, le=86_400)]
_Weight = Annotated[float, Meta(ge=0, le=1e12)]
_Megabytes = Annotated[float, Meta(gt=0, le=2048)]
_Status = Annotated[int, Meta(ge=400, le=599)]
_Flush = Annotated[float, Meta(gt=0, le=60)]
_Scalar = str | int | float | bool
_Duration = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}(mo|[smhdw])$")]

MODES = (
    "chat",
    "completion",
    "embedding",
    "image_generation",
    "audio_transcription",
    "audio_speech",
    "rerank",
    "realtime",
    "responses",
    "batch",
    "ocr",
    "video_generation",
    "moderation",
)

TEXT = Type("text", _Text, "text that is not empty")
FLAG = Type("true/false", bool, "`true` or `false`")
COUNT = Type("whole number", _Count, "a whole number, 0 or more")
RETRIES = Type("whole number", _Retries, "a whole number, 0 to 100")
SECONDS = Type("number", _Seconds, "seconds above 0, a day at most")
PAUSE = Type("number", _Pause, "seconds, 0 or more, a day at most")
WEIGHT = Type("number", _Weight, "a number, 0 or more")
MEGABYTES = Type("number", _Megabytes, "a number above 0, 2048 at most")
STATUS = Type("HTTP status", _Status, "an HTTP status, 400 to 599")
FLUSH = Type("number", _Flush, "seconds above 0, 60 at most")
COST = Type("number", CostKind, "USD per token, 0 or more")
USD = Type("number", CostKind, "USD, 0 or more")
SECRET = Type("secret", SecretKind, "text that is not empty")
TEXTS = Type("list of text", list[_Text], "a list of texts")
TEXT_OR_TEXTS = Type("text or list", _Text | list[_Text], "a text or a list of texts")
MAPPING = Type("mapping", dict[str, Any], "a mapping")
TEXT_MAP = Type("mapping of text", dict[str, str], "a mapping of texts to texts")
SCALAR_MAP = Type("mapping of values", dict[str, _Scalar], "a mapping of names to plain values")
MAPPINGS = Type("list of mappings", list[dict[str, Any]], "a list of mappings")
ALIASES = Type(
    "mapping",
    dict[str, _Text | dict[str, Any]],
    "a mapping of aliases to a name or `{model, hidden}`",
)
DISCOUNTS = Type("mapping", dict[str, Any], "a mapping of providers to discounts, 0 to 1")
MARGINS = Type(
    "mapping",
    dict[str, Any],
    "a mapping of providers, or `global`, to margins, 0 to 10, or `{percentage, fixed_amount}`",
)
MODE = Type("mode", Literal[MODES], f"one of {', '.join(MODES)}")
TIME_OF_DAY = Type("time", TimeOfDayKind, "a time of day, `HH:MM` or `HH:MM:SS`")
DURATION = Type("duration", _Duration, "a duration such as `30d`, `12h` or `1mo`")
TIMEZONE = Type("time zone", _Text, "an IANA time zone such as `Europe/Oslo`")
VERIFY = Type("true/false or path", bool | _Text, "`true`, `false` or a path")

_TIERS = tuple(
    Key(
        f"{name}_above_{thousands}k_tokens",
        COST,
        f"The same for a request of more than {thousands} 000 prompt tokens.",
        "USD",
    )
    for thousands in (100, 128, 200, 272, 512)
    for name in (
        "input_cost_per_token",
        "output_cost_per_token",
        "cache_read_input_token_cost",
        "cache_creation_input_token_cost",
    )
)
PRICES: tuple[Key, ...] = (
    Key("input_cost_per_token", COST, "Price of a prompt token.", "USD", "price table"),
    Key("output_cost_per_token", COST, "Price of a completion token.", "USD", "price table"),
    Key("cache_read_input_token_cost", COST, "Price of a cached prompt token.", "USD", "as input"),
    Key(
        "cache_creation_input_token_cost",
        COST,
        "Price of a prompt token written to the cache.",
        "USD",
        "as input",
    ),
    Key(
        "cache_creation_input_token_cost_above_1hr",
        COST,
        "The same where the cache keeps it for an hour.",
        "USD",
        "as for less",
    ),
    Key("output_cost_per_reasoning_token", COST, "Price of a reasoning token.", "USD", "as output"),
    Key("input_cost_per_audio_token", COST, "Price of an audio token heard.", "USD", "as input"),
    Key("output_cost_per_audio_token", COST, "Price of an audio token said.", "USD", "as output"),
    *_TIERS,
)

LITELLM_PARAMS: tuple[Key, ...] = (
    Key(
        "model",
        TEXT,
        "`provider/model` upstream; `*` stands for what `*` in `model_name` matched. Required.",
    ),
    Key("api_key", SECRET, "The provider's key.", default="the provider's variable"),
    Key("api_base", TEXT, "Base URL of the API.", default="the provider's"),
    Key(
        "organization",
        TEXT_OR_TEXTS,
        "`OpenAI-Organization`; a list makes one deployment of each.",
    ),
    Key("custom_llm_provider", TEXT, "The provider, whatever the model's prefix says."),
    Key("litellm_credential_name", TEXT, "Takes what is absent here from `credential_list`."),
    Key("region_name", TEXT, "Where the upstream stands."),
    Key("weight", WEIGHT, "Share in the shuffle."),
    Key("rpm", COUNT, "Share in the shuffle where no `weight` is set.", "requests/min"),
    Key("tpm", COUNT, "Share in the shuffle where neither is set.", "tokens/min"),
    Key("timeout", SECONDS, "Most time for an attempt that is not streamed.", "s"),
    Key("stream_timeout", SECONDS, "Most time between two pieces of a stream.", "s"),
    Key("num_retries", RETRIES, "Retries after an error of this deployment."),
    Key("max_retries", RETRIES, "The same, where `num_retries` is absent."),
    *PRICES,
    Key("extra_headers", TEXT_MAP, "Headers sent upstream."),
    Key("extra_body", MAPPING, "Default parameters of the body sent upstream."),
    Key("drop_params", FLAG, "Drops parameters that the provider does not take."),
    Key("additional_drop_params", TEXTS, "Parameters to drop, by name."),
)

MODEL_INFO: tuple[Key, ...] = (
    Key("id", TEXT, "The deployment's id, unique.", default="a hash of the entry"),
    Key("mode", MODE, "What the model does.", default="chat"),
    Key("base_model", TEXT, "The model whose price holds.", default="the upstream model"),
    Key("access_groups", TEXTS, "Access groups that include the deployment."),
    Key("supported_environments", TEXTS, "Values of `LITELLM_ENVIRONMENT` that serve it."),
    Key("blocked", FLAG, "Takes the deployment out of service.", default="false"),
    Key("max_tokens", COUNT, "Most output tokens, where `max_output_tokens` is absent.", "tokens"),
    Key("max_input_tokens", COUNT, "Size of the context.", "tokens"),
    Key("max_output_tokens", COUNT, "Most output tokens.", "tokens"),
    *PRICES,
)

GENERAL_SETTINGS: tuple[Key, ...] = (
    Key(
        "master_key",
        SECRET,
        "The root bearer; wins over `LITELLM_MASTER_KEY`.",
        optional_reference=True,
    ),
    Key("database_url", SECRET, "The shared Postgres; wins over `DATABASE_URL`."),
    Key("store_model_in_db", FLAG, "As `STORE_MODEL_IN_DB`; wins over it."),
    Key(
        "dangerously_permit_weak_or_unset_master_key",
        FLAG,
        "Starts with an absent or publicly known master key all the same.",
        default="false",
    ),
    Key("completion_model", TEXT, "Overrides the model of every LLM request."),
    Key(
        "always_include_stream_usage",
        FLAG,
        "`true`: every stream ends with its usage; `false`: usage is not asked for upstream.",
    ),
    Key("max_request_size_mb", MEGABYTES, "Largest request body.", "MiB", "100"),
    Key("proxy_batch_write_at", FLUSH, "As `PROXY_BATCH_WRITE_AT`; wins over it.", "s", "1"),
    Key("litellm_key_header_name", TEXT, "A further header that may carry the key."),
    Key("disable_key_name", FLAG, "As `DISABLE_KEY_NAME`; wins over it."),
    Key("disable_custom_api_keys", FLAG, "Keys have generated values only.", default="false"),
    Key(
        "apply_user_budget_to_team_keys",
        FLAG,
        "A user's budget also counts for the user's keys of a team.",
        default="false",
    ),
    Key("enforced_params", TEXTS, "Members that every body must have; `a.b` is one of a member."),
    Key(
        "service_account_settings",
        MAPPING,
        "`enforced_params`: the same for keys of service accounts.",
    ),
    Key(
        "allow_public_health_readiness_details",
        FLAG,
        "`/health/readiness` tells everybody the details.",
        default="false",
    ),
    Key(
        "maximum_spend_logs_retention_period",
        DURATION,
        "How long calls are kept in the ledger; whole days are dropped, roll-ups and totals stay.",
        default="for ever",
    ),
    Key(
        "maximum_spend_logs_retention_interval",
        DURATION,
        "How often the admins look for days to drop.",
        default="1d",
    ),
    Key(
        "enable_jwt_auth",
        FLAG,
        "JSON Web Tokens are taken beside keys, on LLM routes and by the management API.",
        default="false",
    ),
    Key("litellm_jwtauth", MAPPING, "What the tokens' claims mean; see below."),
    Key(
        "disable_auto_add_proxy_admin_to_teams",
        FLAG,
        "A proxy admin who makes a team does not become its admin.",
        default="false",
    ),
    Key(
        "team_admin_editable_team_fields",
        TEXTS,
        "Which of `max_budget`, `tpm_limit` and `rpm_limit` a team's admins may change.",
    ),
    Key("team_metadata_schema", MAPPINGS, "Members of teams' metadata that a form offers."),
)

LITELLM_SETTINGS: tuple[Key, ...] = (
    Key("request_timeout", SECONDS, "Most time for an attempt.", "s", "600, not chat 6000"),
    Key("num_retries", RETRIES, "As in `router_settings`, which wins.", default="2"),
    Key("drop_params", FLAG, "Drops parameters that a provider does not take.", default="false"),
    Key("budget_exceeded_status_code", STATUS, "Status when a budget is spent.", default="422"),
    Key("timezone", TIMEZONE, "Where budget periods begin.", default="UTC"),
    Key("budget_reset_time", TIME_OF_DAY, "When budget periods begin.", default="00:00"),
    Key("require_auth_for_metrics_endpoint", FLAG, "`/metrics` wants a key.", default="true"),
    Key("max_budget", USD, "Budget of all calls together.", "USD"),
    Key("budget_duration", DURATION, "Its period.", default="for ever"),
    Key("max_end_user_budget_id", TEXT, "Budget of end users that have none of their own."),
    Key("model_alias_map", TEXT_MAP, "Aliases of model groups."),
    Key("default_key_generate_params", MAPPING, "Fills what a new key's request leaves open."),
    Key("upperbound_key_generate_params", MAPPING, "Caps what a new key's request may ask for."),
    Key("key_generation_settings", MAPPING, "Who may make keys, and what they must say."),
    Key(
        "default_internal_user_params",
        MAPPING,
        "Fills what a new user's request leaves open; not for proxy admins.",
    ),
    Key("max_internal_user_budget", USD, "Budget of internal users who come without one.", "USD"),
    Key("internal_user_budget_duration", DURATION, "Its period.", default="for ever"),
    Key("default_team_params", MAPPING, "Fills what a new team's request leaves open."),
    Key(
        "cost_discount_config",
        DISCOUNTS,
        "Provider → part of its prices that is taken off (0.05 is 5 %).",
    ),
    Key(
        "cost_margin_config",
        MARGINS,
        "Provider → what is put on its prices after that: a part (0.1 is 10 %), or "
        "`{percentage, fixed_amount}` with USD for each call that costs something. `global` is for "
        "providers that are not named.",
    ),
    Key(
        "block_requests_for_models_without_pricing",
        FLAG,
        "Refuses calls of models whose price is not known.",
        default="false",
    ),
    Key("json_logs", FLAG, "As `JSON_LOGS`.", default="false"),
    Key("ssl_verify", VERIFY, "As `SSL_VERIFY`; wins over it.", default="true"),
)

ROUTER_SETTINGS: tuple[Key, ...] = (
    Key(
        "routing_strategy",
        TEXT,
        "How a deployment is chosen. `simple-shuffle` is what this release has.",
        default="simple-shuffle",
    ),
    Key("num_retries", RETRIES, "Retries after the first attempt.", default="2"),
    Key("retry_after", PAUSE, "Least pause before a retry.", "s", "0"),
    Key("timeout", SECONDS, "Most time for an attempt.", "s", "`request_timeout`"),
    Key("stream_timeout", SECONDS, "Most time between two pieces of a stream.", "s", "`timeout`"),
    Key("model_group_alias", ALIASES, "Alias → group, or `{model, hidden}`."),
)

CREDENTIAL: tuple[Key, ...] = (
    Key("credential_name", TEXT, "The name that entries refer to. Required."),
    Key("credential_values", MAPPING, "Members of `litellm_params`, such as `api_key`."),
    Key("credential_info", MAPPING, "`custom_llm_provider` of the entries; the rest is a note."),
)

MODEL_ENTRY: tuple[Key, ...] = (
    Key("model_name", TEXT, "The public name; entries of one name form a group. `*` matches any."),
    Key("litellm_params", MAPPING, "How to call it. Required."),
    Key("model_info", MAPPING, "What is known of it."),
)

TOP_LEVEL: tuple[Key, ...] = (
    Key("model_list", Type("list", list[Any], "a list of entries"), "The deployments."),
    Key("litellm_settings", MAPPING, "Behaviour of calls."),
    Key("router_settings", MAPPING, "Choice of deployments."),
    Key("general_settings", MAPPING, "The gateway itself."),
    Key(
        "environment_variables",
        SCALAR_MAP,
        "Variables for references, providers and settings. They win over the process's own.",
    ),
    Key(
        "credential_list",
        Type("list", list[Any], "a list of credentials"),
        "Named sets of connection members.",
    ),
    Key("include", TEXT_OR_TEXTS, "Files merged in, relative to the file that names them."),
)

SECTIONS: Mapping[str, tuple[Key, ...]] = {
    "general_settings": GENERAL_SETTINGS,
    "litellm_settings": LITELLM_SETTINGS,
    "router_settings": ROUTER_SETTINGS,
}

LIST_SECTIONS = ("model_list", "credential_list")

# Members of the OpenAI APIs: default parameters, however like a name of ours they look.
OPENAI_PARAMS = frozenset(
    {
        "audio",
        "best_of",
        "dimensions",
        "echo",
        "encoding_format",
        "frequency_penalty",
        "function_call",
        "functions",
        "guided_json",
        "include",
        "input",
        "instructions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "min_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt",
        "prompt_cache_key",
        "provider",
        "reasoning",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "transforms",
        "user",
        "verbosity",
        "web_search_options",
    }
)


def names(keys: tuple[Key, ...]) -> tuple[str, ...]:
    """The names of a table, in order."""
    return tuple(key.name for key in keys)
