"""A sweep whose storage was moved, with the SQLite store in it."""

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import submit as driver
from orchestrator.errors import StoreError
from orchestrator.launch import Outcome
from orchestrator.plan import Plan
from orchestrator.sink import RunSink
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.submit import submit
from orchestrator.sync import sync
from orchestrator.tracking import Store
from workers.recorder import Recorder
from workers.storage import Folder
from workers.trial import close

TEXT = "name: x\ngrid: {methods: [at], seeds: [0]}\nstorage: runs\n"


def launched(
    plan: Plan, record: Callable[[], Mapping[str, str]], _console: Any, _address: Any, store: Store, _limits: Any
) -> Outcome:
    """In the place of Ray: each trial begins and is stopped."""
    run_ids = record()
    for entry in plan.to_launch():
        folder = Folder(f"{plan.sweep.storage}/x/{entry.trial_id}")
        folder.write("trial.json", entry.trial.model_dump_json().encode())
        recorder = Recorder(folder, RunSink(store.uri, run_ids[entry.trial_id], folder))
        recorder.state("running")
        recorder.metrics({"train/loss": 2.0}, 1)
        recorder.state("interrupted")
        close(recorder, 30)
    return Outcome("signal", frozenset())


def test_a_moved_store_is_refused_and_made_again(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "launch", launched)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "runs").mkdir(parents=True)
    shutil.copy(empty_store, first / "runs" / "mlflow.db")
    (first / "x.yaml").write_text(TEXT)

    def run(folder: Path) -> SweepFile:
        file = load_sweep_file(folder / "x.yaml")
        submit(file, Console(file=io.StringIO()))
        return file

    run(first)
    shutil.move(first, second)
    with pytest.raises(StoreError, match=r"the storage was moved: .*first.*second.*flatsweep sync"):
        run(second)
    with pytest.raises(StoreError, match="was moved"):
        sync(load_sweep_file(second / "x.yaml"))
    assert not first.exists(), "something was written where it had been"
    # a new file; of another name, as MLflow keeps the old one open in this process
    shutil.copy(empty_store, second / "runs" / "new.db")
    (second / "x.yaml").write_text(TEXT + f"tracking: {{uri: 'sqlite:///{second}/runs/new.db'}}\n")
    file = load_sweep_file(second / "x.yaml")
    assert [sent.state for sent in sync(file).sent] == ["interrupted"]
    run(second)
    (known,) = Store.of(file.sweep).trial_runs("x")
    assert (known.state, known.metrics["train/loss"]) == ("interrupted", 2.0)
    assert not first.exists()
