"""Runs a command over the API."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from services.cli.bulk import run_import
from services.cli.client import Client, client_of
from services.cli.command import BulkImport, Command, Given
from services.cli.connection import Connection, read_connection
from services.cli.options import FIELD, FROM
from services.cli.output import Screen, complain, note, silence
from services.cli.pages import Wanted, follow, merged, rows_of, total_pages
from services.cli.request import Request, build
from services.cli.status import DONE, FAILED, CommandError, Misused, Unreachable
from services.cli.subjects import with_hashes

# In the answer of a write that waited; a line of its own says it.
_TOLD_ASIDE = frozenset({"propagation"})


def run_api(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit status; what went wrong is one line on standard error."""
    try:
        _check_words(sys.argv)
        connection = read_connection(options, environ)
        screen = Screen.of(environ)
        if isinstance(options.row, BulkImport):
            return asyncio.run(run_import(options.row, options, connection, screen))
        return asyncio.run(_run(options.row, options, connection, screen))
    except CommandError as error:
        complain(str(error))
        doubtful = isinstance(error, Unreachable) and error.in_doubt
        if doubtful and isinstance(options.row, Command) and options.row.writes:
            complain("the change may have been made all the same: look before trying again")
        return error.status
    except BrokenPipeError:
        silence()
        return FAILED
    except OSError as error:
        complain(f"the output cannot be written: {error.strerror}")
        return FAILED


async def _run(
    command: Command, options: argparse.Namespace, connection: Connection, screen: Screen
) -> int:
    given = _given(command, options)
    async with client_of(connection) as client:
        given = await with_hashes(client, command, given)
        request = build(command, given)
        if command.pages is not None:
            await _list(client, command, request, given, options, screen)
            return DONE
        if command.writes and options.wait:
            request = evolve(request, query={**request.query, "wait": "applied"})
        answer = await client.call(request)
    _show(command, answer.body, given, options, screen)
    if command.writes and options.wait:
        note(_in_force(answer.propagation))
    return DONE if command.sound is None or command.sound(answer.body) else FAILED


async def _list(
    client: Client,
    command: Command,
    request: Request,
    given: Given,
    options: argparse.Namespace,
    screen: Screen,
) -> None:
    pages = command.pages
    assert pages is not None, "only lists have pages"
    wanted = Wanted()
    if not pages.always:
        wanted = Wanted(options.page, options.page_size, options.all)
    bodies = []
    async for body in follow(client, request, pages, wanted):
        if options.jsonl and not pages.always:
            # As they come: all pages may be more than fits here.
            screen.json_lines(rows_of(body, pages))
        else:
            bodies.append(body)
    if not bodies:
        return
    whole = merged(bodies, pages) if wanted.everything or pages.always else bodies[0]
    _show(command, whole, given, options, screen)
    last = total_pages(bodies[-1]) or 1
    if len(bodies) == 1 and last > 1 and not (options.json or pages.always):
        note(f"page {wanted.page or 1} of {last}; --all follows them")


def _show(
    command: Command, body: Any, given: Given, options: argparse.Namespace, screen: Screen
) -> None:
    view = command.view
    # A shape may find that there is no such object, whatever the form.
    shown = view.shaped(body, given)
    if view.columns and command.pages is not None and view.shape is None:
        shown = rows_of(body, command.pages)
    if options.json:
        screen.json(body)
    elif options.only is not None:
        screen.only(options.only, shown, body)
    elif view.columns and options.jsonl:
        screen.json_lines(shown)
    elif view.columns:
        columns = options.columns.split(",") if options.columns else view.columns
        screen.table(columns, shown if isinstance(shown, list) else [])
    else:
        screen.record(shown, view.label, without=_TOLD_ASIDE)


def _given(command: Command, options: argparse.Namespace) -> Given:
    """What the flags said, and what those not given say by default."""
    given: dict[str, Any] = {}
    for option in (*command.options, FROM, FIELD):
        if hasattr(options, option.slot):
            value = getattr(options, option.slot)
            join = option.kind.join
            given[option.slot] = value if join is None else join(value)
        elif option.default is not None:
            given[option.slot] = option.kind.read(option.default)
    return given


def _in_force(propagation: Any) -> str:
    if not isinstance(propagation, Mapping):
        return "the change is made; this proxy does not say whether it is in force everywhere"
    applied, unreachable = propagation.get("applied"), propagation.get("unreachable")
    instances = "instance" if applied == 1 else "instances"
    text = f"in force on {applied} {instances} after {propagation.get('elapsed_ms')} ms"
    return f"{text}, {unreachable} did not confirm" if unreachable else text


def _check_words(words: list[str]) -> None:
    for word in words:
        try:
            os.fsencode(word).decode("utf-8")
        except UnicodeDecodeError:
            raise Misused("the command holds bytes that are not UTF-8") from None
