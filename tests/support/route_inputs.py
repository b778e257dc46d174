"""What the handlers of management routes read, found in their source.

A handler is followed into every function of the API that it names. Of calls like
`query.text("name")` the name counts; where it is an argument of the function around it, the names
that its callers give count. Names that are made at run time are not found: `open_ended` says that
there are some.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

_READS = frozenset({"text", "flag", "whole", "seconds", "choice", "get"})
_OURS = "services.admin.api."


class Inputs(NamedTuple):
    """The query parameters that a handler reads, whether it reads a body, whether it waits."""

    names: frozenset[str]
    open_ended: bool
    body: bool
    waits: bool


@cache
def inputs(handler: Callable[..., Any]) -> Inputs:
    """What a handler reads, by itself or through others."""
    functions = _reached(handler, {})
    names: set[str] = set()
    open_ended = body = waits = False
    for function in functions:
        for call in _calls(function):
            match call.func:
                case ast.Attribute(attr=read, value=owner) if read in _READS and _is_query(owner):
                    found = _names_of(call.args[0], function, functions)
                    names |= found or set()
                    open_ended |= found is None
                case ast.Attribute(attr="body" | "fields", value=ast.Name(id="call")):
                    body = True
                case ast.Attribute(attr="write", value=ast.Name(id="call")):
                    waits = True
                case ast.Name(id="read_wait"):
                    waits = True
    return Inputs(frozenset(names) - {"wait", "timeout"}, open_ended, body, waits)


def _names_of(
    node: ast.expr, function: types.FunctionType, functions: Mapping[types.FunctionType, None]
) -> set[str] | None:
    """The names that an argument can be; `None` if they are not written down."""
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    arguments = inspect.signature(function).parameters
    if not isinstance(node, ast.Name) or node.id not in arguments:
        return None
    place = list(arguments).index(node.id)
    names: set[str] = set()
    for caller in functions:
        for call in _calls(caller):
            if _unwrapped(_resolve(call.func, _scope(caller))) is not function:
                continue
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            value = call.args[place] if place < len(call.args) else given.get(node.id)
            if value is None:
                value = ast.Constant(arguments[node.id].default)
            found = _names_of(value, caller, functions)
            if found is None:
                return None
            names |= found
    return names


def _reached(
    handler: Any, seen: dict[types.FunctionType, None]
) -> Mapping[types.FunctionType, None]:
    function = _unwrapped(handler)
    if function in seen:
        return seen
    seen[function] = None
    scope = _scope(function)
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Name | ast.Attribute):
            named = _unwrapped(_resolve(node, scope))
            if isinstance(named, types.FunctionType) and named.__module__.startswith(_OURS):
                _reached(named, seen)
    return seen


def _calls(function: types.FunctionType) -> Iterator[ast.Call]:
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Call):
            yield node


@cache
def _tree(function: types.FunctionType) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


@cache
def _scope(function: types.FunctionType) -> Mapping[str, Any]:
    return {**function.__globals__, **inspect.getclosurevars(function).nonlocals}


def _resolve(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, scope)
        if isinstance(owner, types.ModuleType):
            return getattr(owner, node.attr, None)
    return None


def _unwrapped(function: Any) -> Any:
    return inspect.unwrap(getattr(function, "read", function)) if callable(function) else None


def _is_query(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text == "query" or text.endswith(".query")
