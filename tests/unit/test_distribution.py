"""The start-up check that `shared` and `services` are both ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.config.distribution import check_distribution, common_folder
from shared.domain.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CHECK = "from shared.config.distribution import check_distribution as c; print(c())"


def package(folder: Path, name: str) -> Path:
    """A package's `__init__.py`."""
    path = folder / name / "__init__.py"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The check in a process whose current directory is `folder`."""
    return subprocess.run(
        [sys.executable, *options, "-c", CHECK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_this_tree_is_of_one_piece() -> None:
    """Both packages come from the tree under test."""
    assert check_distribution() == ROOT


def test_two_places_are_refused_with_both_named(tmp_path: Path) -> None:
    """A mixture says which package comes from where."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    origins = {"shared": package(ours, "shared"), "services": package(theirs, "services")}
    with pytest.raises(ConfigError) as caught:
        common_folder(origins)
    assert str(ours) in str(caught.value)
    assert str(theirs) in str(caught.value)


def test_bare_folder_is_refused() -> None:
    """A folder without `__init__.py` wins over an editable installation; it is found out."""
    with pytest.raises(ConfigError, match=r"`services` .* bare folder"):
        common_folder({"shared": ROOT / "shared" / "__init__.py", "services": None})


def test_links_do_not_make_two_places(tmp_path: Path) -> None:
    """The same folder reached over a link is the same folder."""
    init = package(tmp_path / "real", "shared")
    package(tmp_path / "real", "services")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    origins = {"shared": init, "services": tmp_path / "link" / "services" / "__init__.py"}
    assert common_folder(origins) == (tmp_path / "real").resolve()


def test_foreign_services_in_the_current_directory_is_found_out(tmp_path: Path) -> None:
    """Started without `-P` beside somebody else's `services`, the check refuses; with it, not."""
    package(tmp_path, "services")
    careless = run(tmp_path)
    assert careless.returncode != 0
    assert "not of one installation" in careless.stderr
    careful = run(tmp_path, "-P")
    assert careful.stdout.strip() == str(ROOT), careful.stderr
