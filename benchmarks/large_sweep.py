"""A large synthetic sweep in a real MLflow store, and what its trials leave in the sweep's folder.

Four kinds of methods with 20 variants, 10 regularizers, as many learning rates as it takes and 5 seeds: 10,000 trials
are 2,000 cells. Runs have what finished trials on digits have: about 30 tags, 30 parameters and 70 metrics, 20 measures
and 4 targets among these. They are written as rows of MLflow's own tables, for speed, with one a second on their
clocks; those added later go through MLflow as a sweep's do.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag

from orchestrator.recorded import SWEEP_FILE, TEXT_FILE
from orchestrator.sink import CHANGED, RunSink
from orchestrator.spec.base import flatten
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.tracking import Store
from orchestrator.versions import git_commit, source_tags
from workers import layout
from workers.journal import Record
from workers.storage import Folder

SEEDS, CELLS = 5, 200
"""Of each learning rate: 20 variants of methods with 10 regularizers."""
FIRST_MS = 1_700_000_000_000
ROWS_AT_ONCE = 50_000
EXAMPLES = 1000
"""Behind every error."""
GAP, FLATNESS = "robust_loss_gap", "average_flatness_xi0.5"
MEASURES = (
    *("robustness", "average_flatness", "worst_flatness", "adaptive_sharpness", "wci", "relative_flatness"),
    *("norms", "boundary_thickness", "input_landscape"),
)


def large_sweep(runs: int, spare: int, storage: str) -> Sweep:
    """A sweep of at least `runs` + `spare` trials."""
    betas = [1 + index for index in range(6)]
    methods = [
        "at",
        {"name": "standard"},
        *({"name": "trades", "beta": beta} for beta in betas),
        *({"name": "mart", "beta": beta} for beta in betas),
        *({"name": "self_supervision", "weight": beta} for beta in betas),
    ]
    noises = [{"name": "label_noise", "rate": rate / 10} for rate in range(1, 5)]
    decays = [{"name": "weight_decay", "value": 10.0**-power} for power in range(2, 7)]
    rates = [0.01 * (1 + index) for index in range(-(-(runs + spare) // (SEEDS * CELLS)))]
    made = {
        "name": "large",
        "grid": {"methods": methods, "regularizers": ["none", *noises, *decays], "seeds": list(range(SEEDS))},
        "training": {"optimizer": {"name": "sgd", "lr": rates}},
        "evaluation": {"measures": list(MEASURES)},
        "storage": storage,
    }
    return Sweep.model_validate(made)


def values(made: Sweep, trial: Trial, draw: random.Random) -> dict[str, float]:
    """What is measured and recorded of a trial: part its cell's, the same for all seeds, part its own."""
    of_cell = random.Random(trial.label().rpartition("|")[0] + repr(trial.training.optimizer))
    common = of_cell.gauss(0, 1)
    found: dict[str, float] = {}
    for key in value_keys(made.evaluation.measures):
        value = math.exp((common + of_cell.gauss(0, 1) + 0.3 * draw.gauss(0, 1)) / 2)
        found[key] = round(EXAMPLES * value / (1 + value)) / EXAMPLES if "_error_" in key else value
    for key in found:
        if key.endswith("_se"):
            p = found.get(key.removesuffix("_se"), 0.0)
            found[key] = math.sqrt(max(0, p * (1 - p)) / (EXAMPLES - 1)) if "_error_" in key else 0.03 + 0.02 * p
    found |= {f"train/{key}": draw.random() for key in ("loss", "error", "lr", "seconds")}
    found |= {f"cost/{measure.name}_seconds": 1.0 for measure in made.evaluation.measures}
    return found | {"cost/train_seconds": 60.0}


