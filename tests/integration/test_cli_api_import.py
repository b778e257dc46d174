"""`meridian keys import` and `meridian users import`."""

from __future__ import annotations

import json
import signal
import socket
import stat
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.domain.keys import hash_key
from tests.support.cli_kit import Asked, Cli, Inside, Reply, answering
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


def lines_of(text: str) -> list[Any]:
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def aliases(cli: Cli, prefix: str) -> list[str]:
    """The aliases of all keys that begin with a prefix."""
    ran = cli("keys", "list", "--search", prefix, "--all", "--jsonl")
    return sorted(row["key_alias"] for row in lines_of(ran.out))


BAD = {
    17: '{"key_alias": broken',
    50: "[1]",
    90: '{"max_budget": 3}',
    130: '{"key_alias": "imp-130", "max_budget": -3}',
    170: '{"key_alias": "imp-1"}',
    200: '{"key_alias": "imp-200", "models": 7}',
    201: '{"key_alias": 7}',
}


def test_many_keys_with_some_bad_lines(cli: Cli, tmp_path: Path) -> None:
    """300 lines, seven of them bad: the good ones are made and their keys kept in a private file,
    the bad ones are told by line; a second run makes nothing twice."""
    rows = {n: json.dumps({"key_alias": f"imp-{n}", "metadata": {"n": n}}) for n in range(1, 301)}
    (tmp_path / "keys.jsonl").write_text("\n".join((rows | BAD).values()) + "\n\n")
    words = ("keys", "import", "keys.jsonl", "--out", "made", "--errors", "errors")
    ran = cli(*words)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == "300 lines: 293 created, 0 there already, 7 failed"
    assert "30 of 300" in ran.err
    assert "sk-" not in ran.out
    assert len(ran.out.splitlines()) == 293

    made = lines_of((tmp_path / "made").read_text())
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    assert len({each["key"] for each in made}) == 293
    for each in made[:3]:
        assert hash_key(each["key"]) == each["token_id"]
        assert each["key_alias"] == f"imp-{each['line']}"
    errors = {each["line"]: each["error"] for each in lines_of((tmp_path / "errors").read_text())}
    assert set(errors) == set(BAD)
    assert errors[170] == "the key_alias of line 1 once more"
    assert "field max_budget" in errors[130]
    assert len(aliases(cli, "imp-")) == 293

    again = cli("keys", "import", "keys.jsonl", "--json")
    report = json.loads(again.out)
    assert (again.status, report["created"], report["exists"]) == (1, 0, 293)
    assert Counter(each["outcome"] for each in report["outcomes"]) == {"exists": 293, "failed": 7}
    assert len(aliases(cli, "imp-")) == 293


