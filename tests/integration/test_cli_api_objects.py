"""Every command of `meridian` over the management API, against a running admin."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.admin.api.routes import ROUTES
from services.cli.command import BulkImport, Command, Place
from services.cli.parser import NOUNS
from shared.domain.keys import hash_key
from tests.support.cli_kit import Cli, Inside
from tests.support.fleet import Fleet, chat_body

pytestmark = pytest.mark.xdist_group("fleet")

ROOT = Path(__file__).parents[2]
COMMANDS = [row for table in NOUNS.values() for row in table]


@pytest.fixture
def cli(fleet: Fleet, tmp_path: Path) -> Cli:
    """The command as the master."""
    return Cli(tmp_path, MERIDIAN_URL=fleet.admin.url, MERIDIAN_KEY=fleet.master_key)


@pytest.fixture
def inside(cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The same without a process, for what was seen to work as one."""
    return Inside(capsys, monkeypatch, cli.env)


def test_keys(cli: Cli, inside: Inside) -> None:
    """A key is made, found, changed, blocked, given another value and deleted; its value is shown
    when it is made and never again."""
    made = cli.json(
        *("keys", "generate", "--key-alias", "cli-one", "--models", "chat-one,chat-other"),
        *("--models", "two", "--max-budget", "1.5", "--budget-duration", "30d"),
        *("--rpm-limit", "60", "--model-rpm-limit", "chat-one=5", "--metadata", "env=dev"),
        *("--metadata", "size=3", "--tags", "a,b", "--field", "max_parallel_requests=2"),
    )
    plain, token = made["key"], made["token_id"]
    assert hash_key(plain) == token
    assert made["models"] == ["chat-one", "chat-other", "two"]
    assert (made["max_budget"], made["rpm_limit"], made["max_parallel_requests"]) == (1.5, 60, 2)
    assert made["model_rpm_limit"] == {"chat-one": 5}
    assert (made["metadata"]["env"], made["metadata"]["size"]) == ("dev", 3)

    (row,) = cli("keys", "list", "--key-alias", "cli-one").rows()
    assert (row["ALIAS"], row["KEY"], row["STATUS"]) == ("cli-one", made["key_name"], "active")
    assert (row["MAX_BUDGET"], row["HASH"]) == ("1.5", token)
    for name in ("cli-one", token, plain):
        assert inside.json("keys", "info", name)["key"] == token, name
    shown = cli("keys", "info", "-", stdin=f"{plain}\n")
    assert "cli-one" in shown.out
    assert plain not in shown.out

    changed = cli.json(
        *("keys", "update", "cli-one", "--max-budget", "null", "--field", "tags=null"),
        *("--field", "metadata.team=x"),
    )
    assert (changed["key"], changed["max_budget"]) == (token, None)
    assert changed["metadata"]["team"] == "x"

    blocked = cli("keys", "block", "cli-one", "--wait")
    assert re.search("^blocked +yes$", blocked.out, re.MULTILINE), blocked
    assert re.fullmatch(r"in force on \d instances after \d+ ms\n", blocked.err)
    assert "propagation" not in blocked.out
    revoked = inside.only("token", "keys", "list", "--status", "revoked", "--search", "cli-one")
    assert revoked == [token]
    assert cli("keys", "unblock", "cli-one", "--only", "blocked").out == "false\n"

    another = cli("keys", "regenerate", "cli-one", "--only", "key").out.strip()
    assert another not in ("", plain)
    ended = cli("keys", "delete", "cli-one", hash_key("sk-of-nobody"))
    assert (ended.status, another in ended.out) == (0, False)
    assert inside("keys", "info", "cli-one").status == 1


def test_users(cli: Cli, inside: Inside) -> None:
    """A user is made without a key unless one is asked for, invited, changed and deleted."""
    made = cli.json(
        *("users", "create", "--user-id", "cli-u1", "--user-email", "cli-u1@example.com"),
        *("--user-role", "internal_user", "--max-budget", "5"),
    )
    assert (made["user_id"], made["key"]) == ("cli-u1", None)
    second = ("users", "create", "--user-id", "cli-u2", "--auto-create-key")
    with_key = inside(*second, "--only", "key")
    assert with_key.out.startswith("sk-")
    rows = cli("users", "list", "--user-ids", "cli-u1,cli-u2", "--sort-by", "user_id").rows()
    assert [(row["USER_ID"], row["KEYS"]) for row in rows] == [("cli-u1", "0"), ("cli-u2", "1")]
    assert cli.json("users", "update", "cli-u1", "--max-budget", "7")["data"]["max_budget"] == 7
    assert re.search(r"^max_budget +7$", cli("users", "info", "cli-u1").out, re.MULTILINE)
    assert len(cli("users", "invite", "cli-u1", "--only", "id").out.strip()) == 32
    waited = cli("users", "delete", "cli-u1", "cli-u2", "--wait")
    assert (waited.status, waited.out) == (0, "deleted: 2\n")
    assert waited.err.startswith("in force on ")


