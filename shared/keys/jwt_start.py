"""Letting JSON Web Tokens in, where the operator asks for it."""

from __future__ import annotations

from functools import partial

import structlog

from shared.config.gateway_config import GeneralSettings
from shared.config.settings import Settings
from shared.db.keys import load_stand_ins
from shared.db.rows import Queryable
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError
from shared.keys.bearers import Bearers, Verifier
from shared.keys.jwks import KeySets, fetcher
from shared.keys.levels import Policy
from shared.keys.stand_ins import StandIns

_log = structlog.get_logger(__name__)


def token_verifier(settings: Settings, general: GeneralSettings, clock: Clock) -> Verifier | None:
    """`None` where tokens are not let in. Raises `ConfigError` for settings that let nobody in."""
    if not general.enable_jwt_auth:
        return None
    from shared.keys.jwt_tokens import TokenVerifier, read_key  # noqa: PLC0415 - 0.1 s and 9 MB

    urls = settings.jwt_public_key_url
    if not urls:
        raise ConfigError(
            "general_settings.enable_jwt_auth needs JWT_PUBLIC_KEY_URL: where the sign-in "
            "provider publishes its keys"
        )
    if settings.jwt_audience is None:
        _log.warning(
            "setting",
            notice="JWT_AUDIENCE is not set: tokens that the provider made for others are let in",
        )
    ca_file = None if settings.ca_file is None else str(settings.ca_file)
    ttl_s = general.litellm_jwtauth.public_key_ttl
    keys = KeySets(urls, read_key, clock, ttl_s=ttl_s, fetch=fetcher(ca_file))
    return TokenVerifier(
        keys=keys, issuers=_split(settings.jwt_issuer), audiences=_split(settings.jwt_audience)
    )


def open_bearers(
    settings: Settings, general: GeneralSettings, clock: Clock, store: Queryable, policy: Policy
) -> Bearers | None:
    """The holders of tokens; raises as `token_verifier` does."""
    verifier = token_verifier(settings, general, clock)
    if verifier is None:
        return None
    load = partial(load_stand_ins, store)
    stand_ins = StandIns(load, clock, policy, stale_limit_s=settings.stale_limit_s)
    return Bearers(verifier, general.litellm_jwtauth, store, stand_ins, clock)


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
