"""The database of a LiteLLM proxy, for imports: its tables with their real names and types, rows in
them, and values encrypted as that proxy does it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
from attrs import frozen
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.secret import SecretBox

from services.admin.cli import _parser
from services.admin.commands import run

ROOT = Path(__file__).resolve().parents[2]
SALT = "sk-salt-of-the-other-gateway-0123456789"
OUR_SALT = "sk-salt-of-this-gateway-0123456789abc"
OUR_MASTER = "sk-master-of-this-gateway-0123456789abc"

_MADE = "created_at timestamp(3) default now(), updated_at timestamp(3) default now()"
_SIGNED = f"{_MADE}, created_by text, updated_by text"
_RATES = "max_parallel_requests integer, tpm_limit bigint, rpm_limit bigint, tpd_limit bigint"
_BUDGET = "max_budget float8, budget_duration text, budget_reset_at timestamp(3)"
_KEY = f"""
    key_name text, key_alias text, soft_budget_cooldown boolean default false,
    spend float8 not null default 0, expires timestamp(3), models text[],
    aliases jsonb not null default '{{}}', config jsonb not null default '{{}}',
    router_settings jsonb default '{{}}', user_id text, team_id text, agent_id text,
    project_id text, permissions jsonb not null default '{{}}',
    metadata jsonb not null default '{{}}', blocked boolean, {_RATES}, {_BUDGET},
    allowed_cache_controls text[] default '{{}}', allowed_routes text[] default '{{}}',
    policies text[] default '{{}}', access_group_ids text[] default '{{}}',
    model_spend jsonb not null default '{{}}', model_max_budget jsonb not null default '{{}}',
    budget_limits jsonb, budget_fallbacks jsonb, budget_id text, organization_id text,
    object_permission_id text, key_type text, {_SIGNED}, last_active timestamp(3),
    rotation_count integer default 0, auto_rotate boolean default false, rotation_interval text,
    last_rotation_at timestamp(3), key_rotation_at timestamp(3)
"""
_TEAM = f"""
    team_alias text, organization_id text, object_permission_id text, admins text[],
    members text[], members_with_roles jsonb not null default '{{}}',
    metadata jsonb not null default '{{}}', {_BUDGET}, soft_budget float8,
    spend float8 not null default 0, models text[], {_RATES}, blocked boolean default false,
    model_spend jsonb not null default '{{}}', model_max_budget jsonb not null default '{{}}',
    router_settings jsonb default '{{}}', team_member_permissions text[] default '{{}}',
    access_group_ids text[] default '{{}}', policies text[] default '{{}}',
    default_team_member_models text[] default '{{}}', budget_limits jsonb, model_id integer,
    allow_team_guardrail_config boolean default false, {_MADE}
"""
_GONE = """
    deleted_at timestamp(3) not null default now(), deleted_by text, deleted_by_api_key text,
    litellm_changed_by text
"""
_DAILY = """
    date text not null, api_key text not null, model text, model_group text,
    custom_llm_provider text, mcp_namespaced_tool_name text, endpoint text,
    prompt_tokens bigint default 0, completion_tokens bigint default 0,
    cache_read_input_tokens bigint default 0, cache_creation_input_tokens bigint default 0,
    spend float8 not null default 0, api_requests bigint default 0,
    successful_requests bigint default 0, failed_requests bigint default 0,
    total_response_time_ms bigint default 0, created_at timestamp(3) default now()