def test_teams(cli: Cli, inside: Inside) -> None:
    """A team with members that come, are changed and go."""
    inside.json("users", "create", "--user-id", "cli-member")
    made = cli.json(
        *("teams", "create", "--team-id", "cli-t1", "--team-alias", "CLI core"),
        *("--models", "chat-one", "--max-budget", "100"),
    )
    assert (made["team_id"], made["models"]) == ("cli-t1", ["chat-one"])
    added = cli(
        *("teams", "members", "add", "cli-t1", "--user-id", "cli-member"),
        *("--max-budget-in-team", "2"),
    )
    assert "cli-member" in added.out
    cli.json("teams", "members", "update", "cli-t1", "--user-id", "cli-member", "--role", "admin")
    (row,) = (
        row
        for row in cli("teams", "members", "list", "cli-t1").rows()
        if row["USER_ID"] == "cli-member"
    )
    assert (row["ROLE"], row["MAX_BUDGET"], row["BUDGET"]) == ("admin", "2", "custom")
    removed = cli("teams", "members", "remove", "cli-t1", "--user-id", "cli-member", "--jsonl")
    assert "cli-member" not in removed.out
    assert cli("teams", "block", "cli-t1", "--only", "blocked").out == "true\n"
    assert cli.only("blocked", "teams", "list", "--team-alias", "CLI core") == ["true"]
    assert cli("teams", "unblock", "cli-t1", "--only", "blocked").out == "false\n"
    renamed = cli.json("teams", "update", "cli-t1", "--team-alias", "CLI rest")
    assert renamed["data"]["team_alias"] == "CLI rest"
    assert "CLI rest" in cli("teams", "info", "cli-t1").out
    assert cli.json("teams", "delete", "cli-t1") == {"deleted_teams": ["cli-t1"]}
    assert inside.json("users", "delete", "cli-member") == 1


def test_models(cli: Cli, inside: Inside, tmp_path: Path) -> None:
    """A deployment whose secret comes from a file, never from the command line, and is not shown;
    stored credentials."""
    (tmp_path / "secret").write_text("sk-of-the-provider-0123\n")
    (tmp_path / "rest.json").write_text('{"litellm_params": {"tpm": 9}, "model_name": "lost"}')
    made = cli(
        *("models", "create", "cli-gpt", "--model", "openai/gpt-4o", "--id", "cli-m1"),
        *("--api-base", "http://127.0.0.1:9/v1", "--param", "api_key=@secret", "--rpm", "7"),
        *("--mode", "chat", "--info", 'access_groups=["beta"]', "--from", "rest.json"),
    )
    assert made.status == 0, made.err
    assert "sk-of-the-provider-0123" not in made.out
    shown = cli.json("models", "info", "cli-m1")["data"][0]
    params, info = shown["litellm_params"], shown["model_info"]
    assert (shown["model_name"], params["model"]) == ("cli-gpt", "openai/gpt-4o")
    assert (params["tpm"], params["rpm"], info["access_groups"]) == (9, 7, ["beta"])
    assert "sk-of-the-provider-0123" not in json.dumps(shown)
    assert cli("models", "update", "cli-m1", "--rpm", "8").status == 0
    assert inside.json("models", "info", "cli-m1")["data"][0]["litellm_params"]["rpm"] == 8
    assert cli("models", "block", "cli-m1", "--only", "blocked").out == "true\n"
    (row,) = cli("models", "list", "--search", "cli-").rows()
    assert (row["NAME"], row["STORED"], row["BLOCKED"], row["ID"]) == (
        *("cli-gpt", "yes", "yes", "cli-m1"),
    )
    assert cli("models", "unblock", "cli-m1", "--only", "blocked").out == "false\n"
    assert "cli-m1" in cli("models", "delete", "cli-m1").out
    gone = inside("models", "info", "cli-m1", "--json")
    assert (gone.status, gone.out, gone.err) == (1, "", "meridian: there is no such model\n")
    assert cli("credentials", "list").out.startswith("NAME")


