"""The tidy table: a row for every cell, whatever became of it."""

from dataclasses import replace

from orchestrator.analysis.sources import SOURCES
from orchestrator.analysis.table import SETTINGS, STATES, finished, trial_table
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun


def a_sweep(**changes: object) -> Sweep:
    base = {"name": "x", "grid": {"methods": ["at"], "seeds": [0, 1, 2, 3, 4]}}
    return Sweep.model_validate(base | changes)


SWEEP = a_sweep()
EVALUATED = SWEEP.evaluation.evaluation_id


def a_run(index: int, state: str, evaluation: str = EVALUATED, **metrics: float) -> TrialRun:
    trial = SWEEP.trials()[index]
    values = {"robust_loss_gap": 0.5, "cost/train_seconds": 3.0, "train/loss": 1.5} | metrics
    tags = {"attempt": "2"}
    return TrialRun(f"r{index}", trial.trial_id, "", state, evaluation, "", "", tags, values, {})


RUNS = [
    a_run(4, "running", "", robust_loss_gap=9.0),
    replace(a_run(1, "failed", ""), error_class="diverged", error="boom"),
    a_run(2, "finished", "another"),
    a_run(3, "finished"),
]
TABLE = trial_table(SWEEP, RUNS)


def row(index: int) -> dict[str, object]:
    return dict(TABLE.iloc[index])


def test_one_row_per_cell_in_the_order_of_the_grid() -> None:
    assert list(TABLE["trial_id"]) == [trial.trial_id for trial in SWEEP.trials()]
    assert list(TABLE["seed"]) == [0, 1, 2, 3, 4]
    assert list(TABLE["state"]) == ["missing", "failed", "measured otherwise", "finished", "running"]


def test_columns_stand_in_order() -> None:
    columns = list(TABLE.columns)
    assert columns[: len(SETTINGS) + len(STATES)] == [*SETTINGS, *STATES]
    values = ["robust_loss_gap", "cost_train_seconds", "train_loss"]
    assert columns[len(SETTINGS) + len(STATES) :] == [*values, *SOURCES]


def test_a_missing_trial_has_no_values() -> None:
    found = row(0)
    assert (found["attempt"], found["run_id"], found["error_class"]) == (0, "", "")
    assert TABLE.iloc[0][["robust_loss_gap", "cost_train_seconds"]].isna().all()


def test_a_failed_trial_says_why() -> None:
    found = row(1)
    assert (found["error_class"], found["error"], found["attempt"]) == ("diverged", "boom", 2)


def test_values_of_other_settings_are_left_out() -> None:
    for index in (1, 2, 4):
        assert TABLE["robust_loss_gap"].isna()[index]
        assert row(index)["cost_train_seconds"] == 3.0
        assert row(index)["train_loss"] == 1.5


def test_a_finished_trial_has_its_values() -> None:
    found = row(3)
    assert (found["robust_loss_gap"], found["run_id"], found["evaluation_id"]) == (0.5, "r3", EVALUATED)
    assert list(finished(TABLE)["run_id"]) == ["r3"]


def test_a_run_that_is_no_longer_asked_for_is_no_row() -> None:
    smaller = a_sweep(grid={"methods": ["at"], "seeds": [0]})
    assert len(trial_table(smaller, RUNS)) == 1


def test_without_any_run() -> None:
    table = trial_table(SWEEP, [])
    assert set(table["state"]) == {"missing"} and finished(table).empty


def test_runs_with_other_names_of_metrics_and_tags_have_their_own_columns() -> None:
    """Columns are worked out once for runs with the same names, in whatever order others come."""
    at = f"eval/{EVALUATED}/"
    runs = [
        a_run(0, "finished", wci=1.0),
        a_run(1, "finished", average_flatness=2.0),
        a_run(2, "finished", "another", **{f"{at}wci": 3.0, "wci": 9.0}),
        a_run(3, "finished", wci=4.0),
    ]
    runs[1].tags["flags/last/wci"] = "capped"
    runs[2].tags.update({f"evaluated/{EVALUATED}": "finished", f"{at}flags/last/wci": "stopped", "half_version": "1.2"})
    table = trial_table(SWEEP, runs).astype(object).where(lambda found: found.notna(), None)
    assert table["wci"].tolist() == [1.0, None, 3.0, 4.0, None]
    assert table["average_flatness"].tolist() == [None, 2.0, None, None, None]
    assert table["flags"].tolist() == ["", "wci: capped", "wci: stopped", "", ""]
    assert table["half_version"].tolist() == ["", "", "1.2", "", ""]


def test_what_the_table_says_of_itself_is_not_copied_with_every_step() -> None:
    assert TABLE[TABLE["state"] == "finished"].attrs["evaluation"] is TABLE.attrs["evaluation"]
    assert TABLE.attrs["evaluation"] == SWEEP.evaluation.model_dump(mode="json")
