"""A sweep's runs as one tidy table: a row per trial and network measured, settings, states and values as columns."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from orchestrator.settings import setting_labels
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.tracking import Store, TrialRun
from workers import layout

SETTINGS = ("trial_id", "checkpoint", "epoch", "method", "method_name", "regularizer", "setting", "seed")
STATES = ("state", "flags", "error_class", "error", "attempt", "evaluation_id", "run_id")


def trial_table(sweep: Sweep, runs: Sequence[TrialRun]) -> pd.DataFrame:
    """Rows for every cell of the grid, in its order, whether it has run or not.

    Args:
        sweep: the grid.
        runs: what is recorded of it, with the curves of `value_keys` where the rows of kept epochs are wanted.

    Returns:
        Columns `SETTINGS`, `STATES`, then every recorded value: losses in nats, errors as fractions, `cost_...` in
        seconds. Each trial has a row whose `checkpoint` is 'last'; with early stopping one that is 'best'; and one for
        each epoch that was kept and measured, 'epoch 10'. A trial without a run has state 'missing'. Values of a trial
        that was measured with other settings than the sweep file asks for are left empty, and its state says so.
    """
    by_id = {run.trial_id: run for run in runs}
    trials = sweep.trials()
    settings = setting_labels(trials)
    rows: list[dict[str, Any]] = []
    for trial, label in zip(trials, settings, strict=True):
        rows += _rows(sweep, trial, label, by_id.get(trial.trial_id))
    table = pd.DataFrame(rows)
    table["epoch"] = table["epoch"].astype("Int64")
    values = [key for key in value_keys(sweep) if key in table]
    rest = sorted(set(table.columns) - {*SETTINGS, *STATES, *values})
    return table[[*SETTINGS, *STATES, *values, *rest]]


def value_keys(sweep: Sweep) -> list[str]:
    """Names of everything that is measured, in the order of tables."""
    return [key for measure in sweep.evaluation.measures for key in measure.keys()]  # noqa: SIM118  (a method)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished trials."""
    return table[table["state"] == "finished"].reset_index(drop=True)


def read_table(sweep: Sweep, store: Store) -> pd.DataFrame:
    """`trial_table` of what the store holds now."""
    keys = value_keys(sweep) if "kept" in sweep.evaluation.checkpoints else ()
    return trial_table(sweep, store.trial_runs(sweep.name, curves_of=keys))


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished trials that are compared with one another: last and best networks, each network once.

    Where the best epoch is the last one, its second row is left out; other epochs of a trial are curves, no evidence
    beside its end.
    """
    done = finished(table)
    last_epoch = done["trial_id"].map(one_per_trial(done).set_index("trial_id")["epoch"])
    best_before_last = (done["checkpoint"] == layout.BEST) & (done["epoch"] < last_epoch)
    return done[(done["checkpoint"] == layout.LAST) | best_before_last.fillna(value=False)].reset_index(drop=True)


def one_per_trial(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last networks."""
    return table[table["checkpoint"] == layout.LAST].reset_index(drop=True)


def _rows(sweep: Sweep, trial: Trial, setting: str, run: TrialRun | None) -> list[dict[str, Any]]:
    """One row per network of a trial."""
    names = layout.networks(trial, sweep.evaluation, ())
    same_settings = run is not None and run.evaluation_id == sweep.evaluation.evaluation_id
    rows = []
    for name in names:
        prefix = "" if name == layout.LAST else f"{name}/"
        values = _values(run, prefix, same_settings) if run else {}
        at = trial.training.epochs if name == layout.LAST else values.pop("epoch", None)
        rows.append(_labels(sweep, trial, setting, run, name, at) | values)
    for epoch, curve in sorted(run.curves.items()) if run and same_settings else ():
        rows.append(_labels(sweep, trial, setting, run, f"epoch {epoch}", epoch) | dict(curve))
    return rows


def _labels(
    sweep: Sweep, trial: Trial, setting: str, run: TrialRun | None, checkpoint: str, epoch: float | None
) -> dict[str, Any]:
    state = run.state if run else "missing"
    if run is not None and state == "finished" and run.evaluation_id != sweep.evaluation.evaluation_id:
        state = "measured otherwise"
    return {
        "trial_id": trial.trial_id,
        "checkpoint": checkpoint,
        "epoch": epoch,
        "method": trial.method.label(),
        "method_name": trial.method.name,
        "regularizer": trial.regularizer_label,
        "setting": setting,
        "seed": trial.seed,
        "state": state,
        "flags": _flags(run, checkpoint) if run and state == "finished" else "",
        "error_class": run.error_class if run else "",
        "error": run.error if run else "",
        "attempt": int(run.tags.get("attempt", 0)) if run else 0,
        "evaluation_id": run.evaluation_id if run else "",
        "run_id": run.run_id if run else "",
    }


def _values(run: TrialRun, prefix: str, same_settings: bool) -> dict[str, float]:
    """A network's values, by column; what training said and cost stands in the rows of last networks only."""
    own = ("cost/", "train/", "validation/")
    values = {}
    for key, value in run.metrics.items():
        if key.startswith(own):
            kept = not prefix
        else:
            kept = same_settings and key.startswith(prefix) and (bool(prefix) or "/" not in key)
        if kept:
            values[key.removeprefix(prefix).replace("/", "_")] = value
    return values


def _flags(run: TrialRun, checkpoint: str) -> str:
    """What its measures say about a network's values, as `measure: sentence; sentence`, one measure after another."""
    network = (
        layout.kept_name(int(checkpoint.removeprefix("epoch "))) if checkpoint.startswith("epoch ") else checkpoint
    )
    prefix = f"flags/{network}/"
    found = {key.removeprefix(prefix): text for key, text in run.tags.items() if key.startswith(prefix) and text}
    return " | ".join(f"{measure}: {text}" for measure, text in sorted(found.items()))
