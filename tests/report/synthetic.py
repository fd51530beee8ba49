"""Sweeps as they might have been recorded: what a report is made from, without Ray and MLflow."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from orchestrator.analysis.table import trial_table
from orchestrator.report.page import Source
from orchestrator.report.provenance import facts
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.trial_run import TrialRun

METHODS: list[Any] = ["at", {"name": "trades", "beta": [1, 6]}, {"name": "awp", "over": "at", "gamma": 0.01}, "mart"]
REGULARIZERS: list[Any] = ["none", {"name": "label_noise", "rate": 0.3}, {"name": "weight_decay", "value": 5e-3}]
EPOCHS = 60
MADE = datetime(2025, 3, 14, 9, 26, tzinfo=UTC)


def sweep_of(seeds: int = 4, **changes: Any) -> Sweep:
    """5 methods x 3 regularisers x seeds, with early stopping and a network every ten epochs."""
    base: dict[str, Any] = {
        "name": "digits-flatness",
        "data": {"name": "digits", "validation_size": 197},
        "training": {"epochs": EPOCHS, "early_stopping": {}, "keep_every": 10},
        "grid": {"methods": METHODS, "regularizers": REGULARIZERS, "seeds": list(range(seeds))},
        "evaluation": {"measures": ["robustness", "average_flatness", "worst_flatness"]}
        | {"checkpoints": ["last", "best", "kept"]},
        "storage": "runs",
    }
    return Sweep.model_validate(base | changes)


def runs_of(sweep: Sweep, broken: bool = True) -> list[TrialRun]:
    """A run for each trial: gaps that go with flatness, seed noise; a few trials failed, running and missing."""
    random = np.random.default_rng(7)
    trials = sweep.trials()
    cells = {cell: random.normal() for cell in dict.fromkeys(trial.cell for trial in trials)}
    runs = [_run(sweep, trial, number, cells[trial.cell], random) for number, trial in enumerate(trials)]
    return _broken(runs) if broken else runs


def _run(sweep: Sweep, trial: Trial, number: int, cell: float, random: np.random.Generator) -> TrialRun:
    overfitting = float(np.exp(0.45 * cell + 0.08 * random.normal()))
    best = int(random.integers(24, 38))
    curves = {epoch: _values(sweep, epoch, overfitting, random) for epoch in range(10, EPOCHS, 10)}
    metrics = _values(sweep, EPOCHS, overfitting, random)
    metrics |= {f"best/{key}": value for key, value in _values(sweep, best, overfitting, random).items()}
    metrics |= {"best/epoch": float(best), "train/loss": 0.2 / overfitting, "train/error": 0.06, "train/lr": 1e-3}
    slow = {"trades": 1.4, "mart": 1.3, "awp": 1.6}.get(trial.method.name, 1.0)
    metrics |= {"cost/train_seconds": 240 * slow * (1 + 0.1 * random.random()), "cost/robustness_seconds": 11.0}
    metrics |= {"cost/average_flatness_seconds": 31 + random.random(), "cost/worst_flatness_seconds": 24.0}
    tags = {"attempt": "1", "kept_epochs": "10,20,30,40,50", "host": f"node-{number % 3}", "device": "cpu (x86_64)"}
    tags |= {"torch": "2.11.0", "python": "3.11.2", "data_digest": "9f2c" * 16, "git_commit": "41d6" * 10}
    tags |= {"flatsweep_version": "0.1.0", "ray_version": "2.60.0", "mlflow_version": "3.17.0"}
    if number % 9 == 4:
        tags["flags/best/worst_flatness"] = "the attack lowered the loss of 3 images; the start is kept for them"
    return TrialRun(
        run_id=f"{number:032x}", trial_id=trial.trial_id, status="FINISHED", state="finished",
        evaluation_id=sweep.evaluation.evaluation_id, error_class="", error="", tags=tags, metrics=metrics, params={},
        curves=curves,
    )  # fmt: skip


def _values(sweep: Sweep, epoch: int, overfitting: float, random: np.random.Generator) -> dict[str, float]:
    part = epoch / EPOCHS
    train = 1.5 * np.exp(-2.2 * overfitting**0.3 * part) + 0.02 * random.normal()
    gap = 0.35 * overfitting * part**1.6 + 0.015 * random.normal()
    values = {"robust_loss_train": train, "robust_loss_gap": gap, "robust_loss_test": train + gap}
    values |= {"robust_error_train": 0.3 * train, "robust_error_gap": 0.3 * gap + 0.01 * random.normal()}
    values["robust_error_test"] = values["robust_error_train"] + values["robust_error_gap"]
    values |= {"clean_loss_train": train / 4, "clean_loss_test": train / 4 + gap / 3, "clean_loss_gap": gap / 3}
    values |= {"clean_error_train": 0.05 * train, "clean_error_test": 0.05 * train + 0.02, "clean_error_gap": 0.02}
    values |= {f"{key}_se": 0.06 * abs(value) for key, value in list(values.items())}
    flatness = 1.9 * gap * float(np.exp(0.22 * random.normal())) + 0.25
    found = {"average_flatness_xi0.5": flatness, "average_flatness_xi0.5_se": 0.09 * flatness}
    found |= {"worst_flatness_xi0.003": 0.11 * flatness + 0.02 * random.random()}
    found |= {"worst_flatness_xi0.00075": 0.03 * flatness + 0.012 * random.random()}
    keys = set(value_keys(sweep.evaluation.measures))
    return {key: float(value) for key, value in (values | found).items() if key in keys}


def failed(run: TrialRun, error_class: str, error: str) -> TrialRun:
    return replace(run, state="failed", error_class=error_class, error=error, metrics={}, curves={}, evaluation_id="")


def _broken(runs: list[TrialRun]) -> list[TrialRun]:
    out = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    for place in (5, 17):
        runs[place] = failed(runs[place], "diverged", "DivergedError: the loss became nan in epoch 12")
    runs[26] = failed(runs[26], "out_of_memory", out)
    runs[40] = replace(runs[40], state="running", metrics={}, curves={}, evaluation_id="")
    return [run for place, run in enumerate(runs) if place not in (30, 31, 58)]


def training_of(sweep: Sweep, runs: Sequence[TrialRun]) -> dict[str, Any]:
    random = np.random.default_rng(3)
    epochs = range(1, sweep.trials()[0].training.epochs + 1)

    def curve(start: float, rate: float) -> list[tuple[int, float]]:
        noise = random.normal(size=len(epochs))
        return [(e, float(start * np.exp(-rate * e / 30) + 0.01 * n)) for e, n in zip(epochs, noise, strict=True)]

    return {
        run.trial_id: {"train_loss": curve(2.2, 1 + random.random()), "validation_robust_error": curve(0.6, 0.4)}
        for run in runs
        if run.state == "finished"
    }


def source_of(sweep: Sweep, runs: Sequence[TrialRun], **changes: Any) -> Source:
    made = Source(
        name=sweep.name,
        table=trial_table(sweep, runs),
        measures=sweep.evaluation.measures,
        texts={sweep.name: "name: digits-flatness\ngrid:\n  methods: [at, mart]\n  seeds: [0, 1, 2, 3]\n"},
        stores=["http://mlflow.example:5000"],
        made=MADE,
        run_base="http://mlflow.example:5000/#/experiments/1/runs/",
        facts=facts(runs),
        training=training_of(sweep, runs),
    )
    return replace(made, **changes)
