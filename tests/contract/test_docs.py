"""The pages for people say what the code does: names, links and tables are checked against it."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from services.admin.api.key_fields import GENERATE_FIELDS, UPDATE_FIELDS
from services.admin.cli import _parser
from services.admin.ui.page import UI_ROUTES
from shared.config.client_variables import KEY_VARIABLES, URL_VARIABLES
from shared.config.variables import VARIABLES
from shared.config.variables_pending import PENDING_VARIABLES
from shared.domain.capabilities import (
    LLM_FLAGS,
    MANAGEMENT_FLAGS,
    PROBE_FLAGS,
    UI_FLAGS,
    RouteClass,
)
from shared.gateway.envelope import _REFUSED
from shared.gateway.handlers import health, models
from shared.gateway.route_classes import known_paths
from shared.gateway.route_specs import sample
from shared.gateway.routes import _LLM_PATHS
from shared.gateway.translate import GATEWAY_MEMBERS
from shared.gateway.unserved import reason_for
from shared.telemetry.catalogue import CATALOGUE
from tests.support.served_routes import SERVED

ROOT = Path(__file__).parents[2]
TOP_PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "THREAT_MODEL.md",
)
PAGES = (*(ROOT / name for name in TOP_PAGES), *sorted((ROOT / "docs").rglob("*.md")))
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_MAKE = re.compile(r"(?:^|`)make (?P<target>[a-z][a-z-]*)", re.MULTILINE)
_COMMAND = re.compile(r"\b(?P<name>meridian(?:-[a-z]+)?)(?P<words>(?: [a-z]+)*)")
_VARIABLE = re.compile(r"\b(?:MERIDIAN|LITELLM|DISABLE)_[A-Z0-9_]*[A-Z0-9]\b")
_OUR_PATH = re.compile(
    r"(?:\.ci|bench|changelog\.d|deploy|docs|services|shared|tests)/[\w./-]*[\w/]"
)

page_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as readers of Markdown make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in _LINK.findall(_FENCE.sub("", text)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path
        known = not path or file.exists()
        if known and anchor:
            known = anchor in anchors(file.read_text("utf-8") if path else text)
        if not known:
            broken.append(target)
    return broken


def section(text: str, name: str) -> str:
    """What stands between a page's marks `<!-- name -->` and `<!-- end of name -->`."""
    found = re.search(rf"<!-- {name}[^>]* -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    assert found, f"no table {name}"
    return found[1]


def first_cells(table: str) -> list[str]:
    """The first column of a table, without its head."""
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [row.split("|")[1].strip() for row in rows]


def requirements(value: str) -> set[str]:
    """Package names of a list in setup.cfg."""
    return {re.split(r"[<>=;\s]", line)[0] for line in value.split("\n") if line.strip()}


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    """setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


@page_name
def test_links_lead_somewhere(page):
    """Every relative link of every page, and every anchor, exists."""
    assert broken_links(page, page.read_text("utf-8")) == []


def test_a_broken_link_is_found(tmp_path):
    """The check sees a missing file, a missing anchor, and accepts good ones."""
    (tmp_path / "other.md").write_text("# Some thing: it's here\n")
    page = tmp_path / "page.md"
    text = (
        "# Here\n[a](other.md) [b](other.md#some-thing-its-here) [c](#here) [d](https://x.org)\n"
        "[e](gone.md) [f](other.md#gone) [g](#gone)\n```\n[h](in-a-block.md)\n```\n"
    )
    assert broken_links(page, text) == ["gone.md", "other.md#gone", "#gone"]


@page_name
def test_named_paths_exist(page):
    """A file or folder of ours that a page names in code is there."""
    named = {path for code in _CODE.findall(prose(page)) for path in _OUR_PATH.findall(code)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@page_name
def test_make_targets_exist(page, targets):
    """Every `make …` of a page is a target."""
    assert set(_MAKE.findall(page.read_text("utf-8"))) <= targets


def test_the_two_commands_are_told(targets):
    """The README names the targets that a newcomer needs, and they exist."""
    named = set(_MAKE.findall(README))
    assert named >= {"run-worker", "run-admin", "test", "bench", "migrate", "help", "db-reset"}
    assert named <= targets


def test_console_scripts_are_told(setup):
    """Each command of the package is named, and no page names another one."""
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    scripts = {line.partition("=")[0].strip() for line in lines if line.strip()}
    told = "\n".join(page.read_text("utf-8") for page in PAGES) + MAKEFILE
    for script in scripts:
        assert re.search(rf"\b{script}\b(?!-)", told), f"{script} is told nowhere"
    assert {name for name, _ in _invocations(page.read_text("utf-8") for page in PAGES)} <= scripts


def _invocations(texts: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for text in texts:
        for code in (*_CODE.findall(_FENCE.sub("", text)), *_shell(text)):
            for found in _COMMAND.finditer(code):
                before = code[: found.start()]
                if before.strip() in ("", ".venv/bin/") or before.endswith("bin/"):
                    yield found["name"], found["words"].split()


def _shell(text: str) -> list[str]:
    return [
        line
        for block in _FENCE.finditer(text)
        if block["language"] == "sh"
        for line in block["body"].splitlines()
    ]


def test_subcommands_exist(capsys):
    """`meridian …` in any page is a command that the parser knows."""
    seen = 0
    for name, words in _invocations(page.read_text("utf-8") for page in PAGES):
        if name == "meridian" and words:
            seen += 1
            with pytest.raises(SystemExit) as ended:
                _parser().parse_args([*words, "--help"])
            assert ended.value.code == 0, " ".join(words)
    capsys.readouterr()
    assert seen >= 3


@page_name
def test_variables_are_in_the_reference(page):
    """A variable of ours that a page names stands in docs/configuration.md, steers the tests, or is
    the command's."""
    known = {variable.name for variable in (*VARIABLES, *PENDING_VARIABLES)}
    known |= {*URL_VARIABLES, *KEY_VARIABLES}
    known |= set(_VARIABLE.findall(MAKEFILE))
    assert set(_VARIABLE.findall(page.read_text("utf-8"))) <= known


def test_every_variable_has_a_row():
    """Each variable that the code reads is a row of docs/configuration.md."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = {cell.strip("`") for cell in first_cells(page) if cell.startswith("`")}
    assert {variable.name for variable in (*VARIABLES, *PENDING_VARIABLES)} <= rows


def test_capability_flags_are_in_the_readme():
    """The README's table of capabilities has every flag that takes one away."""
    table = README.partition("## Capabilities and flags")[2].partition("\n## ")[0]
    for flag in (*LLM_FLAGS, *MANAGEMENT_FLAGS, *UI_FLAGS, *PROBE_FLAGS):
        assert f"`{flag}`" in table


def test_dependencies_have_a_row(setup):
    """Each package of setup.cfg has its row in docs/dependencies.md, and no row is left over."""
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    extras = setup["options.extras_require"]
    for table, value in (
        ("runtime", setup["options"]["install_requires"]),
        ("localdb", extras["localdb"]),
        ("import", extras["import"]),
        ("tools", extras["dev"]),
    ):
        assert set(first_cells(section(page, table))) == requirements(value), table


def test_layers_are_those_of_the_contract(setup):
    """The picture of the layers is the import contract."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    drawn = [line for line in section(page, "layers").splitlines() if line.startswith("s")]
    layers = [line for line in setup["importlinter:contract:layers"]["layers"].split("\n") if line]
    assert len(drawn) == len(layers)
    for line, layer in zip(drawn, layers, strict=True):
        assert re.split(r"\s{2,}", line)[0] == layer


def _events() -> set[str]:
    """The names of all events that the code logs."""
    names = set()
    for folder in ("shared", "services"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "_log"
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    names.add(str(node.args[0].value))
    return names


def test_events_are_explained():
    """Every event of the log has a row in docs/operations.md that says what to do."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    told = {name for cell in first_cells(section(page, "events")) for name in _CODE.findall(cell)}
    assert told == _events()


@page_name
def test_metrics_exist(page):
    """A metric that a page names is declared; histograms also by their parts."""
    declared = {metric.exposed for metric in CATALOGUE}
    parts = "|".join(("_bucket", "_sum", "_count"))
    for name in re.findall(r"\b(?:meridian_[a-z_]+|litellm_[a-z_]+_total)\b", prose(page)):
        assert re.sub(rf"(?:{parts})$", "", name) in declared or name in declared, name


def test_routes_in_force_are_those_registered():
    """docs/compatibility.md lists exactly the routes that are served, by method and path; those of
    the management API are in a section of their own."""
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    told = {
        (cell.split()[0], path)
        for cell in first_cells(section(page, "routes"))
        for path in _CODE.findall(cell)
    }
    served = {("POST", path) for _, paths in _LLM_PATHS for path in paths}
    served |= {(method, path) for method, path, _ in (*models.ROUTES, *health.ROUTES)}
    served |= {(spec.method, spec.path) for spec, _ in UI_ROUTES}
    named = {
        (method, path.replace("{model:.+}", "{model}"))
        for method, path in served
        if method != "OPTIONS"
    }
    assert told == named


def test_management_routes_are_told():
    """The sections on the management API are what its route tables say."""
    command = [sys.executable, "-P", "deploy/local/route_pages.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_served_has_a_reason():
    """Each path of the management API is served, or belongs to a family that says why not; and no
    family covers a path that is served."""
    served = {path for _, path in SERVED[RouteClass.MANAGEMENT]}
    for path, route_class in known_paths():
        if route_class is not RouteClass.MANAGEMENT:
            continue
        is_served = any(_matches(template, sample(path)) for template in served)
        assert is_served != (reason_for(path) is not None), path
    for path in served:
        assert reason_for(path) is None, path


def _matches(template: str, path: str) -> bool:
    pattern = re.sub(r"\{\w+\*\}", ".+", template)
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path) is not None


def test_key_fields_and_members_are_told():
    """Every field of a key, and every member of a body that the gateway consumes or refuses, is
    said to be in force, refused or without effect."""
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    keys = page.partition("## Keys")[2].partition("\n## ")[0]
    fields = {each.name for each in (*GENERATE_FIELDS, *UPDATE_FIELDS)}
    assert fields - set(_CODE.findall(keys)) == set()
    bodies = page.partition("## Request bodies")[2].partition("\n## ")[0]
    assert (GATEWAY_MEMBERS | set(_REFUSED)) - set(_CODE.findall(bodies)) == set()


def test_decisions_are_numbered_and_complete():
    """Decisions count from 1, are listed, dated, and say why, what and with which consequences."""
    folder = ROOT / "docs" / "adr"
    files = sorted(folder.glob("0*.md"))
    index = (folder / "README.md").read_text("utf-8")
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for number, file in enumerate(files, 1):
        text = file.read_text("utf-8")
        title = text.splitlines()[0].removeprefix(f"# {number}. ")
        assert f"| {number} | [{title}]({file.name}) |" in index
        assert re.search(r"^(Accepted|Replaced by \S+), 20\d\d-\d\d-\d\d\.$", text, re.MULTILINE)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]


def test_shell_blocks_can_be_read():
    """Every shell block of the README is valid shell, and its Python compiles."""
    blocks = [each["body"] for each in _FENCE.finditer(README) if each["language"] == "sh"]
    assert len(blocks) >= 6
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True, timeout=10)
        for script in re.findall(r"<<'PYTHON'\n(.*?)^PYTHON$", block, re.MULTILINE | re.DOTALL):
            compile(script, "README.md", "exec")


def test_packages_say_that_they_are_typed():
    """Type checkers of whoever imports the packages find the markers."""
    for package in ("shared", "services"):
        assert (ROOT / package / "py.typed").is_file()


def test_changelog_fragments_are_named_by_kind():
    """A fragment is `<issue>.<slug>.<kind>.md` with one line."""
    kinds = "added|changed|deprecated|removed|fixed|security"
    for fragment in (ROOT / "changelog.d").iterdir():
        assert re.fullmatch(rf"\d+\.[a-z0-9-]+\.(?:{kinds})\.md", fragment.name), fragment.name
        assert len(fragment.read_text("utf-8").splitlines()) == 1
