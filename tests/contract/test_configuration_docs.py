"""docs/configuration.md tells all and only what the code reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.config.client_variables import KEY_VARIABLES, URL_VARIABLES
from shared.config.reference import fill_tables, table_names
from shared.config.variables import VARIABLES
from shared.config.variables_pending import PENDING_VARIABLES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"


def test_tables_are_those_of_the_code():
    """The page is what the generator makes of it; on drift run
    `python -P -m shared.config.reference docs/configuration.md`."""
    text = PAGE.read_text(encoding="utf-8")
    assert fill_tables(text) == text


def test_every_table_is_on_the_page_once():
    """No table is left out."""
    marks = re.findall(r"<!-- table: ([a-z-]+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(marks) == sorted(table_names())


def test_drift_would_be_found(tmp_path):
    """A changed row does not survive the generator."""
    text = PAGE.read_text(encoding="utf-8").replace("| `PORT` | port |", "| `PORT` | number |")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert fill_tables(text) != text
    subprocess.run(
        [sys.executable, "-m", "shared.config.reference", str(page)], check=True, cwd=ROOT
    )
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_every_own_variable_in_the_code_is_declared():
    """No module reads a `MERIDIAN_…` variable that the table does not have; those of the command
    stand in docs/cli.md."""
    declared = {variable.name for variable in VARIABLES}
    declared |= {variable.name for variable in PENDING_VARIABLES}
    of_the_command = {*URL_VARIABLES, *KEY_VARIABLES}
    told = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert all(f"`{name}`" in told for name in of_the_command)
    declared |= of_the_command
    found = {
        name: str(file.relative_to(ROOT))
        for folder in ("shared", "services")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in re.findall(r"[\"'](MERIDIAN_[A-Z_]+[A-Z])[\"']", file.read_text("utf-8"))
    }
    assert {name: file for name, file in found.items() if name not in declared} == {}


@pytest.mark.parametrize("name", ["HOST", "DATABASE_URL", "MERIDIAN_STATE_DIR"])
def test_settings_are_found_by_name(name):
    """A reader who searches for a variable finds its row."""
    assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")
