"""Checking JSON Web Tokens: signature, times, issuer and audience.

Only public-key algorithms count, and each key verifies only those of its own kind: a token that is
signed with a public key as if it were a shared secret, or not at all, is refused before any key is
looked for. What a token says of where its key is (`jku`, `jwk`, `x5u`) is never used.

Import this module only where tokens are accepted: the libraries behind it take a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jwt
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.domain.errors import AuthenticationFailed
from shared.keys.jwks import KeySets, SigningKey

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Mapping[str, str] = MappingProxyType(
    {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
)
_EDWARDS = frozenset({"EdDSA"})
ALGORITHMS = _RSA | _EDWARDS | frozenset(_CURVES.values())

_LEAST_RSA_BITS = 2048
_LONGEST_KEY_ID = 512
# Tokens without a key id are tried with so many keys.
_MOST_TRIES = 8
_LEEWAY_S = 30.0


@frozen(kw_only=True)
class TokenVerifier:
    """Says what a good token claims. `issuers` and `audiences` are what is allowed; an empty one
    is not checked."""

    keys: KeySets
    issuers: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()

    async def close(self) -> None:
        """Ends fetches that are under way."""
        await self.keys.close()

    async def verify(self, token: str) -> Mapping[str, Any]:
        """The claims. Raises `AuthenticationFailed`, or `IssuerUnavailable`."""
        algorithm, key_id = _head(token)
        found = await self.keys.find(key_id)
        fitting = [key for key in found if algorithm in key.algorithms]
        if not fitting:
            raise AuthenticationFailed("The token is signed with a key that is not known")
        for key in fitting[:_MOST_TRIES]:
            try:
                return self._claims(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise AuthenticationFailed("The token has expired") from None
            except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
                raise _refused(error) from None
        raise AuthenticationFailed("The token's signature is wrong")

    def _claims(self, token: str, key: SigningKey, algorithm: str) -> Mapping[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self.audiences or None,
            issuer=self.issuers or None,
            leeway=_LEEWAY_S,
            options={"require": ["exp"], "verify_aud": bool(self.audiences)},
        )
        return claims


def read_key(jwk: Mapping[str, Any]) -> SigningKey | None:
    """A public signing key, or `None` for one that is of no use here: a shared secret, one for
    encryption, one that is too short or cannot be read."""
    key_id = jwk.get("kid")
    operations = jwk.get("key_ops")
    if (
        not (key_id is None or isinstance(key_id, str))
        or jwk.get("use", "sig") != "sig"
        or (isinstance(operations, list) and "verify" not in operations)
    ):
        return None
    try:
        algorithms, key = _public_key(jwk)
    except (jwt.InvalidKeyError, ValueError, TypeError, KeyError):
        return None
    if jwk.get("alg") is not None:
        algorithms &= {jwk["alg"]} if isinstance(jwk["alg"], str) else set()
    return SigningKey(key_id, algorithms, key) if algorithms else None


def _public_key(jwk: Mapping[str, Any]) -> tuple[frozenset[str], Any]:
    """The key and all algorithms of its kind; `KeyError` for a kind that does not count.

    Only public members are read, should an issuer show the private ones too.
    """
    match jwk.get("kty"):
        case "RSA":
            rsa = RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk["n"], "e": jwk["e"]})
            if not isinstance(rsa, RSAPublicKey) or rsa.key_size < _LEAST_RSA_BITS:
                raise KeyError("RSA")
            return _RSA, rsa
        case "EC":
            members = {"kty": "EC", "crv": jwk["crv"], "x": jwk["x"], "y": jwk["y"]}
            curve = ECAlgorithm.from_jwk(members)
            if not isinstance(curve, EllipticCurvePublicKey):
                raise KeyError("EC")
            return frozenset({_CURVES[jwk["crv"]]}), curve
        case "OKP":
            edwards = OKPAlgorithm.from_jwk({"kty": "OKP", "crv": jwk["crv"], "x": jwk["x"]})
            if not isinstance(edwards, Ed25519PublicKey | Ed448PublicKey):
                raise KeyError("OKP")
            return _EDWARDS, edwards
    raise KeyError(jwk.get("kty"))


def _head(token: str) -> tuple[str, str | None]:
    """Algorithm and key id that a token names."""
    try:
        head = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
        raise _refused(error) from None
    algorithm, key_id = head.get("alg"), head.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise AuthenticationFailed("The token is not signed in a way that is accepted here")
    if "crit" in head or head.get("b64") is False:
        raise AuthenticationFailed("The token asks for extensions that are not known here")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > _LONGEST_KEY_ID):
        raise AuthenticationFailed("The token cannot be read")
    return algorithm, key_id


def _refused(error: Exception) -> AuthenticationFailed:
    """What a client hears: which check failed, and nothing of the token."""
    match error:
        case jwt.InvalidAudienceError():
            text = "is for another audience"
        case jwt.InvalidIssuerError():
            text = "is from another issuer"
        case jwt.ImmatureSignatureError():
            text = "is not valid yet"
        case jwt.MissingRequiredClaimError():
            text = f"lacks the claim {error.claim}"
        case _:
            text = "cannot be read"
    return AuthenticationFailed(f"The token {text}")
