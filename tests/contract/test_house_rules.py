"""The rules of the house hold in every file, and the checks of them are able to fail."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import house_rules as rules

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for top in ("shared", "services") for path in (ROOT / top).rglob("*.py"))

# File -> why it may import inside of a function.
LOCAL_IMPORTS: dict[str, str] = {
    "shared/secrets/sealing.py": "cryptography takes 7 MB, and few processes have a secret to open",
    "shared/keys/jwt_start.py": "PyJWT takes 0.1 s and 9 MB, for those who let tokens in",
    "services/admin/cli.py": "a command loads only what it needs: the database takes 0.1 s",
}

Rule = Callable[[str], Iterable[str]]


def name_of(path: Path) -> str:
    """The path inside of the repository."""
    return path.relative_to(ROOT).as_posix()


def complaints(rule: Rule, files: Iterable[Path], allowed: Iterable[str] = ()) -> list[str]:
    """What a rule finds, file by file, without the files that have a reason."""
    return [
        f"{name_of(path)}:{complaint}"
        for path in files
        if name_of(path) not in set(allowed)
        for complaint in rule(rules.read(path))
    ]


def module_of(path: Path) -> ModuleType:
    """The module of a file."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(dotted.removesuffix(".__init__"))


def test_files_and_functions_are_short() -> None:
    """No file is over 600 lines, no function over 60."""
    assert complaints(rules.lengths, FILES) == []


def test_no_global_statement() -> None:
    """Nothing rebinds a module's name from a function."""
    assert complaints(rules.globals_used, FILES) == []


def test_no_mutable_module_state() -> None:
    """What a module holds cannot be changed: two instances in a process share nothing."""
    found = [
        f"{name_of(path)}:{complaint}"
        for path in FILES
        for complaint in rules.mutable_state(rules.read(path), module_of(path))
    ]
    assert found == []


def test_imports_are_at_the_top() -> None:
    """No import hides in a function, but in the files listed with a reason."""
    assert complaints(rules.local_imports, FILES, LOCAL_IMPORTS) == []


def test_nothing_catches_everything() -> None:
    """No bare or broad handler without a reason written beside it."""
    assert complaints(rules.broad_handlers, FILES) == []


def test_list_of_exceptions_is_not_stale() -> None:
    """Each listed file still exists, still needs its place, and has a reason."""
    for name, reason in LOCAL_IMPORTS.items():
        assert reason
        assert list(rules.local_imports(rules.read(ROOT / name))), name


def test_sql_is_only_in_shared_db() -> None:
    """Statements stand where their schema is known."""
    files = [path for path in FILES if not name_of(path).startswith("shared/db/")]
    assert complaints(rules.sql, files) == []


@pytest.mark.parametrize(("one", "other"), [("worker", "admin"), ("admin", "worker")])
def test_services_do_not_know_each_other(one: str, other: str) -> None:
    """Neither binary imports from the other, not even for types."""
    files = [path for path in FILES if name_of(path).startswith(f"services/{one}/")]
    assert files
    assert complaints(lambda source: rules.imports_of(source, f"services.{other}"), files) == []


