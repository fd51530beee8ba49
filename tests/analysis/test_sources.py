"""What the rows of a table come from, and what may not be taken together."""

from typing import Any

import pandas as pd
import pytest

from orchestrator.analysis.sources import SOURCES, mixtures, not_used, refuse_mixed, repeated, run_sources
from orchestrator.analysis.table import trial_table
from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun

SWEEP = Sweep.model_validate({"name": "x", "grid": {"methods": ["at"], "seeds": [0, 1, 2, 3]}})
TWO = Sweep.model_validate(
    {"name": "x", "data": {"name": "digits", "train_size": [100, 200]}, "grid": {"methods": ["at"], "seeds": [0, 1]}}
)
TAGS = {
    "data_digest": "d1",
    "device": "cpu",
    "git_commit": "c",
    "flatsweep_version": "0.1.0",
    "torch_version": "2.11.0",
    "evaluation_id": SWEEP.evaluation.evaluation_id,
    "state": "finished",
}


def a_run(sweep: Sweep, index: int, run_id: str = "", **tags: str) -> TrialRun:
    known = {**TAGS, "trial_id": sweep.trials()[index].trial_id, **tags}
    return TrialRun.of(run_id or f"r{index}", "FINISHED", known, {"robust_loss_gap": 0.5}, {}, index, 1)


def made(sweep: Sweep = SWEEP, **tags: str) -> pd.DataFrame:
    """A table of four runs, of which the last one has other tags."""
    return trial_table(sweep, [*(a_run(sweep, index) for index in range(3)), a_run(sweep, 3, **tags)])


def test_columns() -> None:
    table = made(stripes_version="0.3")
    assert list(table.columns)[-len(SOURCES) - 1 :] == [*SOURCES, "stripes_version"]
    assert list(table["stripes_version"]) == ["", "", "", "0.3"]
    assert table["data_id"].nunique() == 1 and made(TWO)["data_id"].nunique() == 2


def test_the_workers_own_torch_counts() -> None:
    found = run_sources(None, a_run(SWEEP, 0, torch="2.15.0+cpu", python="3.12.1"))
    assert (found["torch_version"], found["python_version"], found["data_id"]) == ("2.15.0+cpu", "3.12.1", "")
    assert set(run_sources(None, None).values()) == {""}


def test_equal_runs_are_no_mixture() -> None:
    assert mixtures(made()) == []
    assert mixtures(trial_table(SWEEP, [])) == []


FORBIDDEN: dict[str, dict[str, Any]] = {
    "data_digest": {"data_digest": "d2"},
    "flatsweep_version": {"flatsweep_version": "0.2.0"},
}
SAID: dict[str, dict[str, Any]] = {
    "torch_version": {"torch_version": "2.15.0"},
    "device": {"device": "cuda (H200)"},
    "git_commit": {"git_commit": "c-dirty"},
    "flatsweep_version": {"flatsweep_version": "0.1.4"},
    "stripes_version": {"stripes_version": "0.3"},
}


@pytest.mark.parametrize("column", FORBIDDEN)
def test_what_is_not_comparable_is_refused(column: str) -> None:
    (found,) = mixtures(made(**FORBIDDEN[column]))
    assert found.forbidden and found.column.startswith(column)
    assert list(found.trials.values()) == [3, 1]
    with pytest.raises(UserError, match=f"mixed {column}.*: 3 trials with .*, 1 trial with .*\n.*--allow-mixed"):
        refuse_mixed([found])


@pytest.mark.parametrize("column", SAID)
def test_what_may_not_matter_is_said(column: str) -> None:
    table = made(**SAID[column])
    if column == "stripes_version":
        table.loc[0, column] = "0.2"
    (found,) = mixtures(table)
    assert found.column == column and not found.forbidden
    refuse_mixed([found])


def test_different_data_may_have_different_contents() -> None:
    runs = [a_run(TWO, index, data_digest=f"d{index // 2}") for index in range(4)]
    assert mixtures(trial_table(TWO, runs)) == []
    (found,) = mixtures(trial_table(TWO, [*runs[:3], a_run(TWO, 3, data_digest="d9")]))
    assert found.forbidden and found.trials == {"d1": 1, "d9": 1}


def test_trials_without_values_are_not_asked() -> None:
    assert mixtures(made(data_digest="d2", state="failed")) == []
    assert mixtures(made(data_digest="d2", evaluation_id="another")) == []


def test_one_trial_in_two_stores() -> None:
    one, two = made(), made()
    two["run_id"], two["data_digest"] = two["run_id"] + "'", "d2"
    (found,) = mixtures(pd.concat([one, two]))
    assert found.trials == {"d1": 4, "d2": 4}


def test_several_runs_of_a_trial() -> None:
    runs = [a_run(SWEEP, 0, "old"), a_run(SWEEP, 1), a_run(SWEEP, 0, "older"), a_run(SWEEP, 0, "new")]
    table = trial_table(SWEEP, runs)
    assert list(table["other_runs"]) == ["old, older", "", "", ""] and table["run_id"][0] == "new"
    (line,) = repeated(table)
    assert "at | none | seed 0" in line and line.endswith("new, the newest, is used, not old, older")


def test_trials_that_are_not_used() -> None:
    runs = [
        a_run(SWEEP, 0),
        a_run(SWEEP, 1, state="failed", error_class="diverged"),
        a_run(SWEEP, 2, evaluation_id="no"),
    ]
    assert not_used(trial_table(SWEEP, runs)) == [
        "not used: at | none | seed 1: diverged",
        "not used: at | none | seed 2: measured otherwise",
        "not used: at | none | seed 3: missing",
    ]


def test_many_values_are_cut_short() -> None:
    table = trial_table(SWEEP, [a_run(SWEEP, index, git_commit=f"{index}" * 60) for index in range(4)])
    many = pd.concat([table.assign(trial_id=table["trial_id"] + text, git_commit=text) for text in "abcdef"])
    (found,) = mixtures(many)
    assert found.sentence() == (
        "mixed git_commit: 4 trials with a, 4 trials with b, 4 trials with c, 4 trials with d, and 2 more"
    )
    (long,) = mixtures(table)
    assert long.sentence().startswith(f"mixed git_commit: 1 trial with {'0' * 40}, 1 trial")
