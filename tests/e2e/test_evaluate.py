"""`flatsweep evaluate`: finished trials measured again with other settings, beside what was recorded before."""

import io
import json
from typing import Any

import pandas as pd
import pytest

from orchestrator.evaluations import Changes, changed, recorded
from tests.e2e.sweeping import BASE, Place, run_inside

STOPPING = {"attack": {"steps": 2, "step_size": 0.05}, "examples": 100}
WORDS = ("--measures", "average_flatness", "--set", "draws=3", "--set", "average_flatness.attack.steps=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    training = {**BASE["training"], "epochs": 3, "early_stopping": STOPPING}
    made = Place(tmp_path_factory.mktemp("evaluate"), "again", training=training)
    assert made.run("submit").returncode == 0, made.output("stderr")
    return made


class Before:
    """What was recorded before, and what an evaluation made of it."""

    def __init__(self, place: Place) -> None:
        self.runs = place.recorded()
        self.results = {trial_id: place.results(trial_id) for trial_id in place.trials()}
        self.checkpoints = {trial_id: place.files(trial_id, "checkpoints") for trial_id in place.trials()}
        done = place.run("evaluate", *WORDS)
        assert done.returncode == 0, place.output("stderr")
        self.said = done.stdout


@pytest.fixture(scope="module")
def before(place: Place) -> Before:
    return Before(place)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run_inside(*words) == 0
    return capsys.readouterr().out


def exported(place: Place, capsys: pytest.CaptureFixture[str], *words: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(printed(capsys, "export", str(place.file), *words)))


def test_dry_run_says_what_it_would_cost(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "evaluate", str(place.file), *WORDS, "--dry-run", "--json"))
    (cost,) = found["cost"]
    # two trials with a last and a best network each; 50 images, a reference and three draws of PGD-3 and a look each
    assert (cost["measure"], cost["networks"], cost["passes"]) == ("average_flatness", 4, 4 * 50 * (1 + 3) * 4)
    took = [(run.metrics["cost/average_flatness_seconds"], run.metrics["cost/average_flatness_passes"])
            for run in place.recorded().values()]  # fmt: skip
    assert cost["seconds"] == pytest.approx(cost["passes"] * sum(s for s, _ in took) / sum(p for _, p in took))
    assert len(recorded(place.sweep)) == 1, "nothing is written"
    assert "average_flatness" in printed(capsys, "evaluate", str(place.file), *WORDS, "--dry-run")


def test_new_values_stand_beside_the_old_ones(place: Place, before: Before, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = changed(place.sweep, Changes("average_flatness", ("draws=3", "average_flatness.attack.steps=3")))
    assert f"evaluation {evaluation.evaluation_id[:8]}: 2 of 2 trained trials measured" in before.said
    for trial_id, run in place.recorded().items():
        old = before.runs[trial_id]
        assert (run.run_id, run.status, run.tag("state")) == (old.run_id, "FINISHED", "finished")
        assert run.tag("evaluation_id") == old.tag("evaluation_id") and run.tag("attempt") == "1"
        assert {key: run.points[key] for key in old.points} == old.points
        new = set(run.points) - set(old.points)
        assert new and all(key.startswith(f"eval/{evaluation.evaluation_id}/") for key in new)
        results = place.results(trial_id)
        assert place.files(trial_id, "checkpoints") == before.checkpoints[trial_id], "nothing was trained"
        assert results.keys() == before.results[trial_id].keys()
    own, other = exported(place, capsys), exported(place, capsys, "--evaluation", evaluation.evaluation_id[:6])
    assert list(own["trial_id"]) == list(other["trial_id"]) and set(other["state"]) == {"finished"}
    assert "robust_loss_gap" in own and "robust_loss_gap" not in other
    column = "average_flatness_xi0.5"
    assert (own[column] != other[column]).all()
    file = place.trial_folder(own["trial_id"][0]) / "measures"
    values = [json.loads(path.read_text()) for path in file.glob("average_flatness-*.json")]
    (expected,) = [v for v in values if v["measure"]["draws"] == 3 and v["network"] == "last"]
    assert other[column][0] == pytest.approx(expected["values"][column])


def test_only_missing_pairs_run(place: Place, before: Before, capsys: pytest.CaptureFixture[str]) -> None:
    assert before.said
    said = printed_code(capsys, "evaluate", str(place.file), *WORDS)
    assert said[0] == 0 and "2 of 2" in said[1] and "starting Ray" not in said[1]
    found = json.loads(printed(capsys, "evaluate", str(place.file), *WORDS[:-2], "--dry-run", "--json"))
    assert [cost["networks"] for cost in found["cost"]] == [4], "other settings are another evaluation"
    more = ("--measures", "average_flatness,robustness", *WORDS[2:])
    found = json.loads(printed(capsys, "evaluate", str(place.file), *more, "--dry-run", "--json"))
    assert found["cost"] == [], "robustness is measured already, average_flatness too"


def printed_code(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run_inside(*words)
    return code, capsys.readouterr().out


def test_the_sweep_is_as_it_was(place: Place, before: Before, capsys: pytest.CaptureFixture[str]) -> None:
    assert before.said
    assert "Nothing to run" in printed(capsys, "plan", str(place.file))
    found: dict[str, Any] = json.loads(printed(capsys, "status", str(place.file), "--json"))
    assert found["counts"] == {"finished": 2}


BAD = {
    "no such setting": (("--set", "draw=5"), "no measure has the setting 'draw'; did you mean 'draws'?"),
    "no such measure": (("--measures", "average_flatnes"), "did you mean 'average_flatness'?"),
    "out of range": (("--set", "draws=0"), "average_flatness.draws: Input should be greater than or equal to 1"),
    "no value": (("--set", "draws"), "give key=value"),
    "not yaml": (("--set", "draws=[1"), "not valid YAML"),
    "nothing new": ((), "the sweep file's own settings"),
    "without last": (("--checkpoints", "best"), "'last' is always measured"),
    "no such evaluation": (("--dry-run", "--set", "draws=4", "--storage", "nowhere"), "nothing is recorded"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused(case: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = BAD[case]
    capsys.readouterr()
    assert run_inside("evaluate", str(place.file), *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "status", "correlate"])
def test_an_unknown_evaluation_is_refused(command: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_inside(command, str(place.file), "--evaluation", "zz") == 2
    assert "--evaluation zz: 0 evaluations of 'again' begin so" in capsys.readouterr().err


def test_what_is_not_trained_is_left_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"methods": ["at"], "seeds": [0, 1, 2]}
    place.write(training=json.loads(place.file.read_text())["training"], grid=grid)
    found = json.loads(printed(capsys, "evaluate", str(place.file), "--set", "examples=40", "--dry-run", "--json"))
    assert {cost["networks"] for cost in found["cost"]} == {4}
