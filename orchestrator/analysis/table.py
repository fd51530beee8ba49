"""A sweep's runs as one tidy table: a row per trial and network measured, settings, states and values as columns."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import pandas as pd

from orchestrator.analysis import columns
from orchestrator.analysis.sources import SOURCES, run_sources
from orchestrator.errors import UserError
from orchestrator.local_copy import LocalCopy
from orchestrator.settings import setting_labels
from orchestrator.spec.external import METHOD as EXTERNAL
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Evaluation, Sweep, Trial
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.repeats import COST as REPEATED_COST

TRAINING_COSTS = {"cost/train_seconds", REPEATED_COST}
"""Of the trial, whatever it is measured with."""
SETTINGS, STATES = tuple(columns.SETTINGS), tuple(columns.STATES)


def trial_table(sweep: Sweep, runs: Sequence[TrialRun], settings: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Rows for every cell of the grid, in its order, whether it has run or not; then for networks from elsewhere.

    Args:
        sweep: the grid.
        runs: what is recorded of it, with the curves of `value_keys` where the rows of kept epochs are wanted. Of
            several runs of one trial the newest counts.
        settings: what the column `setting` says, by trial id; what is unusual in this sweep if not given.

    Returns:
        Columns `SETTINGS`, `STATES`, then every recorded value: losses in nats, errors as fractions, `cost_...` in
        seconds; then `SOURCES`. Each trial has a row whose `checkpoint` is 'last'; with early stopping one that is
        'best'; and one for each epoch that was kept and measured, 'epoch 10'. A trial without a run has state
        'missing'. Values are those of `sweep.evaluation`, whether `submit` or `evaluate` measured them; a trial that
        has none, as it was measured with other settings only, has the state 'measured otherwise'. Networks that
        `flatsweep measure` recorded beside the sweep have the method 'external(label=...)', regularizer 'none', seed 0
        and no epoch. `attrs` says which sweep and evaluation these are.
    """
    of_trial: defaultdict[str, list[TrialRun]] = defaultdict(list)
    for run in runs:
        of_trial[run.trial_id].append(run)
    by_id = {trial.trial_id: trial for trial in sweep.trials()}  # an id is a hash, which takes its time
    labels = _Labels()
    if settings is None:
        settings = dict(zip(by_id, setting_labels(list(by_id.values())), strict=True))
    wanted = sweep.evaluation.evaluation_id
    rows: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    for trial_id, trial in by_id.items():
        *older, newest = [None, *of_trial[trial_id]]
        prefix = _prefix(wanted, newest)
        said = {"trial_id": trial_id, "setting": settings[trial_id]} | labels.of(trial) | _states(newest, prefix)
        found = _rows(sweep.evaluation, trial, said, newest, prefix)
        rows += found
        sources += [run_sources(trial.data, newest, filter(None, older))] * len(found)
    data_sets = sweep.data_sets()
    for run in (run for run in runs if run.is_external):
        rows.append(_external_row(run, _prefix(wanted, run)))
        sources.append(run_sources(data_sets[0] if len(data_sets) == 1 else None, run))
    table, came_from = pd.DataFrame(rows), pd.DataFrame(sources)
    table["epoch"] = table["epoch"].astype("Int64")
    values = [key for key in value_keys(sweep.evaluation.measures) if key in table]
    rest = sorted(set(table.columns) - {*SETTINGS, *STATES, *values})
    versions = sorted(set(came_from.columns) - set(SOURCES))
    came_from[versions] = came_from[versions].fillna("")
    table = pd.concat([table[[*SETTINGS, *STATES, *values, *rest]], came_from[[*SOURCES, *versions]]], axis=1)
    table.attrs = _about(sweep)
    return table


class _Fixed(dict[str, Any]):
    """Plain data that nobody changes: pandas copies a table's `attrs`, and what is in them, with every operation, and
    an analysis has thousands of these."""

    def __deepcopy__(self, _: object) -> Self:
        return self


