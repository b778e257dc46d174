"""Options of the commands over the API, made from the tables."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.cli.command import BulkImport, Command, Option
from services.cli.nouns.audit import AUDIT
from services.cli.nouns.keys import KEYS
from services.cli.nouns.limits import BUDGETS, CUSTOMERS, ORGANIZATIONS
from services.cli.nouns.models import CREDENTIALS, MODELS
from services.cli.nouns.spend import SPEND
from services.cli.nouns.teams import TEAMS
from services.cli.nouns.users import USERS
from services.cli.options import FIELD, FROM

_TABLES: tuple[tuple[str, tuple[Command | BulkImport, ...]], ...] = (
    ("virtual keys", KEYS),
    ("internal users", USERS),
    ("teams and their members", TEAMS),
    ("models and their deployments", MODELS),
    ("stored credentials of providers", CREDENTIALS),
    ("what was spent", SPEND),
    ("budgets to link", BUDGETS),
    ("organizations", ORGANIZATIONS),
    ("end users", CUSTOMERS),
    ("the log of changes", AUDIT),
)
NOUNS: Mapping[str, tuple[Command | BulkImport, ...]] = MappingProxyType(
    {table[0].words[0]: table for _, table in _TABLES}
)
_MOST_JOBS = 64
_DEFAULT_JOBS = 8
_EPILOG = (
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 not reachable. "
    "The proxy is that of --url, MERIDIAN_URL or LITELLM_PROXY_URL, else the local admin; the key "
    "that of --key-env, MERIDIAN_KEY, LITELLM_PROXY_API_KEY or LITELLM_MASTER_KEY, else the one "
    "that local mode has made."
)


def add_nouns(commands: Any, only: str | None) -> None:
    """Adds a parser for each noun; `only` this one, where that is known."""
    for text, table in _TABLES:
        noun = table[0].words[0]
        if only in (None, noun):
            _add(commands, table, (noun,), text)


def _add(
    commands: Any, table: tuple[Command | BulkImport, ...], words: tuple[str, ...], text: str
) -> None:
    """A parser of the words that the table's commands begin with, and of those after it."""
    parser = commands.add_parser(words[-1], help=text, allow_abbrev=False)
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    depth = len(words)
    deeper: list[str] = []
    for row in table:
        if row.words[:depth] != words:
            continue
        if len(row.words) == depth + 1:
            _add_command(inner, row)
        elif row.words[depth] not in deeper:
            deeper.append(row.words[depth])
    for word in deeper:
        _add(inner, table, (*words, word), f"{words[0]}: {word}")


def _add_command(commands: Any, row: Command | BulkImport) -> None:
    parser = commands.add_parser(
        row.words[-1],
        aliases=row.also,
        help=row.help,
        description=f"{row.help[0].upper()}{row.help[1:]}.",
        epilog=_EPILOG,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(row=row, noun=row.words[0])
    if isinstance(row, BulkImport):
        _add_import(parser)
    else:
        for option in (*row.options, *((FROM, FIELD) if row.fields else ())):
            _add_option(parser, option)
        _add_output(parser, row)
    _add_connection(parser)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    # In a help text a per cent sign is a placeholder's.
    more: dict[str, Any] = {"help": option.help.replace("%", "%%")}
    if option.says is not None:
        parser.add_argument(
            option.name, dest=option.slot, action="store_const", const=option.says, **more
        )
        return
    more |= {"type": option.kind.read, "metavar": option.kind.metavar}
    if option.choices:
        more |= {"choices": option.choices, "metavar": f"{{{','.join(option.choices)}}}"}
    if option.positional:
        if option.several:
            more["nargs"] = "+"
        parser.add_argument(option.slot, **{**more, "metavar": option.name})
        return
    if option.kind.many:
        more["action"] = "append"
    names = [option.name]
    parser.add_argument(*names, dest=option.slot, required=option.required, **more)


def _add_output(parser: argparse.ArgumentParser, command: Command) -> None:
    group = parser.add_argument_group("output")
    forms = group.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", default=False, help="the whole answer")
    forms.add_argument("--only", metavar="FIELD", default=None, help="one member of it, bare")
    if command.view.columns:
        forms.add_argument(
            "--jsonl", action="store_true", default=False, help="each row in a line of its own"
        )
        group.add_argument(
            "--columns", metavar="A,B", default=None, help="columns of the table, by member"
        )
    if command.pages is not None and not command.pages.always:
        group.add_argument("--all", action="store_true", default=False, help="follow all pages")
        group.add_argument("--page", type=_count, metavar="N", default=None, help="which page")
        group.add_argument(
            "--page-size", type=_count, metavar="N", default=None, help="rows of a page"
        )
    if command.writes:
        _add_wait(group)


def _add_wait(group: Any) -> None:
    group.add_argument(
        "--wait",
        action="store_true",
        default=False,
        help="until the change is in force on every instance (Meridian only)",
    )


def _add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument("--url", metavar="URL", default=None, help="address of the proxy")
    keys = group.add_mutually_exclusive_group()
    keys.add_argument(
        "--key-env", metavar="NAME", default=None, help="variable that holds the caller's key"
    )
    keys.add_argument(
        "--key", metavar="-", default=None, help="'-': the first line of standard input is the key"
    )
    group.add_argument(
        "--timeout", type=_seconds, metavar="S", default=30.0, help="for each answer (30)"
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="JSON Lines or CSV; '-' is standard input")
    parser.add_argument(
        "--format", choices=("jsonl", "csv"), default=None, help="where the name does not say it"
    )
    parser.add_argument(
        "--jobs", type=_jobs, metavar="N", default=_DEFAULT_JOBS, help="calls at once (8)"
    )
    parser.add_argument(
        "--out", metavar="FILE", default=None, help="append what is made, keys included, here"
    )
    parser.add_argument(
        "--errors", metavar="FILE", default=None, help="write what fails here, as JSON Lines"
    )
    forms = parser.add_argument_group("output").add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", default=False, help="one report at the end")
    forms.add_argument(
        "--jsonl", action="store_true", default=False, help="each outcome in a line of its own"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _jobs(text: str) -> int:
    number = _count(text)
    if number > _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"at most {_MOST_JOBS}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise argparse.ArgumentTypeError("more than 0")
    return number
