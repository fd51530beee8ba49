"""Trials that diverge beside trials that do not: how they are recorded, what a rerun takes and what it does not."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweeping import BASE, Place, Recorded, each_epoch_once, run_inside

pytestmark = pytest.mark.timeout(900)

EPOCHS = 3
TRAINING = BASE["training"] | {"epochs": EPOCHS, "optimizer": {"name": "sgd", "lr": [0.05, 1e6]}}


@dataclass(frozen=True)
class Stage:
    """After a command on real Ray."""

    code: int
    said: dict[str, object]
    errors: str
    runs: dict[str, Recorded]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("failures"), "half", training=TRAINING)


@pytest.fixture(scope="module")
def good(place: Place) -> list[str]:
    return [trial_id for trial_id, trial in place.trials().items() if trial.training.optimizer.lr < 1]


@pytest.fixture(scope="module")
def bad(place: Place) -> list[str]:
    return [trial_id for trial_id, trial in place.trials().items() if trial.training.optimizer.lr > 1]


def stage(place: Place, *words: str) -> Stage:
    done = place.run(*words, "--json")
    assert done.stdout, done.stderr
    return Stage(done.returncode, json.loads(done.stdout), done.stderr, place.recorded())


@pytest.fixture(scope="module")
def submitted(place: Place) -> Stage:
    return stage(place, "submit")


def inside(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_inside(*words)
    said = capsys.readouterr()
    return code, " ".join(said.out.split()), said.err


def test_diverged_trials_fail_alone(submitted: Stage, good: list[str], bad: list[str]) -> None:
    assert submitted.code == 1
    assert submitted.said["launched"] == 4 and submitted.said["counts"] == {"done": 2, "failed": 2}
    assert len(good) == len(bad) == 2
    for trial_id in good:
        run = submitted.runs[trial_id]
        assert (run.status, run.tag("state"), run.tag("attempt")) == ("FINISHED", "finished", "1")
        each_epoch_once(run, EPOCHS)
    for trial_id in bad:
        run = submitted.runs[trial_id]
        assert (run.status, run.tag("state"), run.tag("error_class")) == ("FAILED", "failed", "diverged")
        assert run.tag("attempt") == "1"  # trying again would give the same
        assert "training diverged in epoch 0: mean loss" in run.tag("error")
        assert "learning rate 1e+06" in run.tag("error")
        assert "robust_loss_gap" not in run.metrics


def test_the_user_is_told(submitted: Stage) -> None:
    lines = [line for line in submitted.errors.splitlines() if line.startswith("failed ")]
    assert len(lines) == 2 and all("diverged: training diverged in epoch 0" in line for line in lines)
    assert "Traceback" not in submitted.errors


def test_the_traceback_is_in_the_folder(submitted: Stage, place: Place, bad: list[str]) -> None:
    for trial_id in bad:
        assert "DivergedError: training diverged" in (place.trial_folder(trial_id) / "error.txt").read_text()


def test_a_second_submit_launches_nothing(submitted: Stage, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = inside(capsys, "submit", str(place.file))
    assert code == 1
    assert "4 trials: 2 done, 2 failed." in said and "Nothing to run." in said
    assert "`flatsweep rerun`" in said
    assert place.recorded() == submitted.runs


def test_status_counts_them(submitted: Stage, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = inside(capsys, "status", str(place.file))
    assert code == 0
    assert "2 finished" in said and "2 failed" in said and "failed: diverged" in said
    code, said, _ = inside(capsys, "correlate", str(place.file), "--json")
    assert code == 0 and len(json.loads(said)["not_used"]) == 2


def test_rerun_of_another_class_launches_nothing(
    submitted: Stage, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = inside(capsys, "rerun", str(place.file), "--error-class", "out_of_memory")
    assert (code, said) == (0, "no failed trial to run again")
    assert place.recorded() == submitted.runs


def test_rerun_of_an_unknown_trial(submitted: Stage, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, error = inside(capsys, "rerun", str(place.file), "--trial", "nosuch")
    assert (code, said) == (2, "")
    assert error == "error: no trial of 'half' has an id that begins with nosuch\n"
    assert place.recorded() == submitted.runs


@pytest.mark.slow
def test_rerun_takes_the_failed_ones(submitted: Stage, place: Place, good: list[str], bad: list[str]) -> None:
    again = stage(place, "rerun")
    assert again.code == 1 and again.said["launched"] == 2
    for trial_id in bad:
        run = again.runs[trial_id]
        assert run.run_id == submitted.runs[trial_id].run_id
        assert (run.tag("state"), run.tag("error_class"), run.tag("attempt")) == ("failed", "diverged", "2")
    for trial_id in good:
        assert again.runs[trial_id] == submitted.runs[trial_id]


@pytest.mark.slow
def test_from_scratch(submitted: Stage, place: Place, good: list[str]) -> None:
    chosen, other = good
    before = place.recorded()
    values, old = place.results(chosen), place.trial_folder(f"{chosen}.old-1")
    assert not old.exists()
    again = stage(place, "rerun", "--from-scratch", "--trial", chosen[:6])
    assert again.said["launched"] == 1
    assert [path.name for path in sorted(old.iterdir())][-2:] == ["measures", "trial.json"]
    run = again.runs[chosen]
    assert (run.run_id, run.status) == (before[chosen].run_id, "FINISHED")
    assert place.results(chosen) == values
    assert run.tag("weights") == before[chosen].tag("weights")
    clocks = {key for key in run.metrics if key.startswith("cost/") or key == "train/seconds"}
    assert {k: p for k, p in run.points.items() if k not in clocks} == {
        k: p for k, p in before[chosen].points.items() if k not in clocks
    }
    assert again.runs[other] == before[other]
    assert (Path(old) / "checkpoints").is_dir()
