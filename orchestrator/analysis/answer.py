"""The question a sweep was made for: table, correlation and figures, in the sweep's folder and on its MLflow run."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis.correlation import CorrelationResult, flatness_columns
from orchestrator.analysis.correlation import correlate as correlate_table
from orchestrator.analysis.figures import scatter
from orchestrator.analysis.landscapes import landscapes
from orchestrator.analysis.sources import mixtures, not_used, refuse_mixed, repeated
from orchestrator.analysis.table import compared, read_table
from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store

FOLDER = "analysis"


@dataclass(frozen=True)
class Answer:
    """What `correlate` found and wrote."""

    correlation: CorrelationResult
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What is not in the correlation, cells that are missing, failed, or measured otherwise, and what is not drawn."""
    mixed: tuple[str, ...] = ()
    """What differs among the trials that are: data, code, device; and trials that have several runs."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rest = {"files": [str(path) for path in self.files], "not_used": list(self.notes), "mixed": list(self.mixed)}
        return self.correlation.as_dict() | rest


def answer(
    sweep: Sweep,
    store: Store,
    measures: list[str] | None = None,
    targets: list[str] | None = None,
    folder: Path | None = None,
    name: str = FOLDER,
    fresh: bool = False,
    allow_mixed: bool = False,
) -> Answer:
    """Correlates over the last and best networks of finished trials; writes and logs table and figures.

    Args:
        sweep: the sweep.
        store: where it is recorded.
        measures: columns; all flatness values if not given.
        targets: columns; the gaps and the test values if not given.
        folder: of table and figures; `name` in the sweep's folder if not given.
        name: of the folder of artifacts.
        fresh: fetch every run anew, instead of those that changed since the last look.
        allow_mixed: also take together what is not comparable (`sources.mixtures`).

    Raises:
        UserError: no trial has finished, a column is unknown, or trials are not comparable.
    """
    table = read_table(sweep, store, fresh)
    usable = compared(table)
    if usable.empty:
        raise UserError(f"no trial of '{sweep.name}' has finished yet; `flatsweep status` shows where they are")
    mixed = mixtures(usable)
    if not allow_mixed:
        refuse_mixed(mixed)
    correlation = correlate_table(usable, measures, targets)
    with _writing(folder or Path(sweep.storage) / sweep.name / name) as place:
        files = [place / "table.csv", place / "correlation.json"]
        table.to_csv(files[0], index=False)
        files[1].write_text(json.dumps(correlation.as_dict(), indent=2))
        first_target = correlation.pairs[0].target
        for pair in correlation.pairs:
            if pair.target == first_target:
                files += scatter(usable, pair.measure, pair.target, place / f"{pair.target}-vs-{pair.measure}")
        drawn = landscapes(sweep, table, place)
        files += drawn.files
    _log(store, sweep, files, name)
    differing = [*(mixture.sentence() for mixture in mixed), *repeated(table)]
    return Answer(correlation, tuple(files), (*not_used(table), *drawn.notes), tuple(differing))


def publish(sweep: Sweep, store: Store) -> None:
    """Puts table and landscapes, and correlation and its figures where there is flatness, on the sweep's own run."""
    table = read_table(sweep, store)
    if flatness_columns(compared(table)):
        answer(sweep, store, allow_mixed=True)  # a sweep's end is no place to refuse
        return
    with _writing(Path(sweep.storage) / sweep.name / FOLDER) as place:
        table.to_csv(place / "table.csv", index=False)
        files = [place / "table.csv", *landscapes(sweep, table, place).files]
    _log(store, sweep, files, FOLDER)


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
