"""A tracking store rebuilt from the journals: real trials without Ray, a real SQLite store that is lost or old."""

import json
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from rich.console import Console
from torch import nn

from orchestrator import cli
from orchestrator.analysis.table import read_table
from orchestrator.driver import driver_lock
from orchestrator.errors import UserError
from orchestrator.evaluations import remember as remember_evaluation
from orchestrator.evaluations import with_evaluation
from orchestrator.external import Request, measure_beside
from orchestrator.origins import note
from orchestrator.recorded import remember
from orchestrator.run_content import RunContent
from orchestrator.sink import CHANGED, RunSink
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.sweep import Evaluation, Trial
from orchestrator.stored import stored_runs
from orchestrator.sync import Synced, sync
from orchestrator.tracking import Store
from workers import layout
from workers.evaluation import evaluation_steps
from workers.journal import Journal, Record
from workers.measurement import Measuring
from workers.steps import drain
from workers.storage import Folder
from workers.trial import run_trial, trial_steps

TEXT = """name: lost
data: {name: digits, train_size: 60, validation_size: 40}
model: {name: small_preact_resnet, width: 4}
training:
  epochs: 2
  batch_size: 30
  attack: {eps: 0.15, steps: 1, step_size: 0.1}
  early_stopping: {attack: {steps: 1}}
  keep_every: 1
grid: {methods: [at], seeds: [0, 1, 2, 3, 4]}
evaluation:
  checkpoints: [last, best, kept]
  measures:
    - {name: robustness, attack: {steps: 1}, train_examples: 20, test_examples: 20}
    - {name: landscape, examples: 10, points: 3, attack: {steps: 1}}
"""
OTHER = {"measures": [{"name": "robustness", "attack": {"steps": 1}, "train_examples": 10, "test_examples": 10}]}
SOURCE = {"flatsweep.git_commit": "abc-dirty", "flatsweep.ray_version": "2.60.9", "flatsweep.mlflow_version": "3.17.8"}
NOT_THE_SAME = ["run_id"]
"""Of an exported table, once it was rebuilt: MLflow gives a run its id."""


