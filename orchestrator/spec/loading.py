"""A sweep file -> a validated sweep, or one message that lists every problem with its line."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import UserError
from orchestrator.spec.document import Document, NotYamlError, Problem, leaves, read_document
from orchestrator.spec.explain import dotted, explain, show
from orchestrator.spec.merging import Path as Place
from orchestrator.spec.profiles import KEY, profile_problems, unknown_profile, with_profile, without_profiles
from orchestrator.spec.sweep import Sweep
from orchestrator.versions import git_commit

MAX_BYTES = 1 << 20
MAX_SHOWN = 100
MAX_LINE = 600


@dataclass(frozen=True)
class SweepFile:
    """A sweep, its paths made absolute, with the text of the file that it was read from."""

    sweep: Sweep
    text: str
    path: Path
    profile: str | None = None
    """Name of the profile that was asked for."""
    read_at_commit: str | None = None
    """Commit of the file's folder where it was read, if that was another machine."""
    storage: str | None = None
    """Address of the storage that a sweep was looked up in by its name; `path` is then no file."""

    @property
    def commit(self) -> str:
        """Commit of the folder that the file was read from; '' outside of git."""
        return git_commit(self.path.parent) if self.read_at_commit is None else self.read_at_commit

    @property
    def words(self) -> str:
        """What names it on the command line."""
        if self.storage:
            return f"{self.sweep.name} --storage {self.storage}"
        return f"{self.path} --profile {self.profile}" if self.profile else str(self.path)


def load_sweep_file(path: Path, profile: str | None = None) -> SweepFile:
    """Reads and checks a sweep file; its relative paths count from the file's folder.

    Args:
        path: the file.
        profile: name of one of its profiles, whose changes are to apply.

    Raises:
        UserError: with every problem, one a line: file, line, place, what is wrong, the value and what is allowed.
    """
    text = _read(path)
    try:
        document = read_document(text)
    except NotYamlError as error:
        raise _error(path, [error.problem]) from error
    problems = list(document.problems)
    if isinstance(document.data, dict):
        document, found = _profiled(document, profile)
        problems += found
    problems += _shape(document)
    if not isinstance(document.data, dict):
        raise _error(path, problems)
    try:
        sweep = Sweep.model_validate(document.data)
    except ValidationError as error:
        problems += explain(error, document)
        raise _error(path, problems) from error
    if problems:
        raise _error(path, problems)
    try:
        return SweepFile(sweep.located(path.parent), text, path, profile)
    except RuntimeError as error:  # a home folder that cannot be found
        homes = [place for place, value in leaves(document.data) if isinstance(value, str) and value.startswith("~")]
        place: Place = homes[0] if homes else ()
        raise _error(path, [document.problem(place, f"not a folder: {error}")]) from error


def _profiled(document: Document, profile: str | None) -> tuple[Document, list[Problem]]:
    """The document as it is meant with a profile or without, and what is wrong with its profiles."""
    if (KEY,) in document.lost:
        return without_profiles(document), []
    problems = profile_problems(document)
    if profile is not None and not problems and (unknown := unknown_profile(document, profile)):
        problems = [unknown]
    return with_profile(document, profile) if profile and not problems else without_profiles(document), problems


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise UserError(
            f"{path}: this is a folder; give the sweep file in it, such as {path / 'experiments.yaml'}"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; `flatsweep init` writes one to start from") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: larger than 1 MiB; this is no sweep file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text: byte {content[error.start]:#04x}") from error


def _shape(document: Document) -> list[Problem]:
    """What is wrong with the form of the file before any value is looked at."""
    data = document.data
    if data is None:
        return (
            []
            if document.problems
            else [Problem(1, (), "the file is empty; `flatsweep init` writes one to start from")]
        )
    if not isinstance(data, dict):
        message = f"expected a mapping with 'name' and 'grid', got {show(data)}"
        return [Problem(document.line(()), (), message)]
    grid = data.get("grid")
    parts: list[tuple[Any, Place]] = [(data, ()), (grid, ("grid",))]
    parts += [(item, ("grid", index)) for index, item in enumerate(grid)] if isinstance(grid, list) else []
    return [found for part, at in parts if isinstance(part, dict) for found in _sections(document, part, at)]


def _sections(document: Document, data: dict[str, Any], around: Place) -> list[Problem]:
    """What is wrong with the form of `data`, `model` and `training` in the file or in a grid, which stands `around`."""
    kinds = {"data": "one data set's name or mapping", "model": "one model's name or mapping", "training": "a mapping"}
    problems = []
    for key, kind in kinds.items():
        value, place = data.get(key, {}), document.place((*around, key))
        if place in document.lost or isinstance(value, dict) or (isinstance(value, str) and key != "training"):
            continue
        found = "a list; only its parameters may be lists" if isinstance(value, list) else show(value)
        problems.append(document.problem((*around, key), f"expected {kind}, got {found}"))
        document.lost.add(place)
    return problems


def _error(path: Path, problems: Iterable[Problem]) -> UserError:
    lines: dict[str, None] = {}  # an ordered set: the variants of an axis repeat the error of what they share
    for problem in sorted(problems, key=lambda problem: problem.line):
        where = f"{path}:{problem.line}" + (f":{problem.column}" if problem.column else "")
        place = f"{dotted(problem.place)}: " if problem.place else ""
        lines[_printable(f"{where}: {place}{problem.text}")] = None
    shown = list(lines)[:MAX_SHOWN]
    if len(lines) > MAX_SHOWN:
        shown.append(f"{path}: and {len(lines) - MAX_SHOWN} more")
    return UserError("\n".join(shown))


def _printable(line: str) -> str:
    """One line that any terminal can show: escapes for control characters, cut where it is endless."""
    cut = line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
