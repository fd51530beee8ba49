"""A tracking server on Postgres that fails in every way while a trial runs: nothing is lost, status says what waits.

In turn it drops connections, answers 500, hangs, is slow; then one of Postgres' processes is killed, upon which
Postgres ends all connections and restarts itself.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgres
import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from sweeping import BASE, Place, environment, run_inside, wait_for
from test_tracking_server import answers, free_port
from undisturbed import as_undisturbed, slowly

from orchestrator.tracking import Store
from workers.storage import Folder
from workers.unsent import noted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(postgres.programs() is None, reason=postgres.NO_PROGRAMS),
]

EPOCHS = 50
SECONDS = 3.0
"""That an epoch takes at least."""
TRAINING = BASE["training"] | {"epochs": EPOCHS}
WORKER = """
import logging, sys
from pathlib import Path
import torch
from orchestrator.sink import RunSink
from orchestrator.spec.loading import load_sweep_file
from workers.storage import Folder
from workers.trial import run_trial

logging.basicConfig()
torch.set_num_threads(1)
sweep = load_sweep_file(Path(sys.argv[1])).sweep
(trial,) = sweep.trials()
folder = Folder(f"{sweep.storage}/{sweep.name}/{trial.trial_id}")
run_trial(trial, sweep.evaluation, folder, sink=RunSink(sys.argv[2], sys.argv[3], folder))
"""


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    with postgres.private_postgres() as found:
        yield found


@pytest.fixture(scope="module")
def proxy(database: postgres.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    """Before MLflow's own server on Postgres."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--backend-store-uri", database.database("mlflow"), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--artifacts-destination", str(folder / "served"), "--workers", "1"]
    with (folder / "server.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log, stderr=log, env=environment(), cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow's server", 300)
        with faulty_proxy(port) as found:
            yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@dataclass
class Seen:
    """What was seen while the server failed."""

    place: Place
    trial_id: str
    errors: str = ""
    failed: dict[str, int] = field(default_factory=dict)
    """By way of failing the epochs that were trained meanwhile."""
    status: dict[str, Any] = field(default_factory=dict)
    """While connections were dropped."""
    restarts: int = 0
    """Of Postgres."""


def begin(place: Place) -> tuple[Store, str, str]:
    """What a driver makes before a worker begins: store, the sweep's own run, the trial's."""
    sweep = place.sweep
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, place.file.read_text(), "")
    (trial,) = sweep.trials()
    return store, parent, store.create_trial_run(trial, sweep.evaluation, sweep.name, parent, "")


@pytest.fixture(scope="module")
def seen(proxy: FaultyProxy, database: postgres.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A worker's process with one trial; the part of the driver, and that of whoever looks, is played here."""
    folder = tmp_path_factory.mktemp("faulty")
    grid = {"methods": ["at"], "seeds": [0]}
    place = Place(folder, "faulty", proxy.uri, training=TRAINING, grid=grid, tracking={"uri": proxy.uri})
    (trial_id,) = place.trials()
    seen, root = Seen(place, trial_id), Folder(str(folder / "runs" / "faulty"))
    store, parent, run_id = begin(place)
    env = environment(MLFLOW_HTTP_REQUEST_TIMEOUT="5", **slowly(folder, EPOCHS, SECONDS))
    with (folder / "worker.txt").open("wb") as said:
        words = [sys.executable, "-c", WORKER, str(place.file), proxy.uri, run_id]
        process = subprocess.Popen(words, env=env, stdout=said, stderr=said)
    try:
        wait_for(lambda: place.epochs(trial_id) >= 2 or process.poll() is not None, "two epochs", 600)
        for way in ("reset", "500", "hang", "slow"):
            before = place.epochs(trial_id)
            proxy.way = way
            wait_for(lambda: proxy.done[way] >= 3, f"questions that are answered by {way}", 200)  # noqa: B023
            if way != "slow":
                wait_for(lambda: noted(root).get(trial_id), f"a note of what waits after {way}", 200)
            if way == "reset":
                seen.status = look(place)
            proxy.way = "pass"
            wait_for(lambda: not noted(root), f"all to be sent after {way}", 200)
            seen.failed[way] = place.epochs(trial_id) - before
        victim = next(pid for pid in children(database.process_id) if b"flatsweep" in command(pid))
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: "reinitializing" in database.log.read_text(errors="replace"), "Postgres' restart", 60)
        seen.restarts = database.log.read_text(errors="replace").count("reinitializing")
        assert place.epochs(trial_id) < EPOCHS, "it was through before everything had failed"
        assert process.wait(600) == 0, (folder / "worker.txt").read_text()
    finally:
        process.kill()
        process.wait(30)
    store.close_parent(parent, "finished")
    seen.errors = (folder / "worker.txt").read_text()
    return seen


def look(place: Place) -> dict[str, Any]:
    """What `flatsweep status --json` says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run_inside("status", str(place.file), "--json") == 0
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_training_went_on_whatever_failed(seen: Seen) -> None:
    assert set(seen.failed) == {"reset", "500", "hang", "slow"}
    assert all(epochs > 0 for way, epochs in seen.failed.items() if way != "slow"), seen.failed
    assert seen.restarts == 1
    assert seen.place.attempts(seen.trial_id) == 1
    assert "cannot send" in seen.errors and "Traceback" not in seen.errors


def test_status_says_what_waits_while_the_server_is_away(seen: Seen) -> None:
    status = seen.status
    assert "no answer from the tracking server" in status["store_problem"]
    assert status["waiting"]["records"] > 0 and status["waiting"]["trials"] == 1
    assert status["waiting"]["seconds"] >= 10
    (row,) = status["trials"]
    assert row["state"] == "running" and row["waits_for"].startswith("MLflow: ")
    assert row["train_loss"] is not None, "what the storage knows is shown"


def test_the_end_is_that_of_an_undisturbed_sweep(seen: Seen, tmp_path: Path) -> None:
    as_undisturbed(seen.place, tmp_path)