"""
TABLES: Mapping[str, str] = MappingProxyType(
    {
        "BudgetTable": f"budget_id text primary key, {_BUDGET}, soft_budget float8, {_RATES}, "
        "model_max_budget jsonb, allowed_models text[] default '{}', "
        f"temp_budget_increase float8, temp_budget_expiry timestamp(3), {_SIGNED}",
        "ObjectPermissionTable": "object_permission_id text primary key, "
        "mcp_servers text[] default '{}', mcp_access_groups text[] default '{}', "
        "mcp_tool_permissions jsonb, vector_stores text[] default '{}', "
        "agents text[] default '{}', agent_access_groups text[] default '{}', "
        "models text[] default '{}', blocked_tools text[] default '{}'",
        "OrganizationTable": "organization_id text primary key, organization_alias text not null, "
        "budget_id text not null, metadata jsonb default '{}', models text[], "
        f"spend float8 not null default 0, object_permission_id text, {_SIGNED}",
        "OrganizationMembership": "user_id text, organization_id text, user_role text, "
        f"spend float8 default 0, budget_id text, {_MADE}, primary key (user_id, organization_id)",
        "ModelTable": "id serial primary key, aliases jsonb",
        "UserTable": "user_id text primary key, user_alias text, team_id text, "
        "sso_user_id text unique, organization_id text, object_permission_id text, password text, "
        "teams text[] default '{}', user_role text, user_email text, models text[], "
        f"metadata jsonb not null default '{{}}', spend float8 not null default 0, {_BUDGET}, "
        f"{_RATES}, allowed_cache_controls text[] default '{{}}', policies text[] default '{{}}', "
        f"model_spend jsonb default '{{}}', model_max_budget jsonb default '{{}}', "
        f"budget_limits jsonb, {_MADE}",
        "TeamTable": f"team_id text primary key, {_TEAM}",
        "DeletedTeamTable": f"id text primary key, team_id text not null, {_TEAM}, {_GONE}",
        "TeamMembership": "user_id text, team_id text, spend float8 not null default 0, "
        "total_spend float8 not null default 0, budget_id text, primary key (user_id, team_id)",
        "ProjectTable": "project_id text primary key, project_alias text, description text, "
        "team_id text, budget_id text, metadata jsonb default '{}', models text[], "
        "spend float8 not null default 0, model_rpm_limit jsonb default '{}', "
        "model_tpm_limit jsonb default '{}', blocked boolean default false, "
        f"object_permission_id text, {_SIGNED}",
        "VerificationToken": f"token text primary key, {_KEY}",
        "DeletedVerificationToken": f"id text primary key, token text not null, {_KEY}, {_GONE}",
        "DeprecatedVerificationToken": "id text primary key, token text not null unique, "
        "active_token_id text not null, revoke_at timestamp(3) not null, "
        "created_at timestamp(3) default now()",
        "EndUserTable": "user_id text primary key, alias text, spend float8 not null default 0, "
        "allowed_model_region text, default_model text, budget_id text, "
        "object_permission_id text, blocked boolean not null default false",
        "TagTable": "tag_name text primary key, description text, models text[], "
        "model_info jsonb, spend float8 not null default 0, budget_id text, "
        "created_at timestamp(3) default now(), created_by text, "
        "updated_at timestamp(3) default now()",
        "AccessGroupTable": "access_group_id text primary key, access_group_name text unique, "
        "description text, access_model_names text[] default '{}', "
        "access_mcp_server_ids text[] default '{}', access_agent_ids text[] default '{}', "
        "assigned_team_ids text[] default '{}', assigned_key_ids text[] default '{}', "
        f"{_SIGNED}",
        "ModelAccessGroupBudgetTable": "access_group_name text primary key, "
        f"spend float8 not null default 0, budget_id text, {_SIGNED}",
        "ProxyModelTable": "model_id text primary key, model_name text not null, "
        "litellm_params jsonb not null, model_info jsonb, blocked boolean default false, "
        f"{_SIGNED}",
        "CredentialsTable": "credential_id text primary key, credential_name text unique, "
        f"credential_values jsonb not null, credential_info jsonb, {_SIGNED}",
        "Config": "param_name text primary key, param_value jsonb",
        "BudgetWindowSpend": "entity_type text, entity_id text, window_duration text, "
        "window_start timestamp(3) not null, spend float8 not null default 0, "
        "primary key (entity_type, entity_id, window_duration)",
        "InvitationLink": "id text primary key, user_id text not null, "
        "expires_at timestamp(3) not null default now()",
        "SpendLogs": "request_id text primary key, spend float8 not null default 0",
        "DailyUserSpend": f"id text primary key, user_id text, {_DAILY}",
        "DailyTeamSpend": f"id text primary key, team_id text, {_DAILY}",
        "DailyOrganizationSpend": f"id text primary key, organization_id text, {_DAILY}",
        "DailyEndUserSpend": f"id text primary key, end_user_id text, {_DAILY}",
        "DailyTagSpend": f"id text primary key, request_id text, tag text, {_DAILY}",
    }
)


@frozen
class LiteLLMDatabase:
    """Such a database at a DSN."""

    dsn: str

    async def create(self, without: Iterable[str] = ()) -> None:
        """Makes the tables, but some of them."""
        names = [name for name in TABLES if name not in set(without)]
        await self.run(*(f'create table "LiteLLM_{name}" ({TABLES[name]})' for name in names))

    async def add(self, table: str, *rows: Mapping[str, Any]) -> None:
        """Inserts rows; values as JSON has them, numbers such as NaN as text."""
        connection = await asyncpg.connect(self.dsn)
        try:
            for row in rows:
                names = ", ".join(f'"{name}"' for name in row)
                await connection.execute(
                    f'insert into "LiteLLM_{table}" ({names}) select {names} from '
                    f'jsonb_populate_record(null::"LiteLLM_{table}", $1::jsonb)',
                    json.dumps(row),
                )
        finally:
            await connection.close()

    async def run(self, *statements: str) -> None:
        """Runs statements."""
        connection = await asyncpg.connect(self.dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@frozen
class Outcome:
    """How the command ended."""

    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What it printed for programs."""
        return dict(json.loads(self.out))

    def line(self, name: str) -> tuple[str, str, str, bool]:
        """Source, left out, here, equal of a line of the report."""
        found = next(each for each in self.report["lines"] if each["name"] == name)
        return found["source"], found["left_out"], found["here"], found["equal"]

    def examples(self, group: str) -> set[str]:
        """The dotted names under `wrong`, `changed` or `left_out`."""
        return {name for each in self.report[group] for name in each["examples"]}


