"""Which providers there are, and which one a model string means (LLM contract §3.0)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from attrs import frozen

from shared.providers.base import Provider
from shared.providers.openai_compatible import DEMO, HOSTED, OPENAI, SELF_HOSTED

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        name: provider
        for provider in (OPENAI, DEMO, *SELF_HOSTED, *HOSTED)
        for name in (provider.name, *provider.aliases)
    }
)
"""By name and alias."""

# Providers of other dialects, which the reference has and this release does not.
OTHER_PROVIDERS = frozenset(
    {
        "ai21",
        "aleph_alpha",
        "amazon_nova",
        "anthropic",
        "anthropic_text",
        "assemblyai",
        "auto_router",
        "aws_polly",
        "azure",
        "azure_ai",
        "azure_text",
        "bedrock",
        "bedrock_converse",
        "bytez",
        "clarifai",
        "cloudflare",
        "cohere",
        "cohere_chat",
        "compactifai",
        "custom",
        "datarobot",
        "deepgram",
        "elevenlabs",
        "fal_ai",
        "gemini",
        "github_copilot",
        "gradient_ai",
        "heroku",
        "infinity",
        "langgraph",
        "lemonade",
        "maritalk",
        "nlp_cloud",
        "oci",
        "oobabooga",
        "palm",
        "petals",
        "predibase",
        "ragflow",
        "recraft",
        "replicate",
        "runwayml",
        "sagemaker",
        "sagemaker_chat",
        "sap",
        "snowflake",
        "stability",
        "text-completion-codestral",
        "topaz",
        "triton",
        "vertex_ai",
        "vertex_ai_beta",
        "vllm",
        "watsonx",
        "watsonx_text",
        "xinference",
    }
)

# Families of model names that need no prefix.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "openai",
        (
            "gpt-",
            "chatgpt-",
            "o1",
            "o3",
            "o4-",
            "text-embedding-",
            "codex-",
            "davinci-",
            "babbage-",
            "ft:gpt-",
            "omni-moderation",
            "dall-e-",
            "whisper-",
            "tts-",
        ),
    ),
    ("anthropic", ("claude-",)),
    ("vertex_ai", ("gemini-",)),
    ("cohere", ("command-",)),
)


@frozen
class Target:
    """What a model string means: a provider's name, canonical if we have it, and its model."""

    provider: str
    model: str

    @property
    def supported(self) -> bool:
        """Whether this release speaks to the provider."""
        return self.provider in PROVIDERS


def find_target(
    model: str, custom_provider: str | None = None, api_base: str | None = None
) -> Target | None:
    """The provider and model of a model string; `None` when nothing tells.

    `custom_provider` decides where given. Else the prefix does, then the host of `api_base`,
    then the name's family; a name without prefix at a base URL is OpenAI's dialect.
    """
    prefix, slash, rest = model.partition("/")
    if custom_provider is not None:
        if not is_known(custom_provider):
            return None
        own = bool(slash) and _canonical(prefix) == _canonical(custom_provider)
        return Target(_canonical(custom_provider), rest if own else model)
    if slash and rest and is_known(prefix):
        return Target(_canonical(prefix), rest)
    if api_base is not None:
        host = urlsplit(api_base).hostname
        for provider in PROVIDERS.values():
            if provider.api_base and urlsplit(provider.api_base).hostname == host:
                return Target(provider.name, model)
    family = family_of(model)
    if family is not None and (api_base is None or family == OPENAI.name):
        return Target(family, model)
    if api_base is not None and not slash:
        return Target(OPENAI.name, model)
    return None


def family_of(model: str) -> str | None:
    """The provider whose models are named like this one."""
    for provider, prefixes in _FAMILIES:
        if model.startswith(prefixes):
            return provider
    return None


def is_known(provider: str) -> bool:
    """Whether the name is a provider's, supported or not."""
    return provider in PROVIDERS or provider in OTHER_PROVIDERS


def suggest(provider: str) -> str | None:
    """The provider whose name is most like a mistyped one."""
    known = [*PROVIDERS, *sorted(OTHER_PROVIDERS)]
    matches = difflib.get_close_matches(provider, known, n=1, cutoff=0.7)
    return matches[0] if matches else None


def _canonical(name: str) -> str:
    provider = PROVIDERS.get(name)
    return provider.name if provider else name
