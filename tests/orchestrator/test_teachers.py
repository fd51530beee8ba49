"""Trials that are trained for their pseudo-labels: planned once, launched first, shared."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.launch import stages
from orchestrator.plan import Action, Plan, Traces, make_plan
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun

UNLABELED = {"name": "unlabeled", "over": ["at", "trades"]}


def a_sweep(*methods: Any, seeds: tuple[int, ...] = (0, 1)) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "x",
            "data": {"name": "digits", "unlabeled": {"size": 300}},
            "grid": {"methods": list(methods), "seeds": list(seeds)},
            "training": {"epochs": 5},
        }
    )


def planned(sweep: Sweep, **traces: Traces) -> Plan:
    return make_plan(sweep, [], lambda trial_id: traces.get(f"t{trial_id}", Traces()))


def test_one_teacher_for_all_cells_that_need_it() -> None:
    plan = planned(a_sweep("at", UNLABELED))
    (teacher,) = plan.teachers
    assert teacher.is_teacher and teacher.action is Action.RUN and teacher.epochs_left == 5
    assert teacher.trial.method.name == "standard"
    assert len(plan.entries) == 6 and not any(entry.is_teacher for entry in plan.entries)
    assert next(entry.trial_id for entry in plan.to_launch()) == teacher.trial_id


def test_a_standard_cell_of_the_grid_is_its_own_teacher() -> None:
    sweep = a_sweep("standard", UNLABELED)
    assert sweep.teachers() == [] and planned(sweep).teachers == ()
    assert {trial.teacher.trial_id for trial in sweep.trials() if trial.teacher} <= {t.trial_id for t in sweep.trials()}
    assert len(a_sweep("standard", UNLABELED, seeds=(1, 2)).teachers()) == 1, "the teacher's seed is 0"


def test_no_teacher_where_nobody_learns_any_more() -> None:
    sweep = a_sweep(UNLABELED)
    trained = {f"t{trial.trial_id}": Traces(True, 5) for trial in sweep.trials()}
    plan = planned(sweep, **trained)
    assert plan.teachers == () and plan.counts() == {Action.MEASURE: 4}
    trained.popitem()
    assert len(planned(sweep, **trained).teachers) == 1


def test_a_trained_teacher_is_done_without_any_measure() -> None:
    sweep = a_sweep(UNLABELED)
    (spec,) = sweep.teachers()
    run = TrialRun("r", spec.trial_id, "FINISHED", "finished", "", "", "", {}, {}, {})
    looked = {spec.trial_id: Traces(True, 5)}
    plan = make_plan(sweep, [run], lambda trial_id: looked.get(trial_id, Traces()))
    assert [entry.action for entry in plan.teachers] == [Action.DONE]
    assert not [entry for entry in plan.to_launch() if entry.is_teacher]
    again = make_plan(sweep, [replace(run, state="interrupted")], lambda trial_id: looked.get(trial_id, Traces()))
    assert [entry.action for entry in again.teachers] == [Action.RESUME]


@pytest.mark.parametrize("methods", [("at", UNLABELED), ("standard", UNLABELED), ("at",), (UNLABELED,)])
def test_those_who_wait_are_a_second_stage(methods: tuple[Any, ...]) -> None:
    entries = planned(a_sweep(*methods)).to_launch()
    found = stages(entries)
    assert sorted(entry.trial_id for stage in found for entry in stage) == sorted(entry.trial_id for entry in entries)
    waiting = [entry for entry in entries if entry.trial.teacher]
    assert found[1:] == ([waiting] if waiting else [])


def test_with_a_trained_teacher_nobody_waits() -> None:
    sweep = a_sweep("at", UNLABELED)
    (spec,) = sweep.teachers()
    run = TrialRun("r", spec.trial_id, "FINISHED", "finished", "", "", "", {}, {}, {})
    plan = make_plan(sweep, [run], lambda trial_id: Traces(trial_id == spec.trial_id, 5))
    assert len(stages(plan.to_launch())) == 1
