"""A sign-in provider: its keys over HTTP, and tokens that it, or somebody else, has signed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from attrs import define, field
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

ISSUER = "https://issuer.example.test"
AUDIENCE = "gateway"

_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@define
class Signer:
    """A key pair and the algorithm that it signs by."""

    key_id: str
    algorithm: str
    private: Any

    @classmethod
    def make(cls, key_id: str, algorithm: str = "RS256", bits: int = 2048) -> Signer:
        """A fresh one."""
        if algorithm in _CURVES:
            return cls(key_id, algorithm, ec.generate_private_key(_CURVES[algorithm]))
        if algorithm == "EdDSA":
            return cls(key_id, algorithm, ed25519.Ed25519PrivateKey.generate())
        if algorithm == "Ed448":
            return cls(key_id, "EdDSA", ed448.Ed448PrivateKey.generate())
        return cls(key_id, algorithm, rsa.generate_private_key(65537, bits))

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key as providers show it."""
        algorithms = jwt.algorithms.get_default_algorithms()
        members = algorithms[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**members, "kid": self.key_id, "use": "sig"} | more

    def pem(self) -> bytes:
        """The public key as text, which forgers take for a shared secret."""
        return bytes(
            self.private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def token(self, head: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, but for what is given; what is `None` is left out."""
        named = {"kid": self.key_id} | (head or {})
        return jwt.encode(
            claims_of(**claims),
            self.private,
            algorithm=self.algorithm,
            headers={name: value for name, value in named.items() if value is not None},
        )


def claims_of(**claims: Any) -> dict[str, Any]:
    """The claims of a good token, but for what is given."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 300}
    return {name: value for name, value in (good | claims).items() if value is not None}


def forged(head: dict[str, Any], claims: dict[str, Any], secret: bytes | None = None) -> str:
    """A token put together by hand: signed with a shared secret, or not at all."""
    body = b".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    signature = b"" if secret is None else hmac.new(secret, body, hashlib.sha256).digest()
    return (body + b"." + _base64(signature)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@define
class Provider:
    """What is served, and how often it was asked for. `body` wins over `keys`; while `gate` is
    set, answers wait for it."""

    server: TestServer
    keys: list[dict[str, Any]] = field(factory=list)
    body: bytes | None = None
    status: int = 200
    asked: int = 0
    gate: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where the keys are."""
        return str(self.server.make_url("/jwks"))

    @property
    def discovery_url(self) -> str:
        """Where it is said where the keys are."""
        return str(self.server.make_url("/.well-known/openid-configuration"))


async def start_provider(*signers: Signer) -> Provider:
    """A provider with the public keys of some signers."""

    async def keys(_: web.Request) -> web.Response:
        provider.asked += 1
        if provider.gate is not None:
            await provider.gate.wait()
        body = provider.body or json.dumps({"keys": provider.keys}).encode()
        return web.Response(status=provider.status, body=body, content_type="application/json")

    async def discovery(_: web.Request) -> web.Response:
        return web.json_response({"issuer": ISSUER, "jwks_uri": provider.url})

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound(provider.url)

    app = web.Application()
    app.router.add_get("/jwks", keys)
    app.router.add_get("/.well-known/openid-configuration", discovery)
    app.router.add_get("/elsewhere", elsewhere)
    provider = Provider(TestServer(app), [signer.jwk() for signer in signers])
    await provider.server.start_server()
    return provider
