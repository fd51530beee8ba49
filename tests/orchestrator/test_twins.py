"""Runs that were made twice are one again, on a real SQLite store."""

from place import TEXT, Place

from orchestrator.spec.sweep import Trial
from orchestrator.twins import drop_twins, without_twins


def bare(place: Place, trial: Trial) -> str:
    """A run as a server makes it whose answer is lost: with its tags, RUNNING, and nothing more."""
    tags = {"sweep": "x", "kind": "trial", "state": "pending", "trial_id": trial.trial_id}
    run = place.store.client.create_run(
        place.store.experiment_id, tags={f"flatsweep.{key}": text for key, text in tags.items()}
    )
    return str(run.info.run_id)


def left(place: Place) -> list[str]:
    return [run.run_id for run in place.store.trial_runs("x")]


def test_the_one_that_never_began_goes_whichever_is_older(place: Place) -> None:
    first, second, third = place.sweep.trials()[:3]
    older = bare(place, first)
    kept = [place.new_run(trial, "finished") for trial in (first, second)]
    younger, alone = bare(place, second), bare(place, third)
    runs = place.store.trial_runs("x")
    assert [run.run_id for run in without_twins(place.store, runs)] == [*kept, alone]
    assert left(place) == [*kept, alone]
    for run_id in (older, younger):
        info = place.store.client.get_run(run_id).info
        assert (info.lifecycle_stage, info.status) == ("deleted", "KILLED")


def test_of_twins_that_never_began_one_stays(place: Place) -> None:
    trial = place.sweep.trials()[0]
    first, second = bare(place, trial), bare(place, trial)
    runs = place.store.trial_runs("x")
    assert [run.run_id for run in without_twins(place.store, runs, known={second})] == [second]
    again = bare(place, trial)
    without_twins(place.store, place.store.trial_runs("x"))
    assert left(place) == [second] and first != again


def test_two_runs_that_both_began_stay(place: Place) -> None:
    trial = place.sweep.trials()[0]
    kept = [place.new_run(trial, state) for state in ("finished", "interrupted")]
    drop_twins(place.store, "x", place.parent, (), 1)
    assert left(place) == kept


def test_the_sweeps_own_run_has_none(place: Place) -> None:
    twin = place.store.create_parent(place.sweep, TEXT, {}, None)
    ended = place.store.create_parent(place.sweep, TEXT, {}, None)
    place.store.close_parent(ended, "finished")
    runs = [bare(place, place.sweep.trials()[0]) for _ in range(2)]
    drop_twins(place.store, "x", place.parent, runs[1:], 1)
    assert left(place) == runs[1:]
    assert {run.info.run_id for run in place.store.parents("x")} == {place.parent, ended}
    assert place.store.client.get_run(twin).info.lifecycle_stage == "deleted"
    assert place.store.count_differs("x", 2) and not place.store.count_differs("x", 1)
    place.store.client.delete_run(ended)
