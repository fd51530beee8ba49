"""Makes a sweep's report from what is recorded, and puts it in the sweep's folder and on its MLflow run."""

from datetime import UTC, datetime
from pathlib import Path

from orchestrator.analysis.table import one_per_trial, read_table
from orchestrator.errors import UserError
from orchestrator.evaluations import analysis_folder, with_evaluation
from orchestrator.local_copy import LocalCopy
from orchestrator.report.files import landscapes, training_curves
from orchestrator.report.page import Source, html
from orchestrator.report.provenance import facts, public, run_base
from orchestrator.spec.loading import SweepFile
from orchestrator.tracking import Store
from workers.storage import Folder

FILE = "report.html"


def write_report(file: SweepFile, store: Store, output: Path | None = None, evaluation: str | None = None) -> Path:
    """Writes the report; without `output` into the sweep's analysis folder, and as artifact of the sweep's run.

    Args:
        file: the sweep and its text.
        store: where it is recorded.
        output: another place for the file, which is then not logged.
        evaluation: first digits of the id of another evaluation than the sweep's own.

    Returns:
        Where it is.

    Raises:
        UserError: the file cannot be written, or there is no such evaluation.
    """
    sweep = with_evaluation(file.sweep, evaluation)
    folder = Path(sweep.storage) / sweep.name / analysis_folder(file.sweep, sweep.evaluation)
    text = html(gather(file, store, evaluation, folder))
    path = output or folder / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    if output is None and (parent := store.parent_run(sweep.name)):
        store.log_files(parent, [path], None if evaluation is None else folder.name)
    return path


def gather(file: SweepFile, store: Store, evaluation: str | None, folder: Path) -> Source:
    """All that a report shows.

    Args:
        file: the sweep and its text.
        store: where it is recorded.
        evaluation: first digits of the id of another evaluation than the sweep's own.
        folder: of table and figures.
    """
    sweep = with_evaluation(file.sweep, evaluation)
    table = read_table(sweep, store)
    trials = one_per_trial(table)
    shown, left = landscapes(folder)
    return Source(
        name=sweep.name,
        table=table,
        measures=sweep.evaluation.measures,
        text=file.text,
        store=public(store.uri),
        made=datetime.now(UTC),
        run_base=run_base(store.uri, store.experiment_id),
        facts=facts(LocalCopy(sweep, store).trial_runs()),
        training=training_curves(Folder(sweep.storage) / sweep.name, trials.loc[trials["run_id"] != "", "trial_id"]),
        landscapes=shown,
        landscapes_left=left,
    )
