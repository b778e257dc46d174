"""The rules of the house that linters do not know, as functions from source to complaints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from logging import Logger
from pathlib import Path, PurePath
from struct import Struct
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar
from uuid import UUID

import attrs
import msgspec
from aiohttp import web

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

_BROAD = ("Exception", "BaseException")
_SQL = re.compile(
    r"\s*(SELECT\s.*\sFROM\s|SELECT\s+\w+\(|INSERT\s+INTO\s|UPDATE\s+\w+\s+(AS\s+\w+\s+)?SET\s"
    r"|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s*\(|(CREATE|ALTER|DROP|TRUNCATE)\s+TABLE\s"
    r"|(UN)?LISTEN\s+\w+\s*\Z|NOTIFY\s+\w+\s*[,;]?)",
    re.IGNORECASE | re.DOTALL,
)
_REASON = re.compile(r"# noqa: BLE001 - \S+ \S+ \S+")
_CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*\Z")
_READ_ONLY = re.compile(r"(Final\[)?(collections\.abc\.)?(Mapping|Sequence|Set|AbstractSet)\[")
_CHANGERS = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"}
    | {"reverse", "setdefault", "sort", "update"}
)
_PLAIN: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, Decimal, UUID, Enum, PurePath, date, time,
    timedelta, tzinfo, re.Pattern, Struct, TypeVar, Logger, type, type(Ellipsis), range,
    msgspec.json.Encoder, msgspec.json.Decoder, msgspec.Raw, web.AppKey,
)  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def lengths(source: str) -> Iterator[str]:
    """Files and functions that nobody can take in at once."""
    count = source.count("\n")
    if count > MAX_FILE_LINES:
        yield f"1: {count} lines, at most {MAX_FILE_LINES}"
    for function in functions(ast.parse(source)):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.lineno}: {function.name} has {lines} lines"


def globals_used(source: str) -> Iterator[str]:
    """`global` statements."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Global):
            yield f"{node.lineno}: global {', '.join(node.names)}"


def local_imports(source: str) -> Iterator[str]:
    """Imports inside of functions."""
    for function in functions(ast.parse(source)):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield f"{node.lineno}: import in {function.name}"


def broad_handlers(source: str) -> Iterator[str]:
    """Handlers that swallow everything without saying why.

    A reason stands beside the handler: `# noqa: BLE001 - why`. Handlers that end in a bare
    `raise` only clean up and need none.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {name.id for name in caught if isinstance(name, ast.Name)}
        broad = node.type is None or bool(names & set(_BROAD))
        last = node.body[-1]
        passes_on = isinstance(last, ast.Raise) and last.exc is None
        if broad and not passes_on and not _REASON.search(lines[node.lineno - 1]):
            yield f"{node.lineno}: except {', '.join(sorted(names))}"


def sql(source: str) -> Iterator[str]:
    """Strings that look like SQL; documentation is passed over."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) not in prose and _SQL.match(node.value):
            yield f"{node.lineno}: {node.value.strip()[:40]!r}"


def imports_of(source: str, package: str) -> Iterator[str]:
    """Imports of a package or of something in it, type-checking ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        if any(name == package or name.startswith(package + ".") for name in names):
            yield f"{node.lineno}: imports {package}"


def mutable_state(source: str, module: ModuleType) -> Iterator[str]:
    """Names that a module assigns and that somebody could change.

    A list, set or dictionary of immutable things passes as a constant in capitals if it is
    annotated as `Sequence`, `Set` or `Mapping` (then the type checker refuses to change it), or
    if it is private and nothing in its module changes it.
    """
    tree = ast.parse(source)
    changed = set(_changed_names(tree))
    for node in _assignments(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if not isinstance(target, ast.Name) or target.id.startswith("__"):
                continue
            value = getattr(module, target.id)
            annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            read_only = bool(_READ_ONLY.match(annotation)) or target.id.startswith("_")
            kept = read_only and bool(_CONSTANT.match(target.id)) and target.id not in changed
            if not is_immutable(value) and not (kept and _is_table(value)):
                yield f"{node.lineno}: {target.id} is a {type(value).__name__}"


def _is_table(value: Any) -> bool:
    """Whether a container that can be changed was evidently written down to be read."""
    if isinstance(value, dict):
        return bool(value) and all(map(_is_entry, value.values()))
    return isinstance(value, list | set) and bool(value) and all(map(_is_entry, value))


def _is_entry(value: Any) -> bool:
    return is_immutable(value) or _is_table(value)


def _changed_names(tree: ast.AST) -> Iterator[str]:
    """Names that something is stored in, deleted from, or called on in order to change it."""
    for node in ast.walk(tree):
        owner: ast.expr | None = None
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            owner = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value if node.func.attr in _CHANGERS else None
        elif isinstance(node, ast.AugAssign):
            owner = node.target
        if isinstance(owner, ast.Name):
            yield owner.id


def is_immutable(value: Any) -> bool:
    """Whether nothing can be changed in a value, as far as its types tell."""
    if isinstance(value, tuple | frozenset):
        return all(is_immutable(part) or part in ([], {}) for part in value)
    if isinstance(value, MappingProxyType):
        return all(is_immutable(part) for item in value.items() for part in item)
    if isinstance(value, _PLAIN) or callable(value):
        return True
    if type(value).__module__ in ("typing", "types"):  # aliases
        return True
    if attrs.has(type(value)):
        return "frozen" in getattr(type(value).__setattr__, "__name__", "") and all(
            is_immutable(part) or part in ([], {})
            for part in (getattr(value, field.name) for field in attrs.fields(type(value)))
        )
    if isinstance(value, msgspec.Struct):
        return bool(value.__struct_config__.frozen)
    return "Logger" in type(value).__name__


def _assignments(tree: ast.Module) -> Iterator[ast.Assign | ast.AnnAssign]:
    """Assignments at the top of a module, below `if` and `try` too."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            pending += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)
            ]


def read(path: Path) -> str:
    """The text of a source file."""
    return path.read_text(encoding="utf-8")
