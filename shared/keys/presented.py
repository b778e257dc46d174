"""The key that a request presents, in the contract's order of places (management contract §8.2)."""

from __future__ import annotations

from collections.abc import Mapping

from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import KEY_PREFIX

KEY_HEADERS = (
    "x-litellm-api-key",
    "authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
)
_SCHEMES = ("bearer ", "basic ")
LONGEST_KEY = 2048
# Tokens of sign-in providers hold what they say of their holder; more does not fit into a header.
LONGEST_TOKEN = 8190


def presented_key(
    headers: Mapping[str, str], key_header: str | None = None, *, longest: int = LONGEST_KEY
) -> str:
    """The plain key; raises `AuthenticationFailed` when there is none.

    `headers` are looked up whatever their case. `key_header` is the operator's own header name,
    which beats all others when it is present. One of more than `longest` characters is refused.
    """
    if key_header is not None:
        value = headers.get(key_header)
        if value is not None:
            return _plain(value, longest, bare=False)
    for name in KEY_HEADERS:
        value = headers.get(name)
        if value is not None:
            return _plain(value, longest, bare=name != "authorization")
    raise AuthenticationFailed(
        "No key: send it as `Authorization: Bearer <key>`, made on the admin by /key/generate."
    )


def is_token(plain: str) -> bool:
    """Whether what was presented has the form of a JSON Web Token, and not of a key."""
    return plain.count(".") == 2 and not plain.startswith(KEY_PREFIX)


def _plain(value: str, longest: int, *, bare: bool) -> str:
    scheme = value[:7].lower()
    if scheme == _SCHEMES[0]:
        value = value[7:]
    elif value[:6].lower() == _SCHEMES[1]:
        value = value[6:]
    elif not bare and not value.startswith("sk-"):
        raise AuthenticationFailed("The key must be sent as `Authorization: Bearer <key>`.")
    value = value.strip()
    if not value or len(value) > longest:
        raise AuthenticationFailed("The key that was sent is empty or far too long.")
    if not value.isascii():
        raise AuthenticationFailed("The key that was sent is not one of this gateway.")
    return value