def _environ(target: str, more: Mapping[str, str]) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MERIDIAN_", "LITELLM_", "DATABASE_", "CONFIG_"))
    }
    return clean | {
        "DATABASE_URL": target,
        "LITELLM_MASTER_KEY": OUR_MASTER,
        "LITELLM_SALT_KEY": OUR_SALT,
        "OTHER_SALT": SALT,
        "PYTHONPATH": str(ROOT),
        **more,
    }


def _words(source: str, arguments: tuple[str, ...]) -> list[str]:
    options = ["--from", source, "--salt-key-env", "OTHER_SALT", "--json", *arguments]
    return ["import", "litellm", *options]


async def imported(
    source: str, target: str, *arguments: str, environ: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """Runs the command as a process of its own, with a report for programs."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "services.admin.cli", *_words(source, arguments)],
        env=_environ(target, environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


async def imported_here(
    source: str, target: str, *arguments: str, environ: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """The same in a thread of this process, which is quicker."""
    options = _parser().parse_args(_words(source, arguments))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = await asyncio.to_thread(run, options.command, options, _environ(target, environ))
    return Outcome(status, out.getvalue(), err.getvalue())


async def contents(dsn: str) -> dict[str, str]:
    """A digest of all rows of every table, by name."""
    connection = await asyncpg.connect(dsn)
    try:
        names = await connection.fetch(
            "select relname from pg_class where relkind = 'r' "
            "and relnamespace = 'public'::regnamespace"
        )
        return {
            row["relname"]: await connection.fetchval(
                f"select coalesce(md5(string_agg(t::text, E'\\n' order by t::text)), '') "
                f'from "{row["relname"]}" t'
            )
            for row in names
        }
    finally:
        await connection.close()


async def rows(dsn: str, query: str, *args: Any) -> list[asyncpg.Record]:
    """Rows of a statement."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(query, *args))
    finally:
        await connection.close()


def boxed(text: str, salt: str = SALT) -> str:
    """Encrypted in the default way."""
    key = hashlib.sha256(salt.encode()).digest()
    return base64.urlsafe_b64encode(SecretBox(key).encrypt(text.encode())).decode()


def gcm(text: str, salt: str = SALT, version: int = 2) -> str:
    """Encrypted in the other ways."""
    key = hashlib.sha256(salt.encode()).digest()
    if version == 3:
        derived = HKDF(SHA256(), length=32, salt=None, info=b"litellm-at-rest-v3")
        key = derived.derive(salt.encode())
    nonce = os.urandom(12)
    data = nonce + AESGCM(key).encrypt(nonce, text.encode(), None)
    return f"v{version}:gcm:{base64.urlsafe_b64encode(data).decode()}"
