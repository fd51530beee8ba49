"""Runs brought in line with journals, on a real SQLite store, without Ray."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from place import COMMIT, TEXT, Place, epoch, states

from orchestrator.errors import UserError
from orchestrator.plan import Action, make_plan
from orchestrator.run_content import RunContent
from orchestrator.sink import RunSink
from orchestrator.submit import close_orphans, rerun_failed
from workers import faults
from workers.journal import Journal, Record
from workers.storage import Folder


def test_a_trial_that_ended_unheard_is_closed_with_its_values(place: Place) -> None:
    trial = place.sweep.trials()[0]
    run_id = place.new_run(trial)
    records = [Record("state", "state", text="running"), *epoch(1), *epoch(2)]
    values = [Record("metric", "robust_loss_gap", value=0.25, step=2), Record("tag", "weights", text="abc")]
    Journal(place.folder(trial)).add([*records, *values, Record("state", "state", text="finished")])
    assert [run.run_id for run in close_orphans(place.store, place.sweep)] == [run_id]
    run = place.run(run_id)
    assert (run.status, run.state) == ("FINISHED", "finished")
    assert (run.metrics["robust_loss_gap"], run.tags["weights"]) == (0.25, "abc")
    assert place.points(run_id, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert close_orphans(place.store, place.sweep) == []


def test_a_run_whose_sender_died_before_the_status_gets_it(place: Place) -> None:
    first, second = place.sweep.trials()[:2]
    run_ids = [place.new_run(trial, "failed") for trial in (first, second)]
    place.store.client.set_tag(run_ids[0], "flatsweep.state", "finished")
    assert [run.run_id for run in close_orphans(place.store, place.sweep)] == run_ids[:1]
    assert [place.run(run_id).status for run_id in run_ids] == ["FINISHED", "FAILED"]
    assert close_orphans(place.store, place.sweep) == []


def test_a_trial_that_did_not_end_is_interrupted(place: Place) -> None:
    trial = place.sweep.trials()[1]
    run_id = place.new_run(trial)
    Journal(place.folder(trial)).add([Record("state", "state", text="running"), *epoch(1)])
    close_orphans(place.store, place.sweep)
    run = place.run(run_id)
    assert (run.status, run.state, run.error_class) == ("KILLED", "interrupted", "")
    assert place.points(run_id, "train/loss") == [(1, 2.0)]
    assert states(Journal(place.folder(trial))) == ["running", "interrupted"]


def test_a_trial_that_failed_unheard_is_failed(place: Place) -> None:
    trial = place.sweep.trials()[2]
    run_id = place.new_run(trial)
    tags = [Record("tag", "error_class", text="diverged"), Record("tag", "error", text="boom")]
    Journal(place.folder(trial)).add(
        [Record("state", "state", text="running"), *tags, Record("state", "state", text="failed")]
    )
    close_orphans(place.store, place.sweep)
    run = place.run(run_id)
    assert (run.status, run.state, run.error_class, run.error) == ("FAILED", "failed", "diverged", "boom")


def test_a_lost_trial_is_failed_as_lost(place: Place) -> None:
    trial, other = place.sweep.trials()[3:5]
    lost, untouched = place.new_run(trial), place.new_run(other, "interrupted")
    Journal(place.folder(trial)).add([Record("state", "state", text="running"), *epoch(1)])
    close_orphans(place.store, place.sweep, frozenset({trial.trial_id}))
    run = place.run(lost)
    assert (run.status, run.state, run.error_class) == ("FAILED", "failed", "worker_lost")
    assert place.run(untouched).state == "interrupted"
    journal = Journal(place.folder(trial))
    assert states(journal) == ["running", "failed"]


def test_a_run_without_folder_is_interrupted(place: Place) -> None:
    run_id = place.new_run(place.sweep.trials()[5])
    close_orphans(place.store, place.sweep)
    assert (place.run(run_id).status, place.run(run_id).state) == ("KILLED", "interrupted")
    assert not (Path(place.sweep.storage) / "x" / place.sweep.trials()[5].trial_id).exists()


@pytest.mark.parametrize("state", ["pending", "interrupted", "finished", "failed"])
def test_a_closed_run_is_left_alone(state: str, place: Place) -> None:
    trial = place.sweep.trials()[6]
    run_id = place.new_run(trial, state)
    before = place.run(run_id)
    assert close_orphans(place.store, place.sweep) == []
    assert place.run(run_id) == before


def test_a_parent_that_a_dead_driver_left_is_settled(place: Place) -> None:
    assert place.store.open_parent(place.sweep, TEXT, COMMIT) == place.parent
    assert place.store.client.get_run(place.parent).info.status == "RUNNING"
    assert place.store.settle_parent("x", "finished") == place.parent
    assert place.store.client.get_run(place.parent).info.status == "FINISHED"
    assert place.store.settle_parent("x", "interrupted") == place.parent  # closed already: left alone
    assert place.store.client.get_run(place.parent).info.status == "FINISHED"
    assert place.store.settle_parent("unheard-of", "finished") is None


def test_a_parent_that_failed_at_its_end_is_finished_when_all_is(place: Place) -> None:
    place.store.close_parent(place.parent, "failed")
    place.store.settle_parent("x", "interrupted")  # something is left to run: its driver's word stays
    assert place.store.client.get_run(place.parent).info.status == "FAILED"
    place.store.settle_parent("x", "finished")
    parent = place.store.client.get_run(place.parent)
    assert (parent.info.status, parent.data.tags["flatsweep.state"]) == ("FINISHED", "finished")


@pytest.mark.parametrize("point", ["run/created", "run/file"])
def test_a_run_that_was_left_half_made_is_completed(point: str, place: Place, tmp_path: Path) -> None:
    trial = place.sweep.trials()[4]
    content = RunContent.of_trial(trial, place.sweep.evaluation)
    file = tmp_path / "faults.json"
    file.write_text(json.dumps([{"point": point, "action": "eio"}]))
    faults.arm(file)
    try:
        with pytest.raises(UserError, match="Input/output error"):
            place.new_run(trial)
    finally:
        faults.arm(None)
    (left,) = (run for run in place.store.trial_runs("x") if run.trial_id == trial.trial_id)
    assert left.params == {}
    place.store.complete_run(left, content)
    made = place.run(left.run_id)
    assert made.params == content.params
    assert [item.path for item in place.store.client.list_artifacts(left.run_id)] == ["trial.json"]
    assert made.status == "SCHEDULED"


def test_a_trial_that_has_begun_is_not_given_parameters(place: Place) -> None:
    """Those that a later version of flatsweep would record were not asked for then."""
    trial = place.sweep.trials()[6]
    run_id = place.new_run(trial)
    place.store.set_state(run_id, "interrupted", {"attempt": "1"})
    content = RunContent.of_trial(trial, place.sweep.evaluation)
    place.store.complete_run(place.run(run_id), replace(content, params=content.params | {"training.new": "1"}))
    assert "training.new" not in place.run(run_id).params


def test_sending_again_adds_nothing(place: Place) -> None:
    run_id = place.new_run(place.sweep.trials()[0])
    records = [*epoch(1, 1000), *epoch(2, 2000), Record("tag", "weights", text="abc")]
    RunSink(place.store.uri, run_id).send(records)
    sink = RunSink(place.store.uri, run_id)
    sink.send(records)
    sink.send(records)
    assert place.points(run_id, "train/loss") == [(1, 2.0), (2, 1.0)]


def test_after_a_lost_folder_only_new_values_are_sent(place: Place) -> None:
    run_id = place.new_run(place.sweep.trials()[0])
    RunSink(place.store.uri, run_id).send([*epoch(1, 1000), *epoch(2, 2000)])
    # trained again from nothing: the same values at another time, and one epoch more
    RunSink(place.store.uri, run_id).send([*epoch(1, 5000), *epoch(2, 6000), *epoch(3, 7000)])
    assert place.points(run_id, "train/loss") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]


def test_a_value_measured_again_is_the_latest(place: Place) -> None:
    run_id = place.new_run(place.sweep.trials()[0])
    records = [
        Record("metric", "m", value=value, step=2, time_ms=at) for value, at in ((1.0, 10), (2.0, 20), (1.0, 30))
    ]
    for until in (1, 2, 3, 3):  # as a journal grows: other settings, then the first ones again
        RunSink(place.store.uri, run_id).send(records[:until])
        assert place.run(run_id).metrics["m"] == records[until - 1].value
    assert place.points(run_id, "m") == [(2, 1.0), (2, 2.0), (2, 1.0)]


def test_a_recorded_file_is_an_artifact_once(place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_id = place.new_run(place.sweep.trials()[0])
    folder, client = Folder(str(tmp_path / "trial")), place.store.client

    def sent(content: bytes) -> bytes:
        (folder / "measures").write("a.npz", content)
        record = Record("file", "measures/a.npz", text=_hash(content))
        for _ in range(2):
            RunSink(place.store.uri, run_id, folder).send([record])
        (found,) = client.list_artifacts(run_id, "measures")
        assert found.path == "measures/a.npz"
        return Path(client.download_artifacts(run_id, found.path, str(tmp_path))).read_bytes()

    assert sent(b"one") == b"one"
    artifact = next((place.base / "runs").rglob("a.npz"))
    before = artifact.stat().st_mtime_ns
    RunSink(place.store.uri, run_id, folder).send([Record("file", "measures/a.npz", text=_hash(b"one"))])
    assert artifact.stat().st_mtime_ns == before, "what is there is not sent again"
    assert sent(b"two") == b"two", "a new content is"
    RunSink(place.store.uri, run_id, folder).send([Record("file", "measures/gone.npz", text="0")])
    assert "gone.npz is gone" in caplog.text


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_many_values_and_a_long_tag_fit(place: Place) -> None:
    run_id = place.new_run(place.sweep.trials()[0])
    many = [Record("metric", "train/loss", value=float(step), step=step) for step in range(2500)]
    RunSink(place.store.uri, run_id).send([*many, Record("tag", "error", text="x" * 20_000)])
    assert len(place.points(run_id, "train/loss")) == 2500
    assert place.run(run_id).tags["error"].startswith("xxx")


def test_rerun_takes_the_failed_ones(place: Place) -> None:
    trials = place.sweep.trials()
    failed = place.new_run(trials[0], "failed")
    place.store.set_state(failed, "failed", {"error_class": "diverged", "error": "boom"})
    other = place.new_run(trials[1], "failed")
    place.store.set_state(other, "failed", {"error_class": "bad_data", "error": "bang"})
    plan = make_plan(place.sweep, place.store.trial_runs("x"))
    assert plan.counts()[Action.FAILED] == 2
    none = rerun_failed(frozenset(), "out_of_memory", False)(place.store, plan)
    assert none.entries == ()
    assert place.run(failed).state == "failed"
    again = rerun_failed(frozenset(), "diverged", False)(place.store, plan)
    assert [entry.trial_id for entry in again.entries] == [trials[0].trial_id]
    assert again.entries[0].action.launches
    run = place.run(failed)
    assert (run.state, run.error_class, run.error) == ("pending", "", "")
    assert place.run(other).state == "failed"