def theirs() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@dataclass
class Place:
    file: SweepFile
    other: Evaluation

    @property
    def database(self) -> Path:
        return Path(self.file.sweep.storage) / "mlflow.db"

    @property
    def store(self) -> Store:
        return Store.of(self.file.sweep)

    def folder(self, trial: Trial) -> Folder:
        return Folder(self.file.sweep.storage) / "lost" / trial.trial_id

    def run_ids(self) -> dict[str, str]:
        runs = self.store.trial_runs("lost")
        assert len({run.trial_id for run in runs}) == len(runs), "several runs of one trial"
        return {run.trial_id: run.run_id for run in runs}

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """As `export` and `export --evaluation` write them."""
        sweep = self.file.sweep
        return read_table(sweep, self.store), read_table(with_evaluation(sweep, self.other.evaluation_id), self.store)

    def dump(self) -> list[Any]:
        """Every row of the store that is of a run, as SQLite has it."""
        tables = ("experiments", "runs", "tags", "params", "metrics", "latest_metrics")
        with sqlite3.connect(self.database) as database:
            return [sorted(database.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in tables]

    def points(self) -> dict[str, list[Any]]:
        """The whole history of every metric, by trial."""
        query = (
            "SELECT t.value, m.key, m.step, m.timestamp, m.value, m.is_nan FROM metrics m JOIN tags t "
            "ON t.run_uuid = m.run_uuid AND t.key = 'flatsweep.trial_id' WHERE m.key != ? ORDER BY 1, 2, 3, 4, 5"
        )
        found: dict[str, list[Any]] = {}
        with sqlite3.connect(self.database) as database:
            for trial_id, *point in database.execute(query, (CHANGED,)):
                found.setdefault(trial_id, []).append(point)
        return found

    def artifacts(self) -> dict[str, list[str]]:
        client, found = self.store.client, {}
        for trial_id, run_id in self.run_ids().items():
            top = client.list_artifacts(run_id)
            inside = [item for folder in top if folder.is_dir for item in client.list_artifacts(run_id, folder.path)]
            found[trial_id] = sorted(item.path for item in (*top, *inside) if not item.is_dir)
        return found


def interrupted(trial: Trial, evaluation: Evaluation, folder: Folder, sink: RunSink) -> None:
    """In the middle of its measures."""
    steps = trial_steps(trial, evaluation, folder, sink=sink)
    while not isinstance(next(steps), Measuring):
        pass
    steps.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two trials that finished, one of them measured otherwise too; one that failed, one that was interrupted, one
    that never began; and a network from elsewhere. `backup.db` is the store when only the first had finished."""
    base = tmp_path_factory.mktemp("lost")
    (base / "s.yaml").write_text(TEXT)
    file = load_sweep_file(base / "s.yaml")
    sweep, evaluation = file.sweep, file.sweep.evaluation
    place, trials = Place(file, Evaluation.model_validate(OTHER)), sweep.trials()
    store = place.store
    store.prepare()
    remember(file)
    parent = store.open_parent(sweep, TEXT, "")
    store.client.set_tag(parent, "flatsweep.profile", "quick")
    note(Folder(sweep.storage) / "lost", [trial.trial_id for trial in trials], SOURCE, "quick")
    runs = [store.create_run(RunContent.of_trial(trial, evaluation), "lost", parent, SOURCE) for trial in trials]
    folders = [place.folder(trial) for trial in trials]
    sinks = [RunSink(store.uri, run_id, folder) for run_id, folder in zip(runs, folders, strict=True)]
    run_trial(trials[0], evaluation, folders[0], sink=sinks[0])
    shutil.copy(place.database, base / "backup.db")
    run_trial(trials[1], evaluation, folders[1], sink=sinks[1])
    folders[2].write(layout.DATA, b"other data")
    with pytest.raises(Exception, match="the data set's content has changed"):
        run_trial(trials[2], evaluation, folders[2], sink=sinks[2])
    interrupted(trials[3], evaluation, folders[3], sinks[3])
    remember_evaluation(sweep, place.other)
    drain(evaluation_steps(trials[0], place.other, folders[0], sink=sinks[0]))
    request = Request("test_sync:theirs", label="theirs", device="cpu")
    measure_beside(request, file, store, Console(quiet=True))
    store.close_parent(parent, "interrupted")
    return place


def copied(made: Place, folder: Path, database: Path | None) -> Place:
    """The storage, elsewhere, with this store: MLflow holds on to files, and to the places of artifacts."""
    utils._artifact_repos_cache.clear()
    old, new = made.file.sweep.storage, str(folder / "runs")
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("mlflow.db", "cache"))
    sweep = made.file.sweep.model_copy(update={"storage": new})
    if database:
        shutil.copy(database, f"{new}/mlflow.db")
        with sqlite3.connect(f"{new}/mlflow.db") as moved:
            moved.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (old, new))
            moved.execute("UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", (old, new))
    return Place(replace(made.file, sweep=sweep), made.other)


@pytest.fixture
def lost(made: Place, tmp_path: Path) -> Place:
    """Without a store."""
    return copied(made, tmp_path, None)


@pytest.fixture
def emptied(made: Place, empty_store: Path, tmp_path: Path) -> Place:
    """With a store that holds nothing."""
    return copied(made, tmp_path, empty_store)


@pytest.fixture
def whole(made: Place, tmp_path: Path) -> Place:
    """With the store as it was."""
    return copied(made, tmp_path, made.database)


@pytest.fixture
def old(made: Place, tmp_path: Path) -> Place:
    """With a backup of the store."""
    return copied(made, tmp_path, made.file.path.with_name("backup.db"))


def same(first: pd.DataFrame, second: pd.DataFrame, *, but: str = "") -> None:
    """Equal but for `NOT_THE_SAME`, and for the trial `but`."""
    first, second = (table[table["trial_id"] != but].drop(columns=NOT_THE_SAME) for table in (first, second))
    pd.testing.assert_frame_equal(first, second)


def test_a_lost_store_comes_back(made: Place, lost: Place) -> None:
    own, other = made.tables()
    before, points, artifacts = made.run_ids(), made.points(), made.artifacts()
    parent = made.store.parent_run("lost")
    tags = {run.trial_id: run.tags for run in made.store.trial_runs("lost")}
    started = {run.trial_id: run.started_ms for run in made.store.trial_runs("lost")}
    waiting = made.file.sweep.trials()[4].trial_id
    done = sync(lost.file)
    assert (done.parent, done.complete, done.left, done.notes) == ("made", 0, [], [])
    assert {one.trial_id: (one.is_new, one.state) for one in done.sent} == {
        trial_id: (True, state)
        for trial_id, state in zip(
            before, ["finished", "finished", "failed", "interrupted", "", "finished"], strict=True
        )
        if trial_id != waiting
    }
    # one that never began left nothing in the storage; a submit makes its run again
    assert lost.run_ids().keys() == before.keys() - {waiting}
    assert not set(lost.run_ids().values()) & set(before.values())
    own_again, other_again = lost.tables()
    for first, second in ((own, own_again), (other, other_again)):
        same(first, second, but=waiting)
        assert list(second.loc[second["trial_id"] == waiting, "state"]) == ["missing"] * 2
    assert {"epoch 1", "best", "last"} <= set(own_again["checkpoint"])
    assert set(own_again["git_commit"]) >= {"abc-dirty"} and other_again["robust_loss_gap"].notna().any()
    assert lost.points() == points
    assert lost.artifacts() == {key: found for key, found in artifacts.items() if key != waiting}
    assert any(path.endswith(".npz") for path in artifacts[next(iter(before))])
    again = {run.trial_id: run.tags for run in lost.store.trial_runs("lost")}
    assert again == {key: found for key, found in tags.items() if key != waiting}
    new_parent = lost.store.parent_run("lost")
    assert new_parent is not None and new_parent != parent
    run = lost.store.client.get_run(new_parent)
    assert (run.info.status, run.data.tags["flatsweep.profile"]) == ("KILLED", "quick")
    assert run.data.tags["flatsweep.git_commit"] == "abc-dirty"
    assert {item.path for item in lost.store.client.list_artifacts(new_parent)} >= {"sweep.yaml"}
    for trial in lost.store.trial_runs("lost"):
        assert lost.store.client.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == new_parent
        assert abs(trial.started_ms - started[trial.trial_id]) < 60_000
        records = Journal(Folder(lost.file.sweep.storage) / "lost" / trial.trial_id).records
        end = [record for record in records if record.kind == "state"][-1].time_ms
        assert lost.store.client.get_run(trial.run_id).info.end_time == end


def test_twice_adds_nothing(emptied: Place) -> None:
    sync(emptied.file)
    before = emptied.dump()
    again = sync(emptied.file)
    assert (again.changed, again.complete) == (False, 5)
    assert emptied.dump() == before


def test_a_store_that_lacks_nothing_is_left_alone(whole: Place) -> None:
    before = whole.dump()
    assert not sync(whole.file).changed
    assert whole.dump() == before


def test_an_older_backup_is_brought_up_to_date(made: Place, old: Place) -> None:
    own, other = made.tables()
    before, points = made.run_ids(), made.points()
    assert (old.tables()[0]["state"] == "finished").sum() < (own["state"] == "finished").sum()
    done = sync(old.file)
    new = {one.trial_id for one in done.sent if one.is_new}
    assert (len(new), len(done.sent), done.complete) == (1, 5, 0), "the network from elsewhere has no run there"
    assert {key: run for key, run in old.run_ids().items() if key not in new} == {
        key: run for key, run in before.items() if key not in new
    }
    for first, second in zip((own, other), old.tables(), strict=True):
        same(first, second)
    assert old.points() == points
    dump = old.dump()
    assert not sync(old.file).changed and old.dump() == dump


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_sent(lost: Place) -> None:
    said = sync(lost.file, dry_run=True)
    assert not lost.database.exists()
    done = sync(lost.file)
    assert (said.sent, said.parent, said.notes) == (done.sent, done.parent, done.notes)
    assert sum(one.values for one in done.sent) == sum(len(found) for found in lost.points().values())
    assert not sync(lost.file, dry_run=True).changed


def test_a_lost_parent_alone(whole: Place) -> None:
    client, parent = whole.store.client, whole.store.parent_run("lost")
    client.delete_run(parent)
    said = sync(whole.file, dry_run=True)
    done = sync(whole.file)
    assert said.sent == done.sent and done.parent == "made"
    assert all((one.is_new, one.values, one.tags, one.files) == (False, 0, 1, 0) for one in done.sent)
    found = {client.get_run(run).data.tags["mlflow.parentRunId"] for run in list(whole.run_ids().values())[:4]}
    assert found == {whole.store.parent_run("lost")}
    assert not sync(whole.file).changed


def test_lost_artifacts_and_parameters(whole: Place) -> None:
    artifacts = whole.artifacts()
    shutil.rmtree(Path(whole.file.sweep.storage) / "artifacts")
    with sqlite3.connect(whole.database) as database:
        database.execute("DELETE FROM params WHERE key LIKE 'training.%'")
    done = sync(whole.file)
    assert sum(one.files for one in done.sent) == sum(map(len, artifacts.values())) - 1, "one has never begun"
    assert min(one.params for one in done.sent if one.label.endswith("seed 0")) > 3
    assert not sync(whole.file).changed
    waiting = whole.file.sweep.trials()[4].trial_id
    assert whole.artifacts() | {waiting: artifacts[waiting]} == artifacts


def test_values_that_changed_and_came_back(whole: Place) -> None:
    """Measured with other settings and then again with the first: three points, of which the last one counts."""
    trial = whole.file.sweep.trials()[0]
    values = [(0.25, 10), (0.5, 20), (0.25, 30), (float("nan"), 40), (float("inf"), 50)]
    records = [Record("metric", "odd", value=value, step=1, time_ms=at) for value, at in values]
    for record in records:
        Journal(whole.folder(trial)).add([record], replace=True)
    run_id = whole.run_ids()[trial.trial_id]
    RunSink(whole.store.uri, run_id).send(records[:1])
    assert [one.values for one in sync(whole.file).sent] == [4]
    history = sorted((point.timestamp, point.value) for point in whole.store.client.get_metric_history(run_id, "odd"))
    assert [at for at, _ in history] == [10, 20, 30, 40, 50]
    assert not sync(whole.file).changed


def test_only_curves_cost_a_question(whole: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [], MlflowClient.get_metric_history

    def counted(client: MlflowClient, run_id: str, key: str) -> Any:
        asked.append((run_id, key))
        return ask(client, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
    assert not sync(whole.file).changed
    run_ids, curves, single = whole.run_ids(), [], 0
    for trial in whole.file.sweep.trials()[:4]:
        keys = Counter(record.key for record in Journal(whole.folder(trial)).records if record.kind == "metric")
        curves += [(run_ids[trial.trial_id], key) for key, count in keys.items() if count > 1]
        single += sum(count == 1 for count in keys.values())
    assert sorted(asked) == sorted(curves)
    assert single > 3


@pytest.mark.parametrize(("held", "sent"), [([(0.5, 5)], 1), ([(0.25, 5)], 0), ([(0.25, 10), (0.5, 20)], 0)])
def test_one_value_against_a_history(whole: Place, held: list[tuple[float, int]], sent: int) -> None:
    """What the journal holds once, while the store's newest is another: its history decides."""
    trial = whole.file.sweep.trials()[0]
    run_id = whole.run_ids()[trial.trial_id]
    for value, at in held:
        whole.store.client.log_metric(run_id, "odd", value, at, 1)
    Journal(whole.folder(trial)).add([Record("metric", "odd", value=0.25, step=1, time_ms=10)])
    assert sum(one.values for one in sync(whole.file).sent) == sent


def test_a_trial_whose_worker_died(whole: Place) -> None:
    trial = whole.file.sweep.trials()[4]
    whole.folder(trial).write(layout.TRIAL, b"not looked at: the sweep file has it")
    records = [Record("state", "state", text="running"), Record("metric", "train/loss", value=2.0, step=1, time_ms=7)]
    Journal(whole.folder(trial)).add(records)
    size = (Path(whole.folder(trial).url) / "journal.jsonl").stat().st_size
    (said,) = sync(whole.file, dry_run=True).sent
    assert (said.state, (Path(whole.folder(trial).url) / "journal.jsonl").stat().st_size) == ("interrupted", size)
    assert sync(whole.file).sent == [said]
    assert Journal(whole.folder(trial)).records[-1].text == "interrupted"
    run = whole.store.client.get_run(whole.run_ids()[trial.trial_id])
    assert (run.info.status, run.data.tags["flatsweep.state"]) == ("KILLED", "interrupted")


def test_a_trial_that_is_worked_on_is_left_out(emptied: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sync.LOCK_SECONDS", 0.1)
    trial = emptied.file.sweep.trials()[0]
    with emptied.folder(trial).lock(1):
        done = sync(emptied.file)
    ((name, reason),) = done.left
    assert name == trial.trial_id and "another process is working" in reason
    assert len(done.sent) == 4 and trial.trial_id not in emptied.run_ids()
    assert [one.trial_id for one in sync(emptied.file).sent] == [trial.trial_id]


def test_trials_that_are_no_longer_in_the_grid(emptied: Place) -> None:
    before = {stored.trial_id for stored in stored_runs(emptied.file.sweep)[0]}
    path = Path(emptied.file.sweep.storage).with_name("smaller.yaml")
    path.write_text(TEXT.replace("[0, 1, 2, 3, 4]", "[0]"))
    root = Path(emptied.file.sweep.storage) / "lost"
    shutil.copytree(root / emptied.file.sweep.trials()[1].trial_id, root / "copied")
    shutil.copytree(
        root / emptied.file.sweep.trials()[1].trial_id, root / f"{emptied.file.sweep.trials()[1].trial_id}.old-1"
    )
    done = sync(load_sweep_file(path))
    assert emptied.run_ids().keys() == before
    assert [name for name, _ in done.left] == ["copied"] and "its trial.json is that of trial" in done.left[0].reason
    parent = emptied.store.client.get_run(emptied.store.parent_run("lost"))
    assert parent.info.status == "FINISHED", "the only cell has finished"


def test_a_storage_of_an_earlier_version_says_what_it_lacks(made: Place, emptied: Place) -> None:
    own, _ = made.tables()
    root = Path(emptied.file.sweep.storage) / "lost"
    (root / "journal.jsonl").unlink()
    next(root.glob("*/source.json")).unlink()
    (note_of_it,) = sync(emptied.file).notes
    assert "for 5 new runs the storage does not say which commit" in note_of_it
    said = ["git_commit", "flatsweep_version", "ray_version", "mlflow_version", "python_version"]
    waiting = emptied.file.sweep.trials()[4].trial_id
    again = emptied.tables()[0]
    assert not again["git_commit"].any()
    # values, states and settings are all there
    same(own.drop(columns=said, errors="ignore"), again.drop(columns=said, errors="ignore"), but=waiting)


def test_a_recorded_file_that_is_gone_is_said(emptied: Place) -> None:
    file = next((Path(emptied.file.sweep.storage) / "lost").glob("*/measures/*.npz"))
    file.unlink()
    for _ in range(2):
        notes = sync(emptied.file).notes
        assert notes == [f"{file.parent.parent.name}: measures/{file.name} is gone from the storage"]


def test_what_is_refused(whole: Place, tmp_path: Path) -> None:
    with driver_lock(whole.file.sweep):
        for dry_run in (False, True):
            with pytest.raises(UserError, match="sweep 'lost' is being run"):
                sync(whole.file, dry_run=dry_run)
    empty = SweepFile(whole.file.sweep.model_copy(update={"storage": str(tmp_path / "no")}), TEXT, whole.file.path)
    with pytest.raises(UserError, match="there is nothing to sync"):
        sync(empty)
    assert not (tmp_path / "no").exists()


def test_as_json(whole: Place) -> None:
    found: Synced = sync(whole.file, dry_run=True)
    assert found.as_dict()["complete"] == 5 and found.as_dict()["left"] == []


@pytest.mark.slow
def test_the_command(emptied: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sweep's name; table, figures and report are on the sweep's run again."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["sync", "lost", "--storage", emptied.file.sweep.storage]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["flatsweep", *words, *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return capsys.readouterr().out

    assert "5 runs would be made" in run("--dry-run") and not emptied.run_ids()
    said = json.loads(run("--json"))
    assert (said["parent"], said["complete"], len(said["sent"]), said["left"]) == ("made", 0, 5, [])
    assert "nothing is missing: 5 runs hold all that the storage has of them" in run()
    client, parent = emptied.store.client, emptied.store.parent_run("lost")
    top = {item.path for item in client.list_artifacts(parent)}
    assert {"sweep.yaml", "analysis", "report.html"} <= top
    assert "analysis/table.csv" in {item.path for item in client.list_artifacts(parent, "analysis")}
