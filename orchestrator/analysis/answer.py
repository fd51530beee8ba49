"""The question a sweep was made for: table, correlation and figures, in the sweep's folder and on its MLflow run."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.column_figure import column_figure
from orchestrator.analysis.columns import SWEEP
from orchestrator.analysis.correlation import CorrelationResult, correlate_by, flatness_columns, measure_columns
from orchestrator.analysis.correlation import correlate as correlate_table
from orchestrator.analysis.figures import scatter
from orchestrator.analysis.landscapes import landscapes
from orchestrator.analysis.sign_error import MIN_EFFECTIVE
from orchestrator.analysis.sources import (
    Mixture,
    Shared,
    counted_once,
    mixtures,
    not_used,
    refuse_mixed,
    repeated,
    shared,
    shared_lines,
)
from orchestrator.analysis.table import compared, read_table, read_tables
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
    table: pd.DataFrame = field(repr=False, compare=False)
    """All rows that were asked about."""
    usable: pd.DataFrame = field(repr=False, compare=False)
    """Those of them that are correlated."""
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    """What is not in the correlation, cells that are missing, failed, or measured otherwise, and what is not drawn."""
    mixtures: tuple[Mixture, ...] = ()
    """What differs among the trials that are: data, code, device, evaluation."""
    repeated: tuple[str, ...] = ()
    """Trials that have several runs."""
    shared: tuple[Shared, ...] = ()
    """Trials that several sweeps hold."""
    question: Question = Question()
    groups: Mapping[str, CorrelationResult] = field(default_factory=dict)
    """By the value of `question.by`."""

    @property
    def mixed(self) -> list[str]:
        """Mixtures, and trials that are there more than once, as lines."""
        return [*(mixture.sentence() for mixture in self.mixtures), *shared_lines(self.shared), *self.repeated]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rest: dict[str, Any] = {"files": [str(path) for path in self.files], "not_used": list(self.notes)}
        rest |= {"mixed": self.mixed, "shared": [asdict(trial) for trial in self.shared]}
        rest |= {"where": self.question.where, "by": self.question.by}
        groups = {name: result.as_dict() for name, result in self.groups.items()}
        return self.correlation.as_dict() | {"groups": groups} | rest


Sources = Sequence[tuple[Sweep, Store]]
"""Sweeps, each with its store."""


def ask(sources: Sources, question: Question = Question(), fresh: bool = False, allow_mixed: bool = False) -> Answer:
    """Correlates over the last and best networks of finished trials, of one sweep or of several together.

    A trial that several sweeps hold counts once; with `question.by` 'sweep' it counts in the group of each.

    Args:
        sources: the sweeps.
        question: what is to be correlated.
        fresh: fetch every run anew, instead of those that changed since the last look.
        allow_mixed: also take together what is not comparable (`sources.mixtures`).

    Raises:
        UserError: no trial has finished, a column is unknown, a condition cannot be read, or trials are not comparable.
    """
    sweeps = [sweep for sweep, _ in sources]
    table, usable = _rows(sweeps, read_tables(sources, fresh), question.where)
    mixed = mixtures(usable, {sweep.name: sweep.evaluation for sweep in sweeps})
    if not allow_mixed:
        refuse_mixed(mixed)
    in_both, once = shared(usable), counted_once(usable)
    asked = (question.measures, question.targets)
    correlation = correlate_table(once, *asked, min_effective=question.min_effective)
    groups: Mapping[str, CorrelationResult] = {}
    if question.by is not None:
        rows = usable if question.by == SWEEP else once
        groups = correlate_by(rows, question.by, *asked, min_effective=question.min_effective)
    return Answer(
        correlation,
        table,
        once,
        notes=tuple(not_used(table)),
        mixtures=tuple(mixed),
        repeated=tuple(repeated(table)),
        shared=tuple(in_both),
        question=question,
        groups=groups,
    )


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
    """What `ask` finds of one sweep; writes and logs table and figures.

    What a condition leaves of the rows is no answer of the sweep: with `question.where` files are written where
    `folder` and `figure` say, and nothing is logged.

    Args:
        sweep: the sweep.
        store: where it is recorded.
        question: what is to be correlated.
        folder: of table and figures; `name` in the sweep's folder if not given (`local_folder`).
        name: of the folder of artifacts.
        figure: a file for a vector figure of the first measure and target, at column width.
        fresh: as `ask` takes it.
        allow_mixed: as `ask` takes it.

    Raises:
        UserError: as `ask`; or a file cannot be written.
    """
    found = ask([(sweep, store)], question, fresh, allow_mixed)
    return recorded(found, sweep, store, folder, name, figure)


def recorded(
    found: Answer,
    sweep: Sweep,
    store: Store,
    folder: Path | None = None,
    name: str = ANALYSIS,
    figure: Path | None = None,
) -> Answer:
    """What `ask` found of one sweep, with table and figures written and logged, as `answer` does."""
    found = _drawn(found, figure)
    if folder is not None or found.question.where is None:
        found = _written(found, [sweep], folder or local_folder(sweep) / name)
        own = [path for path in found.files if path != figure]
        if folder is None:
            to_storage(sweep, own, name)
        if found.question.where is None:
            _log(store, sweep, own, name)
    return found


def answer_together(
    sources: Sources,
    question: Question = Question(),
    folder: Path | None = None,
    figure: Path | None = None,
    fresh: bool = False,
    allow_mixed: bool = False,
) -> Answer:
    """What `ask` finds of several sweeps; files are written where `folder` and `figure` say.

    Nothing is logged: the answer is none of the sweeps' own.

    Raises:
        UserError: as `answer`.
    """
    found = _drawn(ask(sources, question, fresh, allow_mixed), figure)
    return found if folder is None else _written(found, [sweep for sweep, _ in sources], folder)


def _rows(sweeps: Sequence[Sweep], table: pd.DataFrame, condition: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows that meet the condition, and those of them that are compared."""
    usable = compared(table)
    if usable.empty:
        names = " and ".join(f"'{sweep.name}'" for sweep in sweeps)
        raise UserError(f"no trial of {names} has finished yet; `flatsweep status` shows where they are")
    if condition is None:
        return table, usable
    table, usable = where(table, condition), where(usable, condition)
    if usable.empty:
        raise UserError(f"--where {condition}: no network of a finished trial is like that")
    return table, usable


