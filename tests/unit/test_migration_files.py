"""The packaged migration files keep to the rules that the runner and its operators rely on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.db.migrate import NO_TRANSACTION, Migration, load_migrations
from shared.domain.errors import ConfigError

FILES = load_migrations()
# Words that would end or leave the runner's transaction, or outlive it in the session.
FORBIDDEN = re.compile(
    r"^\s*(begin|commit|rollback|start\s+transaction|savepoint|set\s+(?!local\b)|"
    r"create\s+extension|vacuum|create\s+database)\b[^;]*;",
    re.IGNORECASE | re.MULTILINE,
)


def without_bodies(sql: str) -> str:
    """The text without comments and quoted function bodies."""
    bare = re.sub(r"(\$\w*\$).*?\1", "", sql, flags=re.DOTALL)
    return re.sub(r"--[^\n]*", "", bare)


def is_one_repeatable_statement(sql: str) -> bool:
    """Whether a text is a single statement that does not mind its object's presence."""
    statements = [part for part in without_bodies(sql).split(";") if part.strip()]
    return len(statements) == 1 and bool(
        re.search(r"\bif (not )?exists\b", statements[0], re.IGNORECASE)
    )


def write(folder: Path, **files: str) -> Path:
    """Files named by keyword, with `.sql` added."""
    for name, text in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(text)
    return folder


@pytest.mark.parametrize("migration", FILES, ids=lambda migration: migration.name)
def test_file_leaves_transaction_and_session_to_the_runner(migration: Migration) -> None:
    """No file ends its own transaction, changes the session or needs an extension."""
    assert FORBIDDEN.search(without_bodies(migration.sql)) is None


def test_files_outside_a_transaction_hold_one_repeatable_statement() -> None:
    """What cannot be rolled back must be one statement that may run twice."""
    for migration in FILES:
        if not migration.transactional:
            assert is_one_repeatable_statement(migration.sql), migration.name


def test_the_check_for_one_repeatable_statement_is_able_to_fail() -> None:
    """It refuses two statements, and one that fails when the object is there."""
    assert is_one_repeatable_statement("create index concurrently if not exists a on b (c);")
    assert not is_one_repeatable_statement("create index concurrently a on b (c);")
    assert not is_one_repeatable_statement("drop index if exists a; drop index if exists b;")


def test_there_are_files() -> None:
    """The package carries its migrations."""
    assert FILES
    assert [migration.version for migration in FILES] == list(range(1, len(FILES) + 1))


def test_the_check_for_forbidden_words_finds_them() -> None:
    """The rule above is able to fail."""
    assert FORBIDDEN.search(without_bodies("create table a();\nCOMMIT;"))
    assert FORBIDDEN.search(without_bodies("set search_path = x;"))
    assert not FORBIDDEN.search(without_bodies("set local lock_timeout = '1s';"))
    assert not FORBIDDEN.search(without_bodies("create function f() as $x$ begin; end; $x$;"))


def test_files_are_read_in_order(tmp_path: Path) -> None:
    """Order is by number, and other files in the folder are passed over."""
    write(tmp_path, m0002_two="select 2", m0001_one="select 1")
    (tmp_path / "README.md").write_text("not a migration")
    assert [migration.name for migration in load_migrations(tmp_path)] == ["0001_one", "0002_two"]


def test_checksum_ignores_line_ends(tmp_path: Path) -> None:
    """A checkout that rewrites line ends does not change history."""
    (tmp_path / "0001_one.sql").write_bytes(b"select 1;\n")
    unix = load_migrations(tmp_path)[0].checksum
    (tmp_path / "0001_one.sql").write_bytes(b"select 1;\r\n")
    assert load_migrations(tmp_path)[0].checksum == unix


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_one", "0003_three"], "numbered"),
        (["0001_one", "0001_uno"], "numbered"),
        (["0002_two"], "numbered"),
        (["0001-one"], "NNNN_slug"),
        (["0001_One"], "NNNN_slug"),
        (["1_one"], "NNNN_slug"),
    ],
)
def test_gaps_doubles_and_misnamed_files_are_refused(
    tmp_path: Path, names: list[str], complaint: str
) -> None:
    """A folder that leaves the order open is an error, not a guess."""
    for name in names:
        (tmp_path / f"{name}.sql").write_text("select 1")
    with pytest.raises(ConfigError, match=complaint):
        load_migrations(tmp_path)


def test_only_the_first_line_takes_a_file_out_of_the_transaction(tmp_path: Path) -> None:
    """The marker elsewhere in a file is a comment."""
    write(
        tmp_path, m0001_one=f"{NO_TRANSACTION}\nselect 1", m0002_two=f"select 1;\n{NO_TRANSACTION}"
    )
    assert [migration.transactional for migration in load_migrations(tmp_path)] == [False, True]
