"""The management API with tokens of a sign-in provider instead of keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.admin.api.deps import ADMIN
from services.admin.jwt_start import jwt_login
from shared.config.startup import read_configuration
from shared.domain.capabilities import Binary
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError
from shared.keys.jwt_start import token_verifier
from tests.support.admin_api import Admin, StartAdmin, admins, error_of
from tests.support.fleet import Calls
from tests.support.jwks_server import AUDIENCE, ISSUER, Provider, Signer, start_provider

SIGNER = Signer.make("rsa")
ENV = {"JWT_AUDIENCE": AUDIENCE, "JWT_ISSUER": ISSUER, "LITELLM_MASTER_KEY": "sk-" + "m" * 40}
FIELDS = {
    "user_id_jwt_field": "sub",
    "user_email_jwt_field": "email",
    "team_ids_jwt_field": "groups",
    "roles_jwt_field": "realm.roles",
}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    started = await start_provider(SIGNER)
    yield started
    await started.server.close()


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as starter:
        yield starter


@pytest.fixture
async def login(start: StartAdmin, provider: Provider, tmp_path: Path) -> AsyncIterator[Any]:
    """Starts an admin by a configuration file with these members of `litellm_jwtauth`."""
    opened = []

    async def open_with(**fields: Any) -> Admin:
        jwt = login_of(tmp_path, {"JWT_PUBLIC_KEY_URL": provider.url}, FIELDS | fields)
        assert jwt is not None
        opened.append(jwt)
        admin = await start(jwt=jwt)
        await admin.sql(
            "insert into app_user (user_id, user_role, user_email) values "
            "('ada', 'proxy_admin', 'ada@example.test'), ('iu', 'internal_user', null), "
            "('pav', 'proxy_admin_viewer', null) on conflict do nothing"
        )
        await admin.sql(
            "insert into team (team_id, blocked) values ('red', false), ('closed', true) "
            "on conflict do nothing"
        )
        return admin

    yield open_with
    for jwt in opened:
        await jwt.close()


def login_of(folder: Path, environ: dict[str, str], jwtauth: Any, enabled: bool = True) -> Any:
    """What a configuration file and an environment start with."""
    path = folder / "config.yaml"
    given = {"enable_jwt_auth": enabled, "litellm_jwtauth": jwtauth}
    path.write_text(yaml.safe_dump({"general_settings": given}))
    configuration = read_configuration(ENV | environ, Binary.ADMIN, path)
    general = configuration.gateway.general
    verifier = token_verifier(configuration.settings, general, Clock())
    return jwt_login(verifier, general.litellm_jwtauth)


async def audit(admin: Admin, token: str) -> int:
    """The status of what proxy admins and their viewers alone may read."""
    return (await admin.call("GET", "/audit", key=token))[0]


async def test_role_of_the_stored_user_counts(login: Any):
    """A token says who calls; what the user may do stands in the store."""
    admin = await login()
    assert await audit(admin, SIGNER.token(sub="ada")) == 200
    assert await audit(admin, SIGNER.token(sub="pav")) == 200
    assert await audit(admin, SIGNER.token(sub="iu")) == 401
    made = await admin.call("POST", "/key/generate", {}, key=SIGNER.token(sub="ada"))
    assert made[0] == 200, made
    denied = await admin.call("POST", "/budget/new", {"max_budget": 1}, key=SIGNER.token(sub="pav"))
    error_of(denied, 403, "auth_error")


async def test_bad_tokens_are_401_in_the_common_shape(login: Any):
    """A forged, an expired and a strange token are auth errors, and none is repeated."""
    admin = await login()
    for token in (Signer.make("rsa").token(), SIGNER.token(exp=1), "a.b.c", "a.b", "nonsense"):
        error = error_of(await admin.call("GET", "/audit", key=token), 401, "auth_error")
        assert token not in error["message"] or len(token) < 5


async def test_unknown_user_is_refused_and_not_made(login: Any):
    """Without `user_id_upsert` only stored users come in."""
    admin = await login()
    answer = await admin.call("GET", "/key/list", key=SIGNER.token(sub="nobody"))
    error_of(answer, 401, "auth_error")
    assert not await admin.sql("select 1 from app_user where user_id = 'nobody'")


async def test_unknown_user_is_made_once(login: Any):
    """With `user_id_upsert` the first of many calls at once makes the user, with an entry."""
    admin = await login(user_id_upsert=True)
    token = SIGNER.token(sub="new", email="new@example.test")
    answers = await asyncio.gather(*(admin.call("GET", "/key/list", key=token) for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    (row,) = await admin.sql("select * from app_user where user_id = 'new'")
    assert (row["user_email"], row["user_role"]) == ("new@example.test", "internal_user")
    (entry,) = await admin.sql("select * from audit_log where object_id = 'new'")
    assert (entry["action"], entry["changed_by_api_key"]) == ("created", "jwt:new")
    assert entry["source_ip"] == "127.0.0.1"
    assert await audit(admin, token) == 401


async def test_user_is_found_by_provider_id_or_address(login: Any):
    """An id that is no user's, but the provider's id or the address of one, is that user's."""
    admin = await login(user_id_upsert=True)
    await admin.sql("update app_user set sso_user_id = 'sso-7' where user_id = 'pav'")
    assert await audit(admin, SIGNER.token(sub="sso-7")) == 200
    assert await audit(admin, SIGNER.token(sub="x", email="ADA@example.test")) == 200
    unverified = SIGNER.token(sub="x", email="ada@example.test", email_verified=False)
    assert await audit(admin, unverified) == 401


