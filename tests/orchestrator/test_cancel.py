"""Requests to cancel, on a real SQLite store: who leaves them, who hears them, and what becomes of the trials."""

import threading

import pytest
from place import Place, epoch, states

from orchestrator import cancel
from orchestrator.errors import UserError
from orchestrator.plan import Action, make_plan
from orchestrator.submit import close_orphans, rerun_failed
from workers.failures import ErrorClass
from workers.journal import Journal, Record


def running(place: Place, index: int) -> tuple[str, str]:
    """Trial id and run id of a trial that a worker has."""
    trial = place.sweep.trials()[index]
    run_id = place.new_run(trial)
    place.folder(trial).write("trial.json", b"{}")
    Journal(place.folder(trial)).add([Record("state", "state", text="running"), *epoch(1)])
    return trial.trial_id, run_id


def actions(place: Place) -> dict[str, Action]:
    plan = make_plan(place.sweep, place.store.trial_runs("x"))
    return {entry.trial_id: entry.action for entry in plan.entries}


def test_a_driver_hears_what_was_requested(place: Place) -> None:
    trial_id, run_id = running(place, 0)
    running(place, 1)
    assert cancel.pending_requests(place.store, "x") == cancel.Requests()
    cancel.request(place.store, [run_id])
    assert cancel.pending_requests(place.store, "x") == cancel.Requests(False, frozenset({trial_id}))
    cancel.request(place.store, [place.parent])
    assert cancel.pending_requests(place.store, "x") == cancel.Requests(True, frozenset({trial_id}))
    assert cancel.pending_requests(place.store, "another") == cancel.Requests()
    cancel.answer(place.store, [place.parent, run_id])
    assert cancel.pending_requests(place.store, "x") == cancel.Requests()


def test_the_watch_hears_while_the_driver_works(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "LOOK_SECONDS", 0.05)
    trial_id, run_id = running(place, 0)
    heard, told = threading.Event(), []

    def hear(wanted: cancel.Requests) -> None:
        told.append(wanted)
        heard.set()

    with cancel.Watch(place.store, "x", hear):
        assert not heard.wait(0.3)
        cancel.request(place.store, [run_id])
        assert heard.wait(20)
    assert told[0].trials == {trial_id}


def test_a_cancelled_trial_is_failed_as_such_and_waits_for_rerun(place: Place) -> None:
    trial_id, run_id = running(place, 0)
    other_id, other_run = running(place, 1)
    assert trial_id in cancel.cancel_trials(place.store, "x", [trial_id[:10]], timeout=0)
    close_orphans(place.store, place.sweep)
    run = place.run(run_id)
    assert (run.status, run.state, run.error_class) == ("FAILED", "failed", "cancelled")
    assert place.run(other_run).state == "interrupted"
    assert states(Journal(place.folder(place.sweep.trials()[0]))) == ["running", "failed"]
    assert cancel.pending_requests(place.store, "x") == cancel.Requests()
    assert (actions(place)[trial_id], actions(place)[other_id]) == (Action.FAILED, Action.RESUME)
    prepare = rerun_failed(frozenset(), ErrorClass.CANCELLED.value, from_scratch=False)
    again = prepare(place.store, make_plan(place.sweep, place.store.trial_runs("x")))
    assert [(entry.trial_id, entry.action.launches) for entry in again.entries] == [(trial_id, True)]
    assert close_orphans(place.store, place.sweep) == []
    assert place.run(run_id).error_class == ""


def test_a_trial_that_finished_first_stays_finished(place: Place) -> None:
    trial = place.sweep.trials()[0]
    trial_id, run_id = running(place, 0)
    cancel.request(place.store, [run_id])
    Journal(place.folder(trial)).add([Record("state", "state", text="finished")])
    place.store.set_state(run_id, "finished")
    close_orphans(place.store, place.sweep)
    assert (place.run(run_id).state, place.run(run_id).error_class) == ("finished", "")
    assert cancel.pending_requests(place.store, "x").trials == frozenset()
    with pytest.raises(UserError, match=f"nothing to cancel: {trial_id} is finished"):
        cancel.cancel_trials(place.store, "x", [trial_id], timeout=0)


def test_one_that_waits_is_left_out_by_the_next_driver(place: Place) -> None:
    trial = place.sweep.trials()[2]
    run_id = place.new_run(trial, "pending")
    place.store.close_parent(place.parent, "interrupted")
    assert "the next submit leaves out" in cancel.cancel_trials(place.store, "x", [trial.trial_id], timeout=0)
    close_orphans(place.store, place.sweep)
    assert place.run(run_id).error_class == "cancelled"
    assert actions(place)[trial.trial_id] is Action.FAILED


def test_what_is_not_there_cannot_be_cancelled(place: Place) -> None:
    with pytest.raises(UserError, match="no recorded trial of 'x' has an id that begins with zzz"):
        cancel.cancel_trials(place.store, "x", ["zzz"], timeout=0)
    place.store.close_parent(place.parent, "finished")
    with pytest.raises(UserError, match="nobody runs sweep 'x' now"):
        cancel.cancel_sweep(place.store, "x", timeout=0)


def test_a_driver_that_does_not_answer_is_said(place: Place) -> None:
    assert "its driver may have died" in cancel.cancel_sweep(place.store, "x", timeout=0)
    cancel.answer(place.store, [place.parent])


def test_force_is_for_clusters() -> None:
    for address in (None, "10.0.0.5:6379"):
        with pytest.raises(UserError, match="give --address http"):
            cancel.kill_driver("x", address)
