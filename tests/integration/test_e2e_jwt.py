"""LLM calls with tokens of a sign-in provider instead of keys, on running processes."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import define, field
from openai import AsyncOpenAI, AuthenticationError, DefaultAsyncHttpxClient

from shared.domain.capabilities import Binary
from shared.domain.keys import hash_key
from tests.support.fleet import Answer, Calls, Fleet, Member, until
from tests.support.jwks_server import AUDIENCE, ISSUER, Signer, claims_of, forged
from tests.support.key_server import KeyServer, key_server
from tests.support.owned_keys import Owned

pytestmark = pytest.mark.xdist_group("fleet")

SIGNER = Signer.make("rsa")
FIELDS = {
    "user_id_jwt_field": "uid",
    "user_email_jwt_field": "email",
    "team_id_jwt_field": "team",
    "team_ids_jwt_field": "groups",
    "org_id_jwt_field": "org",
    "end_user_id_jwt_field": "customer",
    "roles_jwt_field": "roles",
    "jwt_litellm_role_map": [{"jwt_role": "auditor", "litellm_role": "proxy_admin_viewer"}],
    "team_allowed_routes": ["/v1/chat/completions", "info_routes"],
}
ADMIN = "litellm_proxy_admin"


@define
class Site:
    """A process that lets tokens in, its provider, and every token that was sent to it."""

    member: Member
    keys: KeyServer
    sent: list[str] = field(factory=list)

    async def chat(self, calls: Calls, token: str, model: str = "up/any", **more: Any) -> Answer:
        """A chat completion by the holder of a token; `headers` go as such."""
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        self.sent.append(token)
        url = f"{self.member.url}/v1/chat/completions"
        return await calls.request("POST", url, token, body, headers=headers)

    async def status(self, calls: Calls, token: str, model: str = "up/any", **more: Any) -> int:
        """The status of one."""
        return (await self.chat(calls, token, model, **more)).status


@contextmanager
def site(fleet: Fleet, name: str, binary: Binary = Binary.WORKER, **fields: Any) -> Iterator[Site]:
    """A process of the fleet with tokens let in, and these members of `litellm_jwtauth`."""
    config = yaml.safe_load((fleet.folder / "config.yaml").read_text())
    jwt = {"enable_jwt_auth": True, "litellm_jwtauth": FIELDS | fields}
    path = fleet.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "general_settings": jwt}))
    with key_server(SIGNER) as keys:
        env = {
            "CONFIG_FILE_PATH": str(path),
            "JWT_PUBLIC_KEY_URL": keys.url,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_ISSUER": ISSUER,
        }
        with fleet.member(name, binary, **env) as member:
            yield Site(member, keys)


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> Iterator[Site]:
    """A worker that lets tokens in, checked to have logged none of them at the end."""
    with site(fleet, "worker-jwt") as started:
        yield started
        log = started.member.log.read_text("utf-8", "replace")
        assert "Traceback" not in log
        assert [token for token in started.sent if len(token) > 20 and token in log] == []
        signatures = [token.rpartition(".")[2] for token in started.sent]
        assert [each for each in signatures if len(each) > 20 and each in log] == []


async def user_of(owned: Owned, **columns: Any) -> str:
    """A stored user's id."""
    name = f"user-{secrets.token_hex(4)}"
    await owned.row("app_user", user_id=name, **columns)
    return name


async def team_of(owned: Owned, **columns: Any) -> str:
    """A stored team's id."""
    name = f"team-{secrets.token_hex(4)}"
    await owned.row("team", team_id=name, **columns)
    return name


def refused(answer: Answer, status: int, kind: str) -> str:
    """The message of a refusal in the common shape."""
    assert answer.status == status, answer
    error = answer.body["error"]
    assert (error["type"], error["code"]) == (kind, str(status)), answer
    return str(error["message"])


