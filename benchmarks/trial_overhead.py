"""What a trial costs beside its own work: many trials that do nearly nothing, against plain Ray Tune no-ops.

    python benchmarks/trial_overhead.py [--trials 60]

A trial here trains one epoch of one batch and measures two images. Its own work (timed in this process, warm) is taken
off; what is left is the fixed cost of a trial in a warm worker: Ray, folder, journal, checkpoint, MLflow.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import torch
from compare import machine
from rich.console import Console

from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.submit import submit
from workers.journal import Journal
from workers.storage import Folder
from workers.trial import run_trial

FEW = 4


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


def seconds_per_trial(trials: int, folder: Path) -> float:
    """Mean time between the ends of trials in a sweep, the first `FEW` left out: their workers were not warm yet."""
    made = sweep(trials, str(folder), f"overhead-{trials}")
    file = SweepFile(made, made.model_dump_json(), folder / "sweep.yaml")
    submit(file, Console(file=io.StringIO()), address="local")
    journals = [Journal(Folder(f"{folder}/{made.name}/{trial.trial_id}")) for trial in made.trials()]
    ends = sorted(record.time_ms for journal in journals for record in journal.records if record.text == "finished")
    return (ends[-1] - ends[FEW - 1]) / 1000 / (trials - FEW)


def seconds_of_work(folder: Path) -> float:
    """Wall time of one trial's own work, warm, without Ray and MLflow but with its folder."""
    made = sweep(12, str(folder), "work")
    times = []
    for trial in made.trials():
        started = time.perf_counter()
        run_trial(trial, made.evaluation, Folder(f"{folder}/{trial.trial_id}"))
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def seconds_of_plain_tune(trials: int, folder: Path) -> float:
    """Wall time of as many no-op trials on plain Ray Tune with re-used actors."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, int]) -> None:
            pass

        def reset_config(self, new_config: dict[str, int]) -> bool:  # noqa: ARG002
            return True

        def step(self) -> dict[str, bool]:
            return {"done": True}

    started = time.perf_counter()
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"x": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    return time.perf_counter() - started


def main() -> None:
    """Prints the fixed cost per trial and the trials per minute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    trials = parser.parse_args().trials
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        folder = Path(place)
        work = seconds_of_work(folder / "work")
        each = seconds_per_trial(trials, folder / "sweep")
        import ray

        with contextlib.redirect_stdout(io.StringIO()):
            ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=f"{place}/ray")
        # the first one warms Ray up
        _, few, many = (seconds_of_plain_tune(count, folder / "tune") for count in (FEW, FEW, FEW + trials))
        ray.shutdown()
    plain = (many - few) / trials
    print(f"{machine()}, {cores} cores, {cores} trials side by side")
    print(f"one trial after another: {each:.3f} s each, {60 / each:.0f} trials a minute")
    print(f"its own work: {work:.3f} s on one of {cores} cores, so {work / cores:.3f} s of that")
    print(f"fixed cost per trial: {each - work / cores:.3f} s; plain Ray Tune no-op: {plain:.3f} s")


if __name__ == "__main__":
    main()
