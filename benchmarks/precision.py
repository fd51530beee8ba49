"""What attacks with gradients in bfloat16 do to the values that are measured, and to the order of networks.

    python benchmarks/precision.py [--data IMAGES.npz] [--epochs 6] [--images 300]

Nine networks are trained, three methods with three seeds: small_preact_resnets on digits, or cnns on the first 2,000
images of a file. Robust loss, average and worst flatness are then measured with attacks in single precision, with
attacks in bfloat16, and in single precision from another seed, which is how far the values are known anyway. Untimed.
"""

import argparse
import itertools
import time
from statistics import mean
from typing import Any

from compare import CPU, machine
from scipy.stats import kendalltau

from orchestrator.spec.measures import AverageFlatness, Robustness, WorstFlatness
from orchestrator.spec.sweep import Trial
from workers.data.splits import load_splits
from workers.memory import kept_memory
from workers.steps import drain
from workers.training import Trainer

METHODS: tuple[Any, ...] = ("at", "trades", {"name": "awp", "warmup": 1})
SEEDS = range(3)
DIGITS = {
    "data": {"name": "digits", "train_size": 800, "validation_size": 50, "test_size": 500},
    "model": {"name": "small_preact_resnet", "width": 16},
    "training": {"batch_size": 100, "attack": {"eps": 0.15, "step_size": 0.05, "steps": 5}},
}
FILE = {
    "data": {"name": "npz", "train_size": 2000, "validation_size": 50, "test_size": 500},
    "model": {"name": "cnn", "depth": 1},
    "training": {"batch_size": 128, "attack": {"eps": 8 / 255, "step_size": 2 / 255, "steps": 5}},
}
WAYS: dict[str, tuple[str, int]] = {"fp32": ("fp32", 0), "bf16": ("bf16", 0), "fp32, another seed": ("fp32", 1)}
"""Precision and seed."""


def recipe(path: str | None, epochs: int) -> dict[str, Any]:
    """What all networks share."""
    base: dict[str, Any] = DIGITS if path is None else {**FILE, "data": {**FILE["data"], "path": path}}
    return {**base, "training": {**base["training"], "epochs": epochs, "schedule": "constant"}}


def measured(trial: Trial, images: int) -> dict[str, dict[str, float]]:
    """By way the values of one network."""
    splits = load_splits(trial.data, CPU)
    trainer = Trainer(trial, splits, None, CPU)
    drain(trainer.run())
    found: dict[str, dict[str, float]] = {}
    for way, (precision, seed) in WAYS.items():
        attack = trial.training.attack
        common: dict[str, Any] = {"attack": {"step_size": attack.eps / 4, "precision": precision}}
        measures = (
            Robustness(**common, train_examples=images, test_examples=images),
            AverageFlatness(**common, draws=3, xi=(0.5,), examples=images),
            WorstFlatness(**common, restarts=2, xi=(0.003,), examples=images),
        )
        values: dict[str, float] = {}
        for measure in measures:
            values |= measure.load()(trainer.model, splits, measure, attack=attack, seed=seed).values
        kept = ("robust_loss_test", "robust_error_test", "average_flatness_xi0.5", "worst_flatness_xi0.003")
        found[way] = {name: values[name] for name in kept}
    return found


def print_table(rows: list[dict[str, dict[str, float]]]) -> None:
    """Of each value: its range, the other ways less fp32, and Kendall's tau of the networks' order."""
    print(f"\n{'':26}{'range':>20}  {'way':20}{'mean':>10}{'largest':>10}{'tau':>7}")
    for name in rows[0]["fp32"]:
        exact = [row["fp32"][name] for row in rows]
        for way in list(WAYS)[1:]:
            other = [row[way][name] for row in rows]
            off = [b - a for a, b in zip(exact, other, strict=True)]
            largest = max(off, key=abs)
            spread = f"{min(exact):.4f} to {max(exact):.4f}"
            tau = kendalltau(exact, other).statistic
            print(f"{name:26}{spread:>20}  {way:20}{mean(off):+10.1e}{largest:+10.1e}{tau:7.2f}")


def main() -> None:
    """Trains, measures three times, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz file, as of `data: {name: npz}`")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=300)
    wanted = parser.parse_args()
    print(machine())
    started, rows = time.perf_counter(), []
    shared = recipe(wanted.data, wanted.epochs)
    with kept_memory():
        for method, seed in itertools.product(METHODS, SEEDS):
            rows.append(measured(Trial.model_validate({**shared, "method": method, "seed": seed}), wanted.images))
    print_table(rows)
    print(f"\n{len(rows)} networks, {wanted.images} images, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