async def test_admin_scope(login: Any):
    """The scope makes a proxy admin, known or not, in either form of the claim."""
    admin = await login()
    for scope in ("openid litellm_proxy_admin", ["openid", "litellm_proxy_admin"]):
        assert await audit(admin, SIGNER.token(sub="stranger", scope=scope)) == 200
        assert await audit(admin, SIGNER.token(sub=None, scope=scope)) == 200
    for scope in ("litellm_proxy_admins", "openid", "", [], {"litellm_proxy_admin": 1}, None):
        assert await audit(admin, SIGNER.token(sub="iu", scope=scope)) == 401
    other = await login(admin_jwt_scope="root")
    assert await audit(other, SIGNER.token(sub="iu", scope="litellm_proxy_admin")) == 401
    assert await audit(other, SIGNER.token(sub="iu", scope="root")) == 200


async def test_admin_routes_can_be_narrowed(login: Any):
    """`admin_allowed_routes` holds for the scope's holders as a key's routes do."""
    admin = await login(admin_allowed_routes=["/key", "info_routes"])
    token = SIGNER.token(scope="litellm_proxy_admin")
    assert (await admin.call("GET", "/key/list", key=token))[0] == 200
    status, body = await admin.call("GET", "/audit", key=token)
    assert (status, list(body)) == (403, ["detail"])


async def test_mapped_roles_win_over_stored_ones(login: Any):
    """The first entry of the map that fits gives the role, whatever the user's own is."""
    roles = [
        {"jwt_role": "viewer-*", "litellm_role": "proxy_admin_viewer"},
        {"jwt_role": "boss", "litellm_role": "proxy_admin"},
    ]
    admin = await login(jwt_litellm_role_map=roles)

    def token(*names: Any) -> str:
        return SIGNER.token(sub="iu", realm={"roles": list(names)})

    assert await audit(admin, token("boss")) == 200
    assert await audit(admin, token("x", "viewer-eu")) == 200
    assert await audit(admin, token("bos", "viewer")) == 401
    assert await audit(admin, token(7, None, {"boss": 1})) == 401
    body = {"max_budget": 1}
    assert (await admin.call("POST", "/budget/new", body, key=token("boss")))[0] == 200
    assert (await admin.call("POST", "/budget/new", body, key=token("boss", "viewer-1")))[0] == 403


async def test_allowed_roles_and_domain(login: Any):
    """Who has none of the roles, or an address elsewhere, is not let in."""
    admin = await login(
        user_roles_jwt_field="https://example.test/roles",
        user_allowed_roles=["staff"],
        user_allowed_email_domain="Example.test",
    )

    async def status(roles: Any, email: Any) -> int:
        claims = {"https://example.test/roles": roles, "email": email}
        return await audit(admin, SIGNER.token(sub="ada", **claims))

    assert await status(["staff"], "a@EXAMPLE.test") == 200
    assert await status("staff", "a@example.test") == 200
    for roles, email in (
        (["guest"], "a@example.test"),
        (None, "a@example.test"),
        (["staff"], "a@notexample.test"),
        (["staff"], "a@example.test@evil.test"),
        (["staff"], None),
    ):
        assert await status(roles, email) == 401, (roles, email)


async def test_teams_of_a_token_are_memberships_and_no_more(login: Any):
    """Teams that exist and are open count as the holder's, never as ones that it administers."""
    admin = await login()
    services = admin.client.app[ADMIN]
    token = SIGNER.token(sub="iu", groups=["red", "closed", "?"])
    caller = await services.jwt.caller(token, services)
    assert dict(caller.teams) == {"red": "user"}
    assert caller.admin_teams == frozenset()
    await admin.sql(
        "insert into team_member (team_id, user_id, role) values ('red', 'iu', 'admin')"
    )
    caller = await services.jwt.caller(SIGNER.token(sub="iu", groups=["red"]), services)
    assert caller.admin_teams == frozenset({"red"})


async def test_token_of_a_team_alone(login: Any):
    """It may ask for information, and nothing else; a team that is not there lets nobody in."""
    admin = await login(user_id_jwt_field="no_such_claim")
    assert (await admin.call("GET", "/key/list", key=SIGNER.token(groups="red")))[0] == 200
    status, body = await admin.call("POST", "/key/generate", {}, key=SIGNER.token(groups=["red"]))
    assert (status, list(body)) == (403, ["detail"])
    for groups in (["closed"], ["?"], [], None, [7]):
        answer = await admin.call("GET", "/key/list", key=SIGNER.token(groups=groups))
        error_of(answer, 401, "auth_error")


