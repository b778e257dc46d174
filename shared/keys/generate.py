"""Making plain keys. The plain form leaves the process once, in the answer to its maker."""

from __future__ import annotations

import re
import secrets

from shared.domain.errors import InvalidRequest
from shared.domain.keys import KEY_PREFIX, hash_key

KEY_BYTES = 32
SHORTEST_CUSTOM_KEY = 16
LONGEST_CUSTOM_KEY = 512

# What an HTTP header carries unchanged whoever relays it, which rules out blanks too.
_SENDABLE = re.compile(r"[\x21-\x7e]+")
_STORED = re.compile(r"[0-9a-f]{64}")


def generate_key(random_bytes: int = KEY_BYTES) -> str:
    """A fresh plain key: `sk-` and URL-safe base64 of that many bytes from the system."""
    return KEY_PREFIX + secrets.token_urlsafe(random_bytes)


def check_custom_key(plain: str, shortest: int = SHORTEST_CUSTOM_KEY, param: str = "key") -> str:
    """A plain key of the caller's own choosing; `InvalidRequest` naming `param` when it cannot
    serve as one."""
    if not plain.startswith(KEY_PREFIX):
        raise InvalidRequest(f"{param} must start with '{KEY_PREFIX}'", param=param)
    if not shortest <= len(plain) <= LONGEST_CUSTOM_KEY:
        raise InvalidRequest(
            f"{param} must have between {shortest} and {LONGEST_CUSTOM_KEY} characters",
            param=param,
        )
    if not _SENDABLE.fullmatch(plain):
        raise InvalidRequest(f"{param} must be of printable ASCII without blanks", param=param)
    return plain


def stored_form(reference: str) -> str | None:
    """The stored form of a key named in a request: plain keys are hashed, hashes are taken as
    they are, and anything else names no key."""
    if reference.startswith(KEY_PREFIX):
        return hash_key(reference)
    return reference if _STORED.fullmatch(reference) else None