def _about(sweep: Sweep) -> dict[Hashable | None, Any]:
    evaluation = sweep.evaluation
    return {
        "sweep": sweep.name,
        "evaluation_id": evaluation.evaluation_id,
        "evaluation": _Fixed(evaluation.model_dump(mode="json")),
        "measures": [_Fixed(measure.model_dump(mode="json")) for measure in evaluation.measures],
    }


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished trials."""
    return table[table["state"] == "finished"].reset_index(drop=True)


def read_table(sweep: Sweep, store: Store, fresh: bool = False) -> pd.DataFrame:
    """`trial_table` of what the store holds now.

    Args:
        sweep: the sweep, with the evaluation whose values are wanted.
        store: where it is recorded.
        fresh: fetch every run anew, instead of those that changed since the last look (`LocalCopy`).
    """
    return trial_table(sweep, read_runs(sweep, store, fresh))


def read_runs(sweep: Sweep, store: Store, fresh: bool = False) -> list[TrialRun]:
    """What the store holds now, as `trial_table` takes it; arguments as of `read_table`."""
    copy = LocalCopy(sweep, store, fresh)
    runs = copy.trial_runs()
    if "kept" in sweep.evaluation.checkpoints:
        keys, wanted = value_keys(sweep.evaluation.measures), sweep.evaluation.evaluation_id
        runs = [run if (at := _prefix(wanted, run)) is None else copy.with_curves(run, keys, at) for run in runs]
    copy.keep()
    return runs


def read_tables(sources: Sequence[tuple[Sweep, Store]], fresh: bool = False) -> pd.DataFrame:
    """`joined_tables` of what the stores hold now.

    Args:
        sources: sweeps of different names, each with its store.
        fresh: as `read_table` takes it.

    Raises:
        UserError: as `joined_tables`.
    """
    return joined_tables([(sweep, read_runs(sweep, store, fresh)) for sweep, store in sources])


def joined_tables(recorded: Sequence[tuple[Sweep, Sequence[TrialRun]]]) -> pd.DataFrame:
    """The tables of several sweeps in one, with the column `sweep` first; of one sweep, its table.

    What is unusual about a trial, the column `setting`, is said against the trials of all sweeps together, so that a
    cell of one sweep is a cell of another only where nothing but seeds differ. A trial that two sweeps hold has its
    rows twice (`sources.counted_once`). Whether the rows may be compared is not looked at
    (`sources.mixtures`).

    Args:
        recorded: sweeps of different names, each with its runs.

    Raises:
        UserError: there is none, or two have one name.
    """
    names = [sweep.name for sweep, _ in recorded]
    if not names or len(set(names)) < len(names):
        raise UserError(f"sweeps to be read together need different names: {', '.join(names) or 'there is none'}")
    if len(recorded) == 1:
        return trial_table(*recorded[0])
    trials = list({trial.trial_id: trial for sweep, _ in recorded for trial in sweep.trials()}.values())
    settings = {trial.trial_id: label for trial, label in zip(trials, setting_labels(trials), strict=True)}
    tables = []
    for sweep, runs in recorded:
        table = trial_table(sweep, runs, settings)
        table.insert(0, columns.SWEEP, sweep.name)
        table.attrs = {}
        tables.append(table)
    joined = _apart(pd.concat(tables, ignore_index=True))
    versions = [name for name in map(str, joined) if name.endswith(columns.VERSION)]
    joined[versions] = joined[versions].fillna("")
    measures = [measure for sweep, _ in recorded for measure in _about(sweep)["measures"]]
    different = [measure for place, measure in enumerate(measures) if measure not in measures[:place]]
    joined.attrs = _about(recorded[0][0]) | {"sweep": " + ".join(names), "measures": different}
    return joined


def _apart(joined: pd.DataFrame) -> pd.DataFrame:
    """Networks from elsewhere that sweeps call by one name are no seeds of one cell, unless they are one network."""
    by_name = joined[joined["method_name"] == EXTERNAL].groupby("method")
    ambiguous = by_name["trial_id"].transform("nunique").gt(1) & by_name[columns.SWEEP].transform("nunique").gt(1)
    rows = ambiguous[ambiguous].index
    found = joined.loc[rows]
    joined.loc[rows, "method"] = found["method"].str.removesuffix(")") + ", sweep=" + found[columns.SWEEP] + ")"
    return joined


def _prefix(wanted: str, run: TrialRun | None) -> str | None:
    """What stands before the names of the values of the evaluation `wanted` in a run; None where it has none."""
    if run is None:
        return None
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
    ends = one_per_trial(done).drop_duplicates("trial_id")  # several sweeps may hold one trial
    last_epoch = done["trial_id"].map(ends.set_index("trial_id")["epoch"])
    best_before_last = (done["checkpoint"] == layout.BEST) & (done["epoch"] < last_epoch)
    return done[(done["checkpoint"] == layout.LAST) | best_before_last.fillna(value=False)].reset_index(drop=True)


def one_per_trial(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last networks."""
    return table[table["checkpoint"] == layout.LAST].reset_index(drop=True)


