"""Passwords of users, kept as scrypt hashes that say how they were made.

A stored form is `scrypt$n$r$p$salt$hash`, the last two in base64. Older parameters stay readable;
`outdated` says when a password that was just right should be stored anew. Hashing takes tens of
milliseconds and 16 MiB on purpose: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from attrs import frozen

SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1024

_SCHEME = "scrypt"
_SALT_BYTES = 16
_HASH_BYTES = 32
# What a stored form may ask for, so that a strange one costs no more than a strong one.
_MOST_MEMORY = 256 * 1024 * 1024
_MOST_PARALLEL = 16


@frozen
class Cost:
    """How hard a guess is: 128 * `n` * `r` bytes and `n` * `r` * `p` steps."""

    n: int = 2**14
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """Bytes that one hash takes."""
        return 128 * self.r * (self.n + self.p + 2)


COST = Cost()


def hash_password(password: str, cost: Cost = COST) -> str:
    """The stored form of a password, with a salt of its own."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return _form(cost, salt, _scrypt(password, salt, cost))


def verify_password(password: str, stored: str) -> bool:
    """Whether the password is the stored one, in a time that does not tell how near it came."""
    parts = _parse(stored)
    if parts is None:
        return False
    cost, salt, expected = parts
    return hmac.compare_digest(_scrypt(password, salt, cost), expected)


def outdated(stored: str, cost: Cost = COST) -> bool:
    """Whether a stored form was made with other parameters than today's."""
    parts = _parse(stored)
    return parts is None or parts[0] != cost


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # A lone surrogate has no UTF-8; it must not be the same as another character.
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(
        data,
        salt=salt,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        maxmem=cost.memory + 1024 * 1024,
        dklen=_HASH_BYTES,
    )


def _form(cost: Cost, salt: bytes, digest: bytes) -> str:
    numbers = f"{cost.n}${cost.r}${cost.p}"
    return f"{_SCHEME}${numbers}${_text(salt)}${_text(digest)}"


def _parse(stored: str) -> tuple[Cost, bytes, bytes] | None:
    parts = stored.split("$")
    if len(parts) != 6 or parts[0] != _SCHEME:
        return None
    try:
        cost = Cost(*(int(part) for part in parts[1:4]))
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[4:])
    except (ValueError, binascii.Error):
        return None
    power_of_two = cost.n > 1 and cost.n & (cost.n - 1) == 0
    sound = power_of_two and cost.r > 0 and 0 < cost.p <= _MOST_PARALLEL
    if not sound or cost.memory > _MOST_MEMORY or len(digest) != _HASH_BYTES:
        return None
    return cost, salt, digest


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
