"""How `meridian` finds a proxy, shows answers and says what went wrong."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.cli.parser import NOUNS
from shared.domain.keys import hash_key
from tests.support.cli_kit import CERTIFICATE, Asked, Cli, Inside, Reply, answering
from tests.support.fleet import Fleet

pytestmark = pytest.mark.xdist_group("fleet")

JSON = {"content-type": "application/json"}
KEY = "sk-of-the-caller-0123456789"


@pytest.fixture
def cli(fleet: Fleet, tmp_path: Path) -> Cli:
    """The command as the master."""
    return Cli(tmp_path, MERIDIAN_URL=fleet.admin.url, MERIDIAN_KEY=fleet.master_key)


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The command in this process, with nothing of this machine's settings."""
    return Inside(capsys, monkeypatch)


def saying(body: Any, status: int = 200, **headers: str) -> Any:
    """An answer for every request."""

    def reply(_asked: Asked) -> Reply:
        return status, JSON | headers, json.dumps(body)

    return reply


def test_proxy_and_key_by_every_way(cli: Cli, fleet: Fleet) -> None:
    """Flags win over our variables, and those over the reference's; the key comes from standard
    input, a named variable or the usual ones."""
    bare = Cli(cli.folder)
    url, key = fleet.admin.url, fleet.master_key
    check = ("budgets", "list")
    wrong = {"MERIDIAN_URL": "http://127.0.0.1:1", "MERIDIAN_KEY": "sk-wrong-0123456789"}
    for words, stdin, env in (
        (("--url", url, "--key-env", "OTHER"), "", {**wrong, "OTHER": key}),
        (("--url", f"{url}/", "--key", "-"), f"{key}\n", wrong),
        ((), "", {"MERIDIAN_URL": url, "MERIDIAN_KEY": key, "LITELLM_MASTER_KEY": "sk-no-0123"}),
        ((), "", {"LITELLM_PROXY_URL": url, "LITELLM_PROXY_API_KEY": key}),
        ((), "", {"LITELLM_PROXY_URL": url, "LITELLM_MASTER_KEY": key}),
    ):
        ran = bare(*check, *words, stdin=stdin, **env)
        assert (ran.status, ran.err) == (0, ""), (words, env)