def test_budgets_organizations_customers(cli: Cli) -> None:
    """What limits others: budgets, organizations and end users."""
    made = cli.json("budgets", "create", "--budget-id", "cli-b1", "--max-budget", "3")
    assert made["max_budget"] == 3
    assert cli.json("budgets", "update", "cli-b1", "--rpm-limit", "9")["rpm_limit"] == 9
    (row,) = (r for r in cli("budgets", "list").rows() if r["BUDGET_ID"] == "cli-b1")
    assert (row["MAX_BUDGET"], row["RPM"], row["TPM"]) == ("3", "9", "-")
    assert cli("budgets", "delete", "cli-b1").status == 0

    created = cli.json("organizations", "create", "cli-acme", "--max-budget", "100")
    organization = created["organization_id"]
    listed = cli.json("organizations", "list", "--organization-alias", "cli-acme")
    assert [each["organization_id"] for each in listed] == [organization]
    assert "cli-acme" in cli("organizations", "info", organization).out

    assert cli.json("customers", "create", "cli-c1", "--alias", "ACME")["alias"] == "ACME"
    blocked = cli("customers", "block", "cli-c1", "cli-c2").rows()
    assert blocked == [
        {"USER_ID": "cli-c1", "BLOCKED": "yes"},
        {"USER_ID": "cli-c2", "BLOCKED": "yes"},
    ]
    assert cli("customers", "unblock", "cli-c1").status == 0
    assert cli.json("customers", "info", "cli-c1")["blocked"] is False
    every = ("customers", "list", "--search", "cli-c", "--all", "--page-size", "1")
    assert cli.only("user_id", *every) == ["cli-c1", "cli-c2"]


def test_audit(cli: Cli, inside: Inside) -> None:
    """Changes are listed by object and shown, and the log is intact."""
    inside.json("budgets", "create", "--budget-id", "cli-audited")
    inside.json("budgets", "delete", "cli-audited")
    rows = cli("audit", "list", "--object-id", "cli-audited", "--start-date", "1h").rows()
    assert [row["ACTION"] for row in rows] == ["deleted", "created"]
    entry = cli.json("audit", "info", rows[0]["ID"])
    assert (entry["object_id"], entry["action"]) == ("cli-audited", "deleted")
    verified = cli.json("audit", "verify")
    assert verified["intact"] is True


@pytest.fixture
def spent(fleet: Fleet, inside: Inside) -> Iterator[str]:
    """The hash of a key of user `cli-spender` in team `cli-spending` with calls in the ledger: two
    that went well and one that failed."""
    inside.json("users", "create", "--user-id", "cli-spender")
    inside.json("teams", "create", "--team-id", "cli-spending", "--team-alias", "Spending")
    made = inside.json(
        *("keys", "generate", "--key-alias", "cli-spent", "--user-id", "cli-spender"),
        *("--team-id", "cli-spending", "--tags", "cli-tag"),
    )
    for text in ("hi", "hi", "hi [[status:400]]"):
        chat(fleet, made["key"], text)
    until_s = time.monotonic() + 15
    while len(inside.json("spend", "logs", "--key-hash", "cli-spent")["data"]) < 3:
        assert time.monotonic() < until_s, "the ledger has no rows"
    yield made["token_id"]
    inside("keys", "delete", "cli-spent")
    inside("teams", "delete", "cli-spending")
    inside("users", "delete", "cli-spender")


def chat(fleet: Fleet, key: str, text: str) -> None:
    """A call, whatever it answers."""
    request = urllib.request.Request(
        f"{fleet.admin.url}/v1/chat/completions",
        json.dumps(chat_body("chat-one", text)).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=20).read()
    except urllib.error.HTTPError as error:
        error.close()


