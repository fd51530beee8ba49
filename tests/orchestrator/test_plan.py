"""What a submit does with a trial, as a function of its run and its folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evaluations import measuring_plan, only_measuring
from orchestrator.plan import Action, Plan, Traces, decide, estimate, folder_traces, make_plan
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.trial_run import TrialRun
from workers.failures import ErrorClass
from workers.layout import checkpoint_name, result_name
from workers.storage import Folder

SWEEP = Sweep.model_validate(
    {
        "name": "x",
        "grid": {"methods": ["at", "trades"], "seeds": [0, 1]},
        "training": {"epochs": 10},
        "evaluation": {"measures": ["robustness", "average_flatness"]},
        "storage": "/nowhere",
    }
)
TRIAL, EVALUATION = SWEEP.trials()[0], SWEEP.evaluation
ALL = frozenset(result_name(measure, EVALUATION.seed) for measure in EVALUATION.measures)
SOME = frozenset(name for name in ALL if name.startswith("robustness"))
STATES = ("pending", "running", "interrupted", "finished", "failed")


def a_run(
    state: str, *, evaluation: str = EVALUATION.evaluation_id, error: str = "", trial: int = 0, attempt: str = "1"
) -> TrialRun:
    of = SWEEP.trials()[trial]
    return TrialRun(
        run_id=f"r{trial}",
        trial_id=of.trial_id,
        status="",
        state=state,
        evaluation_id=evaluation,
        error_class=error,
        error="why",
        tags={"method": of.method.label(), "regularizer": of.regularizer_label}
        | ({"attempt": attempt} if attempt else {}),
        metrics={},
        params={},
    )


TRAINED, NOTHING = Traces(True, 10, 0, ALL), Traces()
TABLE = {
    "new": (None, NOTHING, Action.RUN, "new"),
    "pending": (a_run("pending", attempt=""), NOTHING, Action.RUN, "new"),
    "closed before it began": (a_run("interrupted", attempt=""), NOTHING, Action.RUN, "new"),
    "folder gone": (a_run("finished"), NOTHING, Action.RUN, "its folder is gone"),
    "folder gone while running": (a_run("running"), NOTHING, Action.RUN, "its folder is gone"),
    "run gone, nothing trained": (None, Traces(True), Action.RUN, "its run is gone"),
    "run gone in mid-epoch": (None, Traces(True, 0, 3), Action.RESUME, "stopped at epoch 0 of 10, batch 3"),
    "run gone, trained": (None, TRAINED, Action.RESUME, "its run is gone: recorded again from its folder"),
    "interrupted": (a_run("interrupted"), Traces(True, 4), Action.RESUME, "stopped at epoch 4 of 10"),
    "interrupted in mid-epoch": (
        a_run("interrupted"),
        Traces(True, 4, 7),
        Action.RESUME,
        "stopped at epoch 4 of 10, batch 7",
    ),
    "running, driver dead": (a_run("running"), Traces(True, 4), Action.RESUME, "stopped at epoch 4 of 10"),
    "pending again": (a_run("pending"), Traces(True, 4), Action.RESUME, "stopped at epoch 4 of 10"),
    "says finished, trained in part": (a_run("finished"), Traces(True, 4), Action.RESUME, "stopped at epoch 4 of 10"),
    "worker lost": (
        a_run("failed", error="worker_lost"),
        Traces(True, 4),
        Action.RESUME,
        "stopped at epoch 4 of 10; worker_lost",
    ),
    "diverged": (a_run("failed", error="diverged"), Traces(True, 4), Action.FAILED, "diverged: why"),
    "diverged, folder gone": (a_run("failed", error="diverged"), NOTHING, Action.FAILED, "diverged: why"),
    "failed in a way unknown": (a_run("failed", error="alien"), TRAINED, Action.FAILED, "alien: why"),
    "trained": (a_run("interrupted"), Traces(True, 10), Action.MEASURE, "to measure: robustness, average_flatness"),
    "measured in part": (a_run("running"), Traces(True, 10, 0, SOME), Action.MEASURE, "to measure: average_flatness"),
    "measured otherwise": (
        a_run("finished", evaluation="other"),
        Traces(True, 10, 0, SOME),
        Action.MEASURE,
        "to measure: average_flatness",
    ),
    "run gone, to measure": (None, Traces(True, 10, 0, SOME), Action.MEASURE, "to measure: average_flatness"),
    "results there, run of another evaluation": (
        a_run("finished", evaluation="other"),
        TRAINED,
        Action.RESUME,
        "its run is to be brought up to date",
    ),
    "results there, run not closed": (
        a_run("interrupted"),
        TRAINED,
        Action.RESUME,
        "its run is to be brought up to date",
    ),
    "finished": (a_run("finished"), TRAINED, Action.DONE, "finished"),
    "results of other settings beside": (
        a_run("finished"),
        Traces(True, 10, 0, ALL | {"robustness-0123456789abcdef.json"}),
        Action.DONE,
        "finished",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_decide(case: str) -> None:
    run, traces, action, reason = TABLE[case]
    found, why = decide(TRIAL, EVALUATION, run, traces)
    assert found is action
    assert reason in why


@pytest.mark.parametrize("kind", ErrorClass)
def test_only_a_passing_failure_runs_again(kind: ErrorClass) -> None:
    action, _ = decide(TRIAL, EVALUATION, a_run("failed", error=kind.value), Traces(True, 4))
    assert action is (Action.RESUME if kind in {"storage_unavailable", "worker_lost"} else Action.FAILED)


RUNS = st.none() | st.builds(
    lambda state, evaluation, error: a_run(state, evaluation=evaluation, error=error if state == "failed" else ""),
    st.sampled_from(STATES),
    st.sampled_from([EVALUATION.evaluation_id, "other", ""]),
    st.sampled_from([*ErrorClass, "alien"]).map(str),
)
TRACES = st.just(NOTHING) | st.builds(
    lambda epoch, batch, results: Traces(True, epoch, 0 if epoch == 10 else batch, results),
    st.integers(0, 10),
    st.integers(0, 3),
    st.sets(st.sampled_from([*ALL, "other.json"])).map(frozenset),
)


@settings(deadline=None)  # on a loaded machine any example may take long
@given(RUNS, TRACES)
def test_what_must_hold_for_every_trial(run: TrialRun | None, traces: Traces) -> None:
    action, reason = decide(TRIAL, EVALUATION, run, traces)
    finished = (
        run is not None
        and run.state == "finished"
        and run.evaluation_id == EVALUATION.evaluation_id
        and traces.exists
        and traces.epoch == 10
        and traces.results >= ALL
    )
    failed = (
        run is not None
        and run.state == "failed"
        and run.error_class not in {ErrorClass.WORKER_LOST.value, ErrorClass.STORAGE_UNAVAILABLE.value}
    )
    assert (action is Action.DONE) == finished
    assert (action is Action.FAILED) == failed
    assert action.launches == (not finished and not failed)
    assert (action is Action.MEASURE) <= (traces.epoch == 10 and not traces.results >= ALL)
    assert reason


def test_another_seed_of_the_evaluation_measures_again() -> None:
    other = Evaluation(measures=EVALUATION.measures, seed=1)
    action, reason = decide(TRIAL, other, a_run("finished"), TRAINED)
    assert action is Action.MEASURE and "robustness, average_flatness" in reason


def test_plan_keeps_the_order_and_pairs_runs_with_trials() -> None:
    ids = [trial.trial_id for trial in SWEEP.trials()]
    traces = {ids[0]: TRAINED, ids[1]: Traces(True, 4), ids[3]: Traces(True, 4)}
    runs = [a_run("failed", error="diverged", trial=3), a_run("interrupted", trial=1), a_run("finished", trial=0)]
    plan = make_plan(SWEEP, runs, lambda trial_id: traces.get(trial_id, NOTHING))
    assert [entry.trial_id for entry in plan.entries] == ids
    assert [entry.action for entry in plan.entries] == [Action.DONE, Action.RESUME, Action.RUN, Action.FAILED]
    assert [entry.run.run_id if entry.run else None for entry in plan.entries] == ["r0", "r1", None, "r3"]
    assert [entry.epochs_left for entry in plan.entries] == [0, 6, 10, 0]
    assert [entry.trial_id for entry in plan.to_launch()] == ids[1:3]


def test_traces_of_real_folders(tmp_path: Path) -> None:
    sweep = SWEEP.model_copy(update={"storage": str(tmp_path)})
    look = folder_traces(sweep)
    assert look("nothing") == NOTHING
    folder = Folder(f"{tmp_path}/x/abc")
    (folder / "checkpoints").write("half.part", b"")
    assert folder_traces(sweep)("abc") == NOTHING  # no trial began there
    folder.write("trial.json", json.dumps({}).encode())
    assert folder_traces(sweep)("abc") == Traces(True)
    for epoch, batch in ((9, 0), (10, 0), (9, 3)):
        (folder / "checkpoints").write(checkpoint_name(epoch, batch, "0" * 64), b"")
    (folder / "measures").write("a.json", b"{}")
    assert folder_traces(sweep)("abc") == Traces(True, 10, 0, frozenset({"a.json"}))


def costed(trial: int, train: float, measure: float, state: str = "finished") -> TrialRun:
    metrics = {"cost/train_seconds": train, "cost/robustness_seconds": measure, "robust_loss_gap": 9.0}
    return replace(a_run(state, trial=trial), metrics=metrics)


def plan_of(runs: list[TrialRun], traces: dict[int, Traces]) -> Plan:
    ids = [trial.trial_id for trial in SWEEP.trials()]
    return make_plan(SWEEP, runs, lambda trial_id: traces.get(ids.index(trial_id), NOTHING))


def test_no_estimate_before_a_trial_has_finished() -> None:
    assert estimate(plan_of([], {}), []) is None
    running = costed(0, 100, 10, "interrupted")
    assert estimate(plan_of([running], {}), [running]) is None


def test_estimate_takes_the_most_alike() -> None:
    runs = [costed(0, 100, 10), costed(2, 300, 30)]
    found = estimate(plan_of(runs, {0: TRAINED, 2: TRAINED}), runs)
    assert found is not None
    # seed 1 of each method is new: costs what the method's seed 0 cost
    assert (found.trial_hours * 3600, found.recorded) == (pytest.approx(110 + 330), 2)


def test_estimate_of_a_method_without_records_is_the_mean() -> None:
    runs = [costed(0, 100, 10), costed(1, 200, 20)]
    found = estimate(plan_of(runs, {0: TRAINED, 1: TRAINED}), runs)
    assert found is not None and found.trial_hours * 3600 == pytest.approx(2 * (150 + 15))


def test_estimate_counts_only_what_is_left() -> None:
    stopped = a_run("interrupted", trial=1)
    runs = [costed(0, 100, 10), stopped, costed(2, 1, 1), costed(3, 1, 1)]
    traces = {0: TRAINED, 1: Traces(True, 4), 2: TRAINED, 3: TRAINED}
    found = estimate(plan_of(runs, traces), runs)
    assert found is not None and found.trial_hours * 3600 == pytest.approx(60 + 10)
    found = estimate(plan_of(runs, traces | {1: Traces(True, 10)}), runs)
    assert found is not None and found.trial_hours * 3600 == pytest.approx(10)


def test_evaluate_plans_with_the_runs_that_were_read(tmp_path: Path) -> None:
    """The store is not asked again: with none there is the same plan as with all runs that it has."""
    sweep = SWEEP.model_copy(update={"storage": str(tmp_path)})
    other = EVALUATION.model_copy(update={"seed": 7})
    for trial in sweep.trials()[:3]:
        folder = tmp_path / "x" / trial.trial_id / "checkpoints"
        folder.mkdir(parents=True)
        (folder.parent / "trial.json").touch()
        (folder / checkpoint_name(10, 0, "0" * 64)).touch()
    done = replace(a_run("finished", trial=1), tags={f"evaluated/{other.evaluation_id}": "finished"})
    runs = [replace(a_run("failed"), run_id="older"), a_run("finished"), done]
    expected = measuring_plan(sweep, other, runs)
    assert [entry.trial_id for entry in expected.entries] == [run.trial_id for run in runs[1:]]
    assert only_measuring(other)(None, make_plan(sweep, runs)) == expected  # type: ignore[arg-type]