def _drawn(found: Answer, figure: Path | None) -> Answer:
    """With a vector figure of the first pair."""
    if figure is None:
        return found
    first = found.correlation.pairs[0]
    column_figure(found.usable, first.measure, first.target, figure)
    return replace(found, files=(figure,))


def _written(found: Answer, sweeps: Sequence[Sweep], folder: Path) -> Answer:
    """Writes table, numbers, landscapes, and a figure of each measure asked for, or each flatness, with one target."""
    measures, target = found.correlation.measures, found.correlation.targets[0]
    shown = [measure for measure in measures if found.question.measures or measure in flatness_columns(found.usable)]
    with _writing(folder) as place:
        files = [place / "table.csv", place / "correlation.json"]
        found.table.to_csv(files[0], index=False)
        files[1].write_text(json.dumps(found.as_dict(), indent=2))
        for measure in shown or measures[:1]:
            files += scatter(found.usable, measure, target, place / f"{target}-vs-{measure}")
        notes = found.notes
        if len(sweeps) == 1:
            drawn = landscapes(sweeps[0], found.table, place)
            files, notes = [*files, *drawn.files], (*notes, *drawn.notes)
    return replace(found, files=(*files, *found.files), notes=notes)


def publish(sweep: Sweep, store: Store) -> Answer | None:
    """Puts table and landscapes, and correlation and its figures where there is a measure, on the sweep's own run.

    Returns:
        The answer, where there is one. It may mix what is not comparable: a sweep's end is no place to refuse.
    """
    table = read_table(sweep, store)
    if measure_columns(compared(table)):
        return answer(sweep, store, allow_mixed=True)
    with _writing(local_folder(sweep) / ANALYSIS) as place:
        table.to_csv(place / "table.csv", index=False)
        files = [place / "table.csv", *landscapes(sweep, table, place).files]
    to_storage(sweep, files, ANALYSIS)
    _log(store, sweep, files, ANALYSIS)
    return None


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
