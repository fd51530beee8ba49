"""What commands cost from the start of Python to their last line, over sweeps of 100, 1,000 and 10,000 cells.

    python benchmarks/commands.py [--repetitions 3] [--cells 100 1000 10000]

First the start of commands beside those of Ray and MLflow, and of Python alone. Then, for each size, a sweep that is
new and one whose trials are all done, with as many runs in MLflow's SQLite store as large_sweep.py writes: `plan`,
`status` and a `submit` that finds nothing to do. Beside `plan` stands Ray Tune's own expansion of a grid of that size,
beside `status` MLflow's own list of the runs. Each is a process of its own, of which the system tells time, processor
time (its children's too) and memory.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from compare import machine, print_ratios
from large_sweep import MEASURES, leave_folders, recorded_as, write
from rich.console import Console
from rich.table import Table

from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store

ROOT = Path(__file__).parents[1]
FLATSWEEP = (sys.executable, "-c", "from orchestrator.cli import main; main()")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
MLFLOW = (sys.executable, "-m", "mlflow")
EXPAND = """
import sys
from ray import tune
from ray.tune.search.variant_generator import generate_variants
ways = tune.grid_search([{"name": "trades", "beta": beta} for beta in range(10)])
changes = tune.grid_search([{"name": "label_noise", "rate": rate / 10} for rate in range(10)])
seeds = tune.grid_search(list(range(int(sys.argv[1]) // 100)))
print(sum(1 for _ in generate_variants({"config": {"method": ways, "regularizer": changes, "seed": seeds}})))
"""
"""Ray Tune's expansion of a grid of so many cells, which it does before it runs the first."""
LAUNCHER = (
    sys.executable,
    "-IS",
    "-c",
    """
import os, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print([done.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss])
""",
)
"""A small process between: Linux counts the memory of whoever starts a process as that process's."""
FLOOR = "python alone"
BESIDE = "flatsweep --help"


@dataclass(frozen=True)
class Use:
    """What a process took."""

    seconds: float
    processor_seconds: float
    mebibytes: float
    """Most memory at once, of the process or the largest of its children."""


def use(command: Sequence[str], folder: Path) -> Use:
    """Runs a command in a folder, with this checkout's flatsweep."""
    environment = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "COLUMNS": "160"}
    with tempfile.TemporaryFile() as said:
        told = subprocess.run([*LAUNCHER, *command], stdout=subprocess.PIPE, stderr=said, cwd=folder, env=environment)
        code, seconds, processor, kibibytes = json.loads(told.stdout)
        if code:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {said.read().decode()[-2000:]}")
    return Use(seconds, processor, kibibytes / 1024)


def measured(commands: Mapping[str, Sequence[str]], folder: Path, repetitions: int) -> dict[str, list[Use]]:
    """Each command once to warm the caches of files, then in turns."""
    for command in commands.values():
        use(command, folder)
    uses: dict[str, list[Use]] = {name: [] for name in commands}
    for _ in range(repetitions):
        for name, command in commands.items():
            uses[name].append(use(command, folder))
    return uses


def sweep(cells: int, name: str, storage: str) -> dict[str, Any]:
    """A sweep file of ten variants of methods by ten of regularisers by as many seeds as it takes."""
    noises = [{"name": "label_noise", "rate": rate / 10} for rate in range(1, 5)]
    decays = [{"name": "weight_decay", "value": 10.0**-power} for power in range(2, 7)]
    return {
        "name": name,
        "grid": {
            "methods": ["at", *({"name": "trades", "beta": beta} for beta in range(1, 10))],
            "regularizers": ["none", *noises, *decays],
            "seeds": list(range(cells // 100)),
        },
        "evaluation": {"measures": list(MEASURES)},
        "storage": storage,
    }


def done_sweep(cells: int, place: str) -> Store:
    """A sweep called as its number of cells, in which every trial has finished; its store."""
    made = Sweep.model_validate(sweep(cells, f"done-{cells}", place))
    store = Store.of(made)
    store.prepare()
    store.open_parent(made, "", "")
    store.close_parent(store.parent_run(made.name) or "", "finished")
    write(store, made, made.trials(), random.Random(0))
    leave_folders(made, made.trials())
    recorded_as(made)
    return store


def commands_of(cells: int, folder: Path) -> dict[str, Sequence[str]]:
    """By name; made are the sweep files and the store that they speak of."""
    # a store for each size: in one, indices of the larger sweep would serve the smaller
    place = folder / str(cells)
    store = done_sweep(cells, str(place))
    (folder / f"new-{cells}.yaml").write_text(json.dumps(sweep(cells, f"new-{cells}", "nowhere")))
    done = (f"done-{cells}", "--storage", str(place))
    listed = ("runs", "list", "--experiment-id", str(store.experiment_id))
    return {
        "flatsweep plan, all new": (*FLATSWEEP, "plan", f"new-{cells}.yaml"),
        "ray.tune's generate_variants": (sys.executable, "-c", EXPAND, str(cells)),
        "flatsweep plan, all done": (*FLATSWEEP, "plan", *done),
        "flatsweep submit, all done": (*FLATSWEEP, "submit", *done),
        "flatsweep status, all done": (*FLATSWEEP, "status", *done),
        "mlflow runs list": ("/usr/bin/env", f"MLFLOW_TRACKING_URI={store.uri}", *MLFLOW, *listed),
    }


def starts(folder: Path) -> dict[str, Sequence[str]]:
    """Commands that have next to nothing to do, by name."""
    (folder / "few.yaml").write_text(json.dumps(sweep(100, "few", "nowhere")))
    return {
        FLOOR: (sys.executable, "-c", "pass"),
        BESIDE: (*FLATSWEEP, "--help"),
        "flatsweep plan, 100 cells": (*FLATSWEEP, "plan", "few.yaml"),
        "ray --help": (*RAY, "--help"),
        "mlflow --help": (*MLFLOW, "--help"),
    }


def show(title: str, uses: Mapping[str, list[Use]], beside: str) -> None:
    """Time and processor time of each as ratios to those of one of them, and memory."""
    for what, take in (("seconds", lambda one: one.seconds), ("processor", lambda one: one.processor_seconds)):
        taken = {name: [take(one) for one in of_command] for name, of_command in uses.items()}
        print_ratios(f"{title}, {what}", taken, beside, unit="s", in_unit=lambda value: value)
    memory = "; ".join(f"{name} {max(one.mebibytes for one in found):.0f}" for name, found in uses.items())
    print(f"most memory, MiB: {memory}\n")


def show_growth(uses: Mapping[int, Mapping[str, list[Use]]]) -> None:
    """Milliseconds of the processor for each cell that a size has more than the one before: equal where cost is
    linear."""
    sizes = list(uses)
    table = Table(title="ms of the processor for each more cell", title_justify="left")
    table.add_column("what")
    for low, high in pairwise(sizes):
        table.add_column(f"{low:,} to {high:,}", justify="right")
    for name in uses[sizes[0]]:
        means = [statistics.median(one.processor_seconds for one in uses[size][name]) for size in sizes]
        steps = zip(pairwise(sizes), pairwise(means), strict=True)
        table.add_row(name, *(f"{1000 * (late - early) / (high - low):.3f}" for (low, high), (early, late) in steps))
    Console().print(table)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10_000])
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        folder = Path(place)
        print(machine())
        show("start", measured(starts(folder), folder, wanted.repetitions), BESIDE)
        uses = {}
        for cells in wanted.cells:
            uses[cells] = measured(commands_of(cells, folder), folder, wanted.repetitions)
            show(f"{cells:,} cells", uses[cells], "flatsweep plan, all new")
        if len(uses) > 1:
            show_growth(uses)
    load = " / ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"load {load}")


if __name__ == "__main__":
    main()
