"""Reading a large sweep: the first look, a look after ten new runs, and the correlation, against plain search_runs.

    python benchmarks/table.py [--runs 10000] [--repetitions 5]

The runs are synthetic, 5 seeds in each cell, but lie in a real MLflow store on SQLite: about 30 tags, 30 parameters and
40 metrics each, as a trial on digits has them. They are written as rows, for speed, with one a second on their clocks;
the ten new ones of each repetition go through MLflow as a sweep's do.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy as sa
from compare import machine, print_ratios
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, read_table
from orchestrator.sink import CHANGED, RunSink
from orchestrator.spec.base import flatten
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.tracking import Store
from orchestrator.versions import source_tags
from workers.journal import Record

SEEDS, NEW = 5, 10
FIRST_MS = 1_700_000_000_000
FLATNESS, GAP = "average_flatness_xi0.5", "robust_loss_gap"


def sweep(runs: int, storage: str) -> Sweep:
    """A sweep with that many trials, and more that have no run yet."""
    cells = (runs + 100 * NEW) // SEEDS
    methods = [{"name": "trades", "beta": [1 + index / 100 for index in range(-(-cells // 2))]}]
    grid = {"methods": methods, "regularizers": ["none", {"name": "label_noise", "rate": 0.3}]}
    measures = {"measures": ["robustness", "average_flatness", "worst_flatness"]}
    grid["seeds"] = list(range(SEEDS))
    return Sweep.model_validate({"name": "large", "grid": grid, "evaluation": measures, "storage": storage})


def values(made: Sweep, draw: random.Random) -> dict[str, float]:
    """What is measured and recorded of a trial, with a gap that goes with flatness."""
    found = {key: draw.random() for key in value_keys(made.evaluation.measures)}
    found |= {f"train/{key}": draw.random() for key in ("loss", "error", "lr", "seconds")}
    found |= {f"cost/{measure.name}_seconds": 1.0 for measure in made.evaluation.measures}
    return found | {FLATNESS: found[GAP] + draw.random(), "cost/train_seconds": 60.0}


def tags(trial: Trial, made: Sweep) -> dict[str, str]:
    """Ours, as a finished trial has them."""
    evaluated = made.evaluation.evaluation_id
    told = {"sweep": made.name, "kind": "trial", "state": "finished", "trial_id": trial.trial_id, "attempt": "1"}
    told |= {"evaluation_id": evaluated, "wanted_evaluation_id": evaluated, "method": trial.method.label()}
    told |= {"method_name": trial.method.name, "regularizer": trial.regularizer_label, "seed": str(trial.seed)}
    told |= {"error": "", "error_class": "", "weights": "0" * 64, "data_digest": "1" * 64, "host": "host", "pid": "1"}
    told |= {"device": "cpu (x86_64)", "threads": "1", "torch": "2.15.0", "python": "3.11.0"}
    return {f"flatsweep.{key}": text for key, text in told.items()} | source_tags(Path.cwd())


def write(store: Store, made: Sweep, trials: Sequence[Trial], draw: random.Random) -> None:
    """Finished runs as rows of MLflow's own tables."""
    rows: dict[Any, list[dict[str, Any]]] = {
        model: [] for model in (SqlRun, SqlTag, SqlParam, SqlMetric, SqlLatestMetric)
    }
    known = tags(trials[0], made)  # the commit is asked for once
    for index, trial in enumerate(trials):
        run_id, start = f"{draw.getrandbits(128):032x}", FIRST_MS + 1000 * index
        own = {"run_uuid": run_id}
        run = {
            "name": trial.label(),
            "source_type": "UNKNOWN",
            "user_id": "",
            "status": "FINISHED",
            "start_time": start,
        }
        run |= {"end_time": start + 500, "lifecycle_stage": "active", "experiment_id": int(store.experiment_id or 0)}
        rows[SqlRun].append(own | run | {"artifact_uri": f"file:///nowhere/{run_id}"})
        differing = {"trial_id": trial.trial_id, "method": trial.method.label(), "seed": str(trial.seed)}
        differing["regularizer"] = trial.regularizer_label
        texts = (
            known | {f"flatsweep.{key}": text for key, text in differing.items()} | {"mlflow.runName": trial.label()}
        )
        rows[SqlTag] += [own | {"key": key, "value": text} for key, text in texts.items()]
        params = {key: value for key, value in flatten(trial.model_dump(mode="json")).items() if value is not None}
        rows[SqlParam] += [own | {"key": key, "value": str(value)} for key, value in params.items()]
        metrics = values(made, draw) | {CHANGED: float(start)}
        points = [
            own | {"key": key, "value": value, "timestamp": start, "step": 0, "is_nan": False}
            for key, value in metrics.items()
        ]
        rows[SqlMetric] += points
        rows[SqlLatestMetric] += points
    with store.client._tracking_client.store.engine.begin() as connection:
        for model, of_model in rows.items():
            connection.execute(sa.insert(model.__table__), of_model)


def add(store: Store, made: Sweep, trials: Sequence[Trial], parent: str, draw: random.Random) -> None:
    """Finished runs as `submit` and its workers record them."""
    for trial in trials:
        run_id = store.create_trial_run(trial, made.evaluation, made.name, parent, "")
        records = [Record("metric", key, value=value) for key, value in values(made, draw).items()]
        records.append(Record("tag", "evaluation_id", text=made.evaluation.evaluation_id))
        RunSink(store.uri, run_id).send([*records, Record("state", "state", text="finished")])


def main() -> None:
    """Prints the seconds of each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    wanted = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        made = sweep(wanted.runs, place)
        store = Store.of(made)
        store.prepare()
        trials = made.trials()
        parent = store.open_parent(made, "", "")
        (Path(place) / made.name).mkdir()
        started = time.perf_counter()
        write(store, made, trials[: wanted.runs], draw)
        print(f"{machine()}; {wanted.runs} runs written in {time.perf_counter() - started:.0f} s")
        added = wanted.runs

        def ten_more() -> None:
            nonlocal added
            add(store, made, trials[added : added + NEW], parent, draw)
            added += NEW

        def timed(read: Any) -> float:
            begun = time.perf_counter()
            read()
            return time.perf_counter() - begun

        mlflow.set_tracking_uri(store.uri)
        print(f"the first look: {timed(lambda: read_table(made, store)):.1f} s")
        seconds: dict[str, list[float]] = {}
        for _ in range(wanted.repetitions):
            ten_more()
            ways = {
                f"the table, {NEW} new runs": lambda: read_table(made, store),
                "the table, nothing new": lambda: read_table(made, store),
                "correlate": lambda: correlate(compared(read_table(made, store)), [FLATNESS], [GAP], resamples=2000),
                "the table, everything fetched": lambda: read_table(made, store, fresh=True),
                "mlflow.search_runs": lambda: mlflow.search_runs([store.experiment_id]),
            }
            for name, read in ways.items():
                seconds.setdefault(name, []).append(timed(read))
        title = f"{wanted.runs} runs in SQLite, {wanted.repetitions} repetitions"
        print_ratios(title, seconds, f"the table, {NEW} new runs", unit="s", in_unit=lambda value: value)


if __name__ == "__main__":
    main()