def tags(trial: Trial, made: Sweep) -> dict[str, str]:
    """Ours, as a finished trial has them."""
    evaluated = made.evaluation.evaluation_id
    told = {"sweep": made.name, "kind": "trial", "state": "finished", "trial_id": trial.trial_id, "attempt": "1"}
    told |= {"evaluation_id": evaluated, "wanted_evaluation_id": evaluated, "method": trial.method.label()}
    told |= {"method_name": trial.method.name, "regularizer": trial.regularizer_label, "seed": str(trial.seed)}
    told |= {"error": "", "error_class": "", "weights": "0" * 64, "data_digest": "1" * 64, "host": "host", "pid": "1"}
    told |= {"device": "cpu (x86_64)", "threads": "1", "torch": "2.15.0", "python": "3.11.0"}
    return {f"flatsweep.{key}": text for key, text in told.items()}


def write(store: Store, made: Sweep, trials: Sequence[Trial], draw: random.Random) -> None:
    """Finished runs as rows of MLflow's own tables."""
    source = source_tags(git_commit(Path.cwd()))  # the commit is asked for once
    rows: dict[Any, list[dict[str, Any]]] = {
        model: [] for model in (SqlRun, SqlTag, SqlParam, SqlMetric, SqlLatestMetric)
    }
    for index, trial in enumerate(trials):
        run_id, start = f"{draw.getrandbits(128):032x}", FIRST_MS + 1000 * index
        own = {"run_uuid": run_id}
        run = {"name": trial.label(), "source_type": "UNKNOWN", "user_id": "", "status": "FINISHED"}
        run |= {"start_time": start, "end_time": start + 500, "lifecycle_stage": "active"}
        run |= {"experiment_id": int(store.experiment_id or 0), "artifact_uri": f"file:///nowhere/{run_id}"}
        rows[SqlRun].append(own | run)
        texts = tags(trial, made) | source | {"mlflow.runName": trial.label()}
        rows[SqlTag] += [own | {"key": key, "value": text} for key, text in texts.items()]
        params = {key: value for key, value in flatten(trial.model_dump(mode="json")).items() if value is not None}
        rows[SqlParam] += [own | {"key": key, "value": str(value)} for key, value in params.items()]
        metrics = values(made, trial, draw) | {CHANGED: float(start)}
        at = {"timestamp": start, "step": 0, "is_nan": False}
        points = [own | {"key": key, "value": value} | at for key, value in metrics.items()]
        rows[SqlMetric] += points
        rows[SqlLatestMetric] += points
    with store.client._tracking_client.store.engine.begin() as connection:
        for model, of_model in rows.items():
            for low in range(0, len(of_model), ROWS_AT_ONCE):
                connection.execute(sa.insert(model.__table__), of_model[low : low + ROWS_AT_ONCE])


def add(store: Store, made: Sweep, trials: Sequence[Trial], parent: str, draw: random.Random) -> None:
    """Finished runs as `submit` and its workers record them."""
    for trial in trials:
        run_id = store.create_trial_run(trial, made.evaluation, made.name, parent, "")
        records = [Record("metric", key, value=value) for key, value in values(made, trial, draw).items()]
        records.append(Record("tag", "evaluation_id", text=made.evaluation.evaluation_id))
        RunSink(store.uri, run_id).send([*records, Record("state", "state", text="finished")])


def leave_folders(made: Sweep, trials: Sequence[Trial]) -> None:
    """The files by whose names a plan knows that a trial has finished, all of them empty."""
    results = [layout.result_name(measure, made.evaluation.seed) for measure in made.evaluation.measures]
    for trial in trials:
        place = Path(made.storage) / made.name / trial.trial_id
        for inner in (layout.CHECKPOINTS, layout.MEASURES):
            (place / inner).mkdir(parents=True, exist_ok=True)
        (place / layout.TRIAL).touch()
        (place / layout.CHECKPOINTS / layout.checkpoint_name(trial.training.epochs, 0, "0" * 64)).touch()
        for name in results:
            (place / layout.MEASURES / name).touch()


def recorded_as(made: Sweep) -> None:
    """Leaves the sweep file that commands find by the sweep's name."""
    folder = Folder(made.storage) / made.name
    folder.write(SWEEP_FILE, made.model_dump_json().encode())
    folder.write(TEXT_FILE, b"# made by benchmarks/large_sweep.py\n")
