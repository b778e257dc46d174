"""A worker that lets tokens in while its database is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
import yaml

from tests.support.jwks_server import Signer
from tests.support.key_server import key_server
from tests.support.one_worker import chat, one_worker
from tests.support.postgres import Postgres

pytestmark = pytest.mark.xdist_group("faults")


async def test_known_holders_go_on(tmp_path: Path, own_postgres: Postgres) -> None:
    """A known token is served, a new one is 503 and never 401, and is good when the database is
    back; a token that is bad is 401 all the while."""
    database = own_postgres.create()
    connection = await asyncpg.connect(database)
    await connection.execute("insert into app_user (user_id) values ('ada'), ('bob')")
    await connection.close()
    signer = Signer.make("rsa")
    path = tmp_path / "jwt.yaml"
    model = {"model_name": "echo", "litellm_params": {"model": "demo/echo"}}
    jwt = {"enable_jwt_auth": True, "litellm_jwtauth": {"user_id_jwt_field": "sub"}}
    path.write_text(yaml.safe_dump({"model_list": [model], "general_settings": jwt}))
    with (
        key_server(signer) as keys,
        one_worker(
            tmp_path, database, CONFIG_FILE_PATH=str(path), JWT_PUBLIC_KEY_URL=keys.url
        ) as worker,
    ):
        ada, bob, bad = signer.token(sub="ada"), signer.token(sub="bob"), signer.token(exp=1)

        async def statuses() -> list[int]:
            return [(await worker.ask(chat(), token)).status for token in (ada, bob, bad)]

        assert (await worker.ask(chat(), ada)).status == 200
        await asyncio.to_thread(own_postgres.stop)
        assert await statuses() == [200, 503, 401]
        assert (await worker.ask(chat(), bob)).error["type"] == "no_db_connection"
        await asyncio.to_thread(own_postgres.start)
        async with asyncio.timeout(20.0):
            while await statuses() != [200, 200, 401]:  # noqa: ASYNC110 - a client trying again
                await asyncio.sleep(0.05)