def test_layers_hold() -> None:
    """import-linter keeps every contract of setup.cfg."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


BAD_SOURCES = [
    (rules.lengths, "x = 1\n" * 601),
    (rules.lengths, "def f():\n" + "    x = 1\n" * 60),
    (rules.lengths, "class A:\n    async def f(self):\n" + "        x = 1\n" * 60),
    (rules.globals_used, "def f():\n    global x\n    x = 1\n"),
    (rules.local_imports, "def f():\n    import json\n"),
    (
        rules.local_imports,
        "class A:\n    def f(self):\n        if x:\n            from a import b\n",
    ),
    (rules.broad_handlers, "try:\n    f()\nexcept:\n    pass\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept Exception:\n    pass\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept (ValueError, BaseException) as e:\n    g(e)\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept Exception as e:\n    raise A() from e\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass\n"),
    (rules.sql, "Q = 'SELECT a, b FROM t WHERE c = $1'\n"),
    (rules.sql, "f('''\n  insert into t (a) values ($1)''')\n"),
    (rules.sql, "f(f'UPDATE t SET a = {b}')\n"),
    (rules.sql, "f('delete from t')\n"),
    (rules.sql, "f('with x as (select 1) select * from x')\n"),
    (rules.sql, "f('LISTEN changes')\n"),
]
GOOD_SOURCES = [
    (rules.lengths, "def f():\n" + "    x = 1\n" * 59),
    (rules.globals_used, "x = 1\ndef f():\n    x = 2\n"),
    (rules.local_imports, "if TYPE_CHECKING:\n    import json\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept (OSError, ValueError):\n    pass\n"),
    (rules.broad_handlers, "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n"),
    (
        rules.broad_handlers,
        "try:\n    f()\nexcept Exception:  # noqa: BLE001 - supervisor: it goes on\n    pass\n",
    ),
    (rules.sql, '"""Select a model from the list."""\ndef f():\n    """SELECT 1 FROM t"""\n'),
    (rules.sql, "f('select a model', 'update available', 'delete', 'with care')\n"),
]


@pytest.mark.parametrize(("rule", "source"), BAD_SOURCES)
def test_rules_find_violations(rule: Rule, source: str) -> None:
    """Each rule complains about a source that breaks it."""
    assert list(rule(source))


@pytest.mark.parametrize(("rule", "source"), GOOD_SOURCES)
def test_rules_leave_good_sources_alone(rule: Rule, source: str) -> None:
    """Each rule is content with a source that keeps it."""
    assert not list(rule(source))


PREAMBLE = """\
import logging, re, itertools, collections
from collections.abc import Mapping
from types import MappingProxyType
from attrs import define, frozen
@define
class Owner:
    x: int = 1
@frozen
class Value:
    x: object = 1
"""


@pytest.mark.parametrize(
    "line",
    [
        "cache = {}",
        "_seen: set[str] = set()",
        "NAMES = ['a']",
        "NAMES = ('a', ['b'])",
        "TABLE = MappingProxyType({'a': []})",
        "counter = itertools.count()",
        "COUNTS = collections.Counter()",
        "OWNER = Owner()",
        "VALUE = Value([1])",
        "cache: Mapping[str, str] = {}",
        "if True:\n    cache = {}",
        "_TABLE = {'a': 1}\ndef f():\n    _TABLE['b'] = 2",
        "_TABLE = {'a': 1}\ndef f():\n    _TABLE.update(b=2)",
        "_NAMES = ['a']\ndef f():\n    global _NAMES\n    _NAMES += ['b']",
        "_SEEN: Mapping[str, int] = {'a': 1}\ndel _SEEN['a']",
        "_CACHE = {}",
        "TABLE = {'a': 1}",
        "try:\n    x = 1\nexcept OSError:\n    x = 2\nelse:\n    cache = []",
    ],
)
def test_mutable_state_is_found(line: str) -> None:
    """Every way of keeping something changeable in a module is complained about."""
    assert list(rules.mutable_state(PREAMBLE + line, executed(PREAMBLE + line)))


@pytest.mark.parametrize(
    "line",
    [
        "NAMES = ('a', 'b')",
        "NAMES = frozenset({'a'})",
        "TABLE = MappingProxyType({'a': ('b', 1)})",
        "TABLE: Mapping[str, str] = {'a': 'b'}",
        "_TABLE = {'a': ('b', 1)}\ndef f():\n    return _TABLE['a']",
        "PATTERN = re.compile('a')",
        "_log = logging.getLogger('a')",
        "VALUE = Value(('a',))",
        "Alias = dict[str, int] | None",
        "__all__ = ['a']",
        "LIMIT: int = 5",
    ],
)
def test_constants_are_no_state(line: str) -> None:
    """What cannot be changed is left alone."""
    assert not list(rules.mutable_state(PREAMBLE + line, executed(PREAMBLE + line)))


def executed(source: str) -> ModuleType:
    """A module made from source."""
    module = ModuleType("example")
    exec(compile(source, "example", "exec"), module.__dict__)
    return module


def test_import_of_the_other_service_is_found() -> None:
    """Plain, dotted and from-imports count."""
    for source in (
        "import services.admin",
        "from services import admin",
        "from services.admin.app import build",
        "import services.admin.app as a",
    ):
        assert list(rules.imports_of(source, "services.admin")), source
    assert not list(rules.imports_of("import services.administration", "services.admin"))