def test_key_of_local_mode(fleet: Fleet, tmp_path: Path) -> None:
    """The generated master key is for this machine's proxies only, and only if it is private."""
    folder = tmp_path / "state" / "meridian"
    folder.mkdir(parents=True)
    file = folder / "master_key"
    file.write_text(f"{fleet.master_key}\n")
    file.chmod(0o600)
    local = Cli(tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
    assert local("budgets", "list", "--url", fleet.admin.url).status == 0
    named = Cli(tmp_path, MERIDIAN_STATE_DIR=str(folder))
    assert named("budgets", "list", "--url", fleet.admin.url).status == 0
    far = local("budgets", "list", "--url", "http://admin.example.com")
    assert (far.status, far.err.startswith("meridian: no key: set MERIDIAN_KEY")) == (2, True)
    file.chmod(0o644)
    shared = local("budgets", "list", "--url", fleet.admin.url)
    assert (shared.status, "chmod 600" in shared.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        ((), {"MERIDIAN_KEY": ""}, "no key: set MERIDIAN_KEY"),
        (("--key-env", "NOT_SET"), {}, "NOT_SET holds no key"),
        (("--key", "-"), {}, "standard input holds no key"),
        (("--key", KEY), {}, "only '-'"),
        ((), {"MERIDIAN_KEY": "sk-with space"}, "characters that no key has"),
        (("--url", "admin.example.com"), {}, "--url: write http://HOST:PORT"),
        (("--url", "http://u:p@admin.example.com"), {}, "--url: write http://HOST:PORT"),
        ((), {"MERIDIAN_URL": "http://[::1"}, "MERIDIAN_URL: write http://HOST:PORT"),
        ((), {"MERIDIAN_URL": "ftp://a"}, "MERIDIAN_URL: write http://HOST:PORT"),
        (("--from", "gone.json"), {}, "gone.json: cannot be read"),
        (("--from", "/dev/null"), {}, "/dev/null: no valid JSON"),
        (("--field", "x"), {}, "write name=value"),
        (("--field", 'x={"a"'), {}, "no valid JSON"),
        (("--field", "x=@gone"), {}, "gone: cannot be read"),
        (("--field", "models.x=1", "--models", "a"), {}, "models is no object"),
        (("--max-budget", "inf"), {}, "not a number"),
        (("--rpm-limit", "1.5"), {}, "not a whole number"),
        (("--model-rpm-limit", "gpt"), {}, "write MODEL=NUMBER"),
        (("--key-type", "boss"), {}, "invalid choice: 'boss'"),
        (("--timeout", "0"), {}, "more than 0"),
        (("--max-bud", "1"), {}, "unrecognized arguments"),
        (("--json", "--only", "key"), {}, "not allowed with argument"),
        (("--key-alias", b"\xff".decode("utf-8", "surrogateescape")), {}, "not UTF-8"),
    ],
)
def test_wrong_usage(
    inside: Inside, words: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    """What is wrong with a command or a setting is 2, said in a line, and asks nobody."""
    settings = {"MERIDIAN_URL": "http://127.0.0.1:1", "MERIDIAN_KEY": KEY, "HOME": "/gone"}
    ran = inside("keys", "generate", *words, **settings | env)
    assert (ran.status, ran.out) == (2, ""), ran.err
    assert said in ran.err
    assert KEY not in ran.err


def test_incomplete_commands(inside: Inside) -> None:
    """A noun alone, or one that is not there, shows how commands are used."""
    for words in ((), ("keys",), ("teams", "members"), ("nothing", "list"), ("keys", "lis")):
        ran = inside(*words)
        assert (ran.status, ran.out, "usage: meridian" in ran.err) == (2, "", True), words
    shown = inside("--help")
    assert shown.status == 0
    assert all(f"  {noun}" in shown.out for noun in NOUNS)


def test_proxy_away(tmp_path: Path) -> None:
    """Nobody listens, nobody answers in time, the connection breaks: 3, and whether a change may
    have been made."""
    cli = Cli(tmp_path, MERIDIAN_KEY=KEY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        away = cli("keys", "generate", "--url", url)
        assert (away.status, away.out) == (3, "")
        assert away.err.startswith(f"meridian: {url} cannot be reached: ")
        assert "may have been made" not in away.err
        probe.listen()
        slow = cli("keys", "generate", "--url", url, "--timeout", "0.3")
        assert (slow.status, "did not answer within 0.3 s" in slow.err) == (3, True)
        assert "the change may have been made all the same" in slow.err
        read = cli("keys", "list", "--url", url, "--timeout", "0.3")
        assert (read.status, "may have been made" in read.err) == (3, False)
    unknown = cli("keys", "list", "--url", "http://admin.invalid", "--timeout", "5")
    assert (unknown.status, "http://admin.invalid" in unknown.err) == (3, True)


def test_certificates_are_verified(tmp_path: Path) -> None:
    """A certificate that nobody vouches for gets no key, unless the operator vouches for it."""
    cli = Cli(tmp_path, MERIDIAN_KEY=KEY)
    with answering(saying([]), tls=True) as url:
        ran = cli("budgets", "list", "--url", url)
        assert (ran.status, "certificate verify failed" in ran.err) == (3, True)
        ran = cli("budgets", "list", "--url", url, SSL_CERT_FILE=str(CERTIFICATE))
        assert (ran.status, ran.err) == (0, "")
    with answering(saying([])) as url:
        ran = cli("budgets", "list", "--url", url.replace("http:", "https:"))
        assert (ran.status, "cannot be reached" in ran.err) == (3, True)


def test_wrong_key_and_refusals(cli: Cli, inside: Inside) -> None:
    """The proxy's words, the field, the kind and the status in one line; 1, and nothing else."""
    for words, said in (
        (("keys", "list"), r".*\(field key, token_not_found_in_db, status 401\)"),
        (("budgets", "list"), r".*\(.*status 401\)"),
    ):
        ran = cli(*words, MERIDIAN_KEY="sk-nobody-0123456789")
        assert (ran.status, ran.out) == (1, "")
        assert re.fullmatch(f"meridian: {said}\n", ran.err), ran.err
        assert "sk-nobody-0123456789" not in ran.err
    for words, said in (
        (("keys", "generate", "--max-budget", "-1"), "max_budget"),
        (("keys", "generate", "--field", "models=7"), "body.models: "),
        (("keys", "generate", "--field", 'key_alias="a\\u0000"'), "U+0000"),
        (("keys", "info", "sk-unknown-0123456789"), "status 404"),
        (("keys", "info", "cli-nobody"), "no key has the alias 'cli-nobody'"),
        (("teams", "info", "cli-nothing"), "status 404"),
        (("users", "info", "Ünïcode 🦉/../x?y#z"), "status 404"),
        (("models", "update", "a/b c", "--rpm", "1"), "status 404"),
        (("teams", "members", "add", "cli-nothing", "--user-id", "x"), "status 404"),
        (("audit", "info", "none"), "There is no audit log entry"),
        (("spend", "logs", "--sort-by", "x"), "query.sort_by: "),
    ):
        ran = inside(*words, **cli.env)
        assert (ran.status, ran.out) == (1, ""), (words, ran)
        assert said in ran.err, ran.err
        assert ran.err.count("\n") == 1


def test_values_are_shown_as_they_are(cli: Cli, inside: Inside) -> None:
    """Odd Unicode survives JSON, steers no terminal as text, and stays aligned."""
    inside.env |= cli.env
    alias = "cli-ö 日本\u202e x"
    made = inside.json("teams", "create", "--team-id", "cli-odd", "--team-alias", alias)
    assert made["team_alias"] == alias
    document = inside("teams", "info", "cli-odd", "--json").out
    assert document.isascii()
    assert json.loads(document)["team_info"]["team_alias"] == alias
    text = inside("teams", "list", "--team-alias", "cli-ö").out
    assert "cli-ö 日本\\u202e x" in text
    assert inside.json("teams", "update", "cli-odd", "--team-alias", "\x1b[31mred")
    assert "\\x1b[31mred" in inside("teams", "info", "cli-odd").out
    assert inside("teams", "delete", "cli-odd").status == 0


def test_columns_and_members(cli: Cli, inside: Inside) -> None:
    """`--columns` makes another table; `--only` a bare value, and one that is not there is 1."""
    inside.env |= cli.env
    inside.json("budgets", "create", "--budget-id", "cli-cols", "--max-budget", "0.0000012")
    rows = inside("budgets", "list", "--columns", "budget_id,max_budget,gone").rows()
    mine = {"BUDGET_ID": "cli-cols", "MAX_BUDGET": "0.0000012", "GONE": "-"}
    assert mine in rows
    none = inside("models", "list", "--only", "no.such")
    assert (none.status, none.err) == (1, "meridian: the answer has no no.such\n")
    assert inside("budgets", "delete", "cli-cols", "--only", "max_budget").out == "1.2e-06\n"


def test_terminals(cli: Cli) -> None:
    """A terminal gets what fits it and a bold heading, unless NO_COLOR is set; a pipe gets all."""
    cli.json("keys", "generate", "--key-alias", "cli-wide", "--models", "chat-one,chat-other,two")
    words = ("keys", "list", "--key-alias", "cli-wide")
    piped = cli(*words).out
    assert "\x1b" not in piped
    assert re.search(r"[0-9a-f]{64}$", piped, re.MULTILINE)
    for columns in (40, 80, 120):
        shown = cli.on_terminal(*words, columns=columns)
        assert shown.startswith("\x1b[1mALIAS")
        plain = re.sub(r"\x1b\[\d*m", "", shown).splitlines()
        assert max(map(len, plain[:2])) <= columns
        assert ("no room for" in plain[-1]) == (columns < 120)
    assert "\x1b" not in cli.on_terminal(*words, NO_COLOR="1")
    assert "\x1b" not in cli.on_terminal(*words, TERM="dumb")
    wide = cli.on_terminal(*words, columns=250)
    assert (re.search(r"[0-9a-f]{64}", wide) is not None, "no room" in wide) == (True, False)
    assert cli("keys", "delete", "cli-wide").status == 0


def test_reader_that_goes_away(cli: Cli) -> None:
    """A pipe that is closed early ends the command without a word."""
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m services.admin.cli models list --json | head -c 1"],
        env=cli.env | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("{", "")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            {"error": {"message": "m", "type": "t", "param": "p", "code": "400"}},
            "m (field p, t",
        ),
        (404, {"detail": {"error": "gone"}}, "gone (status 404)"),
        (404, {"detail": {"message": "gone"}}, "gone (status 404)"),
        (403, {"detail": "off here"}, "off here (status 403)"),
        (400, {"detail": {"error": {"message": "deep", "type": "t"}}}, "deep (t, status 400)"),
        (409, {"type": "u", "title": "Taken", "detail": "by you", "status": 409}, "by you (u, "),
        (
            422,
            {"detail": [{"type": "a", "loc": ["body", "x"], "msg": "no"}, {"msg": "nor this"}]},
            "body.x: no; nor this (status 422)",
        ),
        (500, [], "the answer says no more (status 500)"),
        (502, "two\nlines \x1b[31m", "two lines \\x1b[31m (status 502)"),
        (400, {"error": {"message": "x" * 5000}}, "x… (status 400)"),
    ],
)
def test_error_shapes(inside: Inside, status: int, body: Any, said: str) -> None:
    """Whatever shape a proxy's errors have, one line says what it said."""
    with answering(saying(body, status)) as url:
        ran = inside("keys", "list", MERIDIAN_URL=url, MERIDIAN_KEY=KEY)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("meridian: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_answers_that_are_none(inside: Inside) -> None:
    """A page of HTML, an empty answer, a redirection: no traceback, and the key follows no
    redirection."""
    key = {"MERIDIAN_KEY": KEY}
    with answering(lambda _: (200, {}, "<html>")) as url:
        ran = inside("keys", "list", "--url", url, **key)
        assert (ran.status, "is this the proxy's address?" in ran.err) == (1, True)
    seen: list[Asked] = []

    def elsewhere(asked: Asked) -> Reply:
        seen.append(asked)
        return 307, {"location": "/login"}, ""

    with answering(elsewhere) as url:
        ran = inside("keys", "generate", "--url", url, **key)
        assert (ran.status, "leads to /login" in ran.err) == (1, True)
    assert len(seen) == 1
    with answering(lambda _: (204, {}, "")) as url:
        ran = inside("keys", "block", "sk-a-0123456789abc", "--url", url, **key)
        assert (ran.status, ran.out) == (0, "done\n")


def test_what_is_sent(inside: Inside) -> None:
    """A plain key goes nowhere but into the header that it is for; the body is what was given,
    and any LiteLLM-compatible proxy is told nothing of ours."""
    seen: list[Asked] = []

    def reply(asked: Asked) -> Reply:
        seen.append(asked)
        return 200, JSON, json.dumps({"keys": [], "key": "x", "data": {}})

    with answering(reply) as url:
        settings = {"MERIDIAN_URL": f"{url}/prefix/", "MERIDIAN_KEY": KEY}
        assert inside("keys", "info", "sk-a-0123456789abc", **settings).status == 0
        assert (
            inside(
                "keys", "regenerate", "sk-a-0123456789abc", "--grace-period", "1h", **settings
            ).status
            == 0
        )
        assert inside("keys", "generate", **settings).status == 0
        waited = inside("keys", "generate", "--wait", **settings)
        assert "does not say whether it is in force" in waited.err
        assert inside("models", "update", "a/b c?", "--rpm", "1", **settings).status == 0
    hashed = hash_key("sk-a-0123456789abc")
    paths = [asked.path for asked in seen]
    assert paths[0] == f"/prefix/key/info?key={hashed}"
    assert paths[1] == f"/prefix/key/{hashed}/regenerate"
    assert seen[1].body == {"grace_period": "1h"}
    assert (paths[2], seen[2].body) == ("/prefix/key/generate", {})
    assert paths[3] == "/prefix/key/generate?wait=applied"
    assert (paths[4], seen[4].body) == (
        "/prefix/model/a%2Fb%20c%3F/update",
        {"litellm_params": {"rpm": 1}},
    )
    for asked in seen:
        assert "sk-a-" not in asked.path
        assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_proxy_server_of_the_environment(inside: Inside) -> None:
    """HTTP_PROXY is used for other machines, and never for this one."""
    seen: list[Asked] = []

    def reply(asked: Asked) -> Reply:
        seen.append(asked)
        return 200, JSON, "[]"

    with answering(reply) as url:
        settings = {"MERIDIAN_KEY": KEY, "http_proxy": url}
        far = inside("budgets", "list", "--url", "http://admin.invalid:81", **settings)
        assert far.status == 0
        assert inside("budgets", "list", "--url", "http://127.0.0.1:1", **settings).status == 3
        settings |= {"no_proxy": "a.invalid"}
        away = inside("budgets", "list", "--url", "http://a.invalid", **settings)
        assert away.status == 3
    assert [asked.path for asked in seen] == ["http://admin.invalid:81/budget/list"]


def test_a_check_that_fails_is_told_by_the_status(inside: Inside) -> None:
    """`audit verify` of a log that was changed is 1."""
    broken = {"intact": False, "broken": {"seq": 3, "reason": "changed"}}
    with answering(saying(broken)) as url:
        ran = inside("audit", "verify", MERIDIAN_URL=url, MERIDIAN_KEY=KEY)
    assert (ran.status, ran.out.split()[:2]) == (1, ["intact", "no"])


def test_commands_load_no_server(tmp_path: Path) -> None:
    """A command over the API loads neither the database nor the admin's server."""
    script = (
        "import sys\n"
        "from services.admin.cli import main\n"
        "assert main(['keys', 'list', '--url', 'http://127.0.0.1:1']) == 3\n"
        "kept_out = ('asyncpg', 'shared.db', 'shared.gateway', 'services.admin.api')\n"
        "found = [name for name in sys.modules if name.startswith(kept_out)]\n"
        "assert found == [], found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"MERIDIAN_KEY": KEY, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nouns_are_all_there() -> None:
    """The command knows these nouns."""
    assert set(NOUNS) == {
        *("keys", "users", "teams", "models", "credentials", "spend", "budgets"),
        *("organizations", "customers", "audit"),
    }
