"""What a trial costs beside its own work in a warm worker, against Ray Tune and against a loop of processes.

    python benchmarks/trial_overhead.py [--trials 24] [--repetitions 3]

A trial here trains one epoch of one batch and measures two images. Its own work (timed in this process, warm) is taken
off; what is left is its fixed cost: Ray, folder, journal, checkpoint, MLflow. The others do no work at all:

- Ray Tune with actors that are used again, and nothing recorded;
- the same with Ray's MLflowLoggerCallback, with as many parameters and metrics as a trial of ours, in SQLite;
- a process each, as many side by side as there are cores, that imports PyTorch; and one that also records the same with
  MLflow in SQLite.

All is the mean time from one end of a trial to the next, without the first ends, before which nothing is warm.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compare import machine, print_ratios
from rich.console import Console

from orchestrator.run_content import RunContent
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.submit import submit
from workers.journal import Journal
from workers.storage import Folder
from workers.trial import run_trial

FEW = 4
"""First ends that are left out: their workers were not warm yet."""
OURS = "flatsweep"
CORES = os.cpu_count() or 1
PROCESS = """
import sys, torch
torch.nn.Linear(8, 8)(torch.zeros(1, 8)).sum().backward()
"""
PROCESS_WITH_MLFLOW = """
import json, sys, torch, mlflow
torch.nn.Linear(8, 8)(torch.zeros(1, 8)).sum().backward()
params, metrics = json.loads(sys.argv[2])
mlflow.set_tracking_uri(sys.argv[1])
with mlflow.start_run():
    mlflow.log_params(params)
    mlflow.log_metrics(metrics, step=1)
"""


def sweep(trials: int, storage: str, name: str) -> Sweep:
    """A sweep of `trials` trials that do nearly nothing."""
    return Sweep.model_validate(
        {
            "name": name,
            "data": {"name": "digits", "train_size": 8},
            "model": {"name": "small_preact_resnet", "width": 1},
            "training": {"epochs": 1, "schedule": "constant"},
            "grid": {"methods": ["standard"], "seeds": list(range(trials))},
            "evaluation": {
                "measures": [{"name": "robustness", "attack": {"steps": 1}, "train_examples": 2, "test_examples": 2}]
            },
            "storage": storage,
        }
    )


def between_ends(ends: list[float]) -> float:
    """Mean seconds from one end to the next, warm."""
    ends = sorted(ends)
    return (ends[-1] - ends[FEW - 1]) / (len(ends) - FEW)


def seconds_of_work(folder: Path) -> tuple[float, Any]:
    """Wall time of one trial's own work, warm, without Ray and MLflow but with its folder; and what it records:
    parameters, and metrics by name."""
    made = sweep(12, str(folder), "work")
    times = []
    for trial in made.trials():
        started = time.perf_counter()
        run_trial(trial, made.evaluation, Folder(f"{folder}/{trial.trial_id}"))
        times.append(time.perf_counter() - started)
    records = Journal(Folder(f"{folder}/{trial.trial_id}")).records
    metrics = {record.key: record.value for record in records if record.kind == "metric"}
    return statistics.median(times), (RunContent.of_trial(trial, made.evaluation).params, metrics)


def of_flatsweep(trials: int, work: float, folder: Path) -> float:
    """Seconds a trial, without its own work."""
    made = sweep(trials, str(folder), "overhead")
    submit(SweepFile(made, made.model_dump_json(), folder / "x.yaml"), Console(file=io.StringIO()), address="local")
    journals = [Journal(Folder(f"{folder}/{made.name}/{trial.trial_id}")) for trial in made.trials()]
    ends = [record.time_ms / 1000 for journal in journals for record in journal.records if record.text == "finished"]
    return between_ends(ends) - work / CORES


def of_tune(trials: int, records: Any, folder: Path, with_mlflow: bool) -> float:
    """Seconds a trial of Ray Tune; with its callback for MLflow it records as much as ours."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    params, metrics = records if with_mlflow else ({}, {})

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.index = config["index"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.index = new_config["index"]
            return True

        def step(self) -> dict[str, Any]:
            (folder / f"end-{self.index}").write_text(str(time.time()))
            return {"done": True, **metrics}

    uri = f"sqlite:///{folder}/mlflow.db"
    callbacks = [MLflowLoggerCallback(tracking_uri=uri, experiment_name="tune")] if with_mlflow else []
    ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=f"{folder}/ray")
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(trials))), **params},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=f"{folder}/results",
            verbose=0,
            callbacks=callbacks,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    ray.shutdown()
    return between_ends([float(file.read_text()) for file in folder.glob("end-*")])


def of_processes(trials: int, records: Any, folder: Path, with_mlflow: bool) -> float:
    """Seconds a trial where each is a process, as many side by side as there are cores."""
    uri = f"sqlite:///{folder}/mlflow.db"
    if with_mlflow:
        from mlflow import MlflowClient

        MlflowClient(uri).search_experiments()  # its tables: several processes that make them at once fail
    command = [sys.executable, "-c", PROCESS_WITH_MLFLOW if with_mlflow else PROCESS, uri, json.dumps(records)]

    def end(_index: int) -> float:
        subprocess.run(command, check=True, capture_output=True)
        return time.time()

    with ThreadPoolExecutor(CORES) as side_by_side:
        return between_ends(list(side_by_side.map(end, range(trials))))


def main() -> None:
    """Prints the fixed cost of a trial each way, and trials per minute of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    wanted = parser.parse_args()
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # no files of Tune's own: for all alike
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        work, records = seconds_of_work(Path(place, "work"))
        ways: dict[str, Callable[[Path], float]] = {
            OURS: partial(of_flatsweep, wanted.trials, work),
            "Ray Tune, nothing recorded": lambda folder: of_tune(wanted.trials, records, folder, False),
            "Ray Tune, its MLflow callback": lambda folder: of_tune(wanted.trials, records, folder, True),
            "a process each": lambda folder: of_processes(wanted.trials, records, folder, False),
            "a process each, MLflow": lambda folder: of_processes(wanted.trials, records, folder, True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repetition in range(wanted.repetitions):
            for number, (name, way) in enumerate(ways.items()):
                folder = Path(place, f"{repetition}-{number}")
                folder.mkdir()
                seconds[name].append(way(folder))
    params, metrics = records
    print(f"{machine()}, {CORES} cores, {CORES} trials side by side; {len(params)} parameters, {len(metrics)} metrics")
    print_ratios(f"fixed cost of a trial, {wanted.trials} trials", seconds, OURS)
    each = statistics.median(seconds[OURS]) + work / CORES
    print(f"its own work: {1000 * work:.0f} ms on one core; {60 / each:.0f} trials a minute with it")
    print(f"load {' / '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
