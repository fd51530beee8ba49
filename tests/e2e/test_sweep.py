"""One sweep through its life on real Ray and SQLite: submitted, read, grown, repaired, measured again."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from sweeping import BASE, Place, Recorded, each_epoch_once, environment, run_inside

from orchestrator import load_sweep
from orchestrator.analysis.columns import OTHER, columns_of
from orchestrator.spec.measures import value_keys

pytestmark = pytest.mark.timeout(900)

GRID = {"methods": ["at", "trades"], "regularizers": ["none", {"name": "label_noise", "rate": 0.3}], "seeds": [0, 1]}
CELLS = {(method, regularizer) for method in ("at", "trades") for regularizer in ("none", "label_noise(rate=0.3)")}
EPOCHS = 2


@dataclass(frozen=True)
class Stage:
    """A sweep right after a submit."""

    place: Place
    done: Any
    runs: dict[str, Recorded]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sweep")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return Place(folder, "tiny", grid=GRID)


@pytest.fixture(scope="module")
def swept(place: Place) -> Stage:
    done = place.run("submit", "--json")
    assert done.returncode == 0, done.stderr
    return Stage(place, done, place.recorded())


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert run_inside(*words) == 0
    return json.loads(capsys.readouterr().out)


def test_every_cell_is_finished_once(swept: Stage) -> None:
    assert set(swept.runs) == set(swept.place.trials())
    assert len(swept.runs) == 8
    assert {run.status for run in swept.runs.values()} == {"FINISHED"}
    cells = {(run.tag("method"), run.tag("regularizer"), run.tag("seed")) for run in swept.runs.values()}
    assert cells == {(*cell, seed) for cell in CELLS for seed in "01"}
    said = json.loads(swept.done.stdout)
    assert said["launched"] == 8 and not said["interrupted"] and said["counts"] == {"done": 8}
    assert swept.done.stderr.count("finished  ") == 8  # progress goes to stderr beside --json
    assert "Traceback" not in swept.done.stderr


def test_parent_run(swept: Stage) -> None:
    (parent,) = swept.place.runs("sweep")
    assert parent.info.status == "FINISHED"
    assert Path(swept.place.client.download_artifacts(parent.info.run_id, "sweep.yaml")).read_text() == (
        swept.place.file.read_text()
    )
    assert {run.tags["mlflow.parentRunId"] for run in swept.runs.values()} == {parent.info.run_id}


def test_tags_and_parameters(swept: Stage) -> None:
    trials, commit = swept.place.trials(), subprocess.run(
        ["git", "-C", str(swept.place.folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    for trial_id, run in swept.runs.items():
        trial = trials[trial_id]
        assert run.tag("evaluation_id") == swept.place.sweep.evaluation.evaluation_id
        assert (run.tag("attempt"), run.tag("state"), run.tag("error_class")) == ("1", "finished", "")
        assert run.tag("git_commit") == f"{commit}-dirty"  # the sweep file is not committed
        for package in ("flatsweep", "ray", "mlflow", "torch"):
            assert run.tag(f"{package}_version") == version(package)
        for key in ("host", "pid", "device", "threads", "torch", "python"):
            assert run.tag(key), key
        assert len(run.tag("weights")) == len(run.tag("data_digest")) == 64
        assert run.params["training.attack.eps"] == "0.15"
        assert run.params["training.epochs"] == str(EPOCHS)
        assert run.params["method.name"] == trial.method.name
        assert run.params["seed"] == str(trial.seed)
        assert ("regularizers.0.rate" in run.params) == bool(trial.regularizers)
        artifact = swept.place.client.download_artifacts(run.run_id, "trial.json")
        assert json.loads(Path(artifact).read_text()) == trial.model_dump(mode="json")
    assert len({run.tag("weights") for run in swept.runs.values()}) == 8
    assert len({run.tag("data_digest") for run in swept.runs.values()}) == 1


def test_curves_and_values(swept: Stage) -> None:
    keys = value_keys(swept.place.sweep.evaluation.measures)
    table = load_sweep(swept.place.file)
    named = columns_of(map(str, table), swept.place.sweep.evaluation.measures)
    assert set(keys) < set(table) and not [column.name for column in named if column.group == OTHER]
    for trial_id, run in swept.runs.items():
        each_epoch_once(run, EPOCHS)
        for key, points in run.points.items():
            steps = [step for step, _ in points]
            assert len(steps) == len(set(steps)), key
        results = swept.place.results(trial_id)
        assert set(results) == set(keys)
        assert {key: run.metrics[key] for key in keys} == results
        assert all(math.isfinite(value) for value in results.values())
        assert run.metrics["cost/train_seconds"] == pytest.approx(sum(v for _, v in run.points["train/seconds"]))
        assert {step for key in keys for step, _ in run.points[key]} == {EPOCHS}


def test_a_second_submit_runs_nothing_and_starts_no_ray(swept: Stage) -> None:
    code = (
        "import sys\nfrom orchestrator import cli\n"
        f"sys.argv = ['flatsweep', 'submit', {str(swept.place.file)!r}, '--json']\n"
        "cli.main.__globals__['app'](standalone_mode=False)\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert json.loads(done.stdout)["launched"] == 0
    assert swept.place.recorded() == swept.runs


def test_plan_says_all_is_done(swept: Stage, inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    made = printed(capsys, "plan", str(swept.place.file), "--json")
    assert made["counts"] == {"done": 8}
    assert {entry["run_id"] for entry in made["trials"]} == {run.run_id for run in swept.runs.values()}
    assert made["trial_hours"] == 0
    assert run_inside("plan", str(swept.place.file)) == 0
    assert "8 trials: 8 done. Nothing to run." in capsys.readouterr().out


def test_plan_of_a_larger_grid_estimates_its_time(
    swept: Stage, inside: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = swept.place.folder / "larger.yaml"
    path.write_text(json.dumps({"name": "tiny"} | BASE | {"grid": GRID | {"seeds": [0, 1, 2, 3]}}))
    made = printed(capsys, "plan", str(path), "--json")
    assert made["counts"] == {"done": 8, "run": 8}
    cost = sum(v for run in swept.runs.values() for key, v in run.metrics.items() if key.endswith("_seconds"))
    assert made["trial_hours"] == pytest.approx(cost / 3600)


def test_status(swept: Stage, inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "status", str(swept.place.file), "--json")
    assert found["counts"] == {"finished": 8} and found["driver_alive"] is False
    assert [row["trial_id"] for row in found["trials"]] == list(swept.place.trials())
    by_name = printed(capsys, "status", "tiny", "--storage", str(swept.place.folder / "runs"), "--json")
    assert by_name == found
    assert run_inside("status", str(swept.place.file)) == 0
    assert "8 finished" in capsys.readouterr().out


def test_exports_agree(swept: Stage, inside: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = {}
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet), ("json", pd.read_json)):
        path = tmp_path / f"t.{ending}"
        assert run_inside("export", str(swept.place.file), "-o", str(path)) == 0
        tables[ending] = read(path, **({"keep_default_na": False} if ending == "csv" else {}))
    for ending in ("csv", "json"):
        pd.testing.assert_frame_equal(tables[ending], tables["parquet"], check_dtype=False, rtol=1e-12)
    table = tables["parquet"].set_index("trial_id")
    assert list(table.index) == list(swept.place.trials())
    for trial_id, run in swept.runs.items():
        assert table.loc[trial_id, "robust_loss_gap"] == run.metrics["robust_loss_gap"]
        assert table.loc[trial_id, "cost_train_seconds"] == run.metrics["cost/train_seconds"]
    capsys.readouterr()
    assert run_inside("export", str(swept.place.file)) == 0
    assert capsys.readouterr().out == (tmp_path / "t.csv").read_text()


def test_correlate(swept: Stage, inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "correlate", str(swept.place.file), "--json")
    assert (found["networks"], found["cells"], found["not_used"]) == (8, 4, [])
    assert {pair["measure"] for pair in found["pairs"]} == {"average_flatness_xi0.5"}
    assert {pair["target"] for pair in found["pairs"]} >= {"robust_loss_gap", "robust_error_test"}
    for pair in found["pairs"]:
        for name in ("pearson", "spearman", "kendall"):
            coefficient = pair[name]
            assert -1 <= coefficient["low"] <= coefficient["high"] <= 1
            assert -1 <= coefficient["value"] <= 1
    files = [Path(path) for path in found["files"]]
    assert {path.name for path in files} >= {"table.csv", "correlation.json"}
    assert any(path.suffix == ".png" for path in files)
    assert all(path.stat().st_size for path in files)
    (parent,) = swept.place.runs("sweep")
    logged = swept.place.client.list_artifacts(parent.info.run_id, "analysis")
    assert {Path(item.path).name for item in logged} == {path.name for path in files}
    page = swept.place.client.download_artifacts(parent.info.run_id, "report.html")
    assert "</html>" in Path(page).read_text(), "every submit leaves a report"


@dataclass(frozen=True)
class Grown:
    """After one seed more, a deleted run and a deleted folder."""

    stage: Stage
    planned: dict[str, str]
    no_run: str
    no_folder: str


@pytest.fixture(scope="module")
def grown(swept: Stage) -> Grown:
    place = swept.place
    no_run, no_folder = list(swept.runs)[1], list(swept.runs)[4]
    place.write(grid=GRID | {"seeds": [0, 1, 2]})
    place.client.delete_run(swept.runs[no_run].run_id)
    shutil.rmtree(place.trial_folder(no_folder))
    from orchestrator.plan import make_plan
    from orchestrator.tracking import Store

    sweep = place.sweep
    made = make_plan(sweep, Store.of(sweep).trial_runs(sweep.name))
    done = place.run("submit", "--json")
    assert done.returncode == 0, done.stderr
    return Grown(
        Stage(place, done, place.recorded()),
        {entry.trial_id: entry.action.value for entry in made.entries if entry.action.launches},
        no_run,
        no_folder,
    )


def test_only_what_is_missing_runs(swept: Stage, grown: Grown) -> None:
    new = set(grown.stage.place.trials()) - set(swept.runs)
    assert len(new) == 4
    assert grown.planned == dict.fromkeys(new, "run") | {grown.no_run: "resume", grown.no_folder: "run"}
    said = json.loads(grown.stage.done.stdout)
    assert said["launched"] == 6 and said["counts"] == {"done": 12}
    assert set(grown.stage.runs) == set(swept.runs) | new
    for trial_id in set(swept.runs) - {grown.no_run, grown.no_folder}:
        assert grown.stage.runs[trial_id] == swept.runs[trial_id]  # run id, start, tags and every point


def test_a_deleted_run_is_recorded_again(swept: Stage, grown: Grown) -> None:
    before, after = swept.runs[grown.no_run], grown.stage.runs[grown.no_run]
    assert after.run_id != before.run_id and after.status == "FINISHED"
    assert after.points == before.points  # costs too: nothing was trained or measured again
    assert after.tag("weights") == before.tag("weights")
    assert after.params == before.params


def test_a_deleted_folder_is_trained_again(swept: Stage, grown: Grown) -> None:
    before, after = swept.runs[grown.no_folder], grown.stage.runs[grown.no_folder]
    assert (after.run_id, after.status) == (before.run_id, "FINISHED")
    assert after.tag("weights") == before.tag("weights")
    clocks = {key for key in before.metrics if key.startswith("cost/") or key == "train/seconds"}
    assert {k: p for k, p in after.points.items() if k not in clocks} == {
        key: points for key, points in before.points.items() if key not in clocks
    }
    assert grown.stage.place.results(grown.no_folder).items() <= after.metrics.items()


@pytest.mark.slow
def test_other_measures_train_nothing(swept: Stage, grown: Grown) -> None:
    place, ids = swept.place, list(swept.runs)
    checkpoints = {trial_id: place.files(trial_id, "checkpoints") for trial_id in ids}
    measures = {trial_id: set(place.files(trial_id, "measures")) for trial_id in ids}
    robustness, flatness = BASE["evaluation"]["measures"]
    place.write(grid=GRID, evaluation={"measures": [robustness, flatness | {"draws": 3}]})
    done = place.run("submit", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["launched"] == 8  # the third seed is no longer asked for
    runs = place.recorded()
    wanted = place.sweep.evaluation.evaluation_id
    for trial_id in ids:
        before, after = grown.stage.runs[trial_id], runs[trial_id]
        assert place.files(trial_id, "checkpoints") == checkpoints[trial_id]
        assert len(set(place.files(trial_id, "measures")) - measures[trial_id]) == 1
        assert (after.run_id, after.status, after.tag("evaluation_id")) == (before.run_id, "FINISHED", wanted)
        assert before.tag("evaluation_id") != wanted
        assert after.tag("weights") == before.tag("weights")
        assert after.points["train/loss"] == before.points["train/loss"]
        assert after.points["robust_loss_gap"] == before.points["robust_loss_gap"]
        (path,) = set(place.files(trial_id, "measures")) - measures[trial_id]
        values = json.loads((place.trial_folder(trial_id) / "measures" / path).read_text())["values"]
        assert values.items() <= after.metrics.items()


def test_init_plan_and_schema(inside: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert run_inside("init", str(path)) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    made = printed(capsys, "plan", str(path), "--json")
    assert made["counts"] == {"run": 18} and made["trial_hours"] is None
    assert sorted(tmp_path.iterdir()) == [path]  # planning writes nothing
    schema = printed(capsys, "schema")
    Draft202012Validator.check_schema(schema)
    assert list(Draft202012Validator(schema).iter_errors({"name": "tiny"} | BASE)) == []
    assert list(Draft202012Validator(schema).iter_errors({"name": "tiny"} | BASE | {"trainig": {}}))
