"""Virtual keys as people name them: by alias, by hash, or by value.

A value is hashed here and never sent: what is sent ends up in logs of paths, and answers echo it.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from services.cli.client import Client
from services.cli.command import Command, Given
from services.cli.kinds import KEY, STDIN
from services.cli.request import Request
from services.cli.shapes import at
from services.cli.status import Misused, Refused
from shared.domain.keys import KEY_PREFIX, hash_key

_HASH = re.compile(r"[0-9a-f]{64}")


async def with_hashes(client: Client, command: Command, given: Given) -> Given:
    """What was given, with a hash wherever a key was named. Raises `Refused` for an alias that no
    key has, or several."""
    found: dict[str, Any] = {}
    for option in command.options:
        if option.kind is not KEY or option.slot not in given:
            continue
        names = given[option.slot]
        if isinstance(names, list):
            found[option.slot] = [await _hash_of(client, name) for name in names]
        else:
            found[option.slot] = await _hash_of(client, names)
    return {**given, **found}


async def _hash_of(client: Client, name: str) -> str:
    if name == STDIN:
        name = sys.stdin.readline().strip()
        if not name:
            raise Misused("standard input holds no key")
    if name.startswith(KEY_PREFIX):
        return hash_key(name)
    return name if _HASH.fullmatch(name) else await _hash_of_alias(client, name)


async def _hash_of_alias(client: Client, alias: str) -> str:
    query = {"key_alias": alias, "return_full_object": "true", "size": "100"}
    body = (await client.call(Request("GET", "/key/list", query))).body
    rows = at(body, "keys") or ()
    hashes = {at(row, "token") for row in rows if at(row, "key_alias") == alias}
    if len(hashes) != 1:
        raise Refused(f"{'several keys have' if hashes else 'no key has'} the alias {alias!r}")
    return str(hashes.pop())
