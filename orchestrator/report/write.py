"""Makes a report from what is recorded, and puts it in the sweep's folder and on its MLflow run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from orchestrator.analysis.columns import SWEEP
from orchestrator.analysis.correlation import CorrelationResult
from orchestrator.analysis.sources import (
    counted_once,
    mixtures,
    refuse_mixed,
    repeated,
    shared,
    shared_lines,
)
from orchestrator.analysis.table import compared, joined_tables, one_per_trial, read_runs
from orchestrator.errors import UserError
from orchestrator.evaluations import ANALYSIS, analysis_folder, with_evaluation
from orchestrator.local_folder import local_folder, stored_folder, to_storage
from orchestrator.report.files import landscapes, training_curves
from orchestrator.report.page import Source, html
from orchestrator.report.plots import Curves
from orchestrator.report.provenance import facts, run_base, shown_store
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from workers.storage import Folder

FILE = "report.html"
Files = Sequence[tuple[SweepFile, Store]]
"""Sweeps with their texts, each with its store."""


def write_report(
    files: Files,
    output: Path | None = None,
    evaluation: str | None = None,
    *,
    result: CorrelationResult | None = None,
    fresh: bool = False,
    allow_mixed: bool = False,
    refuse: bool = False,
) -> Path:
    """Writes the report; without `output` into the sweep's analysis folder, and as artifact of the sweep's run.

    Args:
        files: the sweep and its text, and where it is recorded; or several, whose report needs an `output`.
        output: another place for the file, which is then not logged.
        evaluation: first digits of the id of another evaluation than the sweep's own.
        result: of `correlate` over the sweep, where it is known already.
        fresh: fetch every run anew, instead of those that changed since the last look.
        allow_mixed: answer also where trials are not comparable (`sources.mixtures`).
        refuse: raise where they are not, instead of a page without an answer.

    Returns:
        Where it is.

    Raises:
        UserError: the file cannot be written, there is no such evaluation, or trials are not comparable.
    """
    if output is None and len(files) > 1:
        raise UserError("a report of several sweeps has no folder of its own: say where with --output, -o page.html")
    source = gather(files, evaluation, result=result, fresh=fresh, allow_mixed=allow_mixed, refuse=refuse)
    path = output or _folder(files[0][0], evaluation) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html(source), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    if output is None:
        to_storage(files[0][0].sweep, [path], path.parent.name)
        _log(*files[0], path)
    return path


def gather(
    files: Files,
    evaluation: str | None = None,
    *,
    result: CorrelationResult | None = None,
    fresh: bool = False,
    allow_mixed: bool = False,
    refuse: bool = False,
) -> Source:
    """All that a report shows; as `write_report` takes it."""
    sources = [(with_evaluation(file.sweep, evaluation), store) for file, store in files]
    sweeps = [sweep for sweep, _ in sources]
    runs = [read_runs(sweep, store, fresh) for sweep, store in sources]
    both = joined_tables(list(zip(sweeps, runs, strict=True)))
    usable = compared(both)
    mixed = mixtures(usable, {sweep.name: sweep.evaluation for sweep in sweeps})
    if refuse and not allow_mixed:
        refuse_mixed(mixed)
    table = counted_once(both)
    for sweep in sweeps:
        table["error"] = table["error"].str.replace(sweep.storage, "<storage>", regex=False)
    measures = [measure for sweep in sweeps for measure in sweep.evaluation.measures]
    figures = [landscapes(place) for file, _ in files if (place := _stored(file, evaluation)) is not None]
    return Source(
        name=" + ".join(sweep.name for sweep in sweeps),
        table=table,
        measures=[measure for place, measure in enumerate(measures) if measure not in measures[:place]],
        texts={file.sweep.name: file.text for file, _ in files},
        stores=list(dict.fromkeys(shown_store(store.uri, sweep.storage) for sweep, store in sources)),
        made=datetime.now(UTC),
        run_base=run_base([(store.uri, store.experiment_id) for _, store in sources]),
        facts=facts([run for own in runs for run in own]),
        training=_training(sweeps, one_per_trial(table)),
        landscapes=[figure for shown, _ in figures for figure in shown],
        landscapes_left=[name for _, left in figures for name in left],
        result=result,
        mixed=[*(mixture.sentence() for mixture in mixed), *shared_lines(shared(usable)), *repeated(both)],
        refused=[] if allow_mixed else [mixture.sentence() for mixture in mixed if mixture.forbidden],
    )


def _training(sweeps: Sequence[Sweep], trials: pd.DataFrame) -> dict[str, Curves]:
    """What training recorded along the way, by trial id."""
    begun = trials[trials["run_id"] != ""]
    found: dict[str, Curves] = {}
    for sweep in sweeps:
        own = begun[begun[SWEEP] == sweep.name] if SWEEP in begun else begun
        if (folder := stored_folder(sweep)) is not None:
            found |= training_curves(folder, own["trial_id"])
    return found


def _folder(file: SweepFile, evaluation: str | None) -> Path:
    """This machine's of table, figures and report of an evaluation."""
    sweep = with_evaluation(file.sweep, evaluation)
    return local_folder(sweep) / analysis_folder(file.sweep, sweep.evaluation)


def _stored(file: SweepFile, evaluation: str | None) -> Folder | None:
    """The same in the storage, where all who made figures have put them; None where it is not seen from here."""
    sweep = with_evaluation(file.sweep, evaluation)
    root = stored_folder(sweep)
    return root / analysis_folder(file.sweep, sweep.evaluation) if root is not None else None


def _log(file: SweepFile, store: Store, path: Path) -> None:
    """Puts the report on the sweep's run: of its own evaluation at the top, of another one in that one's folder."""
    if parent := store.parent_run(file.sweep.name):
        store.log_files(parent, [path], None if path.parent.name == ANALYSIS else path.parent.name)
