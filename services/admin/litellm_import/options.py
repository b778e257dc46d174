"""How `meridian import litellm` is called. Apart from what it does, which loads much more."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def add_import_command(commands: Any) -> None:
    """Puts `import` among the commands."""
    importing = commands.add_parser("import", help="take over what another gateway holds")
    sources = importing.add_subparsers(required=True, metavar="SOURCE")
    parser = sources.add_parser(
        "litellm",
        help="from the database of a LiteLLM proxy, which is only read",
        epilog="Exit status: 0 everything is here, 1 something is not (the report says what), "
        "2 wrong command or configuration, 3 a database unreachable.",
    )
    parser.add_argument(
        "--from", dest="source", required=True, metavar="DSN", help="the other database"
    )
    parser.add_argument(
        "--salt-key-env",
        metavar="NAME",
        help="the variable with that proxy's salt key (default: LITELLM_SALT_KEY, else "
        "LITELLM_MASTER_KEY)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing, and say what would be"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--config", type=Path, metavar="PATH", help="default: CONFIG_FILE_PATH")
    parser.set_defaults(command="import litellm")
