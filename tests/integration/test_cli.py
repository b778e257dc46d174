"""The command `meridian` against real databases."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.admin.cli import DONE, FAILED, UNREACHABLE, WRONG, main
from shared.db.local import reset_local_postgres
from shared.db.migrate import load_migrations

ROOT = Path(__file__).resolve().parents[2]
STRONG_KEY = "sk-" + "k3J9" * 8
CONFIG = """\
model_list:
  - model_name: demo
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/A_PROVIDER_KEY
"""


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's settings; a state directory of the test's own."""
    for name in list(os.environ):
        if name.startswith(("MERIDIAN_", "LITELLM_", "DATABASE_", "CONFIG_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MERIDIAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LITELLM_MASTER_KEY", STRONG_KEY)


@pytest.fixture
def empty(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database that DATABASE_URL names."""
    monkeypatch.setenv("DATABASE_URL", empty_database)
    return empty_database


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output, complaints."""
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status and the findings by check."""
    status, out, _ = said(capsys, "doctor", "--json")
    report = json.loads(out)
    assert report["ok"] is (status == DONE)
    return status, {finding["check"]: finding for finding in report["checks"]}


def closed_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"postgresql://someone:hidden-word@127.0.0.1:{probe.getsockname()[1]}/x"


@pytest.mark.usefixtures("empty")
def test_migrate_lists_applies_and_is_content(capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run lists all files, a run applies them, a second has nothing to do."""
    names = [migration.name for migration in load_migrations()]
    status, out, _ = said(capsys, "migrate", "--dry-run")
    assert (status, out.splitlines()) == (DONE, [f"would apply {name}" for name in names])
    status, out, _ = said(capsys, "migrate", "--to", "1")
    assert (status, out.splitlines()) == (DONE, [f"applied {names[0]}"])
    status, out, _ = said(capsys, "migrate", "--json")
    assert (status, json.loads(out)) == (DONE, {"dry_run": False, "migrations": names[1:]})
    assert said(capsys, "migrate")[:2] == (DONE, "nothing to apply\n")


def test_migrate_uses_the_direct_address(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrations go round the pooler that DATABASE_URL may be."""
    monkeypatch.setenv("DATABASE_URL", closed_address())
    monkeypatch.setenv("MERIDIAN_DATABASE_URL_DIRECT", empty_database)
    assert said(capsys, "migrate", "--dry-run")[0] == DONE


def test_unreachable_database_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts can tell an outage from a mistake, and the password stays out of the message."""
    monkeypatch.setenv("DATABASE_URL", closed_address())
    status, out, err = said(capsys, "migrate")
    assert (status, out) == (UNREACHABLE, "")
    assert "cannot be reached" in err
    assert "hidden-word" not in err


@pytest.mark.usefixtures("empty")
def test_wrong_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """`--to` beyond the last migration is a mistake of the command."""
    status, _, err = said(capsys, "migrate", "--to", "9999")
    assert status == WRONG
    assert "9999" in err


def test_doctor_is_content_with_a_migrated_database(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything is in order: every line but possibly the disk's says ok."""
    monkeypatch.setenv("DATABASE_URL", database)
    status, findings = doctor(capsys)
    verdicts = {check: finding["verdict"] for check, finding in findings.items()}
    assert verdicts.pop("state directory") in ("ok", "warn")
    assert status == DONE
    assert set(verdicts.values()) == {"ok"}, findings
    assert {"python", "packages", "configuration", "master key", "database", "schema"} < set(
        findings
    )
    assert {"notifications", "clock"} < set(findings)


def test_doctor_says_what_is_missing_and_how_to_mend_it(
    empty: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old schema, a known master key and a read-only state directory each fail with a fix."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-1234")
    monkeypatch.setenv("MERIDIAN_STATE_DIR", "/proc/nowhere")
    status, findings = doctor(capsys)
    assert status == FAILED
    for check in ("schema", "master key", "state directory"):
        assert findings[check]["verdict"] == "fail", findings[check]
        assert findings[check]["fix"]
    assert "meridian migrate" in findings["schema"]["fix"]
    text = said(capsys, "doctor")[1]
    assert "fail  schema:" in text
    assert "      fix: run `meridian migrate`" in text
    for secret in (empty, "sk-1234"):
        assert secret not in text


def test_doctor_stops_at_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What rests on the database is left out, and the failure is a finding, not a crash."""
    monkeypatch.setenv("DATABASE_URL", closed_address())
    status, findings = doctor(capsys)
    assert status == FAILED
    assert findings["database"]["verdict"] == "fail"
    assert "schema" not in findings
    assert "hidden-word" not in json.dumps(findings)


def test_doctor_reports_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that cannot be read is a finding as well."""
    monkeypatch.setenv("PORT", "many")
    status, findings = doctor(capsys)
    assert status == FAILED
    assert "PORT" in findings["configuration"]["text"]


def test_config_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A good file is valid; a bad one is refused with file and dotted path."""
    monkeypatch.setenv("A_PROVIDER_KEY", "sk-provider-secret")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    status, out, _ = said(capsys, "config", "check", str(path))
    assert status == DONE
    assert "valid" in out
    assert "sk-provider-secret" not in out
    path.write_text(CONFIG + "general_settings:\n  master_kay: x\n")
    status, _, err = said(capsys, "config", "check", str(path))
    assert status == WRONG
    assert str(path) in err
    assert "general_settings.master_kay" in err


def test_version_as_text_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """Both name the release, Python and the schema."""
    status, out, _ = said(capsys, "version", "--json")
    facts = json.loads(out)
    assert status == DONE
    assert facts["schema"] == len(load_migrations())
    text = said(capsys, "version")[1]
    assert facts["version"] in text
    assert facts["python"] in text


def test_local_database_from_start_to_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`db up`, `dsn`, `doctor`, `stop` and `reset` work on the local server."""
    try:
        status, out, _ = said(capsys, "db", "up")
        assert status == DONE
        assert "started: postgresql://meridian:***@" in out
        status, out, _ = said(capsys, "db", "dsn")
        assert status == DONE
        assert "***" not in out
        status, findings = doctor(capsys)
        assert status == DONE, findings
        assert findings["postgres programs"]["verdict"] == "ok"
        assert said(capsys, "db", "stop")[:2] == (DONE, "stopped\n")
        assert said(capsys, "db", "stop")[:2] == (DONE, "none was running\n")
        assert said(capsys, "db", "reset", "--yes")[:2] == (DONE, "deleted\n")
        assert said(capsys, "db", "reset", "--yes")[:2] == (DONE, "there was none\n")
    finally:
        reset_local_postgres(tmp_path / "state")


@pytest.mark.usefixtures("empty")
def test_local_commands_refuse_where_a_database_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With DATABASE_URL set there is nothing local to start or to print."""
    for command in ("up", "dsn"):
        status, out, err = said(capsys, "db", command)
        assert (status, out) == (WRONG, "")
        assert "DATABASE_URL is set" in err


def test_reset_asks_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal to ask on, `--yes` is needed."""
    status, _, err = said(capsys, "db", "reset")
    assert status == WRONG
    assert "--yes" in err


def test_started_as_a_module_beside_foreign_packages(tmp_path: Path) -> None:
    """`python -P -m` does not see a folder `services` in the current directory."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "services.admin.cli", "version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DONE, done.stderr
    assert done.stdout.startswith("meridian ")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["db"], ["migrate", "--to", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown or incomplete command exits with 2 and says how it is used."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == WRONG
    assert "usage: meridian" in capsys.readouterr().err
