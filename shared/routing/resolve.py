"""From an entry of the configuration to deployments: provider, base, key, time-outs, rates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from attrs import define, evolve, field, frozen

from shared.config.gateway_config import GatewayConfig, LitellmParams, ModelEntry
from shared.config.reports import Report
from shared.domain.deployments import Deployment, Timeouts
from shared.domain.errors import NotSupported
from shared.domain.requests import EndpointKind
from shared.providers.base import Provider
from shared.providers.heads import check_header, parse_base, request_head
from shared.providers.registry import PROVIDERS, Target, find_target, suggest
from shared.routing.rating import ANY, Rating

_CONNECT_S = 5.0
_CHAT_S = 600.0
_OTHER_S = 6000.0
_STREAM_S = 6000.0
_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
# What the client decides alone: a default of these would change what its answer is.
_CLIENTS_OWN = ("model", "stream", "messages", "prompt", "input")


@frozen
class Resolved:
    """What became of an entry: deployments, or the reason why it is not served. `elsewhere` is
    whether an instance with another environment may serve it."""

    deployments: tuple[Deployment, ...] = ()
    reason: str | None = None
    elsewhere: bool = False


class _NotServed(Exception):
    """An entry that is right and not served; the text says why."""

    def __init__(self, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.resolved = Resolved(reason=reason, elsewhere=elsewhere)


@define(slots=True)
class Resolver:
    """Resolves entries one by one; what is wrong or not served goes to the report.

    Not used after the catalog is built.
    """

    config: GatewayConfig
    rating: Rating
    report: Report
    _hashes: dict[str, int] = field(factory=dict)

    def resolve(self, entry: ModelEntry) -> Resolved:
        """The entry's deployments, none where the report has a problem of it.

        There is one per organization; for a bare `*` one per provider that the environment has a
        key for, with the provider in its id.
        """
        try:
            return Resolved(self._deployments(entry))
        except _NotServed as left_out:
            text = f"the entry is not served: {left_out}"
            self.report.notice(entry.source, entry.path, text)
            return left_out.resolved

    def _deployments(self, entry: ModelEntry) -> tuple[Deployment, ...]:
        found = len(self.report.problems)
        self._check(entry)
        targets = self._targets(entry)
        if len(self.report.problems) > found:
            return ()
        identity = entry.info.id or self._identity(entry)
        several = bool(targets) and targets[0].model == ANY == entry.params.model
        resolved: list[Deployment] = []
        for target in targets:
            provider = PROVIDERS[target.provider]
            base = self._deployment(entry, provider, target, optional=several)
            if base is None:
                continue
            name = f"{identity}:{provider.name}" if several else identity
            for organization in entry.params.organization or (None,):
                split = len(entry.params.organization) > 1
                resolved.append(
                    evolve(
                        base,
                        id=f"{name}:{organization}" if split else name,
                        organization=organization,
                    )
                )
        for deployment in resolved:
            self._check_heads(deployment, entry)
        return tuple(resolved)

    def _check(self, entry: ModelEntry) -> None:
        params, path = entry.params, f"{entry.path}.litellm_params"
        if params.model.count(ANY) > entry.model_name.count(ANY):
            self.report.problem(
                entry.source, f"{path}.model", "has more `*` than `model_name` could fill"
            )
        for name, value in params.extra_headers.items():
            try:
                check_header(name, value)
            except ValueError as error:
                self.report.problem(entry.source, f"{path}.extra_headers.{name}", str(error))
        for name in _CLIENTS_OWN:
            if name in params.extra_body or name in params.extra:
                self.report.problem(entry.source, f"{path}.{name}", "is for the client to say")
        if params.api_base is not None:
            try:
                parse_base(params.api_base)
            except ValueError as error:
                self.report.problem(entry.source, f"{path}.api_base", str(error))

    def _targets(self, entry: ModelEntry) -> tuple[Target, ...]:
        params, path = entry.params, f"{entry.path}.litellm_params"
        target = find_target(params.model, params.custom_llm_provider, params.api_base)
        if target is None and params.model == ANY and params.custom_llm_provider is None:
            return self._any_provider(entry, path)
        if target is None:
            self._unknown_provider(entry, path)
            return ()
        reason = None
        if not target.supported:
            reason = f"provider `{target.provider}` is not supported in this release"
        elif target.provider == "openai" and target.model.startswith("responses/"):
            reason = "the responses API is not supported in this release"
        elif (entry.info.mode or EndpointKind.CHAT) not in list(EndpointKind):
            reason = f"mode `{entry.info.mode}` is not supported in this release"
        if reason is not None:
            raise _NotServed(reason)
        return (target,)

    def _any_provider(self, entry: ModelEntry, path: str) -> tuple[Target, ...]:
        """Those that the environment has a key or a base URL for: nobody meant the others."""
        if entry.params.api_key is not None:
            self.report.problem(
                entry.source,
                f"{path}.api_key",
                "would go to whichever provider a client names; write `model: <provider>/*`",
            )
            return ()
        ready = dict.fromkeys(
            provider.name
            for provider in PROVIDERS.values()
            if self._variable((*provider.key_env, *provider.base_env))
        )
        if not ready:
            text = "stands for providers whose key is in the environment, and there is none"
            self._lacking(entry, f"{path}.model", text)
        return tuple(Target(name, ANY) for name in ready)

    def _unknown_provider(self, entry: ModelEntry, path: str) -> None:
        params = entry.params
        if params.custom_llm_provider is not None:
            name, where = params.custom_llm_provider, f"{path}.custom_llm_provider"
            text = f"no such provider `{name}`"
        else:
            name, slash, _ = params.model.partition("/")
            where = f"{path}.model"
            text = (
                f"no such provider `{name}`"
                if slash
                else f"nothing tells the provider of `{name}`; write `provider/{name}`"
            )
        hint = suggest(name)
        text += f"; did you mean `{hint}`?" if hint else ""
        text += " (For any OpenAI-compatible server: `openai/<model>` and `api_base`.)"
        self.report.problem(entry.source, where, text)

    def _deployment(
        self, entry: ModelEntry, provider: Provider, target: Target, *, optional: bool
    ) -> Deployment | None:
        params, info = entry.params, entry.info
        api_base = params.api_base or self._variable(provider.base_env) or provider.api_base
        given = params.api_key.reveal() if params.api_key else None
        api_key = given or self._variable(provider.key_env)
        missing = self._missing(provider, api_base, api_key)
        if api_base is None or missing is not None:
            if not optional:
                self._lacking(entry, f"{entry.path}.litellm_params", missing or "")
            return None
        mode = info.mode or EndpointKind.CHAT.value
        timeouts, stream_timeouts = self._timeouts(params, mode)
        drop = self.config.litellm.drop_params if params.drop_params is None else params.drop_params
        dropped = (*params.additional_drop_params, *(provider.unsupported if drop else ()))
        return Deployment(
            id="",
            model_group=entry.model_name,
            provider=provider.name,
            upstream_model=target.model,
            api_base=api_base,
            api_key=api_key,
            mode=mode,
            region=params.region_name,
            rates=self.rating.of(entry, target),
            timeouts=timeouts,
            stream_timeouts=stream_timeouts,
            num_retries=params.max_retries if params.num_retries is None else params.num_retries,
            access_groups=info.access_groups,
            extra_headers=self._headers(params, provider),
            defaults={**params.extra, **params.extra_body},
            drop_params=tuple(dict.fromkeys(dropped)),
            max_input_tokens=info.max_input_tokens,
            max_output_tokens=info.max_output_tokens or info.max_tokens,
        )

    def _lacking(self, entry: ModelEntry, path: str, text: str) -> None:
        """Something that the environment does not have: another instance's may have it."""
        if entry.stored:
            raise _NotServed(text, elsewhere=True)
        self.report.problem(entry.source, path, text)

    def _missing(self, provider: Provider, api_base: str | None, api_key: str | None) -> str | None:
        if api_base is None:
            others = "".join(f" or the variable {name}" for name in provider.base_env[:1])
            return f"provider `{provider.name}` needs `api_base`{others}"
        if provider.key_required and api_base == provider.api_base and not api_key:
            others = "".join(f" or the variable {name}" for name in provider.key_env[:1])
            return f"provider `{provider.name}` needs `api_key`{others}"
        return None

    def _timeouts(self, params: LitellmParams, mode: str) -> tuple[Timeouts, Timeouts]:
        """For answers in one piece and for streams (LLM contract §5). A stream's time-out is for
        its first byte and each pause; its whole length has a bound of its own."""
        common, router = self.config.litellm.request_timeout, self.config.router
        default = _CHAT_S if mode == EndpointKind.CHAT else _OTHER_S
        whole = _first(params.timeout, common, router.timeout) or default
        pause = _first(params.stream_timeout, router.stream_timeout, common) or whole
        return (
            Timeouts(min(_CONNECT_S, whole), whole, whole, whole),
            Timeouts(min(_CONNECT_S, pause), pause, pause, max(_STREAM_S, pause)),
        )

    def _headers(self, params: LitellmParams, provider: Provider) -> tuple[tuple[str, str], ...]:
        headers: dict[str, str] = {}
        for name, variables in provider.header_env:
            value = self._variable(variables)
            if value and not (name == "openai-organization" and params.organization):
                headers[name] = value
        headers |= {name.lower(): value for name, value in params.extra_headers.items()}
        return tuple(headers.items())

    def _check_heads(self, deployment: Deployment, entry: ModelEntry) -> None:
        """Make every head once, so that a request cannot be the first to find a fault."""
        for kind in EndpointKind:
            try:
                request_head(deployment, kind)
            except NotSupported:
                continue
            except ValueError as error:
                self.report.problem(entry.source, f"{entry.path}.litellm_params", str(error))

    def _variable(self, names: tuple[str, ...]) -> str | None:
        environment: Mapping[str, str] = self.config.environment
        return next((environment[name] for name in names if environment.get(name)), None)

    def _identity(self, entry: ModelEntry) -> str:
        """A stable id out of what the entry says, secrets aside: they must not be guessable from
        an id that stands in logs, and a new one must not make a new deployment."""
        params = entry.params
        visible = {
            "model_name": entry.model_name,
            "model": params.model,
            "api_base": (params.api_base or "").partition("?")[0],
            "organization": params.organization,
            "provider": params.custom_llm_provider,
            "region": params.region_name,
            "headers": sorted(params.extra_headers),
            "extra": {
                name: value
                for name, value in {**params.extra, **params.extra_body}.items()
                if not _SECRET_NAME.search(name)
            },
        }
        text = json.dumps(visible, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        count = self._hashes[digest] = self._hashes.get(digest, 0) + 1
        return digest if count == 1 else f"{digest}-{count}"


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
