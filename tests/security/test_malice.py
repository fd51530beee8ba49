"""Files in the storage, and tags in the tracking store, that somebody made to do harm: nothing in them is run, and no
path in them leads out of a trial's folder."""

import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from orchestrator.analysis import landscapes
from orchestrator.errors import UserError
from orchestrator.local_copy import LocalCopy
from orchestrator.ray_session import SCRATCH_PREFIX, scratch_folder
from orchestrator.sink import RunSink
from orchestrator.spec.landscape_measures import Landscape
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.submit import close_orphans
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from tests.workers.toys import CPU, digits, trial
from workers import layout
from workers.checkpoints import newest, packed
from workers.failures import StorageError
from workers.journal import Journal, Record
from workers.storage import Folder
from workers.training import Trainer
from workers.trial import run_trial


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "executed")


def contents(trap: Trap, state: dict[str, Any]) -> dict[str, bytes]:
    """A checkpoint with the trap in it, in every form that torch has had."""
    poisoned = state | {"extra": trap}
    old = io.BytesIO()
    torch.save(poisoned, old, _use_new_zipfile_serialization=False)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    return {
        "zip": packed(poisoned)[0],
        "old": old.getvalue(),
        "pickle": pickle.dumps(poisoned, protocol=2),
        "pickle 4": pickle.dumps(poisoned, protocol=4),
        "script": script.getvalue(),
        "nothing": b"",
    }


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FORMS = ["zip", "old", "pickle", "pickle 4", "script", "nothing"]


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_as_the_newest_one(
    form: str, trap: Trap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name's hash is right, as an attacker would see to."""
    folder = Folder(str(tmp_path / "checkpoints"))
    good, good_hash = packed({"epoch": 1})
    folder.write(layout.checkpoint_name(1, 0, good_hash), good)
    bad = contents(trap, {"epoch": 9})[form]
    folder.write(layout.checkpoint_name(9, 0, named(bad)), bad)
    with caplog.at_level(logging.WARNING):
        assert newest(folder, CPU) == {"epoch": 1}
    assert "cannot be read" in caplog.text
    assert not trap.path.exists()


def test_the_trap_works(trap: Trap) -> None:
    torch.load(io.BytesIO(contents(trap, {})["zip"]), weights_only=False)
    assert trap.path.exists()


def test_a_checkpoint_as_the_best_network(trap: Trap, tmp_path: Path) -> None:
    stopping = {"every": 1, "examples": 50, "attack": {"steps": 1, "step_size": 0.05}}
    spec = trial(epochs=2, early_stopping=stopping)
    folder = Folder(str(tmp_path / "trial"))
    run_trial(spec, None, folder)
    snapshots = folder / layout.CHECKPOINTS / layout.SNAPSHOTS
    best = Trainer(spec, digits(), folder / layout.CHECKPOINTS, CPU).selection.kept()[0]
    (name,) = [name for name in snapshots.names() if (found := layout.parse_snapshot(name)) and found[0] == best]
    snapshots.delete(name)
    bad = contents(trap, {})["zip"]
    snapshots.write(layout.snapshot_name(best, named(bad)), bad)
    trainer = Trainer(spec, digits(), folder / layout.CHECKPOINTS, CPU)
    with pytest.raises(StorageError, match=f"the network of epoch {best} is not in .* or is damaged"):
        trainer.selection.weights(best)
    assert not trap.path.exists()


def test_a_checkpoint_as_the_teacher(trap: Trap, tmp_path: Path) -> None:
    plain = trial({"name": "unlabeled", "over": "at", "fraction": 0.5}, epochs=1)
    data = {"name": "digits", "train_size": 100, "unlabeled": {"size": 100}}
    spec = Trial.model_validate(plain.model_dump() | {"data": data})
    assert spec.teacher is not None
    root = Folder(str(tmp_path))
    bad = contents(trap, {"epoch": 9, "trial_id": spec.teacher.trial_id})["zip"]
    name = layout.checkpoint_name(99, 0, named(bad))
    (root / spec.teacher.trial_id / layout.CHECKPOINTS).write(name, bad)
    with pytest.raises(StorageError, match=r"its teacher .* is not trained"):
        run_trial(spec, None, root / spec.trial_id)
    assert not trap.path.exists()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: making its tables takes longest."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def sweep_in(folder: Path, uri: str, experiment: str) -> Sweep:
    tracking = {"uri": uri, "experiment": experiment}
    content = {"name": "s", "grid": {"methods": ["at"], "seeds": [0]}, "tracking": tracking}
    (folder / "s.yaml").write_text(json.dumps(content))
    return load_sweep_file(folder / "s.yaml").sweep


class Place:
    """A sweep with an experiment of its own and one recorded trial, made without Ray."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.sweep = sweep_in(folder, uri, folder.name)
        self.store = Store.of(self.sweep)
        self.store.prepare()
        self.parent = self.store.open_parent(self.sweep, "", "")
        self.trial = self.sweep.trials()[0]
        self.run_id = self.store.create_trial_run(self.trial, self.sweep.evaluation, "s", self.parent, "")
        self.folder = Folder(self.sweep.storage) / "s"


@pytest.fixture
def place(tmp_path: Path, uri: str) -> Place:
    return Place(tmp_path, uri)


def test_the_copy_of_the_runs(place: Place, trap: Trap, caplog: pytest.LogCaptureFixture) -> None:
    (place.folder / place.trial.trial_id).write("x", b"")
    copy = LocalCopy(place.sweep, place.store)
    copy.trial_runs()
    copy.keep()
    (name,) = (place.folder / "cache").names()
    field = pa.field(
        "run_id",
        pa.string(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",  # which pyarrow unpickled until version 14
            "ARROW:extension:metadata": pickle.dumps(trap, protocol=0).decode("latin-1"),
        },
    )
    table = pa.table([pa.array(["x"])], schema=pa.schema([field], metadata={"pandas": "{", "format": "1"}))
    content = io.BytesIO()
    parquet.write_table(table, content)
    (place.folder / "cache").write(name, content.getvalue())
    with caplog.at_level(logging.WARNING):
        assert [run.run_id for run in LocalCopy(place.sweep, place.store).trial_runs()] == [place.run_id]
    assert "is damaged and made again from the store" in caplog.text
    assert not trap.path.exists()


def test_the_arrays_of_a_measure(place: Place, trap: Trap, caplog: pytest.LogCaptureFixture) -> None:
    measure = Landscape()
    content = io.BytesIO()
    np.savez(content, robust_loss=np.array([trap], dtype=object))
    name = layout.arrays_name(layout.result_name(measure, 0))
    (place.folder / place.trial.trial_id / layout.MEASURES).write(name, content.getvalue())
    row = {"trial_id": place.trial.trial_id, "checkpoint": "last", "method": "at", "regularizer": "none"}
    with caplog.at_level(logging.WARNING):
        _, missing = landscapes.read(place.sweep, pd.DataFrame([row | {"setting": "", "seed": 0, "epoch": 1}]), measure)
    assert len(missing) == 1 and "allow_pickle=False" in caplog.text
    assert not trap.path.exists()


@pytest.mark.parametrize("path", ["/{}/stolen.txt", "../stolen.txt", "a/../../stolen.txt", ".."])
def test_a_journal_that_names_files_elsewhere(
    path: str, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = place.folder / place.trial.trial_id
    named_path = path.format(str(tmp_path).lstrip("/"))
    folder.write("own.txt", b"")
    (tmp_path / "runs" / "s" / "stolen.txt").write_text("of another")
    if path.startswith("/"):  # what an attacker would lay below the folder, to have it written above
        outside = Path(f"{folder}/{named_path}")
        outside.parent.mkdir(parents=True)
        outside.write_text("mine")
    before = sorted(map(str, tmp_path.rglob("stolen.txt")))
    Journal(folder).add([Record("file", named_path, text="hash"), Record("metric", "loss", value=1.0)])
    with caplog.at_level(logging.WARNING):
        RunSink(place.store.uri, place.run_id, folder).send(Journal(folder).records)
    assert "outside the trial's folder: left out" in caplog.text
    assert sorted(map(str, tmp_path.rglob("stolen.txt"))) == before
    assert [file.path for file in place.store.client.list_artifacts(place.run_id)] == ["trial.json"]
    assert place.store.trial_runs("s")[0].metrics == {"loss": 1.0}  # all else is there


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "", "a/b", "..", ".", "x" * 101, "a\nb"])
def test_a_run_whose_trial_id_is_a_path(name: str, place: Place, tmp_path: Path) -> None:
    place.store.client.set_tag(place.run_id, "flatsweep.trial_id", name)
    place.store.client.update_run(place.run_id, status="RUNNING")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    with pytest.raises(UserError, match="is no trial's id: somebody changed its tag") as error:
        close_orphans(place.store, place.sweep)
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine"]


def test_ids_of_trials_are_taken() -> None:
    assert TrialRun.of("r", "FINISHED", {"trial_id": trial().trial_id}, {}, {}, 0, 0).trial_id == trial().trial_id


def test_the_note_of_a_driver_that_died(tmp_path: Path) -> None:
    """Only what a driver makes itself is removed, whatever somebody wrote into the storage."""
    precious, own = tmp_path / f"{SCRATCH_PREFIX}data", Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    try:
        for left, stays in ((precious, True), (own / ".." / "x", True), (own, False)):
            precious.mkdir(exist_ok=True)
            (tmp_path / ".driver.scratch").write_text(str(left))
            with scratch_folder(tmp_path):
                pass
            assert precious.exists() and (own.exists() or not stays)
        assert not own.exists()
    finally:
        shutil.rmtree(own, ignore_errors=True)


EXPERIMENTS = [
    "../../outside",
    "/outside",
    "a/b",
    "..",
    ".",
    "a?b#c%2e",
    "sp ace",
    "quo'te\"`\\",
    "x" * 200,
    "\u00fcber",
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_name_is_no_way_out_of_the_storage(name: str, tmp_path: Path, uri: str) -> None:
    sweep = sweep_in(tmp_path, uri, name)
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, "text", "")
    assert store.parent_run("s") == parent
    assert Store.of(sweep).experiment_id == store.experiment_id
    (written,) = tmp_path.rglob("sweep.yaml")
    assert written.read_text() == "text" and written.is_relative_to(tmp_path / "runs" / "artifacts")
    assert written.relative_to(tmp_path / "runs" / "artifacts").parts[1:] == (parent, "artifacts", "sweep.yaml")


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\tb", "x" * 201, "a\u202eb", "\u200b"])
def test_experiments_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracking\.experiment: an experiment's name is one line"):
        sweep_in(tmp_path, "sqlite:///none.db", name)
