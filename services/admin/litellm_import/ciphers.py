"""Opening what a LiteLLM proxy has encrypted with its salt key.

A value is text: `v2:gcm:` or `v3:gcm:` and base64url of nonce, ciphertext and tag (AES-256-GCM
under the SHA-256 of the salt key, or under a key derived from it by HKDF), or base64 alone of nonce
and ciphertext (XSalsa20-Poly1305 under the SHA-256).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.config.secret import Secret
from shared.domain.errors import ConfigError

try:
    from nacl import exceptions, secret
except ImportError:
    _WITH_NACL = False
else:
    _WITH_NACL = True

_HKDF_INFO = b"litellm-at-rest-v3"
_NONCE_BYTES = 12
_TAG_BYTES = 16
# Nonce and tag of a box: what decodes to less is no ciphertext.
_SMALLEST_BOX = 40
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}", re.ASCII)


class Undecipherable(Exception):
    """A text that looks encrypted and does not open with this salt key. Says nothing of it."""


class Opener:
    """Opens values under one salt key, or under none."""

    def __init__(self, salt_key: Secret | None) -> None:
        self._salt = None if salt_key is None else salt_key.reveal().encode("utf-8", "replace")

    def open(self, text: str) -> str:
        """What a text stands for: itself, where it has not the form of an encrypted one.

        Raises `Undecipherable`, and `ConfigError` where the extra `import` is not installed.
        """
        for prefix in ("v2:gcm:", "v3:gcm:"):
            if text.startswith(prefix):
                return self._open_gcm(text.removeprefix(prefix), prefix)
        data = _decoded(text) if _BASE64.fullmatch(text) else b""
        return text if len(data) < _SMALLEST_BOX else self._open_box(data)

    def members(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """An object with its texts opened. Those further inside are not encrypted as a rule: one
        that looks like it and does not open is what it seems."""
        return {name: self._member(value, name) for name, value in members.items()}

    def _member(self, value: Any, name: str) -> Any:
        if not isinstance(value, str):
            return self.inner(value)
        try:
            return self.open(value)
        except Undecipherable:
            raise Undecipherable(name) from None

    def inner(self, value: Any) -> Any:
        """A value with those texts in it opened that are encrypted for certain."""
        if isinstance(value, dict):
            return {name: self.inner(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.inner(item) for item in value]
        return self.open(value) if isinstance(value, str) and self.opens(value) else value

    def opens(self, text: str) -> bool:
        """Whether a text is encrypted under this salt key. Of those marked as encrypted, one that
        is not raises `Undecipherable`."""
        try:
            return self.open(text) != text
        except Undecipherable:
            if text.startswith(("v2:gcm:", "v3:gcm:")):
                raise
            return False

    def _open_gcm(self, text: str, prefix: str) -> str:
        data = _decoded(text)
        if self._salt is None or len(data) < _NONCE_BYTES + _TAG_BYTES:
            raise Undecipherable
        cipher = self._old_cipher if prefix == "v2:gcm:" else self._new_cipher
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise Undecipherable from None

    def _open_box(self, data: bytes) -> str:
        if not _WITH_NACL:
            raise ConfigError(
                "the database holds values that only PyNaCl opens: install the extra `import`"
            )
        if self._salt is None:
            raise Undecipherable
        try:
            return secret.SecretBox(self._short_key).decrypt(data).decode()
        except (exceptions.CryptoError, UnicodeDecodeError):
            raise Undecipherable from None

    @cached_property
    def _short_key(self) -> bytes:
        return hashlib.sha256(self._salt or b"").digest()

    @cached_property
    def _old_cipher(self) -> AESGCM:
        return AESGCM(self._short_key)

    @cached_property
    def _new_cipher(self) -> AESGCM:
        derived = HKDF(SHA256(), length=32, salt=None, info=_HKDF_INFO)
        return AESGCM(derived.derive(self._salt or b""))


def _decoded(text: str) -> bytes:
    """Base64 in either alphabet, padded or not; nothing for what is none."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
