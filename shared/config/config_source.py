"""Reading YAML files into sections whose values know where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import define, evolve, field, frozen

from shared.config.config_schema import LIST_SECTIONS
from shared.config.reports import Report

_MAX_DEPTH = 60
_MAX_NODES = 200_000
_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@frozen
class Located:
    """A value, the file it is in and its dotted path there.

    `lines` has the lines of all paths of the file. `lax` marks text that came out of a
    reference: it may stand for a number.
    """

    value: Any = field(repr=False)
    file: str
    path: str
    lines: Mapping[str, int] = field(factory=dict, repr=False)
    lax: bool = False

    @property
    def source(self) -> str:
        """File and line, for messages."""
        return self.source_of(self.path)

    def source_of(self, path: str) -> str:
        """File and line of another path of the same file."""
        line = self.lines.get(path)
        return f"{self.file}:{line}" if line else self.file

    def replace(self, value: Any, *, lax: bool = False) -> Located:
        """Another value at the same place."""
        return evolve(self, value=value, lax=lax)

    def member(self, name: str, value: Any) -> Located:
        """A member of this mapping."""
        return Located(value, self.file, f"{self.path}.{name}", self.lines)


@define(slots=True)
class Sections:
    """The files of a configuration merged: list sections by item, mappings by member.

    `places` has every section as each file has it, whatever its name and type.
    """

    lists: dict[str, list[Located]] = field(factory=dict)
    mappings: dict[str, dict[str, Located]] = field(factory=dict)
    places: list[tuple[str, Located]] = field(factory=list)


@frozen
class _Document:
    name: str
    value: Mapping[Any, Any]
    lines: Mapping[str, int]

    def at(self, path: str, value: Any) -> Located:
        return Located(value, self.name, path, self.lines)


def read_sections(path: Path, report: Report) -> Sections:
    """Read a file and what it includes, depth first, the including file before the included.

    List sections are appended, mappings updated, as the reference does; a member that an
    include changes is noticed. Everything wrong goes to the report.
    """
    sections = Sections()
    _read_into(sections, path, (), set(), report)
    return sections


def _read_into(
    sections: Sections, path: Path, above: tuple[Path, ...], seen: set[Path], report: Report
) -> None:
    here = path.resolve()
    if here in above:
        report.problem(str(path), "include", "includes itself, directly or through others")
        return
    if here in seen:
        report.problem(str(path), "include", "is included twice")
        return
    seen.add(here)
    document = _read_document(path, report)
    if document is None:
        return
    for name, value in document.value.items():
        if not isinstance(name, str):
            report.problem(document.name, str(name), "names must be text; put it in quotes")
        elif name != "include" and value is not None:
            _merge(sections, document, name, value, report)
    for included in _includes(document, report):
        _read_into(sections, path.parent / included, (*above, here), seen, report)


def _merge(sections: Sections, document: _Document, name: str, value: Any, report: Report) -> None:
    sections.places.append((name, document.at(name, value)))
    if name in LIST_SECTIONS and isinstance(value, list):
        items = sections.lists.setdefault(name, [])
        items += [document.at(f"{name}[{index}]", item) for index, item in enumerate(value)]
    elif name not in LIST_SECTIONS and isinstance(value, dict):
        _update(sections.mappings.setdefault(name, {}), document, name, value, report)


def _update(
    members: dict[str, Located],
    document: _Document,
    name: str,
    value: Mapping[Any, Any],
    report: Report,
) -> None:
    for member, inner in value.items():
        path = f"{name}.{member}"
        if not isinstance(member, str):
            report.problem(document.name, path, "names must be text; put it in quotes")
            continue
        before = members.get(member)
        if before is not None and before.value != inner:
            report.notice(
                before.source, path, f"not in force: {document.name}, included, changes it"
            )
        members[member] = document.at(path, inner)


def _includes(document: _Document, report: Report) -> tuple[str, ...]:
    value = document.value.get("include")
    if value is None:
        return ()
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
        report.problem(document.at("include", value).source, "include", "expected a list of files")
        return ()
    return tuple(files)


def _read_document(path: Path, report: Report) -> _Document | None:
    name = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.problem(name, "", f"is not UTF-8 (byte {error.start})")
        return None
    except OSError as error:
        report.problem(name, "", f"cannot be read: {error.strerror or 'not a file'}")
        return None
    try:
        return _parse(name, text, report)
    except yaml.MarkedYAMLError as error:
        # The error's own text quotes the file, which may hold secrets.
        mark = error.problem_mark or error.context_mark
        at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        report.problem(name, "", f"is not valid YAML{at}: {error.problem or error.context}")
    except (yaml.YAMLError, RecursionError):
        report.problem(name, "", "is not valid YAML")
    except ValueError:
        report.problem(name, "", "has a date or number that does not exist; put it in quotes")
    return None


def _parse(name: str, text: str, report: Report) -> _Document | None:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _Document(name, {}, {})
        walk = _Walk(name, report)
        walk.visit(node, "", 0)
        if walk.stopped:
            return None
        value = loader.construct_document(node)
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        report.problem(name, "", "expected a mapping at the top level")
        return None
    return _Document(name, value, walk.lines)


@define(slots=True)
class _Walk:
    """Goes over the nodes before they become values: duplicates, lines, bounds."""

    file: str
    report: Report
    lines: dict[str, int] = field(factory=dict)
    nodes: int = 0
    stopped: bool = False

    def visit(self, node: yaml.Node, path: str, depth: int) -> None:
        self.nodes += 1
        if depth > _MAX_DEPTH or self.nodes > _MAX_NODES:
            if not self.stopped:
                self.report.problem(self.file, "", "is nested too deeply or refers to itself")
            self.stopped = True
            return
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                inner = f"{path}[{index}]"
                self.lines[inner] = item.start_mark.line + 1
                self.visit(item, inner, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> None:
        first: dict[str, int] = {}
        for key, value in node.value:
            if self.stopped:
                return
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                self.visit(value, path, depth + 1)
                continue
            name = str(key.value)
            inner = f"{path}.{name}" if path else name
            line = key.start_mark.line + 1
            if name in first and key.tag == _STRING_TAG:
                self.report.problem(
                    f"{self.file}:{line}", inner, f"is there twice, first in line {first[name]}"
                )
            first.setdefault(name, line)
            self.lines[inner] = line
            self.visit(value, inner, depth + 1)
