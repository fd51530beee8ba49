"""The question a sweep was made for: table, correlation and figures, in the sweep's folder and on its MLflow run."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.column_figure import column_figure
from orchestrator.analysis.correlation import CorrelationResult, correlate_by, flatness_columns, measure_columns
from orchestrator.analysis.correlation import correlate as correlate_table
from orchestrator.analysis.figures import scatter
from orchestrator.analysis.landscapes import landscapes
from orchestrator.analysis.sign_error import MIN_EFFECTIVE
from orchestrator.analysis.sources import mixtures, not_used, refuse_mixed, repeated
from orchestrator.analysis.table import compared, read_table
from orchestrator.analysis.where import where
from orchestrator.errors import UserError
from orchestrator.evaluations import ANALYSIS
from orchestrator.local_folder import local_folder, to_storage
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store


@dataclass(frozen=True)
class Question:
    """What is to be correlated."""

    measures: list[str] | None = None
    """Columns; everything measured that is no outcome if not given."""
    targets: list[str] | None = None
    """Columns; the gaps and the test values if not given."""
    where: str | None = None
    """A condition on rows (`analysis.where`); all if not given."""
    by: str | None = None
    """A column; each of its values is also correlated on its own."""
    min_effective: float = MIN_EFFECTIVE
    """Effective pairs that an environment of the sign-error needs."""


@dataclass(frozen=True)
class Answer:
    """What `correlate` found and wrote."""

    correlation: CorrelationResult
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What is not in the correlation, cells that are missing, failed, or measured otherwise, and what is not drawn."""
    mixed: tuple[str, ...] = ()
    """What differs among the trials that are: data, code, device; and trials that have several runs."""
    question: Question = Question()
    groups: Mapping[str, CorrelationResult] = field(default_factory=dict)
    """By the value of `question.by`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rest: dict[str, Any] = {"files": [str(path) for path in self.files], "not_used": list(self.notes)}
        rest |= {"mixed": list(self.mixed), "where": self.question.where, "by": self.question.by}
        groups = {name: result.as_dict() for name, result in self.groups.items()}
        return self.correlation.as_dict() | {"groups": groups} | rest


def answer(
    sweep: Sweep,
    store: Store,
    question: Question = Question(),
    folder: Path | None = None,
    name: str = ANALYSIS,
    figure: Path | None = None,
    fresh: bool = False,
    allow_mixed: bool = False,
) -> Answer:
    """Correlates over the last and best networks of finished trials; writes and logs table and figures.

    What a condition leaves of the rows is no answer of the sweep: with `question.where` files are written where
    `folder` and `figure` say, and nothing is logged.

    Args:
        sweep: the sweep.
        store: where it is recorded.
        question: what is to be correlated.
        folder: of table and figures; `name` in the sweep's folder if not given (`local_folder`).
        name: of the folder of artifacts.
        figure: a file for a vector figure of the first measure and target, at column width.
        fresh: fetch every run anew, instead of those that changed since the last look.
        allow_mixed: also take together what is not comparable (`sources.mixtures`).

    Raises:
        UserError: no trial has finished, a column is unknown, a condition cannot be read, or trials are not comparable.
    """
    table, usable = _rows(sweep, read_table(sweep, store, fresh), question.where)
    mixed = mixtures(usable)
    if not allow_mixed:
        refuse_mixed(mixed)
    asked = (question.measures, question.targets)
    correlation = correlate_table(usable, *asked, min_effective=question.min_effective)
    groups: Mapping[str, CorrelationResult] = {}
    if question.by is not None:
        groups = correlate_by(usable, question.by, *asked, min_effective=question.min_effective)
    differing = (*(mixture.sentence() for mixture in mixed), *repeated(table))
    found = Answer(correlation, (), tuple(not_used(table)), differing, question, groups)
    if figure is not None:
        column_figure(usable, correlation.pairs[0].measure, correlation.pairs[0].target, figure)
        found = replace(found, files=(figure,))
    if folder is not None or question.where is None:
        found = _written(found, sweep, table, usable, folder or local_folder(sweep) / name)
        own = [path for path in found.files if path != figure]
        if folder is None:
            to_storage(sweep, own, name)
        if question.where is None:
            _log(store, sweep, own, name)
    return found


def _rows(sweep: Sweep, table: pd.DataFrame, condition: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows that meet the condition, and those of them that are compared."""
    usable = compared(table)
    if usable.empty:
        raise UserError(f"no trial of '{sweep.name}' has finished yet; `flatsweep status` shows where they are")
    if condition is None:
        return table, usable
    table, usable = where(table, condition), where(usable, condition)
    if usable.empty:
        raise UserError(f"--where {condition}: no network of a finished trial is like that")
    return table, usable


def _written(found: Answer, sweep: Sweep, table: pd.DataFrame, usable: pd.DataFrame, folder: Path) -> Answer:
    """Writes table, numbers, landscapes, and a figure of each measure asked for, or each flatness, with one target."""
    measures, target = found.correlation.measures, found.correlation.targets[0]
    shown = [measure for measure in measures if found.question.measures or measure in flatness_columns(usable)]
    with _writing(folder) as place:
        files = [place / "table.csv", place / "correlation.json"]
        table.to_csv(files[0], index=False)
        files[1].write_text(json.dumps(found.as_dict(), indent=2))
        for measure in shown or measures[:1]:
            files += scatter(usable, measure, target, place / f"{target}-vs-{measure}")
        drawn = landscapes(sweep, table, place)
    return replace(found, files=(*files, *drawn.files, *found.files), notes=(*found.notes, *drawn.notes))


def publish(sweep: Sweep, store: Store) -> None:
    """Puts table and landscapes, and correlation and its figures where there is a measure, on the sweep's own run."""
    table = read_table(sweep, store)
    if measure_columns(compared(table)):
        answer(sweep, store, allow_mixed=True)  # a sweep's end is no place to refuse
        return
    with _writing(local_folder(sweep) / ANALYSIS) as place:
        table.to_csv(place / "table.csv", index=False)
        files = [place / "table.csv", *landscapes(sweep, table, place).files]
    to_storage(sweep, files, ANALYSIS)
    _log(store, sweep, files, ANALYSIS)


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[Path]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise UserError(f"cannot write in {place}: {error.strerror or error}") from error


def _log(store: Store, sweep: Sweep, files: list[Path], name: str) -> None:
    parent = store.parent_run(sweep.name)
    if parent is not None:
        store.log_files(parent, files, name)
