"""A sweep's runs as one tidy table: one row per trial, states and settings as columns, one column per value."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from orchestrator.settings import setting_labels
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.tracking import TrialRun

SETTINGS = ("trial_id", "method", "method_name", "regularizer", "setting", "seed")
STATES = ("state", "error_class", "error", "attempt", "evaluation_id", "run_id")


def trial_table(sweep: Sweep, runs: Sequence[TrialRun]) -> pd.DataFrame:
    """One row per cell of the grid, in its order, whether it has run or not.

    Args:
        sweep: the grid.
        runs: what is recorded of it.

    Returns:
        Columns `SETTINGS`, `STATES`, then every recorded value: losses in nats, errors as fractions, `cost_...` in
        seconds. A trial without a run has state 'missing'. Values of a trial that was measured with other settings
        than the sweep file asks for are left empty, and its state says so.
    """
    by_id = {run.trial_id: run for run in runs}
    trials = sweep.trials()
    settings = setting_labels(trials)
    rows = [_row(sweep, trial, label, by_id.get(trial.trial_id)) for trial, label in zip(trials, settings, strict=True)]
    table = pd.DataFrame(rows)
    values = [key for measure in sweep.evaluation.measures for key in measure.keys() if key in table]  # noqa: SIM118  (a method)
    rest = sorted(set(table.columns) - {*SETTINGS, *STATES, *values})
    return table[[*SETTINGS, *STATES, *values, *rest]]


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished trials."""
    return table[table["state"] == "finished"].reset_index(drop=True)


def _row(sweep: Sweep, trial: Trial, setting: str, run: TrialRun | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": trial.trial_id,
        "method": trial.method.label(),
        "method_name": trial.method.name,
        "regularizer": trial.regularizer_label,
        "setting": setting,
        "seed": trial.seed,
        "state": run.state if run else "missing",
        "error_class": run.error_class if run else "",
        "error": run.error if run else "",
        "attempt": int(run.tags.get("attempt", 0)) if run else 0,
        "evaluation_id": run.evaluation_id if run else "",
        "run_id": run.run_id if run else "",
    }
    if run is None:
        return row
    same_settings = run.evaluation_id == sweep.evaluation.evaluation_id
    if run.state == "finished" and not same_settings:
        row["state"] = "measured otherwise"
    return row | {
        key.replace("/", "_"): value
        for key, value in run.metrics.items()
        if key.startswith(("cost/", "train/")) or same_settings
    }
