"""One sweep that is killed in every way: its driver, then a stop, then a worker. Nothing is lost or done twice.

Stage by stage: the driver of trials 0 and 1 gets SIGKILL in the middle; the next submit gets SIGTERM with its whole
process group, as batch systems send it; the last one, of a grid grown by trial 2, finishes them all, while the worker
of trial 2 gets SIGKILL.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sweeping import BASE, Place, Recorded, alive, each_epoch_once, processes, wait_for

from workers.journal import Journal
from workers.layout import parse_checkpoint
from workers.storage import Folder
from workers.trial import run_trial

pytestmark = pytest.mark.timeout(900)

EPOCHS = 60
TRAINING = BASE["training"] | {"epochs": EPOCHS}


def grid(*seeds: int) -> dict[str, object]:
    return {"methods": ["at"], "seeds": list(seeds)}


@dataclass(frozen=True)
class Stage:
    """What was left when a submit ended."""

    code: int
    errors: str
    runs: dict[str, Recorded]
    epochs: dict[str, int]
    parent: str
    scratch: str
    """Folder of its Ray session."""
    workers: tuple[int, ...]


def ended(place: Place, ids: list[str], code: int, scratch: str, workers: tuple[int, ...]) -> Stage:
    epochs = {trial_id: place.epochs(trial_id) for trial_id in ids}
    (parent,) = place.runs("sweep")
    return Stage(code, place.output("stderr"), place.recorded(), epochs, parent.info.status, scratch, workers)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("kills"), "long", training=TRAINING, grid=grid(0, 1))


@pytest.fixture(scope="module")
def ids(place: Place) -> list[str]:
    """Ids of trials 0 and 1."""
    return list(place.trials())


def in_attempt(place: Place, trial_id: str, attempt: int, more: int, before: int = 0) -> bool:
    """Whether a trial is in its attempt of that number and has `more` epochs than `before`."""
    return place.attempts(trial_id) == attempt and place.epochs(trial_id) >= before + more


@pytest.fixture(scope="module")
def driver_killed(place: Place, ids: list[str]) -> Iterator[Stage]:
    with place.started("submit") as process:
        wait_for(
            lambda: all(in_attempt(place, trial_id, 1, 2) for trial_id in ids) or process.poll() is not None,
            "two epochs of both trials",
        )
        scratch = (place.trial_folder(".driver.scratch")).read_text()
        workers = tuple(int(place.journal_tag(trial_id, "pid")) for trial_id in ids)
        process.kill()
        code = process.wait()
    yield ended(place, ids, code, scratch, workers)
    for pid in processes(scratch):  # left over where the test below fails
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_driver_died_in_mid_sweep(driver_killed: Stage, place: Place, ids: list[str]) -> None:
    assert driver_killed.code == -signal.SIGKILL
    assert all(2 <= driver_killed.epochs[trial_id] < EPOCHS for trial_id in ids)
    assert {run.status for run in driver_killed.runs.values()} == {"RUNNING"}


def test_nothing_of_its_ray_is_left(driver_killed: Stage) -> None:
    wait_for(lambda: not processes(driver_killed.scratch), "the end of Ray's processes", 60)
    wait_for(lambda: not any(alive(pid) for pid in driver_killed.workers), "the end of the workers", 60)


@pytest.fixture(scope="module")
def stopped(driver_killed: Stage, place: Place, ids: list[str]) -> Stage:
    wait_for(lambda: not any(alive(pid) for pid in driver_killed.workers), "the end of the workers", 60)
    before = {trial_id: place.epochs(trial_id) for trial_id in ids}
    with place.started("submit") as process:
        wait_for(
            lambda: (
                all(in_attempt(place, trial_id, 2, 2, before[trial_id]) for trial_id in ids)
                or process.poll() is not None
            ),
            "two more epochs of both trials",
        )
        scratch = (place.trial_folder(".driver.scratch")).read_text()
        workers = tuple(int(place.journal_tag(trial_id, "pid")) for trial_id in ids)
        os.killpg(process.pid, signal.SIGTERM)
        code = process.wait(200)
    return ended(place, ids, code, scratch, workers)


def test_a_stop_ends_in_order(stopped: Stage, place: Place, ids: list[str], driver_killed: Stage) -> None:
    assert stopped.code == 130
    assert "stopping: running trials save a checkpoint" in place.output("stdout") + stopped.errors
    assert "Traceback" not in stopped.errors
    assert not Path(driver_killed.scratch).exists()  # what the killed driver left
    assert not Path(stopped.scratch).exists()
    assert processes(stopped.scratch) == []
    assert not any(alive(pid) for pid in stopped.workers)


def test_stopped_trials_are_recorded_as_interrupted(stopped: Stage, place: Place, ids: list[str]) -> None:
    assert set(stopped.runs) == set(ids)
    for trial_id, run in stopped.runs.items():
        assert (run.status, run.tag("state"), run.tag("attempt")) == ("KILLED", "interrupted", "2")
        assert stopped.epochs[trial_id] < EPOCHS
        each_epoch_once(run, stopped.epochs[trial_id])
    assert stopped.parent == "KILLED"


def test_stopped_trials_have_a_checkpoint_of_that_moment(stopped: Stage, place: Place, ids: list[str]) -> None:
    for trial_id in ids:
        states = [record for record in place.journal(trial_id) if record.kind == "state"]
        assert [record.text for record in states][-1] == "interrupted"
        name = max(place.files(trial_id, "checkpoints"))
        parsed = parse_checkpoint(name)
        assert parsed is not None
        epoch, batch, _ = parsed
        # of three batches an epoch; 3 where the stop came between the last batch and the epoch's end
        assert epoch == stopped.epochs[trial_id] and batch <= 3


@pytest.fixture(scope="module")
def finished(stopped: Stage, place: Place) -> Stage:
    place.write(training=TRAINING, grid=grid(0, 1, 2))
    ids = list(place.trials())
    with place.started("submit") as process:
        wait_for(lambda: in_attempt(place, ids[2], 1, 2) or process.poll() is not None, "two epochs of the new trial")
        assert place.epochs(ids[2]) < EPOCHS
        worker = int(place.journal_tag(ids[2], "pid"))
        os.kill(worker, signal.SIGKILL)
        scratch = (place.trial_folder(".driver.scratch")).read_text()
        code = process.wait(400)
    return ended(place, ids, code, scratch, (worker,))


def test_everything_is_finished_once(finished: Stage, stopped: Stage, place: Place, ids: list[str]) -> None:
    assert finished.code == 0, finished.errors
    assert finished.parent == "FINISHED"
    assert set(finished.runs) == set(place.trials())
    for trial_id, run in finished.runs.items():
        assert (run.status, run.tag("state"), run.tag("error_class")) == ("FINISHED", "finished", "")
        each_epoch_once(run, EPOCHS)
        assert place.results(trial_id).items() <= run.metrics.items()
    assert {trial_id: finished.runs[trial_id].run_id for trial_id in ids} == {
        trial_id: run.run_id for trial_id, run in stopped.runs.items()
    }
    assert {finished.runs[trial_id].tag("attempt") for trial_id in ids} == {"3"}


def test_the_killed_worker_s_trial_went_on(finished: Stage, place: Place, ids: list[str]) -> None:
    (new,) = set(place.trials()) - set(ids)
    assert finished.runs[new].tag("attempt") == "2"
    assert int(finished.runs[new].tag("pid")) != finished.workers[0]
    said = place.output("stdout")
    assert "restarted" in said and "seed 2" in said.split("restarted", 1)[1].splitlines()[0]
    # the second attempt began at a checkpoint: no epoch in it before those of the first
    records = place.journal(new)
    second = [index for index, record in enumerate(records) if record.text == "running"][1]
    trained = [record.step for record in records[second:] if record.key == "train/loss"]
    assert trained == list(range(EPOCHS - len(trained) + 1, EPOCHS + 1))
    assert 0 < len(trained) < EPOCHS


@pytest.mark.parametrize("seed", [0, 2], ids=["driver killed, then stopped", "worker killed"])
def test_as_if_undisturbed(seed: int, finished: Stage, place: Place, tmp_path: Path) -> None:
    trial = next(trial for trial in place.sweep.trials() if trial.seed == seed)
    run = finished.runs[trial.trial_id]
    threads = torch.get_num_threads()
    torch.set_num_threads(int(run.tag("threads")))
    try:
        values = run_trial(trial, place.sweep.evaluation, Folder(f"{tmp_path}/t"))
    finally:
        torch.set_num_threads(threads)
    (weights,) = [record.text for record in Journal(Folder(f"{tmp_path}/t")).records if record.key == "weights"]
    assert run.tag("weights") == weights
    assert values == place.results(trial.trial_id)
