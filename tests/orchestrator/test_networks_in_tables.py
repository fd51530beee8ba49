"""Rows of a trial's networks beside the last one: the best of early stopping, and epochs that were kept."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, one_per_trial, trial_table
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun

MEASURE = "average_flatness_xi0.5"
TARGET = "robust_loss_gap"
SWEEP = Sweep.model_validate(
    {
        "name": "x",
        "training": {"epochs": 30, "early_stopping": {}, "keep_every": 10},
        "grid": {"methods": ["at", "trades"], "seeds": [0, 1]},
        "evaluation": {"measures": ["robustness", "average_flatness"], "checkpoints": ["kept", "best", "last"]},
    }
)
BEST_EPOCHS = (12, 30, 7, 21)


def run(index: int, **more: float) -> TrialRun:
    metrics = {
        TARGET: 1.0 + index,
        MEASURE: 2.0 + index,
        "train/loss": 0.1,
        "validation/robust_error": 0.5,
        "cost/train_seconds": 60.0,
        "best/epoch": float(BEST_EPOCHS[index]),
        f"best/{TARGET}": 0.5 + index / 3,
        f"best/{MEASURE}": 0.25 + index / 2,
    }
    return TrialRun(
        f"r{index}", SWEEP.trials()[index].trial_id, "FINISHED", "finished", SWEEP.evaluation.evaluation_id,
        "", "", {"attempt": "1", "kept_epochs": "10,20"}, metrics | more, {},
        curves={10: {TARGET: 0.1}, 20: {TARGET: 0.2, MEASURE: 0.3}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return trial_table(SWEEP, [run(index) for index in range(4)])


def test_a_row_for_each_network(table: pd.DataFrame) -> None:
    first = table[table["trial_id"] == SWEEP.trials()[0].trial_id]
    assert list(first["checkpoint"]) == ["last", "best", "epoch 10", "epoch 20"]
    assert list(first["epoch"]) == [30, 12, 10, 20]
    assert list(first[TARGET]) == [1.0, 0.5, 0.1, 0.2]
    assert first[MEASURE].fillna(-1).to_list() == [2.0, 0.25, -1, 0.3]
    assert set(first["run_id"]) == {"r0"} and set(first["state"]) == {"finished"}


def test_what_training_said_stands_in_the_last_networks_row_only(table: pd.DataFrame) -> None:
    for column in ("train_loss", "validation_robust_error", "cost_train_seconds"):
        assert table[column].notna().to_list() == [True, False, False, False] * 4
    assert not [name for name in table if "best" in name]


def test_a_trial_that_has_not_run_has_its_rows(table: pd.DataFrame) -> None:
    alone = trial_table(SWEEP, [run(0)])
    assert list(alone["state"]) == ["finished"] * 4 + ["missing"] * 6
    assert list(alone["checkpoint"])[4:] == ["last", "best"] * 3
    assert list(one_per_trial(alone)["state"]) == ["finished"] + ["missing"] * 3


def test_measured_otherwise_gives_no_values() -> None:
    other = trial_table(SWEEP, [replace(run(0), evaluation_id="another")])
    rows = other[other["run_id"] == "r0"]
    assert list(rows["checkpoint"]) == ["last", "best"], "no curves of other settings"
    assert list(rows["state"]) == ["measured otherwise"] * 2
    assert TARGET not in rows


def test_each_network_is_compared_once(table: pd.DataFrame) -> None:
    used = compared(table)
    assert list(zip(used["run_id"], used["checkpoint"], strict=True)) == [
        ("r0", "last"), ("r0", "best"), ("r1", "last"), ("r2", "last"), ("r2", "best"), ("r3", "last"), ("r3", "best"),
    ]  # fmt: skip
    assert used["trial_id"].notna().all()
    unfinished = trial_table(SWEEP, [replace(run(0), state="running"), run(3)])
    assert list(compared(unfinished)["run_id"]) == ["r3", "r3"]


def test_networks_of_a_trial_are_resampled_together(table: pd.DataFrame) -> None:
    result = correlate(compared(table), [MEASURE], [TARGET])
    assert (result.networks, result.cells) == (7, 2)
    spread = result.spreads[0]
    # at: last 2, 3, best .25; trades: last 4, 5, best 1.25, 1.75: seed noise is that of equal networks only
    assert spread.cells == 4
    assert spread.within_cell_sd == pytest.approx(((2 * 0.5**2 * 2 + 2 * 0.25**2) / 3) ** 0.5)
    assert not [note for note in result.notes if "is there" in note]


def test_the_same_network_twice_is_found(table: pd.DataFrame) -> None:
    twice: Any = pd.concat([compared(table), compared(table).iloc[[1]]])
    (left_out,) = correlate(twice, [MEASURE], [TARGET]).left_out
    assert left_out.reason == "a second row of this network" and left_out.label.endswith("seed 0 | best")
