"""A sweep with unlabelled images: its teacher is trained first, once, and shared."""

import io
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.sweeping import BASE, Place, run_inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    data = {**BASE["data"], "unlabeled": {"size": 200}}
    grid = {"methods": ["at", "unlabeled"], "seeds": [1, 2]}
    made = Place(tmp_path_factory.mktemp("teachers"), "pseudo", data=data, grid=grid)
    done = made.run("submit")
    assert done.returncode == 0, made.output("stderr")
    return made


def test_the_teacher_has_a_run_and_no_row(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (teacher,) = place.sweep.teachers()
    recorded = place.recorded()
    assert set(recorded) == {*place.trials(), teacher.trial_id}
    run = recorded[teacher.trial_id]
    assert (run.status, run.tag("state"), run.tag("attempt"), run.tag("method")) == (
        "FINISHED", "finished", "1", "standard",
    )  # fmt: skip
    assert place.epochs(teacher.trial_id) == 2
    assert not [key for key in run.metrics if not key.startswith(("train/", "cost/"))], "it is not measured"
    capsys.readouterr()
    assert run_inside("export", str(place.file)) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert sorted(table["trial_id"]) == sorted(place.trials()) and set(table["state"]) == {"finished"}


def test_it_was_trained_before_those_who_need_it(place: Place) -> None:
    (teacher,) = place.sweep.teachers()
    ended = next(record.time_ms for record in place.journal(teacher.trial_id) if record.text == "finished")
    for trial_id, trial in place.trials().items():
        began = next(record.time_ms for record in place.journal(trial_id) if record.text == "running")
        assert place.attempts(trial_id) == 1
        if trial.teacher:
            assert began > ended
    assert "1 teacher is trained" not in place.output("stdout")


def test_submitted_again_nothing_runs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_inside("plan", str(place.file)) == 0
    said = capsys.readouterr().out
    assert "4 trials: 4 done." in said and "Nothing to run" in said and "teacher is" not in said


def test_a_plan_says_that_a_teacher_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {**BASE["data"], "unlabeled": {"size": 200}}
    made = Place(tmp_path, "planned", data=data, grid={"methods": ["unlabeled"], "seeds": [1]})
    capsys.readouterr()
    assert run_inside("plan", str(made.file)) == 0
    said = capsys.readouterr().out
    assert "1 teacher is trained for pseudo-labels" in said
    assert made.sweep.teachers()[0].trial_id in said
