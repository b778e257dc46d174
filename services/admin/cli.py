"""The command `meridian`.

The commands beside the services are in `services.admin.commands`, those over the management API in
`services.cli`. Only the modules of the command that is asked for are loaded.

Exit status: 0 done; 1 a check failed, or the proxy refused; 2 the command, the configuration or a
migration is wrong; 3 the database or the proxy cannot be reached.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.admin.litellm_import.options import add_import_command
from services.cli.parser import NOUNS, add_nouns
from services.cli.status import DONE, FAILED, INTERRUPTED, UNREACHABLE, WRONG
from shared.domain.capabilities import Binary

__all__ = ["DONE", "FAILED", "UNREACHABLE", "WRONG", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(words[0] if words and words[0] in NOUNS else None).parse_args(words)
    try:
        if options.noun is None:
            from services.admin.commands import run  # noqa: PLC0415 - the database takes 0.1 s

            return run(options.command, options, os.environ)
        from services.cli.run import run_api  # noqa: PLC0415 - aiohttp takes 0.2 s

        return run_api(options, os.environ)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(noun: str | None = None) -> argparse.ArgumentParser:
    """All commands; of those over the API only a noun's, where it is known which is asked for."""
    parser = argparse.ArgumentParser(
        prog="meridian",
        description="Look after a Meridian installation.",
        epilog="Exit status: 0 done, 1 a check failed or the proxy refused, 2 wrong command, "
        "configuration or migration, 3 database or proxy unreachable.",
    )
    parser.set_defaults(noun=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    if noun is None:
        _add_commands(commands)
    add_nouns(commands, noun)
    return parser


def _add_commands(commands: Any) -> None:
    migrating = commands.add_parser("migrate", help="apply the missing schema migrations")
    migrating.add_argument("--dry-run", action="store_true", help="only list them")
    migrating.add_argument("--to", type=int, metavar="N", help="stop after version N")
    _common(migrating, "migrate")

    config = commands.add_parser("config", help="look at the configuration")
    checks = config.add_subparsers(required=True, metavar="COMMAND")
    checking = checks.add_parser("check", help="say what is wrong with a configuration file")
    checking.add_argument("path", nargs="?", type=Path, metavar="PATH")
    checking.add_argument(
        "--binary", choices=[str(binary) for binary in Binary], default=str(Binary.WORKER)
    )
    checking.set_defaults(command="config check")

    _common(commands.add_parser("doctor", help="check what an installation needs"), "doctor")
    _common(commands.add_parser("version", help="print the version"), "version")
    _database_commands(commands)
    add_import_command(commands)


def _database_commands(commands: Any) -> None:
    database = commands.add_parser("db", help="the local PostgreSQL of this user")
    inner = database.add_subparsers(required=True, metavar="COMMAND")
    for name, text in (
        ("up", "start it and apply the migrations"),
        ("stop", "stop it"),
        ("reset", "stop it and delete all its data"),
        ("dsn", "print its address, password included"),
    ):
        parser = inner.add_parser(name, help=text)
        parser.set_defaults(command=f"db {name}")
        if name == "reset":
            parser.add_argument("--yes", action="store_true", help="do not ask")


def _common(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--config", type=Path, metavar="PATH", help="default: CONFIG_FILE_PATH")
    parser.set_defaults(command=command)


if __name__ == "__main__":
    sys.exit(main())