def _rows(
    evaluation: Evaluation, trial: Trial, labels: dict[str, Any], run: TrialRun | None, prefix: str | None
) -> list[dict[str, Any]]:
    """One row per network of a trial, each with the labels."""
    rows = []
    for name in layout.networks(trial, evaluation, ()):
        values = _values(run, name, prefix) if run else {}
        at = trial.training.epochs if name == layout.LAST else values.pop("epoch", None)
        rows.append(labels | {"checkpoint": name, "epoch": at, "flags": _flags(run, name, prefix)} | values)
    for epoch, curve in sorted(run.curves.items()) if run and prefix is not None else ():
        flags = _flags(run, layout.kept_name(epoch), prefix)
        rows.append(labels | {"checkpoint": f"epoch {epoch}", "epoch": epoch, "flags": flags} | dict(curve))
    return rows


def _external_row(run: TrialRun, prefix: str | None) -> dict[str, Any]:
    """The row of a network that was not trained here: it has one network only, and no epoch."""
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


class _Labels:
    """What a trial is called in a table."""

    def __init__(self) -> None:
        self._methods: dict[int, str] = {}
        self._regularizers: dict[tuple[int, ...], str] = {}

    def of(self, trial: Trial) -> dict[str, Any]:
        """By column. The trial must outlive the labels: cells of a grid share their parts, which are told by `id`."""
        method, regularizers = id(trial.method), tuple(map(id, trial.regularizers))
        if method not in self._methods:
            self._methods[method] = trial.method.label()
        if regularizers not in self._regularizers:
            self._regularizers[regularizers] = trial.regularizer_label
        return {
            "method": self._methods[method],
            "method_name": trial.method.name,
            "regularizer": self._regularizers[regularizers],
            "seed": trial.seed,
        }


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
    metrics = run.metrics
    return {name: metrics[key] for key, name in _columns(tuple(metrics), network, prefix)}


@lru_cache(maxsize=1000)  # most runs have the same names
def _columns(keys: tuple[str, ...], network: str, prefix: str | None) -> list[tuple[str, str]]:
    """Those of a run's metrics that stand in the row of a network, each with its column."""
    return [(key, name) for key in keys if (name := _column(key, network, prefix))]


def _column(key: str, network: str, prefix: str | None) -> str:
    """Where a metric of a run stands in the row of a network; '' for one that is not in it."""
    inner = "" if network == layout.LAST else f"{network}/"
    if key.startswith(("train/", "validation/", "cost/")):
        name = "" if inner or (prefix and key not in TRAINING_COSTS and key.startswith("cost/")) else key
    elif prefix is None or not key.startswith(prefix + inner):
        name = ""
    else:
        name = key.removeprefix(prefix + inner)
        if "/" in name and not (name.startswith("cost/") and not inner):
            name = ""
    return name.replace("/", "_")


def _flags(run: TrialRun | None, network: str, prefix: str | None) -> str:
    """What its measures say about a network's values, as `measure: sentence; sentence`, one measure after another."""
    if run is None or prefix is None or run.state != "finished":
        return ""
    tags = run.tags
    found = {measure: tags[key] for key, measure in _flagged(tuple(tags), f"{prefix}flags/{network}/") if tags[key]}
    return " | ".join(f"{measure}: {text}" for measure, text in sorted(found.items()))


@lru_cache(maxsize=1000)
def _flagged(tags: tuple[str, ...], start: str) -> list[tuple[str, str]]:
    """Those of a run's tags that begin with `start`, each with what follows."""
    return [(key, key.removeprefix(start)) for key in tags if key.startswith(start)]
