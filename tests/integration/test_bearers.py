"""What a process remembers of tokens: for how long, for how many, and what makes it look again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest
from attrs import define

from shared.config.jwt_schema import JwtSettings
from shared.db.keys import load_stand_ins
from shared.db.link import Link
from shared.domain.clock import Clock
from shared.domain.errors import AuthenticationFailed, StoreUnavailable
from shared.domain.keys import hash_key
from shared.keys.bearers import Bearer, Bearers
from shared.keys.jwks import IssuerUnavailable, KeySets, fetcher
from shared.keys.jwt_tokens import TokenVerifier, read_key
from shared.keys.levels import NO_POLICY
from shared.keys.stand_ins import StandIns
from tests.support.jwks_server import Provider, Signer, start_provider

SIGNER = Signer.make("rsa")
SETTINGS = JwtSettings(
    user_id_jwt_field="sub",
    user_email_jwt_field="email",
    team_ids_jwt_field="groups",
    public_key_ttl=60.0,
)


@define
class Hand(Clock):
    """A clock that the test moves on."""

    passed_s: float = 0.0

    def mono(self) -> float:
        return 1000.0 + self.passed_s

    def now(self) -> float:
        return time.time() + self.passed_s


@define
class Case:
    """Bearers over a database of their own."""

    bearers: Bearers
    provider: Provider
    clock: Hand
    link: Link

    async def find(self, token: str) -> Bearer:
        """As a call does."""
        return await self.bearers.find(hash_key(token), token, "192.0.2.1")

    def known(self, token: str) -> Bearer | None:
        """What a call learns without waiting."""
        return self.bearers.get(hash_key(token))

    def changed(self, kind: str, *ids: str) -> None:
        """As the feed tells it; without ids, that anything of the kind may have changed."""
        self.bearers.subscribers()[kind](ids or None)


@pytest.fixture
async def case(database: str) -> AsyncIterator[Case]:
    provider, clock = await start_provider(SIGNER), Hand()
    link = Link("ask", database, application_name="test")
    await link.open()
    await link.execute("insert into app_user (user_id) values ('ada'), ('bob')")
    await link.execute("update app_user set user_email = 'ada@example.test' where user_id = 'ada'")
    await link.execute("insert into team (team_id) values ('red')")
    keys = KeySets((provider.url,), read_key, clock, ttl_s=60.0, fetch=fetcher())
    load = partial(load_stand_ins, link)
    stand_ins = StandIns(load, clock, NO_POLICY, stale_limit_s=900.0, capacity=4)
    verifier = TokenVerifier(keys=keys)
    bearers = Bearers(verifier, SETTINGS, link, stand_ins, clock)
    yield Case(bearers, provider, clock, link)
    await bearers.close()
    await link.close()
    await provider.server.close()


async def test_a_token_is_checked_once_for_all_who_wait(case: Case):
    """One fetch and one check; afterwards nobody waits."""
    token = SIGNER.token()
    case.provider.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(case.find(token)) for _ in range(50)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    case.provider.gate.set()
    found = await asyncio.gather(*waiting)
    assert len({id(bearer) for bearer in found}) == 1
    assert case.known(token) is found[0]
    assert case.provider.asked == 1
    assert token not in repr(vars(case.bearers))


async def test_known_tokens_expire(case: Case):
    """A token is known for no longer than it is good."""
    token = SIGNER.token(exp=int(time.time()) + 20)
    await case.find(token)
    case.clock.passed_s = 45.0
    assert case.known(token) is not None
    case.clock.passed_s = 51.0
    assert case.known(token) is None


async def test_a_withdrawn_key_ends_its_tokens(case: Case):
    """A check holds as long as keys do. The next one needs no database, and stale keys while the
    provider is away; when it has shown that the key is gone, so is the token."""
    token = SIGNER.token(exp=int(time.time()) + 100_000)
    first = await case.find(token)
    case.clock.passed_s = 61.0
    assert case.known(token) is None
    await case.link.close()
    case.provider.status = 500
    assert (await case.find(token)).keys == first.keys
    case.clock.passed_s += 4000.0
    with pytest.raises(IssuerUnavailable):
        await case.find(token)
    case.provider.status, case.provider.keys = 200, []
    case.clock.passed_s += 61.0
    with pytest.raises(AuthenticationFailed):
        await case.find(token)


@pytest.mark.parametrize(
    ("claims", "ids", "stays"),
    [
        ({"sub": "ada"}, ("bob",), True),
        ({"sub": "ada"}, ("bob", "ada"), False),
        ({"sub": "ada"}, (), False),
        ({"sub": "x", "email": "ada@example.test"}, ("ada",), False),
        ({"sub": "x", "email": "ada@example.test"}, ("bob",), False),
        ({"sub": None, "groups": ["red"]}, (), True),
    ],
)
async def test_changed_users_are_looked_for_again(
    case: Case, claims: dict[str, Any], ids: tuple[str, ...], stays: bool
):
    """Those who are named by their ids when they change, those found otherwise at any change."""
    token = SIGNER.token(**claims)
    await case.find(token)
    case.changed("user", *ids)
    assert (case.known(token) is not None) is stays


async def test_unknown_users_are_not_looked_for_at_every_call(case: Case):
    """They are refused without the database for two seconds, or until users change."""
    token = SIGNER.token(sub="late")
    with pytest.raises(AuthenticationFailed):
        await case.find(token)
    await case.link.execute("insert into app_user (user_id) values ('late')")
    with pytest.raises(AuthenticationFailed):
        case.known(token)
    case.changed("user", "late")
    assert case.known(token) is None
    assert (await case.find(token)).user_id == "late"
    other = SIGNER.token(sub="later")
    with pytest.raises(AuthenticationFailed):
        await case.find(other)
    case.clock.passed_s = 3.0
    assert case.known(other) is None


async def test_a_change_during_the_look_up_is_not_missed(case: Case, database: str):
    """What was being read while users changed serves its call and is not kept."""
    token = SIGNER.token()
    await case.find(SIGNER.token(sub="bob"))
    holder = await asyncpg.connect(database)
    async with holder.transaction():
        await holder.execute("lock table app_user in access exclusive mode")
        finding = asyncio.ensure_future(case.find(token))
        waits = "select count(*) from pg_locks where not granted"
        while not await holder.fetchval(waits):  # noqa: ASYNC110 - another connection's state
            await asyncio.sleep(0.005)
        case.changed("user", "ada")
    await holder.close()
    assert (await finding).user_id == "ada"
    assert case.known(token) is None


async def test_database_away(case: Case):
    """Known holders go on; a new token needs the database, which says that it is away and not that
    the token is bad."""
    token = SIGNER.token(groups=["red"])
    bearer = await case.find(token)
    (principal,) = await case.bearers.find_principals(bearer, None)
    await case.link.close()
    assert case.bearers.principals(bearer, None) == (principal,)
    with pytest.raises(StoreUnavailable):
        await case.find(SIGNER.token(sub="bob"))
    case.clock.passed_s = 901.0
    with pytest.raises(StoreUnavailable):
        case.bearers.principals(bearer, None)


async def test_more_holders_than_are_kept(case: Case):
    """Those who were pushed out are read again; nobody is taken for another."""
    tokens = {f"u{number}": SIGNER.token(sub=f"u{number}") for number in range(20)}
    await case.link.execute(
        "insert into app_user (user_id) select unnest($1::text[])", list(tokens)
    )
    for _ in range(2):
        for user_id, token in tokens.items():
            bearer = await case.find(token)
            (principal,) = await case.bearers.find_principals(bearer, None)
            assert principal.key.user_id == user_id
            assert principal.user is not None
            assert principal.user.user_id == user_id