def test_spend(cli: Cli, inside: Inside, spent: str) -> None:
    """The calls of a key one by one, and their sums by user, team, tag, model and key."""
    calls = cli.json("spend", "logs", "--key-hash", spent, "--start-date", "1h")["data"]
    total = sum(call["spend"] for call in calls)
    assert total > 0
    failed = inside("spend", "logs", "--key-hash", "cli-spent", "--status", "failure").rows()
    assert len(failed) == sum(call["status"] == "failure" for call in calls)

    def sums(*words: str) -> dict[str, dict[str, str]]:
        return {row["ID"]: row for row in inside("spend", *words, "--key-hash", spent).rows()}

    for by, name, shown in (
        ("user", "cli-spender", "cli-spender"),
        ("team", "cli-spending", "Spending"),
        ("tag", "cli-tag", "cli-tag"),
        ("key", spent, "cli-spent"),
        ("model", "chat-one", "chat-one"),
        ("nothing", "(all)", "(all)"),
    ):
        report = sums("report", "--by", by)
        assert list(report) == [name], by
        assert report[name]["NAME"] == shown
        assert float(report[name]["SPEND"]) == pytest.approx(total)
        assert report[name]["REQUESTS"] == "3"
        assert report[name]["FAILED"] == str(len(failed))
    (day,) = cli("spend", "activity", "--by", "team", "--key-hash", spent, "--jsonl").out.split(
        "\n"
    )[:-1]
    assert json.loads(day)["id"] == "cli-spending"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", json.loads(day)["date"])
    whole = cli.json("spend", "report", "--by", "team", "--key-hash", spent)
    assert whole["results"][0]["breakdown"]["entities"]["cli-spending"]

    def spend_of(value: Any) -> Any:
        return pytest.approx(total) if value else None

    (row,) = (row for row in cli("spend", "keys").rows() if row["HASH"] == spent)
    assert float(row["SPEND"]) == spend_of(row)
    (row,) = cli("spend", "users", "--user-id", "cli-spender").rows()
    assert float(row["SPEND"]) == spend_of(row)
    (row,) = (row for row in cli("spend", "tags").rows() if row["TAG"] == "cli-tag")
    assert row["CALLS"] == "3"
    cost = cli("spend", "calculate", "--model", "chat-one", "--prompt", "x" * 400, "--only", "cost")
    assert float(cost.out) == pytest.approx(0.0001)


def test_all_pages(inside: Inside) -> None:
    """`--all` follows the pages; one page says that there are more."""
    lines = "\n".join(json.dumps({"key_alias": f"cli-page-{n}"}) for n in range(5))
    assert inside("keys", "import", "-", "--format", "jsonl", stdin=lines).status == 0
    search = ("keys", "list", "--search", "cli-page-", "--page-size", "2", "--sort-by", "key_alias")
    one = inside(*search)
    assert len(one.rows()) == 2
    assert one.err == "page 1 of 3; --all follows them\n"
    every = inside(*search, "--sort-order", "asc", "--all", "--jsonl")
    aliases = [json.loads(line)["key_alias"] for line in every.out.splitlines()]
    assert aliases == [f"cli-page-{n}" for n in range(5)]
    whole = inside.json(*search, "--all")
    assert (len(whole["keys"]), whole["total_count"]) == (5, 5)
    third = inside.only("key_alias", *search, "--page", "3", "--sort-order", "asc")
    assert third == ["cli-page-4"]
    assert inside("keys", "delete", *aliases).status == 0


def test_wait_is_told_of_every_instance(inside: Inside, fleet: Fleet) -> None:
    """`--wait` on a fleet counts all that live."""
    inside.json("keys", "generate", "--key-alias", "cli-waited")
    waited = inside("keys", "block", "cli-waited", "--wait", "--json")
    assert waited.json()["propagation"]["applied"] >= len(fleet.members)
    assert waited.err.startswith("in force on ")
    assert inside("keys", "delete", "cli-waited").status == 0


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: " ".join(row.words))
def test_commands_are_routes(row: Command | BulkImport) -> None:
    """A command asks for a route that the admin serves, with fields that the route reads; it is in
    the manual, and some test runs it."""
    command = row.create if isinstance(row, BulkImport) else row
    path = command.path.format(by="user", **dict.fromkeys(("key", "model_id", "id"), "a"))
    route = next(
        each
        for each in ROUTES
        if each.method == command.method
        and re.fullmatch(re.sub(r"\{\w+(?::\.\+)?\}", "[^/]+", each.path), path)
    )
    if route.body:
        known = {field.name for field in route.body}
        sent = {
            option.field.partition(".")[0]
            for option in command.options
            if option.place is Place.BODY
        }
        assert sent | set(command.fixed) <= known
    if route.query:
        known = {parameter.name for parameter in route.query}
        assert {o.field for o in command.options if o.place is Place.QUERY} <= known
    manual = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert f"`meridian {' '.join(row.words)}" in manual
    quoted = ", ".join(f'"{word}"' for word in row.words)
    tests = sorted(Path(__file__).parent.glob("test_cli_api*.py"))
    assert any(quoted in test.read_text("utf-8") for test in tests)
