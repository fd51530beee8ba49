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
    """Rows for every cell of the grid, in its order, whether it has run or not; then for networks from elsewhere.

    Args:
        sweep: the grid.
        runs: what is recorded of it, with the curves of `value_keys` where the rows of kept epochs are wanted.

    Returns:
        Columns `SETTINGS`, `STATES`, then every recorded value: losses in nats, errors as fractions, `cost_...` in
        seconds. Each trial has a row whose `checkpoint` is 'last'; with early stopping one that is 'best'; and one for
        each epoch that was kept and measured, 'epoch 10'. A trial without a run has state 'missing'. Values are those
        of `sweep.evaluation`, whether `submit` or `evaluate` measured them; a trial that has none, as it was measured
        with other settings only, has the state 'measured otherwise'. Networks that `flatsweep measure` recorded beside
        the sweep have the method 'external(label=...)', regularizer 'none', seed 0 and no epoch.
    """
    by_id = {run.trial_id: run for run in runs}
    trials = sweep.trials()
    settings = setting_labels(trials)
    rows: list[dict[str, Any]] = []
    for trial, label in zip(trials, settings, strict=True):
        rows += _rows(sweep, trial, label, by_id.get(trial.trial_id))
    rows += [_external_row(sweep, run) for run in runs if run.is_external]
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
    runs = store.trial_runs(sweep.name)
    if "kept" in sweep.evaluation.checkpoints:
        keys = value_keys(sweep)
        runs = [run if (at := _prefix(sweep, run)) is None else store.with_curves(run, keys, at) for run in runs]
    return trial_table(sweep, runs)


def _prefix(sweep: Sweep, run: TrialRun) -> str | None:
    """What stands before the names of the values of `sweep.evaluation` in a run; None where it has none."""
    wanted = sweep.evaluation.evaluation_id
    if run.evaluation_id == wanted:
        return ""
    measured = run.tags.get(layout.evaluated_tag(wanted)) == "finished"
    return layout.evaluation_prefix(wanted) if measured else None


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
    prefix = _prefix(sweep, run) if run else None
    labels = _labels(trial, setting, run, prefix)
    rows = []
    for name in layout.networks(trial, sweep.evaluation, ()):
        values = _values(run, name, prefix) if run else {}
        at = trial.training.epochs if name == layout.LAST else values.pop("epoch", None)
        rows.append(labels | {"checkpoint": name, "epoch": at, "flags": _flags(run, name, prefix)} | values)
    for epoch, curve in sorted(run.curves.items()) if run and prefix is not None else ():
        flags = _flags(run, layout.kept_name(epoch), prefix)
        rows.append(labels | {"checkpoint": f"epoch {epoch}", "epoch": epoch, "flags": flags} | dict(curve))
    return rows


def _external_row(sweep: Sweep, run: TrialRun) -> dict[str, Any]:
    """The row of a network that was not trained here: it has one network only, and no epoch."""
    prefix = _prefix(sweep, run)
    row = {
        "trial_id": run.trial_id,
        "method": run.tags.get("method", ""),
        "method_name": run.tags["method_name"],
        "regularizer": run.tags.get("regularizer", ""),
        "setting": "",
        "seed": int(run.tags.get("seed", 0)),
        "checkpoint": layout.LAST,
        "epoch": None,
        "flags": _flags(run, layout.LAST, prefix),
    }
    return row | _states(run, prefix) | _values(run, layout.LAST, prefix)


def _labels(trial: Trial, setting: str, run: TrialRun | None, prefix: str | None) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "method": trial.method.label(),
        "method_name": trial.method.name,
        "regularizer": trial.regularizer_label,
        "setting": setting,
        "seed": trial.seed,
    } | _states(run, prefix)


def _states(run: TrialRun | None, prefix: str | None) -> dict[str, Any]:
    state = run.state if run else "missing"
    return {
        "state": "measured otherwise" if state == "finished" and prefix is None else state,
        "error_class": run.error_class if run else "",
        "error": run.error if run else "",
        "attempt": int(run.tags.get("attempt", 0)) if run else 0,
        "evaluation_id": run.evaluation_id if run else "",
        "run_id": run.run_id if run else "",
    }


def _values(run: TrialRun, network: str, prefix: str | None) -> dict[str, float]:
    """A network's values, by column; what training said and cost stands in the rows of last networks only."""
    values = {}
    inner = "" if network == layout.LAST else f"{network}/"
    for key, value in run.metrics.items():
        if key.startswith(("train/", "validation/", "cost/")):
            name = "" if inner or (prefix and key != "cost/train_seconds" and key.startswith("cost/")) else key
        elif prefix is None or not key.startswith(prefix + inner):
            name = ""
        else:
            name = key.removeprefix(prefix + inner)
            if "/" in name and not (name.startswith("cost/") and not inner):
                name = ""
        if name:
            values[name.replace("/", "_")] = value
    return values


def _flags(run: TrialRun | None, network: str, prefix: str | None) -> str:
    """What its measures say about a network's values, as `measure: sentence; sentence`, one measure after another."""
    if run is None or prefix is None or run.state != "finished":
        return ""
    start = f"{prefix}flags/{network}/"
    found = {key.removeprefix(start): text for key, text in run.tags.items() if key.startswith(start) and text}
    return " | ".join(f"{measure}: {text}" for measure, text in sorted(found.items()))