async def test_openai_client_with_a_token(calls: Calls, worker: Site) -> None:
    """The token is the client's API key: a reply, a stream, the model list; and a 401 it knows."""
    owned = Owned(calls)
    token = SIGNER.token(uid=await user_of(owned))
    client = AsyncOpenAI(
        base_url=f"{worker.member.url}/v1",
        api_key=token,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
    )
    async with client:
        asked: Any = [{"role": "user", "content": "hi"}]
        reply = await client.chat.completions.create(model="up/any", messages=asked)
        assert reply.choices[0].message.content
        stream = await client.chat.completions.create(model="up/any", messages=asked, stream=True)
        assert [chunk async for chunk in stream]
        assert "chat-one" in {model.id async for model in client.models.list()}
        client.api_key = SIGNER.token(uid="nobody")
        with pytest.raises(AuthenticationError) as refusal:
            await client.chat.completions.create(model="up/any", messages=asked)
        assert client.api_key not in str(refusal.value)


async def test_ledger_names_the_holder_and_never_the_token(calls: Calls, worker: Site) -> None:
    """Tokens of a holder are one key in the ledger, by a hash that is no token's; the team, the
    user and the organization are charged."""
    owned = Owned(calls)
    organization = owned.name("org")
    await owned.row("organization", organization_id=organization, organization_alias=organization)
    user, team = await user_of(owned), await team_of(owned)
    claims = {"uid": user, "team": team, "org": organization}
    tokens = [SIGNER.token(**claims, jti=str(number)) for number in range(2)]
    other = SIGNER.token(uid=user)
    for token in (*tokens, other):
        assert await worker.status(calls, token, f"up/ledger-{owned.mark}") == 200
    rows = await calls.ledger(3, f"ledger-{owned.mark}")
    assert [row["user_id"] for row in rows] == [user] * 3
    assert [row["team_id"] for row in rows] == [team, team, None]
    assert [row["organization_id"] for row in rows] == [organization, organization, None]
    keys = [row["key"] for row in rows]
    assert keys[0] == keys[1] != keys[2]
    assert not set(keys) & {hash_key(token) for token in (*tokens, other)}
    assert all(len(key) == 64 for key in keys)
    text = json.dumps([[str(value) for value in row.values()] for row in rows])
    assert not any(token in text for token in (*tokens, other))
    for kind, owner in (("team", team), ("user", user), ("organization", organization)):
        assert await owned.spent(kind, owner) > 0


async def test_bad_tokens_are_401(calls: Calls, worker: Site) -> None:
    """Forged, foreign, expired and odd tokens are auth errors, by what is wrong with them."""
    owned = Owned(calls)
    uid = await user_of(owned)
    pem, now = SIGNER.pem(), int(time.time())
    head = {"kid": "rsa"}
    claims = claims_of(uid=uid)
    bad = {
        "no algorithm": forged({"alg": "none", **head}, claims),
        "public key as secret": forged({"alg": "HS256", **head}, claims, pem),
        "wrong signature": Signer.make("rsa").token(uid=uid),
        "other algorithm": forged({"alg": "ES256", **head}, claims, pem),
        "unknown key": Signer.make("elsewhere").token(uid=uid),
        "expired": SIGNER.token(uid=uid, exp=now - 60),
        "no expiry": SIGNER.token(uid=uid, exp=None),
        "not valid yet": SIGNER.token(uid=uid, nbf=now + 600),
        "another audience": SIGNER.token(uid=uid, aud="other"),
        "no audience": SIGNER.token(uid=uid, aud=None),
        "another issuer": SIGNER.token(uid=uid, iss="https://evil.test"),
        "no user": SIGNER.token(),
        "odd user": SIGNER.token(uid=["a"]),
        "the master's user": SIGNER.token(uid="default_user_id"),
        "no token": "a.b.c",
        "nor this": "..",
    }
    for name, token in bad.items():
        answer = await worker.chat(calls, token)
        message = refused(answer, 401, "auth_error")
        assert token == ".." or token not in message, name
    assert "begins with" in refused(await worker.chat(calls, "nonsense"), 401, "auth_error")
    # The good one still is, also with a short-lived neighbour that has run out meanwhile.
    assert await worker.status(calls, SIGNER.token(uid=uid)) == 200


async def test_known_token_ends_when_it_expires(calls: Calls, worker: Site) -> None:
    """A token that is known goes no longer than its expiry, with half a minute for clocks."""
    owned = Owned(calls)
    token = SIGNER.token(uid=await user_of(owned), exp=int(time.time()) - 28)
    assert await worker.status(calls, token) == 200

    async def expired() -> bool:
        return await worker.status(calls, token) == 401

    await until(expired)
    assert "expired" in refused(await worker.chat(calls, token), 401, "auth_error")


