"""Providers that speak the OpenAI dialect (LLM contract §3.1), a row each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shared.domain.requests import EndpointKind
from shared.providers.base import OPENAI_PATHS, AuthStyle, ParamRules, Provider

# Servers that came before OpenAI's newer name know only the older one.
_OLD_MAX_TOKENS = (("max_completion_tokens", "max_tokens"),)
_NEW_MAX_TOKENS = (("max_tokens", "max_completion_tokens"),)
_EMBEDDING_ONLY: Mapping[EndpointKind, str] = MappingProxyType(
    {EndpointKind.EMBEDDING: OPENAI_PATHS[EndpointKind.EMBEDDING]}
)
_UNDER_V1: Mapping[EndpointKind, str] = MappingProxyType(
    {kind: f"/v1{path}" for kind, path in OPENAI_PATHS.items()}
)


def _host(
    name: str,
    label: str,
    api_base: str | None,
    *key_env: str,
    base_env: tuple[str, ...] | None = None,
    renamed: tuple[tuple[str, str], ...] = _OLD_MAX_TOKENS,
    key_required: bool = True,
    paths: Mapping[EndpointKind, str] = OPENAI_PATHS,
    supports_stream_usage: bool = True,
    header_env: tuple[tuple[str, tuple[str, ...]], ...] = (),
    aliases: tuple[str, ...] = (),
) -> Provider:
    """A row; the base variable defaults to `<NAME>_API_BASE`."""
    return Provider(
        name=name,
        label=label,
        api_base=api_base,
        base_env=base_env or (f"{name.upper().replace('-', '_')}_API_BASE",),
        key_env=key_env,
        key_required=key_required,
        paths=paths,
        renamed=renamed,
        supports_stream_usage=supports_stream_usage,
        header_env=header_env,
        aliases=aliases,
    )


def _small(name: str, label: str, host: str, key_env: str) -> Provider:
    return _host(name, label, f"https://{host}", key_env)


OPENAI = _host(
    "openai",
    "OpenAI",
    "https://api.openai.com/v1",
    "OPENAI_API_KEY",
    base_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    renamed=(),
    header_env=(("openai-organization", ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID")),),
    aliases=("text-completion-openai",),
)

DEMO = Provider(
    name="demo",
    label="Built-in demo",
    api_base="demo://local/v1",
    key_required=False,
    auth=AuthStyle.NONE,
)

# Servers that the operator runs: a base URL is needed, a key is not.
SELF_HOSTED: tuple[Provider, ...] = (
    Provider(
        name="custom_openai",
        label="Any OpenAI-compatible server",
        key_required=False,
        aliases=("openai_like",),
    ),
    _host("hosted_vllm", "vLLM", None, "HOSTED_VLLM_API_KEY", renamed=(), key_required=False),
    _host("lm_studio", "LM Studio", None, "LM_STUDIO_API_KEY", key_required=False),
    _host(
        "litellm_proxy",
        "LiteLLM proxy",
        None,
        "LITELLM_PROXY_API_KEY",
        renamed=(),
        key_required=False,
    ),
    _host(
        "llamafile",
        "Llamafile",
        "http://127.0.0.1:8080/v1",
        "LLAMAFILE_API_KEY",
        key_required=False,
    ),
    _host(
        "ollama",
        "Ollama",
        "http://localhost:11434",
        "OLLAMA_API_KEY",
        key_required=False,
        paths=_UNDER_V1,
        aliases=("ollama_chat",),
    ),
    _host(
        "docker_model_runner",
        "Docker Model Runner",
        "http://localhost:22088/engines/llama.cpp",
        "DOCKER_MODEL_RUNNER_API_KEY",
        key_required=False,
        paths=_UNDER_V1,
    ),
    _host("databricks", "Databricks", None, "DATABRICKS_API_KEY"),
)

HOSTED: tuple[Provider, ...] = (
    _host("groq", "Groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", renamed=()),
    _host("deepseek", "DeepSeek", "https://api.deepseek.com/beta", "DEEPSEEK_API_KEY"),
    _host(
        "together_ai",
        "Together AI",
        "https://api.together.ai/v1",
        "TOGETHER_API_KEY",
        "TOGETHER_AI_API_KEY",
        "TOGETHERAI_API_KEY",
        "TOGETHER_AI_TOKEN",
    ),
    _host(
        "fireworks_ai",
        "Fireworks AI",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        "FIREWORKS_AI_API_KEY",
        "FIREWORKSAI_API_KEY",
        "FIREWORKS_AI_TOKEN",
        base_env=("FIREWORKS_API_BASE",),
    ),
    _host(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "OR_API_KEY",
        renamed=(),
        header_env=(("http-referer", ("OR_SITE_URL",)), ("x-title", ("OR_APP_NAME",))),
    ),
    _host("xai", "xAI", "https://api.x.ai/v1", "XAI_API_KEY", renamed=()),
    _host(
        "mistral",
        "Mistral AI",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "MISTRAL_AZURE_API_KEY",
        base_env=("MISTRAL_API_BASE", "MISTRAL_AZURE_API_BASE"),
        renamed=(*_OLD_MAX_TOKENS, ("seed", "random_seed")),
        supports_stream_usage=False,
    ),
    _host(
        "codestral",
        "Codestral",
        "https://codestral.mistral.ai/v1",
        "CODESTRAL_API_KEY",
        renamed=(*_OLD_MAX_TOKENS, ("seed", "random_seed")),
        supports_stream_usage=False,
    ),
    _host(
        "perplexity",
        "Perplexity",
        "https://api.perplexity.ai",
        "PERPLEXITYAI_API_KEY",
        "PERPLEXITY_API_KEY",
        supports_stream_usage=False,
    ),
    _host("cerebras", "Cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", renamed=()),
    _host("nvidia_nim", "NVIDIA NIM", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    _host("deepinfra", "DeepInfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    _host("sambanova", "SambaNova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    _host("baseten", "Baseten", "https://inference.baseten.co/v1", "BASETEN_API_KEY"),
    _host("anyscale", "Anyscale", "https://api.endpoints.anyscale.com/v1", "ANYSCALE_API_KEY"),
    _host(
        "meta_llama",
        "Meta Llama API",
        "https://api.llama.com/compat/v1",
        "LLAMA_API_KEY",
        base_env=("LLAMA_API_BASE",),
    ),
    _host("nebius", "Nebius", "https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    _host("moonshot", "Moonshot AI", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    _host("zai", "Z.AI", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
    _host(
        "dashscope",
        "DashScope",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
    ),
    _host(
        "modelscope", "ModelScope", "https://api-inference.modelscope.cn/v1", "MODELSCOPE_API_KEY"
    ),
    _host(
        "volcengine",
        "Volcengine",
        "https://ark.cn-beijing.volces.com/api/v3",
        "VOLCENGINE_API_KEY",
    ),
    _host("tencent", "Tencent", "https://tokenhub-intl.tencentcloudmaas.com/v1", "TENCENT_API_KEY"),
    _host("minimax", "MiniMax", "https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    _host(
        "github",
        "GitHub Models",
        "https://models.inference.ai.azure.com",
        "GITHUB_API_KEY",
        renamed=(),
    ),
    _host(
        "huggingface",
        "Hugging Face",
        "https://router.huggingface.co",
        "HF_TOKEN",
        "HUGGINGFACE_API_KEY",
        base_env=("HF_API_BASE", "HUGGINGFACE_API_BASE"),
        paths=_UNDER_V1,
    ),
    _host("novita", "Novita AI", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    _host(
        "friendliai",
        "FriendliAI",
        "https://api.friendli.ai/serverless/v1",
        "FRIENDLIAI_API_KEY",
        "FRIENDLI_TOKEN",
        base_env=("FRIENDLI_API_BASE",),
    ),
    _host("galadriel", "Galadriel", "https://api.galadriel.com/v1", "GALADRIEL_API_KEY"),
    _host("empower", "Empower", "https://app.empower.dev/api/v1", "EMPOWER_API_KEY"),
    _host(
        "featherless_ai",
        "Featherless AI",
        "https://api.featherless.ai/v1",
        "FEATHERLESS_AI_API_KEY",
        "FEATHERLESS_API_KEY",
        base_env=("FEATHERLESS_API_BASE",),
    ),
    _host("nscale", "Nscale", "https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
    _host("hyperbolic", "Hyperbolic", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    _host(
        "lambda_ai",
        "Lambda",
        "https://api.lambda.ai/v1",
        "LAMBDA_API_KEY",
        base_env=("LAMBDA_API_BASE",),
    ),
    _host("v0", "v0", "https://api.v0.dev/v1", "V0_API_KEY"),
    _host("morph", "Morph", "https://api.morphllm.com/v1", "MORPH_API_KEY"),
    _host("inception", "Inception Labs", "https://api.inceptionlabs.ai/v1", "INCEPTION_API_KEY"),
    _host(
        "vercel_ai_gateway",
        "Vercel AI Gateway",
        "https://ai-gateway.vercel.sh/v1",
        "VERCEL_AI_GATEWAY_API_KEY",
        "VERCEL_OIDC_TOKEN",
        renamed=(),
    ),
    _host("aiml", "AI/ML API", "https://api.aimlapi.com/v1", "AIML_API_KEY"),
    _host("wandb", "Weights & Biases", "https://api.inference.wandb.ai/v1", "WANDB_API_KEY"),
    _host(
        "ai21_chat",
        "AI21",
        "https://api.ai21.com/studio/v1",
        "AI21_API_KEY",
        base_env=("AI21_API_BASE",),
        supports_stream_usage=False,
    ),
    _host(
        "jina_ai",
        "Jina AI",
        "https://api.jina.ai/v1",
        "JINA_AI_API_KEY",
        "JINA_AI_TOKEN",
        "JINA_API_KEY",
        paths=_EMBEDDING_ONLY,
    ),
    _host(
        "voyage",
        "Voyage AI",
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        "VOYAGE_AI_API_KEY",
        "VOYAGE_AI_TOKEN",
        paths=_EMBEDDING_ONLY,
    ),
    _small("scaleway", "Scaleway", "api.scaleway.ai/v1", "SCW_SECRET_KEY"),
    _small("veniceai", "Venice AI", "api.venice.ai/api/v1", "VENICE_AI_API_KEY"),
    _small("helicone", "Helicone", "ai-gateway.helicone.ai", "HELICONE_API_KEY"),
    _small("publicai", "PublicAI", "api.publicai.co/v1", "PUBLICAI_API_KEY"),
    _small("poe", "Poe", "api.poe.com/v1", "POE_API_KEY"),
    _small("chutes", "Chutes", "llm.chutes.ai/v1", "CHUTES_API_KEY"),
    _small("nano-gpt", "NanoGPT", "nano-gpt.com/api/v1", "NANOGPT_API_KEY"),
    _small("synthetic", "Synthetic", "api.synthetic.new/openai/v1", "SYNTHETIC_API_KEY"),
    _small("sarvam", "Sarvam", "api.sarvam.ai/v1", "SARVAM_API_KEY"),
    _small("gmi", "GMI Cloud", "api.gmi-serving.com/v1", "GMI_API_KEY"),
    _small("reka", "Reka", "api.reka.ai/v1", "REKA_API_KEY"),
    _small("meta", "Meta", "api.meta.ai/v1", "META_API_KEY"),
    _small("cortecs", "Cortecs", "api.cortecs.ai/v1", "CORTECS_API_KEY"),
    _small("aihubmix", "AiHubMix", "aihubmix.com/v1", "AIHUBMIX_API_KEY"),
)

_REASONING_FAMILIES = ("o1", "o3", "o4", "gpt-5")


def param_rules(provider: Provider, upstream_model: str) -> ParamRules:
    """Renamed and refused parameters; OpenAI's reasoning models have rules of their own."""
    if provider.name == OPENAI.name and upstream_model.startswith(_REASONING_FAMILIES):
        return ParamRules(_NEW_MAX_TOKENS, provider.unsupported)
    return ParamRules(provider.renamed, provider.unsupported)
