"""Recording on a real MLflow server, which goes away in the middle and comes back with its database elsewhere.

And `flatsweep ui` on a store without a server.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sweeping import BASE, Place, each_epoch_once, environment, wait_for

from orchestrator.local_copy import LocalCopy
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun

pytestmark = pytest.mark.timeout(900)

EPOCHS = (2, 150)
TRAINING = BASE["training"] | {"epochs": list(EPOCHS)}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@dataclass
class Server:
    """`mlflow server` on an SQLite file, that can be stopped, moved and started again."""

    folder: Path
    database: str = "server.db"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["server", "--backend-store-uri", f"sqlite:///{self.folder}/{self.database}", "--host", "127.0.0.1"]
        words += ["--artifacts-destination", str(self.folder / "served"), "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                stdout=log, stderr=log, env=environment(), cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        wait_for(lambda: answers(f"{self.uri}/health"), "MLflow's server", 200)

    def move(self, database: str) -> None:
        """The next start finds the database by another address."""
        (self.folder / database).parent.mkdir()
        for file in self.folder.glob(f"{self.database}*"):
            file.rename(self.folder / file.name.replace(self.database, database))
        self.database = database

    def stop(self) -> None:
        """Kills the server and its workers."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@dataclass(frozen=True)
class Disturbed:
    """A sweep of a short and a long trial whose server went away while the long one trained."""

    place: Place
    short: str
    long: str
    at: int
    """Epochs of the long trial when the server was stopped."""
    status: str
    """Of the long trial, on the server, then."""
    code: int
    errors: str


def status(place: Place, trial_id: str) -> str:
    return next((run.info.status for run in place.runs() if run.data.tags["flatsweep.trial_id"] == trial_id), "")


@pytest.fixture(scope="module")
def disturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """The server is stopped when the long trial has begun, and started again, on its database in another place, when
    the long one is trained."""
    server.wait()
    grid = {"methods": ["at"], "seeds": [0]}
    place = Place(tmp_path_factory.mktemp("served"), "served", uri=server.uri, training=TRAINING, grid=grid)
    short, long = place.trials()
    with place.started("submit", MLFLOW_TRACKING_URI=server.uri) as process:
        wait_for(
            lambda: (place.epochs(long) >= 2 and status(place, long) == "RUNNING") or process.poll() is not None,
            "two epochs of the long trial",
        )
        found, at = status(place, long), place.epochs(long)
        server.stop()
        wait_for(lambda: place.epochs(long) == EPOCHS[1] or process.poll() is not None, "the end of training")
        server.move("elsewhere/moved.db")
        server.start()
        code = process.wait(400)
    server.wait()
    return Disturbed(place, short, long, at, found, code, place.output("stderr"))


@pytest.mark.slow
def test_training_went_on_without_the_server(disturbed: Disturbed) -> None:
    assert disturbed.status == "RUNNING"
    assert 2 <= disturbed.at < EPOCHS[1]
    assert disturbed.place.epochs(disturbed.long) == EPOCHS[1]
    assert disturbed.place.attempts(disturbed.long) == 1  # neither failed nor tried again
    assert disturbed.place.results(disturbed.long)
    assert "Traceback" not in disturbed.errors
    assert disturbed.code in {0, 2}  # 2: the server was not back in time


@pytest.mark.slow
def test_nothing_is_lost_after_one_more_submit(disturbed: Disturbed, server: Server) -> None:
    place = disturbed.place
    checkpoints = {trial_id: place.files(trial_id, "checkpoints") for trial_id in place.trials()}
    done = place.run("submit", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    runs = place.recorded()
    assert set(runs) == {disturbed.short, disturbed.long}
    for trial_id, epochs in zip((disturbed.short, disturbed.long), EPOCHS, strict=True):
        run = runs[trial_id]
        assert (run.status, run.tag("state")) == ("FINISHED", "finished")
        each_epoch_once(run, epochs)
        assert place.results(trial_id).items() <= run.metrics.items()
        assert run.tag("weights") == place.journal_tag(trial_id, "weights")
        assert place.files(trial_id, "checkpoints") == checkpoints[trial_id]
    (parent,) = place.runs("sweep")
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
def test_all_of_it_is_on_the_server(disturbed: Disturbed) -> None:
    assert not (disturbed.place.folder / "runs" / "mlflow.db").exists()
    assert not (disturbed.place.folder / "runs" / "artifacts").exists()


def read_through_a_copy(place: Place, store: Store, served: Store) -> None:
    """Over HTTP as from the file: all runs, then only what has changed, and runs that are gone."""

    def look() -> list[TrialRun]:
        copy = LocalCopy(place.sweep, served)
        runs = copy.trial_runs()
        copy.keep()
        return runs

    assert look() == store.trial_runs("shown") != []
    first, second = (run.run_id for run in store.trial_runs("shown"))
    served.set_state(first, "failed", {"error": "boom"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "trial_runs", None)  # not asked for everything again
        assert look() == store.trial_runs("shown")
    assert [run.error for run in look()] == ["boom", ""]
    assert served.holds_exactly("shown", [first, second]) and not served.holds_exactly("shown", [first])
    served.client.delete_run(second)
    assert not served.holds_exactly("shown", [first, second])
    assert [run.run_id for run in look()] == [first]


def test_ui_serves_the_store(tmp_path: Path) -> None:
    place = Place(tmp_path, "shown")
    (tmp_path / "runs" / "shown").mkdir(parents=True)
    store = Store(place.uri, "shown", tmp_path / "artifacts")
    store.prepare()
    parent = store.open_parent(place.sweep, "", "")
    for trial in place.trials().values():
        store.create_trial_run(trial, place.sweep.evaluation, "shown", parent, "")
    port = free_port()
    with place.started("ui", "--port", str(port)) as process:
        try:
            wait_for(lambda: "(Ctrl-C ends it)" in place.output("stdout"), "the address", 60)
            page = place.output("stdout").split()[0]
            assert page == f"http://127.0.0.1:{port}/#/experiments/{store.experiment_id}/runs"
            wait_for(lambda: answers(page) or process.poll() is not None, "the page", 200)
            with urllib.request.urlopen(page, timeout=20) as answer:
                assert answer.status == 200 and b"<html" in answer.read().lower()
            read_through_a_copy(place, store, Store(f"http://127.0.0.1:{port}", "shown", tmp_path / "artifacts"))
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(60) in {0, 130}
            wait_for(lambda: not answers(page), "the end of the server", 30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