async def test_limits_of_owners_hold(calls: Calls, worker: Site) -> None:
    """Rates and budgets of the team, its member and the user hold over all tokens of a holder,
    and are told in headers."""
    owned = Owned(calls)
    team = await team_of(owned, rpm_limit=2)
    member = await user_of(owned)
    first = await worker.chat(calls, SIGNER.token(team=team, jti="1"))
    assert first.status == 200
    assert first.headers["x-ratelimit-team-limit-requests"] == "2"
    answers = [await worker.chat(calls, SIGNER.token(team=team, uid=member)) for _ in range(3)]
    assert 429 in {answer.status for answer in answers}
    spent = await team_of(owned, max_budget=0)
    kinds = {(await worker.chat(calls, SIGNER.token(team=spent))).status for _ in range(2)}
    assert 422 in kinds
    poor = await user_of(owned, max_budget=0)
    assert await worker.status(calls, SIGNER.token(uid=poor)) == 422
    place = await owned.budget(max_budget=0)
    open_team = await team_of(owned)
    await owned.row("team_member", team_id=open_team, user_id=member, budget_id=place)
    assert await worker.status(calls, SIGNER.token(team=open_team)) == 200
    assert await worker.status(calls, SIGNER.token(team=open_team, uid=member)) == 422


async def test_model_lists_hold(calls: Calls, worker: Site) -> None:
    """The team's list, or the user's for a token without a team, denies models as for keys."""
    owned = Owned(calls)
    team = await team_of(owned, models=["up/red"])
    user = await user_of(owned, models=["up/red"])
    for claims, kind in (({"team": team}, "team"), ({"uid": user}, "user")):
        token = SIGNER.token(**claims)
        assert await worker.status(calls, token, "up/red") == 200
        answer = await worker.chat(calls, token, "up/blue")
        refused(answer, 403, f"{kind}_model_access_denied")
    url = f"{worker.member.url}/v1/models"
    models = await calls.request("GET", url, SIGNER.token(team=team))
    assert [each["id"] for each in models.body["data"]] == ["up/red"]
    refused(await calls.request("GET", url, SIGNER.token(exp=1)), 401, "auth_error")


async def test_which_of_several_teams(calls: Calls, worker: Site) -> None:
    """The first of a token's teams that is open and has the model, unless a header names one."""
    owned = Owned(calls)
    red = await team_of(owned, models=["up/red-*"])
    closed = await team_of(owned, blocked=True)
    blue = await team_of(owned, models=["up/red-*", "up/blue-*"], metadata={"tags": ["blue"]})
    token = SIGNER.token(groups=["no-such-team", closed, red, blue])
    for color in ("red", "blue"):
        assert await worker.status(calls, token, f"up/{color}-{owned.mark}") == 200
    named = {"x-litellm-team-id": blue}
    assert await worker.status(calls, token, f"up/red-{owned.mark}", headers=named) == 200
    rows = await calls.ledger(3, f"%-{owned.mark}")
    assert [row["team_id"] for row in rows] == [red, blue, blue]
    assert [row["tags"] for row in rows] == [None, ["blue"], ["blue"]]
    answer = await worker.chat(calls, token, "up/green")
    refused(answer, 403, "team_model_access_denied")
    answer = await worker.chat(calls, token, headers={"x-litellm-team-id": closed})
    assert "blocked" in refused(answer, 401, "auth_error")
    foreign = {"x-litellm-team-id": await team_of(owned)}
    refused(await worker.chat(calls, token, headers=foreign), 403, "auth_error")
    for groups in ([closed], ["no-such-team"], []):
        refused(await worker.chat(calls, SIGNER.token(groups=groups)), 401, "auth_error")


