"""How long after the command the first trial trains, on a machine where no Ray runs yet.

    python benchmarks/first_trial.py [--repetitions 3]

`flatsweep submit` of a new sweep with a new store, against a script that trains on plain Ray Tune with its
MLflowLoggerCallback and a new SQLite store: PyTorch is imported on the workers, the first trial says when it begins.
For flatsweep also when each line of its output came.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from compare import machine, print_ratios

from orchestrator.spec.loading import load_sweep_file
from workers.journal import Journal
from workers.storage import Folder

ROOT = Path(__file__).parents[1]
SWEEP = """
name: first
data: {name: digits, train_size: 200}
model: {name: small_preact_resnet, width: 4}
training: {epochs: 1}
grid: {methods: [at], seeds: [0, 1]}
evaluation: {measures: [{name: robustness, attack: {steps: 1}, train_examples: 8, test_examples: 8}]}
"""
PLAIN = """
import sys, time
from pathlib import Path
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

place = Path(sys.argv[1])

def train(config):
    import torch
    begun = time.time()
    torch.nn.Linear(8, 8)(torch.zeros(1, 8)).sum().backward()
    Path(place / f"begun-{config['seed']}").write_text(str(begun))
    tune.report({"loss": 0.0})

ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=f"{place}/ray")
callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{place}/mlflow.db", experiment_name="first")
tune.Tuner(
    tune.with_resources(train, {"cpu": 1}),
    param_space={"seed": tune.grid_search([0, 1])},
    run_config=tune.RunConfig(storage_path=f"{place}/results", verbose=0, callbacks=[callback]),
).fit()
"""


def environment() -> dict[str, str]:
    """Of the commands: this checkout's flatsweep, no address."""
    kept = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    return kept | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "PYTHONUNBUFFERED": "1"}


def of_flatsweep(said: dict[str, list[float]]) -> float:
    """Seconds until the first of its trials runs; adds to `said` when each line came."""
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        file = Path(place) / "first.yaml"
        file.write_text(SWEEP)
        command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "submit", str(file)]
        started = time.time()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            for line in process.stdout or ():
                if line.strip() and not line.startswith(" "):
                    said[" ".join(line.split()[:2])].append(time.time() - started)
        sweep = load_sweep_file(file).sweep
        journals = [Journal(Folder(f"{sweep.storage}/first/{trial.trial_id}")) for trial in sweep.trials()]
        begun = [record.time_ms for journal in journals for record in journal.records if record.text == "running"]
        return min(begun) / 1000 - started


def of_plain_tune() -> float:
    """Seconds until the first of its trials trains."""
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        started = time.time()
        subprocess.run([sys.executable, "-c", PLAIN, place], check=True, capture_output=True, env=environment())
        return min(float(file.read_text()) for file in Path(place).glob("begun-*")) - started


def main() -> None:
    """Prints both, and what flatsweep says meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    said: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = {"flatsweep submit": [], "Ray Tune with its MLflow callback": []}
    for _ in range(repetitions):
        seconds["flatsweep submit"].append(of_flatsweep(said))
        seconds["Ray Tune with its MLflow callback"].append(of_plain_tune())
    print(machine())
    print_ratios("to the first trial", seconds, "flatsweep submit", unit="s", in_unit=lambda value: value)
    for line, times in said.items():
        print(f"{statistics.median(times):6.1f} s  {line} ...")
    print(f"load {' / '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
