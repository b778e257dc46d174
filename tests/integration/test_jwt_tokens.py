"""Which tokens are good, and where their keys come from."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from attrs import define
from jwt.algorithms import RSAAlgorithm

from shared.domain.clock import Clock
from shared.domain.errors import AuthenticationFailed
from shared.keys.jwks import IssuerUnavailable, KeySets, fetcher
from shared.keys.jwt_tokens import ALGORITHMS, TokenVerifier, read_key
from tests.support.fleet import until
from tests.support.jwks_server import (
    AUDIENCE,
    ISSUER,
    Provider,
    Signer,
    claims_of,
    forged,
    start_provider,
)

RSA = Signer.make("rsa")


@define
class Hand(Clock):
    """A clock whose monotonic time the test moves on."""

    passed_s: float = 0.0

    def mono(self) -> float:
        return 1000.0 + self.passed_s


@define
class Case:
    """A verifier, its provider and its clock."""

    provider: Provider
    clock: Hand
    verifier: TokenVerifier

    async def good(self, token: str) -> dict[str, Any]:
        """The claims of a token that must be good."""
        return dict(await self.verifier.verify(token))

    async def asked(self, times: int) -> None:
        """Waits until the provider has been asked so often."""

        async def often_enough() -> bool:
            return self.provider.asked >= times

        await until(often_enough)

    async def bad(self, token: str) -> str:
        """Why a token is refused."""
        with pytest.raises(AuthenticationFailed) as refusal:
            await self.verifier.verify(token)
        assert refusal.value.status == 401
        assert token not in refusal.value.message
        return refusal.value.message


def verifier_of(clock: Clock, *urls: str, **more: Any) -> TokenVerifier:
    """A verifier of what these addresses publish."""
    keys = KeySets(urls, read_key, clock, ttl_s=600.0, fetch=fetcher())
    return TokenVerifier(**{"keys": keys, "issuers": (ISSUER,), "audiences": (AUDIENCE,)} | more)


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    provider, clock = await start_provider(RSA), Hand()
    case = Case(provider, clock, verifier_of(clock, provider.url))
    yield case
    await case.verifier.close()
    await provider.server.close()


@pytest.mark.parametrize("algorithm", [*sorted(ALGORITHMS), "Ed448"])
async def test_every_public_key_algorithm(case: Case, algorithm: str):
    """RSA in both paddings, the three curves and both Edwards curves."""
    signer = Signer.make("k", algorithm)
    case.provider.keys.append(signer.jwk())
    assert (await case.good(signer.token(sub="ada")))["sub"] == "ada"
    assert "signature" in await case.bad(Signer.make("k", algorithm).token())


async def test_unsigned_and_shared_secrets_are_refused(case: Case):
    """`none` in any spelling, and HMAC with the public key in any form as its secret."""
    claims = claims_of()
    secrets = [RSA.pem(), RSA.pem().strip(), json.dumps(RSA.jwk()).encode(), b""]
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        for secret in (None, *secrets):
            await case.bad(forged({"alg": algorithm, "kid": "rsa"}, claims, secret))
    for algorithm in ("HS256", "HS384", "HS512", "hs256"):
        for secret in secrets:
            await case.bad(forged({"alg": algorithm, "kid": "rsa"}, claims, secret))
    await case.bad(forged({"alg": "RS256", "kid": "rsa"}, claims, RSA.pem()))
    await case.bad(forged({"alg": ["RS256"], "kid": "rsa"}, claims, RSA.pem()))
    await case.bad(forged({"alg": None, "kid": "rsa"}, claims))
    await case.bad(forged({"kid": "rsa"}, claims))


async def test_shared_secret_in_the_key_set_verifies_nothing(case: Case):
    """A provider that shows a symmetric key does not make it count."""
    case.provider.keys = [{"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"}]
    await case.bad(forged({"alg": "HS256", "kid": "shared"}, claims_of(), b"secret"))
    await case.bad(forged({"alg": "RS256", "kid": "shared"}, claims_of(), b"secret"))


async def test_key_verifies_only_its_own_algorithms(case: Case):
    """A key that is bound to an algorithm, a curve or a use is good for nothing else."""
    bound, p256 = Signer.make("bound"), Signer.make("curve", "ES256")
    case.provider.keys = [
        bound.jwk(alg="RS512"),
        p256.jwk(),
        Signer("enc", "RS256", RSA.private).jwk(use="enc"),
        Signer("ops", "RS256", RSA.private).jwk(key_ops=["sign"]),
    ]
    await case.bad(bound.token())
    await case.good(Signer("bound", "RS512", bound.private).token())
    await case.good(p256.token())
    await case.bad(Signer("enc", "RS256", RSA.private).token())
    await case.bad(Signer("ops", "RS256", RSA.private).token())
    await case.bad(Signer("curve", "RS256", RSA.private).token())


async def test_weak_and_unreadable_keys_are_passed_over(case: Case):
    """One bad key in the set spoils no other."""
    weak = Signer.make("weak", bits=1024)
    case.provider.keys = [
        weak.jwk(),
        {"kty": "RSA", "kid": "rsa", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": "x", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": "x", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "OKP", "kid": "x", "crv": "X25519", "x": "AA"},
        {"kty": 7, "kid": ["x"]},
        {},
        "key",  # type: ignore[list-item]
        RSA.jwk(),
    ]
    await case.good(RSA.token())
    with pytest.warns() as warned:
        token = weak.token()
    assert warned
    await case.bad(token)


async def test_private_members_do_no_harm(case: Case):
    """A provider that shows its private key by mistake still verifies, and nothing more."""
    members = RSAAlgorithm.to_jwk(RSA.private, as_dict=True)
    assert "d" in members
    case.provider.keys = [{**members, "kid": "rsa", "key_ops": ["sign", "verify"]}]
    await case.good(RSA.token())


async def test_times(case: Case):
    """Expiry is needed and holds, so does `nbf`; clocks may be half a minute apart."""
    now = int(time.time())
    assert "expired" in await case.bad(RSA.token(exp=now - 60))
    await case.good(RSA.token(exp=now - 10))
    assert "exp" in await case.bad(RSA.token(exp=None))
    assert "not valid yet" in await case.bad(RSA.token(nbf=now + 60))
    await case.good(RSA.token(nbf=now + 10))
    for wrong in ("soon", [now + 60], {}, "NaN"):
        await case.bad(RSA.token(exp=wrong))
    await case.good(RSA.token(exp=10**12))


async def test_issuer_and_audience(case: Case):
    """Both must fit, several audiences of a token count, and absent claims do not pass."""
    assert "issuer" in await case.bad(RSA.token(iss="https://issuer.example.test/"))
    assert "iss" in await case.bad(RSA.token(iss=None))
    assert "audience" in await case.bad(RSA.token(aud="other"))
    assert "audience" in await case.bad(RSA.token(aud=["other", "another"]))
    assert "aud" in await case.bad(RSA.token(aud=None))
    await case.good(RSA.token(aud=["other", AUDIENCE]))


async def test_unset_issuer_and_audience_are_not_checked(case: Case):
    """As in the reference: what the operator does not name is not looked at."""
    verifier = verifier_of(case.clock, case.provider.url, issuers=(), audiences=())
    assert await verifier.verify(RSA.token(iss="x", aud="y"))
    assert await verifier.verify(RSA.token(iss=None, aud=None))


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "e30.e30.e30",
        "e30.e30.",
        "=.=.=",
        "💩.💩.💩",
        "WzFd.e30.AA",
        "ImEi.e30.AA",
        "A" * 8000 + ".A.A",
        "W1tb" * 2000 + ".e30.AA",
    ],
)
async def test_garbage_is_refused(case: Case, token: str):
    """Nothing that is sent raises anything but a refusal."""
    await case.bad(token)
    assert case.provider.asked == 0


async def test_odd_heads_are_refused(case: Case):
    """Extensions that must be understood, and key ids that are none."""
    await case.bad(RSA.token({"crit": ["x"], "x": 1}))
    await case.bad(forged({"alg": "RS256", "kid": {"a": 1}}, claims_of()))
    await case.bad(forged({"alg": "RS256", "kid": "x" * 600}, claims_of()))
    assert case.provider.asked == 0


async def test_key_that_a_token_brings_along_is_not_used(case: Case):
    """`jwk`, `jku` and `x5u` of a token name no key."""
    other = Signer.make("rsa")
    for head in ({"jwk": other.jwk()}, {"jku": "http://evil.test/"}, {"x5u": "http://evil.test/"}):
        assert "signature" in await case.bad(other.token(head))


async def test_token_without_a_key_id(case: Case):
    """Keys of the right kind are tried; others are not."""
    second = Signer.make("second")
    case.provider.keys = [Signer.make("e", "ES256").jwk(), RSA.jwk(), second.jwk()]
    await case.good(second.token({"kid": None}))
    assert "signature" in await case.bad(Signer.make("x").token({"kid": None}))


async def test_keys_are_fetched_once_and_kept(case: Case):
    """Many tokens at once make one fetch; later ones none until the keys are old."""
    await asyncio.gather(*(case.good(RSA.token()) for _ in range(20)))
    assert case.provider.asked == 1
    case.clock.passed_s += 599
    await case.good(RSA.token())
    assert case.provider.asked == 1


async def test_old_keys_are_renewed_beside_the_request(case: Case):
    """A request with keys past their time does not wait for new ones."""
    await case.good(RSA.token())
    case.clock.passed_s += 601
    case.provider.gate = asyncio.Event()
    await case.good(RSA.token())
    case.provider.gate.set()
    await case.asked(2)


async def test_rotated_key_is_found_at_once(case: Case):
    """A key id that is new makes a fetch; the key that was taken away is not good any more."""
    await case.good(RSA.token())
    new = Signer.make("new")
    case.provider.keys = [new.jwk()]
    case.clock.passed_s += 6
    await case.good(new.token())
    await case.bad(RSA.token())
    assert case.provider.asked == 2


async def test_unknown_key_ids_do_not_burden_the_provider(case: Case):
    """Made-up ids make no more than one fetch in five seconds, and are refused."""
    await case.good(RSA.token())
    for number in range(50):
        await case.bad(Signer(f"made-up-{number}", "RS256", RSA.private).token())
    assert case.provider.asked == 1
    case.clock.passed_s += 6
    tokens = [Signer(f"id-{number}", "RS256", RSA.private).token() for number in range(50)]
    await asyncio.gather(*(case.bad(token) for token in tokens))
    assert case.provider.asked == 2


async def test_provider_that_is_away(case: Case):
    """Known keys stay good for an hour past their time; unknown ones are 503, not 401."""
    await case.good(RSA.token())
    await case.provider.server.close()
    case.clock.passed_s += 4000
    await case.good(RSA.token())
    case.clock.passed_s += 6
    with pytest.raises(IssuerUnavailable) as refusal:
        await case.verifier.verify(Signer.make("new").token())
    assert (refusal.value.status, refusal.value.type) == (503, "auth_provider_unavailable")
    assert dict(refusal.value.headers) == {"retry-after": "5"}
    case.clock.passed_s += 300
    with pytest.raises(IssuerUnavailable):
        await case.verifier.verify(RSA.token())


async def test_provider_that_was_never_there(case: Case):
    """Without any key a good token is 503, at once while the last attempt is fresh."""
    await case.provider.server.close()
    for _ in range(3):
        with pytest.raises(IssuerUnavailable):
            await case.verifier.verify(RSA.token())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (404, None),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": 1}'),
        (200, b"[" * 100_000),
        (200, b'{"keys": [], "x": "' + b"x" * 300_000 + b'"}'),
    ],
)
async def test_answers_that_are_no_keys(case: Case, status: int, body: bytes | None):
    """What a broken provider sends takes no key away that was good."""
    await case.good(RSA.token())
    case.provider.status, case.provider.body = status, body
    case.clock.passed_s += 601
    await case.good(RSA.token())
    await case.asked(2)
    with pytest.raises(IssuerUnavailable):
        await case.verifier.verify(Signer.make("new").token())
    await case.good(RSA.token())


async def test_redirects_are_not_followed(case: Case):
    """Keys come from the address that the operator gave, or that it names as theirs."""
    url = str(case.provider.server.make_url("/elsewhere"))
    with pytest.raises(IssuerUnavailable):
        await verifier_of(case.clock, url).verify(RSA.token())
    assert case.provider.asked == 0


async def test_discovery_and_several_providers(case: Case):
    """An OpenID configuration leads to the keys; the keys of all providers count."""
    second_signer = Signer.make("second", "ES256")
    second = await start_provider(second_signer)
    verifier = verifier_of(case.clock, case.provider.discovery_url, second.url)
    assert await verifier.verify(RSA.token())
    assert await verifier.verify(second_signer.token())
    await second.server.close()
    assert await verifier.verify(RSA.token())