async def test_what_is_changed_holds_within_a_second(calls: Calls, worker: Site) -> None:
    """A blocked team and a deleted user are out at once for tokens that are known, and a user who
    was not known comes in when it has been made."""
    owned = Owned(calls)
    team, user = await team_of(owned), await user_of(owned)
    tokens = {"team": SIGNER.token(team=team), "user": SIGNER.token(uid=user)}
    late = f"late-{owned.mark}"
    tokens["late"] = SIGNER.token(uid=late)

    async def until_status(name: str, status: int) -> float:
        async def reached() -> bool:
            return await worker.status(calls, tokens[name]) == status

        return await until(reached)

    for name, status in (("team", 200), ("user", 200), ("late", 401)):
        assert await worker.status(calls, tokens[name]) == status
        assert await worker.status(calls, tokens[name]) == status
    await calls.sql("update team set blocked = true where team_id = $1", team)
    assert await until_status("team", 401) < 1.0
    await calls.sql("delete from app_user where user_id = $1", user)
    assert await until_status("user", 401) < 1.0
    await owned.row("app_user", user_id=late)
    assert await until_status("late", 200) < 1.0
    await calls.sql("update team set blocked = false where team_id = $1", team)
    assert await until_status("team", 200) < 1.0


async def test_user_is_found_anew_when_users_change(calls: Calls, worker: Site) -> None:
    """A token that is known by an address is the other user's once that user has the address."""
    owned = Owned(calls)
    address = f"{owned.mark}@example.test"
    one = await user_of(owned, user_email=address)
    two = await user_of(owned, models=["up/none"])
    token = SIGNER.token(uid=f"sso-{owned.mark}", email=address.upper())
    assert await worker.status(calls, token) == 200
    await calls.sql(
        "update app_user set sso_user_id = $1 where user_id = $2", f"sso-{owned.mark}", two
    )
    await owned.applied()
    refused(await worker.chat(calls, token), 403, "user_model_access_denied")
    await calls.sql("update app_user set sso_user_id = null where user_id = $1", two)
    await owned.applied()
    assert await worker.status(calls, token) == 200
    await calls.sql("delete from app_user where user_id = $1", one)
    await owned.applied()
    refused(await worker.chat(calls, token), 401, "auth_error")


async def test_roles_and_routes(calls: Calls, worker: Site) -> None:
    """The admin scope calls as the master key does, for a team if it names one; viewers of
    everything call nothing; a token of a team alone keeps to the team's routes."""
    owned = Owned(calls)
    team = await team_of(owned, models=["up/red"], rpm_limit=1)
    admin = SIGNER.token(scope=ADMIN, uid=f"boss-{owned.mark}")
    assert await worker.status(calls, admin, f"up/boss-{owned.mark}") == 200
    named = {"x-litellm-team-id": team}
    statuses = [await worker.status(calls, admin, headers=named) for _ in range(3)]
    assert statuses[0] == 200
    assert 429 in statuses
    unknown = {"x-litellm-team-id": "no-such-team"}
    refused(await worker.chat(calls, admin, headers=unknown), 401, "auth_error")
    (row,) = await calls.ledger(1, f"boss-{owned.mark}")
    assert (row["user_id"], row["team_id"]) == (f"boss-{owned.mark}", None)
    viewer = await user_of(owned, user_role="proxy_admin_viewer")
    plain = await user_of(owned, user_role="internal_user_viewer")
    refused(await worker.chat(calls, SIGNER.token(uid=viewer)), 403, "auth_error")
    mapped = SIGNER.token(uid=plain, roles=["auditor"])
    refused(await worker.chat(calls, mapped), 403, "auth_error")
    assert await worker.status(calls, SIGNER.token(uid=plain)) == 200
    url, body = f"{worker.member.url}/v1/embeddings", {"model": "up/red", "input": "hi"}
    denied = await calls.request("POST", url, SIGNER.token(team=team), body)
    assert (denied.status, list(denied.body)) == (403, ["detail"])
    assert (await calls.request("POST", url, SIGNER.token(uid=plain), body)).status == 200


async def test_end_user_of_the_token(calls: Calls, worker: Site) -> None:
    """The end user that a token names wins over those that the request names."""
    owned = Owned(calls)
    user, customer = await user_of(owned), owned.name("customer")
    await owned.row("end_user", end_user_id=customer, blocked=True)
    await owned.applied()
    token = SIGNER.token(uid=user, customer=customer)
    answer = await worker.chat(calls, token, user="free", headers={"x-litellm-end-user-id": "free"})
    assert "end user" in refused(answer, 401, "auth_error")
    assert await worker.status(calls, SIGNER.token(uid=user), user="free") == 200