def test_interrupted_import_is_taken_up(cli: Cli, tmp_path: Path) -> None:
    """An interrupt ends an import in order: each key that was made is told; the next run goes on
    where it was."""
    rows = [json.dumps({"key_alias": f"int-{n}"}) for n in range(400)]
    (tmp_path / "keys.jsonl").write_text("\n".join(rows))
    words = ("keys", "import", "keys.jsonl", "--jobs", "2", "--jsonl", "--out", "made")
    with cli.start(*words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert json.loads(first)["outcome"] == "created"
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130, err
    told = len(lines_of(first + out))
    assert 0 < told < 400
    assert f"{400 - told} not tried (run it again to go on)" in err
    assert len(aliases(cli, "int-")) == told == len((tmp_path / "made").read_text().splitlines())

    again = cli("keys", "import", "keys.jsonl", "--out", "made", "--jsonl")
    assert again.status == 0, again.err
    outcomes = Counter(each["outcome"] for each in lines_of(again.out))
    assert outcomes == {"exists": told, "created": 400 - told}
    kept = lines_of((tmp_path / "made").read_text())
    assert sorted(each["key_alias"] for each in kept) == aliases(cli, "int-")
    assert len(kept) == 400


def test_killed_import_is_taken_up(cli: Cli, tmp_path: Path) -> None:
    """After SIGKILL nothing is made twice either."""
    rows = [json.dumps({"key_alias": f"kill-{n}"}) for n in range(60)]
    (tmp_path / "keys.jsonl").write_text("\n".join(rows))
    process = cli.start("keys", "import", "keys.jsonl", "--jobs", "2")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    again = cli("keys", "import", "keys.jsonl")
    assert again.status == 0, again.err
    assert aliases(cli, "kill-") == sorted(f"kill-{n}" for n in range(60))


CSV = """\ufeffuser_id,user_email,user_role,max_budget,models,metadata,metadata.team
csv-1,csv-1@example.com,internal_user,5,"chat-one,two","{""a"": 1}",x
csv-2,csv-1@example.com,,,,,
,csv-3@example.com,internal_user,,,,
csv-4,,boss,,,,
csv-5,,,much,,,
csv-6,,,,,@/etc/passwd,
csv-7,,,,,,,,
"""


def test_users_of_a_spreadsheet(cli: Cli, tmp_path: Path) -> None:
    """CSV with a byte-order mark: cells are read as flags are; no key is made; nobody twice."""
    (tmp_path / "users.csv").write_text(CSV)
    ran = cli("users", "import", "users.csv", "--json")
    report = json.loads(ran.out)
    assert (ran.status, report["lines"], report["created"], report["failed"]) == (1, 7, 2, 5)
    by_line = {each["line"]: each for each in report["outcomes"]}
    assert by_line[2] | {"user_id": "csv-1"} == by_line[2]
    assert [by_line[line]["outcome"] for line in range(2, 9)] == [
        *("created", "failed", "created", "failed", "failed", "failed", "failed"),
    ]
    assert by_line[3]["error"] == "the user_email of line 2 once more"
    assert by_line[6]["error"].startswith("max_budget: not a number: 'much'")
    assert by_line[8]["error"] == "more cells than the first line has columns"
    info = cli.json("users", "info", "csv-1")
    assert info["user_info"]["models"] == ["chat-one", "two"]
    assert info["user_info"]["metadata"] == {"a": 1, "team": "x"}
    assert info["keys"] == []

    again = cli("users", "import", "-", "--format", "csv", stdin=CSV)
    assert "0 created, 2 there already, 5 failed" in again.err
    other = '{"user_id": "csv-other", "user_email": "csv-1@example.com"}\n'
    clash = cli("users", "import", "-", "--format", "jsonl", stdin=other)
    assert (clash.status, "0 created, 0 there already, 1 failed" in clash.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("gone.jsonl",), "", "gone.jsonl: cannot be read"),
        (("-",), "{}", "say --format jsonl or csv"),
        (("-", "--format", "csv"), 'a,b\n"x,y\n', "line 2: no valid CSV"),
        (("-", "--format", "csv"), "a,a\n1,2\n", "names each column once"),
        (("-", "--format", "jsonl", "--out", "/gone/x"), "{}", "/gone/x: cannot be written"),
        (("-", "--format", "jsonl", "--out", "open"), "{}", "chmod 600"),
        (("-", "--format", "jsonl", "--errors", "/gone/x"), "{}", "/gone/x: cannot be written"),
        (("-", "--format", "jsonl", "--jobs", "0"), "{}", "at least 1"),
        (("-", "--format", "jsonl", "--jobs", "65"), "{}", "at most 64"),
    ],
)
def test_files_that_cannot_be_used(
    inside: Inside,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    stdin: str,
    said: str,
) -> None:
    """Nothing is made where the file, or the place for what is made, is of no use."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o644)
    settings = {"MERIDIAN_URL": "http://127.0.0.1:1", "MERIDIAN_KEY": KEY}
    ran = inside("keys", "import", *words, stdin=stdin, **settings)
    assert (ran.status, ran.out) == (2, ""), ran
    assert said in ran.err
    (tmp_path / "latin.jsonl").write_bytes(b'{"key_alias": "\xe9"}')
    assert "is not UTF-8" in inside("keys", "import", "latin.jsonl", **settings).err


def test_empty_file(cli: Cli) -> None:
    """Nothing to do is done."""
    ran = cli("keys", "import", "-", "--format", "jsonl", stdin="\n\n")
    assert (ran.status, ran.err) == (0, "0 lines: 0 created, 0 there already, 0 failed\n")


def test_wrong_key_and_proxy_away_end_the_run(cli: Cli) -> None:
    """What no line can help is said once, and the rest is not tried."""
    lines = "\n".join(json.dumps({"key_alias": f"no-{n}"}) for n in range(100))
    words = ("keys", "import", "-", "--format", "jsonl")
    wrong = cli(*words, stdin=lines, MERIDIAN_KEY="sk-nobody-0123456789")
    assert (wrong.status, wrong.out) == (1, "")
    assert "100 not tried" in wrong.err
    assert wrong.err.count("status 401") == 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = cli(*words, "--url", f"http://127.0.0.1:{probe.getsockname()[1]}", stdin=lines)
    assert (away.status, "100 not tried" in away.err) == (3, True)
    assert away.err.count("cannot be reached") == 1


def test_busy_proxy_is_asked_again_and_never_by_too_many(tmp_path: Path) -> None:
    """429 with `retry-after` and 503 are tried again; no more calls run at once than `--jobs`."""
    lock, tries, running = threading.Lock(), Counter[str](), Counter[str]()

    def reply(asked: Asked) -> Reply:
        alias = asked.body["key_alias"]
        with lock:
            tries[alias] += 1
            running["now"] += 1
            running["most"] = max(running["most"], running["now"])
        time.sleep(0.02)
        with lock:
            running["now"] -= 1
        if alias == "busy-3" and tries[alias] < 3:
            return 429, {"retry-after": "0"}, '{"error": {"message": "slow down"}}'
        return 200, JSON, json.dumps({"key": f"sk-{alias}", "key_alias": alias})

    lines = "\n".join(json.dumps({"key_alias": f"busy-{n}"}) for n in range(20))
    with answering(reply) as url:
        cli = Cli(tmp_path, MERIDIAN_URL=url, MERIDIAN_KEY=KEY)
        ran = cli(
            *("keys", "import", "-", "--format", "jsonl", "--jobs", "3", "--jsonl"), stdin=lines
        )
    assert ran.status == 0, ran.err
    assert {each["key"] for each in lines_of(ran.out)} == {f"sk-busy-{n}" for n in range(20)}
    assert tries["busy-3"] == 3
    assert 1 < running["most"] <= 3


def test_progress_on_a_terminal(cli: Cli, tmp_path: Path) -> None:
    """A terminal shows a bar that is gone in the end."""
    rows = [json.dumps({"key_alias": f"bar-{n}"}) for n in range(30)]
    (tmp_path / "keys.jsonl").write_text("\n".join(rows))
    shown = cli.on_terminal("keys", "import", "keys.jsonl", columns=60)
    assert "of 30" in shown
    assert "\r\x1b[K" in shown
    last = shown.rstrip().splitlines()[-1].rpartition("\r\x1b[K")[2]
    assert last == "30 lines: 30 created, 0 there already, 0 failed"
