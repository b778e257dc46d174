"""Secrets at rest: AES-256-GCM envelopes under a key derived from the operator's.

An envelope is text, so that it can stand where the secret stood::

    sealed:1:<key id>:<base64url of nonce and ciphertext>

The key id says under which key it was sealed and nothing more. The place of a secret (its row and
field) is authenticated with it: an envelope that is copied to another row or field does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from attrs import frozen

from shared.config.secret import Secret
from shared.domain.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_PREFIX = "sealed:1:"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SALT = b"meridian secrets at rest"


@frozen
class Place:
    """Where a secret stands: the kind and id of its row, and the dotted path of the field."""

    kind: str
    id: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind}[{self.id}].{self.path}"

    @property
    def bound(self) -> bytes:
        """What an envelope is bound to; no two places have the same."""
        parts = (self.kind, self.id, self.path)
        return b"".join(
            len(data).to_bytes(4, "big") + data
            for data in (part.encode("utf-8", "surrogatepass") for part in parts)
        )


class SealBroken(ConfigError):
    """A stored secret that this process cannot open. Names its place, never its value."""

    def __init__(self, place: Place, what: str) -> None:
        super().__init__(f"database: {place}: {what}")
        self.place = place
        self.what = what


class Sealer:
    """Seals and opens under one key.

    The library behind it costs 7 MB of memory, so it is loaded with the first secret.
    """

    def __init__(self, secret: Secret) -> None:
        material = _derive(secret.reveal().encode("utf-8", "surrogatepass"), b"key")
        self.key_id = _derive(material, b"key id").hex()[:16]
        self._material = material
        self._cipher: AESGCM | None = None

    def seal(self, text: str, place: Place) -> str:
        """The envelope of a text."""
        nonce = os.urandom(_NONCE_BYTES)
        data = text.encode("utf-8", "surrogatepass")
        sealed = nonce + self._aes().encrypt(nonce, data, place.bound)
        return f"{_PREFIX}{self.key_id}:{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, envelope: str, place: Place) -> str:
        """The text in an envelope. Raises `SealBroken`."""
        key_id, _, text = envelope.removeprefix(_PREFIX).partition(":")
        if key_id != self.key_id:
            raise SealBroken(
                place,
                f"is sealed under the key {key_id[:16]}, and this process has {self.key_id}. Set "
                "LITELLM_SALT_KEY to the value that was in force when it was stored (the master "
                "key, where LITELLM_SALT_KEY was not set then).",
            )
        try:
            sealed = base64.urlsafe_b64decode(text)
        except (binascii.Error, ValueError):
            sealed = b""
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise SealBroken(place, "is no whole envelope; store the secret again")
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        data = self._decrypted(nonce, ciphertext, place)
        return data.decode("utf-8", "surrogatepass")

    def _decrypted(self, nonce: bytes, ciphertext: bytes, place: Place) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see the class

        try:
            return self._aes().decrypt(nonce, ciphertext, place.bound)
        except InvalidTag:
            raise SealBroken(
                place,
                "was changed, or moved here from another row or field; store the secret again",
            ) from None

    def _aes(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see above

        if self._cipher is None:
            self._cipher = AESGCM(self._material)
        return self._cipher


def is_sealed(text: str) -> bool:
    """Whether a text is an envelope, or pretends to be one."""
    return text.startswith(_PREFIX)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes: one block of output."""
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)