async def test_organization_must_be_there(calls: Calls, worker: Site) -> None:
    """Its budget holds; one that is not stored lets nobody in."""
    owned = Owned(calls)
    user, name = await user_of(owned), owned.name("org")
    budget = await owned.budget(max_budget=0)
    await owned.row("organization", organization_id=name, organization_alias=name, budget_id=budget)
    assert await worker.status(calls, SIGNER.token(uid=user, org=name)) == 422
    refused(await worker.chat(calls, SIGNER.token(uid=user, org="none")), 401, "auth_error")


async def test_many_at_once(calls: Calls, worker: Site) -> None:
    """Hundreds of first calls with a few new tokens all go through."""
    owned = Owned(calls)
    user = await user_of(owned)
    tokens = [SIGNER.token(uid=user, jti=str(number)) for number in range(5)]
    many = (worker.status(calls, token) for token in tokens * 40)
    assert set(await asyncio.gather(*many)) == {200}


async def test_rotated_keys_and_provider_away(calls: Calls, worker: Site) -> None:
    """A new key is fetched when a token names it. While the provider is away known keys go on,
    and a token with an unknown one is 503; virtual keys do not notice."""
    owned = Owned(calls)
    user = await user_of(owned)
    new, newer = Signer.make("new"), Signer.make("newer", "ES256")
    worker.keys.add(new)

    async def is_good(token: str) -> bool:
        return await worker.status(calls, token) == 200

    await until(lambda: is_good(new.token(uid=user)), what="the new key")
    worker.keys.away = True
    token = newer.token(uid=user)

    async def unavailable() -> bool:
        return await worker.status(calls, token) == 503

    await until(unavailable, what="a fetch that fails")
    answer = await worker.chat(calls, token)
    refused(answer, 503, "auth_provider_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert await is_good(SIGNER.token(uid=user))
    key = await owned.key()
    assert await is_good(key)
    worker.keys.away = False
    worker.keys.add(newer)
    await until(lambda: is_good(token), what="the newest key")


async def test_users_are_made_where_that_is_asked_for(calls: Calls) -> None:
    """A worker makes a user once, with an audit entry, for whom many calls come at once; a long
    token is read."""
    owned = Owned(calls)
    with site(calls.fleet, "worker-upsert", user_id_upsert=True) as worker:
        token = SIGNER.token(
            uid=owned.name("new"), email=f"{owned.mark}@example.test", pad="x" * 4500
        )
        assert len(token) > 6000
        many = await asyncio.gather(*(worker.status(calls, token) for _ in range(8)))
        assert set(many) == {200}
    (row,) = await calls.sql("select * from app_user where user_id = $1", owned.name("new"))
    assert (row["user_email"], row["user_role"]) == (f"{owned.mark}@example.test", "internal_user")
    (entry,) = await calls.sql("select * from audit_log where object_id = $1", owned.name("new"))
    assert (entry["action"], entry["changed_by_api_key"]) == ("created", f"jwt:{owned.name('new')}")
    assert entry["source_ip"] == "127.0.0.1"


async def test_an_admin_serves_tokens_on_both_kinds_of_routes(calls: Calls) -> None:
    """One provider and one configuration for LLM calls and the management API."""
    owned = Owned(calls)
    user = await user_of(owned)
    with site(calls.fleet, "admin-tokens", Binary.ADMIN) as admin:
        token = SIGNER.token(uid=user)
        assert await admin.status(calls, token) == 200
        assert (await calls.request("GET", f"{admin.member.url}/key/list", token)).status == 200
        assert admin.keys.asked == 1
        refused(await admin.chat(calls, SIGNER.token(uid="nobody")), 401, "auth_error")


async def test_tokens_are_no_keys_where_they_are_not_let_in(calls: Calls) -> None:
    """Without `enable_jwt_auth` a token is refused without a look at it."""
    for member in calls.fleet.workers:
        answer = await calls.chat(member, SIGNER.token(), "up/any")
        assert "begins with" in refused(answer, 401, "auth_error")


async def test_worker_without_a_key_address_does_not_start(fleet: Fleet, tmp_path: Path) -> None:
    """The message names the setting."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"general_settings": {"enable_jwt_auth": True}}))
    member = fleet.start("worker-bad-jwt", Binary.WORKER, CONFIG_FILE_PATH=str(path))
    assert await asyncio.to_thread(member.wait) == 2
    assert "JWT_PUBLIC_KEY_URL" in member.log.read_text()
