"""Networks from elsewhere beside a sweep: which images and attack they are compared on, and where they stand."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, one_per_trial, trial_table
from orchestrator.errors import UserError
from orchestrator.evaluations import measuring_plan
from orchestrator.external import Measured, Request, of_sweep
from orchestrator.plan import Action, Traces, estimate, make_plan
from orchestrator.spec.external import METHOD
from orchestrator.spec.methods import METHODS
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun
from workers import layout


def a_sweep(**changes: Any) -> Sweep:
    base = {"name": "x", "grid": {"methods": ["at", "trades"], "seeds": [0, 1, 2]}}
    return Sweep.model_validate(base | changes)


SWEEP = a_sweep()
EVALUATED = SWEEP.evaluation.evaluation_id
VALUES = {"robust_loss_gap": 0.5, "average_flatness_xi0.5": 1.0, "cost/robustness_seconds": 2.0}


def trial_run(index: int, **metrics: float) -> TrialRun:
    trial = SWEEP.trials()[index]
    values = {**VALUES, "cost/train_seconds": 3.0, **metrics}
    return TrialRun(f"r{index}", trial.trial_id, "FINISHED", "finished", EVALUATED, "", "", {}, values, {})


def external_run(label: str, evaluation: str = EVALUATED, state: str = "finished", **metrics: float) -> TrialRun:
    tags = {"method": f"external(label={label})", "method_name": METHOD, "regularizer": "none", "seed": "0"}
    tags |= {"attempt": "1", "flags/last/norms": "initial_distance is not known"}
    return TrialRun(f"e-{label}", f"id-{label}", "FINISHED", state, evaluation, "", "", tags, VALUES | metrics, {})


# ---- which images, which attack -----------------------------------------------------------------------------------


def test_the_sweeps_only_data_set_and_attack() -> None:
    found = of_sweep(SWEEP, Request("m:f"))
    trial = SWEEP.trials()[0]
    assert (found.data, found.attack, found.evaluation) == (trial.data, trial.training.attack, SWEEP.evaluation)


def test_one_of_several_is_to_be_chosen() -> None:
    sweep = a_sweep(
        data={"name": "digits", "train_size": [100, 200]}, training={"attack": {"eps": [0.1, 0.2]}, "epochs": 1}
    )
    with pytest.raises(UserError, match="--data is missing: the sweep has 2, and networks are compared on one"):
        of_sweep(sweep, Request("m:f"))
    with pytest.raises(UserError, match="--attack is missing: the sweep has 2"):
        of_sweep(sweep, Request("m:f", data="{name: digits, train_size: 200}"))
    found = of_sweep(sweep, Request("m:f", data="{name: digits, train_size: 200}", attack="{eps: 1/5}"))
    assert (found.data.train_size, found.attack.eps) == (200, 0.2)
    with pytest.raises(UserError, match="--data: not one of the sweep's; networks are compared on the same"):
        of_sweep(sweep, Request("m:f", data="digits", attack="{eps: 0.2}"))
    with pytest.raises(UserError, match="--attack: not one of the sweep's"):
        of_sweep(SWEEP, Request("m:f", attack="{eps: 0.3}"))


def test_data_of_single_grids_count_too() -> None:
    grids = [
        {"methods": ["at"], "seeds": [0]},
        {"methods": ["trades"], "seeds": [0], "data": {"name": "digits", "train_size": 300}},
    ]
    with pytest.raises(UserError, match="--data is missing: the sweep has 2"):
        of_sweep(a_sweep(grid=grids), Request("m:f"))


def test_what_is_not_finite_is_null_in_json() -> None:
    found = Measured({"a": 1.0, "b": float("nan"), "c": float("-inf")}, {})
    assert found.plain() == {"a": 1.0, "b": None, "c": None}


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_row_after_those_of_the_grid() -> None:
    table = trial_table(SWEEP, [external_run("b", robust_loss_gap=0.1), trial_run(0), external_run("a")])
    assert list(table["trial_id"]) == [*(trial.trial_id for trial in SWEEP.trials()), "id-b", "id-a"]
    row = table.iloc[6].to_dict()
    assert (row["method"], row["method_name"], row["regularizer"]) == ("external(label=b)", "external", "none")
    assert (row["checkpoint"], row["setting"], row["seed"], row["state"]) == ("last", "", 0, "finished")
    assert (row["robust_loss_gap"], row["cost_robustness_seconds"], row["run_id"]) == (0.1, 2.0, "e-b")
    assert row["flags"] == "norms: initial_distance is not known"
    assert table["epoch"].isna()[6] and table["cost_train_seconds"].isna()[6]
    assert len(one_per_trial(table)) == 8


def test_values_of_another_evaluation_are_left_out() -> None:
    other = external_run("a", evaluation="another")
    table = trial_table(SWEEP, [other])
    assert table["state"].iloc[6] == "measured otherwise"
    again = replace(other, tags=other.tags | {layout.evaluated_tag(EVALUATED): "finished"})
    again = replace(again, metrics={f"{layout.evaluation_prefix(EVALUATED)}robust_loss_gap": 0.25})
    table = trial_table(SWEEP, [again])
    assert (table["state"].iloc[6], table["robust_loss_gap"].iloc[6]) == ("finished", 0.25)
    assert trial_table(SWEEP, [external_run("a", state="pending")])["state"].iloc[6] == "pending"


def test_it_is_compared_as_a_cell_of_its_own() -> None:
    runs = [trial_run(i, robust_loss_gap=0.1 * i, **{"average_flatness_xi0.5": i * i}) for i in range(6)]
    without = correlate(compared(trial_table(SWEEP, runs)), resamples=50)
    runs += [external_run("far", robust_loss_gap=2.0, **{"average_flatness_xi0.5": 90.0}), external_run("b")]
    with_them = correlate(compared(trial_table(SWEEP, runs)), resamples=50)
    assert (without.networks, without.cells) == (6, 2) and (with_them.networks, with_them.cells) == (8, 4)
    assert with_them.left_out == ()


# ---- nothing else is confused -------------------------------------------------------------------------------------


def test_plans_and_estimates_know_nothing_of_it() -> None:
    runs = [trial_run(0), external_run("a"), external_run("b", state="pending")]
    measured = frozenset(layout.result_name(m, 0) for m in SWEEP.evaluation.measures)

    def look(trial_id: str) -> Traces:
        return Traces(True, 150, results=measured) if trial_id == runs[0].trial_id else Traces()

    plan, alone = make_plan(SWEEP, runs, look), make_plan(SWEEP, runs[:1], look)
    assert plan == alone and plan.counts() == {Action.DONE: 1, Action.RUN: 5}
    assert estimate(plan, runs) == estimate(plan, runs[:1])
    assert measuring_plan(SWEEP, SWEEP.evaluation, runs).entries == ()


def test_nothing_of_that_name_can_be_trained() -> None:
    assert METHODS.find(METHOD) is None
