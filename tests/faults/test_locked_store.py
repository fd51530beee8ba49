"""An SQLite store that another process has locked for a while: nothing is lost, and it is told what waits."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sink import RunSink
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from workers import recorder as module
from workers.recorder import Recorder
from workers.storage import Folder
from workers.unsent import noted

pytestmark = pytest.mark.slow

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_store_that_is_locked_for_a_while(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_SECONDS", 0.5)
    (tmp_path / "x").mkdir()
    database = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    sweep = Sweep.model_validate(
        {"name": "x", "storage": str(tmp_path), "grid": {"methods": ["at"], "seeds": [0]}, "data": "digits"}
    )
    store = Store.of(sweep)
    store.prepare()
    (trial,) = sweep.trials()
    run_id = store.create_trial_run(trial, sweep.evaluation, "x", store.open_parent(sweep, "", ""), "")
    folder = Folder(f"{tmp_path}/x/{trial.trial_id}")
    recorder = Recorder(folder, RunSink(store.uri, run_id, folder))
    recorder.metrics({"train/loss": 2.0}, 1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    for epoch in range(2, 6):
        recorder.metrics({"train/loss": 2.0 / epoch}, epoch)
    root = Folder(f"{tmp_path}/x")
    assert recorder.close(12) > 0, "it was not locked"
    assert noted(root)[trial.trial_id].records >= 4
    holder.communicate("")
    again = Recorder(folder, RunSink(store.uri, run_id, folder))  # as the next attempt does
    assert again.close(60) == 0
    assert noted(root) == {}
    points = sorted((point.step, point.value) for point in store.history(run_id, "train/loss"))
    assert points == [(epoch, 2.0 / epoch) for epoch in range(1, 6)]