async def test_no_token_is_the_master_s_user(login: Any):
    """Neither its id nor an address that leads to it lets a token be the master key's user."""
    admin = await login(user_id_upsert=True)
    await admin.sql(
        "insert into app_user (user_id, user_email, user_role) values "
        "('default_user_id', 'root@example.test', 'proxy_admin')"
    )
    for claims in ({"sub": "default_user_id"}, {"sub": "x", "email": "root@example.test"}):
        error_of(await admin.call("GET", "/audit", key=SIGNER.token(**claims)), 401, "auth_error")


@pytest.mark.parametrize(
    "subject", ["default_user_id", "a\x00b", "x" * 600, ["ada"], {"ada": 1}, True, 1.5]
)
async def test_odd_ids_are_refused(login: Any, subject: Any):
    """What cannot be an id, or is the master's, names nobody."""
    admin = await login(user_id_upsert=True, user_id_jwt_field="uid")
    error_of(await admin.call("GET", "/key/list", key=SIGNER.token(uid=subject)), 401, "auth_error")


async def test_changes_are_recorded_as_the_holder_s(login: Any):
    """The audit log names the token's user, whatever the header says."""
    admin = await login()
    named = {"litellm-changed-by": "somebody else"}
    body = {"budget_id": "b", "max_budget": 1}
    made = await admin.call("POST", "/budget/new", body, key=SIGNER.token(sub="ada"), headers=named)
    assert made[0] == 200
    (entry,) = await admin.sql("select * from audit_log where object_id = 'b'")
    assert (entry["changed_by"], entry["actor"]) == ("somebody else", "ada")
    assert entry["changed_by_api_key"] == "jwt:ada"


async def test_long_tokens_and_keys_beside_them(login: Any):
    """A token of 7 kB is read; keys and the master key work as before; long keys do not."""
    admin = await login()
    token = SIGNER.token(sub="ada", padding="x" * 4500)
    assert len(token) > 6000
    assert await audit(admin, token) == 200
    key = (await admin.generate(user_id="ada"))["key"]
    assert await audit(admin, key) == 200
    answer = await admin.call("GET", "/audit", key="sk-" + "x" * 3000)
    error_of(answer, 401, "token_not_found_in_db", "key")


async def test_provider_away_is_503(login: Any, provider: Provider):
    """Who cannot be checked is not refused as if the token were bad."""
    admin = await login()
    await provider.server.close()
    answer = await admin.call("GET", "/audit", key=SIGNER.token())
    error_of(answer, 503, "auth_provider_unavailable")


async def test_tokens_are_let_in_only_where_that_is_asked_for(start: StartAdmin, tmp_path: Path):
    """Without `enable_jwt_auth` a token is no key."""
    assert login_of(tmp_path, {}, {}, enabled=False) is None
    admin = await start()
    error_of(await admin.call("GET", "/audit", key=SIGNER.token()), 401, "auth_error")


@pytest.mark.xdist_group("fleet")
async def test_an_admin_process_lets_tokens_in(calls: Calls, provider: Provider, tmp_path: Path):
    """By its configuration file and environment alone; keys are checked as before."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"general_settings": {"enable_jwt_auth": True}}))
    env = {"CONFIG_FILE_PATH": str(path), "JWT_PUBLIC_KEY_URL": provider.url}
    starting = calls.fleet.member("admin-jwt", Binary.ADMIN, **env, JWT_AUDIENCE=AUDIENCE)
    with starting as member:
        url = f"{member.url}/audit"
        admin = await calls.request("GET", url, SIGNER.token(scope="litellm_proxy_admin"))
        assert admin.status == 200, admin
        for token in (SIGNER.token(), SIGNER.token(aud="x", scope="litellm_proxy_admin")):
            assert (await calls.request("GET", url, token)).status == 401
        assert (await calls.request("GET", url, calls.fleet.master_key)).status == 200


@pytest.mark.parametrize(
    ("environ", "jwtauth", "said"),
    [
        ({}, {}, "JWT_PUBLIC_KEY_URL"),
        ({"JWT_PUBLIC_KEY_URL": "ftp://x"}, {}, "JWT_PUBLIC_KEY_URL"),
        ({"JWT_PUBLIC_KEY_URL": "https://user:pw@x/"}, {}, "JWT_PUBLIC_KEY_URL"),
        ({"JWT_PUBLIC_KEY_URL": "https://x"}, {"user_id_jwt_feild": "sub"}, "user_id_jwt_field"),
        ({"JWT_PUBLIC_KEY_URL": "https://x"}, {"public_key_ttl": -1}, "public_key_ttl"),
        (
            {"JWT_PUBLIC_KEY_URL": "https://x"},
            {"jwt_litellm_role_map": [{"jwt_role": "a"}]},
            "litellm_role",
        ),
        (
            {"JWT_PUBLIC_KEY_URL": "https://x"},
            {"jwt_litellm_role_map": [{"jwt_role": "a", "litellm_role": "root"}]},
            "root",
        ),
    ],
)
async def test_settings_that_cannot_work_are_refused_at_start(
    tmp_path: Path, environ: dict[str, str], jwtauth: dict[str, Any], said: str
):
    """The message names the setting."""
    with pytest.raises(ConfigError, match=said):
        login_of(tmp_path, environ, jwtauth)
