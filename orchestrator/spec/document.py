"""YAML text -> plain data in which every place has its line. What the data mean is left to loading.

Scalars follow YAML 1.2, as editors with a schema do: `no` and `on` are text, `010` is ten, `1e-3` a number.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

from orchestrator.spec.merging import Origins, Path, source

MAX_DEPTH = 64
MAX_NODES = 200_000

_TAG = "tag:yaml.org,2002:"
_SCALARS = {"str", "null", "bool", "int", "float"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: at which line (from 1), at which place in the file's data, and what."""

    line: int
    place: Path
    text: str
    column: int | None = None


class NotYamlError(Exception):
    """The text cannot be read as one YAML document; carries the one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


@dataclass(frozen=True)
class Document:
    """Plain data, the line of every key and list item in the file, and what was wrong short of unreadable.

    A value that could not be read is None in the data and its place in `lost`; a key that could not is left out.
    `lines`, `problems` and `lost` speak of places in the file; those of the data differ from them where a profile
    changed the data, and `origins` leads from the data to the file.
    """

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lost: set[Path] = field(default_factory=set)
    origins: Origins = field(default_factory=dict)

    def place(self, place: Path) -> Path:
        """Where in the file a place of the data stands."""
        return source(place, self.origins)

    def line(self, place: Path) -> int:
        """The line of a place in the file, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def problem(self, place: Path, text: str) -> Problem:
        """What is wrong at a place of the data."""
        found = self.place(place)
        return Problem(self.line(found), found, text)


class _Loader(_Base):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's interface)


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_document(text: str) -> Document:
    """Reads one YAML document.

    Raises:
        NotYamlError: broken syntax, several documents, too deep, or too large once its aliases are written out.
    """
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise NotYamlError(_syntax_problem(error)) from error
    except UnicodeEncodeError as error:  # the command line gives bytes that are no UTF-8 as lone surrogates
        line = text.count("\n", 0, error.start) + 1
        raise NotYamlError(Problem(line, (), "not valid YAML: not UTF-8 text")) from error
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        message = f"not valid YAML: {error.reason} (character {error.character!r})"
        raise NotYamlError(Problem(line, (), message)) from error
    reader = _Reader()
    data = None if root is None else reader.value(root, ())
    return Document(data, reader.lines, reader.problems, reader.lost)


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    start = error.context_mark
    mark = error.problem_mark or start
    parts = [error.context or "", error.problem or ""]
    if start is not None and mark is not None and mark.line != start.line:
        parts[0] += f" that began on line {start.line + 1}"
    message = "not valid YAML: " + ", ".join(part for part in parts if part)
    if "cannot start any token" in message:
        message += " (a tab? YAML indents with spaces)"
    return Problem(mark.line + 1 if mark else 1, (), message, mark.column + 1 if mark else None)


def _check_depth(text: str) -> None:
    """Refuses deep nesting before PyYAML composes the document: its C composer overflows the stack on it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise NotYamlError(_too_deep(event.start_mark.line + 1 if event.start_mark else 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep(line: int) -> Problem:
    return Problem(line, (), f"nested more than {MAX_DEPTH} levels deep (an alias that holds itself?)")


class _Reader:
    """Builds plain data from nodes and notes lines and problems on the way; `merges` is how many `<<` it stands in."""

    def __init__(self, merges: int = 0) -> None:
        self.merges = merges
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self.lost: set[Path] = set()
        self.nodes = 0

    def value(self, node: yaml.Node, place: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise NotYamlError(Problem(line, (), f"with its aliases written out this holds over {MAX_NODES:,} values"))
        if len(place) > MAX_DEPTH:
            raise NotYamlError(_too_deep(line))
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind == "merge":
            return node.value
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            with suppress(ValueError):
                return _scalar(node.value, kind)
            self.problem(line, place, f"'{node.value}' does not fit its tag !!{kind}")
        else:
            shown = f"!!{kind}" if node.tag.startswith(_TAG) else node.tag
            self.problem(line, place, f"the YAML tag {shown} is not allowed: only plain values, lists and mappings")
        self.lost.add(place)
        return None

    def mapping(self, node: yaml.MappingNode, place: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            line = key.start_mark.line + 1
            if key.tag == _TAG + "merge":
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
            elif not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
                shown = f"got {key.value}" if isinstance(key, yaml.ScalarNode) else "got a list or mapping"
                self.problem(line, place, f"a key must be text, {shown}")
            elif key.value in first:
                message = f"key '{key.value}' is given twice, first on line {first[key.value]}"
                self.problem(line, (*place, key.value), message)
            else:
                first[key.value] = line
                self.lines[*place, key.value] = line
                result[key.value] = self.value(item, (*place, key.value))
        for item in merged:
            result = self.merge(item, place, result)
        return result

    def merge(self, node: yaml.Node, place: Path, result: dict[str, Any]) -> dict[str, Any]:
        """`<<: *alias`: keys of the alias that are not given already."""
        if not isinstance(node, yaml.MappingNode):
            self.problem(node.start_mark.line + 1, place, "'<<' takes an alias of a mapping")
            return result
        if self.merges == MAX_DEPTH:
            raise NotYamlError(_too_deep(node.start_mark.line + 1))
        inner = _Reader(self.merges + 1)
        inner.nodes = self.nodes
        other = inner.value(node, place)
        self.nodes = inner.nodes
        self.problems += inner.problems
        self.lost |= inner.lost
        for known, line in inner.lines.items():
            self.lines.setdefault(known, line)
        return result | {key: value for key, value in other.items() if key not in result}

    def problem(self, line: int, place: Path, text: str) -> None:
        self.problems.append(Problem(line, place, text))


def _scalar(text: str, kind: str) -> str | int | float | bool | None:
    """The value of a plain scalar; ValueError where an explicit tag does not fit it."""
    if kind == "null":
        return None
    if kind == "bool":
        if text.lower() not in {"true", "false"}:
            raise ValueError(text)
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 100:
            return text  # beyond any range; validation says so
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def leaves(data: Any, place: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place of plain data that holds neither a list nor a mapping, with its value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield place, data
        return
    for key, item in items:
        yield from leaves(item, (*place, key))
