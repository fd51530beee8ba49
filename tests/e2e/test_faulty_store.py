"""A tracking server on Postgres that fails in every way while a sweep runs: nothing is lost, status says what waits.

In turn it drops connections, answers 500, hangs, is slow; then one of Postgres' processes is killed, upon which
Postgres ends all connections and restarts itself.
"""

import contextlib
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
from sweeping import BASE, COMMAND, Place, environment, wait_for
from test_tracking_server import answers, free_port
from undisturbed import as_undisturbed, slowly, went_on

from workers.storage import Folder
from workers.unsent import noted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(postgres.programs() is None, reason=postgres.NO_PROGRAMS),
]

EPOCHS = (2, 40)
SECONDS = 3.0
"""That an epoch of the long trial takes at least."""
TRAINING = BASE["training"] | {"epochs": list(EPOCHS)}


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
    long: str
    code: int = -1
    said: str = ""
    failed: dict[str, int] = field(default_factory=dict)
    """By way of failing the epochs that were trained meanwhile."""
    status: dict[str, Any] = field(default_factory=dict)
    """While connections were dropped."""
    text: str = ""
    restarts: int = 0
    """Of Postgres."""


def look(place: Place, uri: str, *words: str) -> str:
    done = subprocess.run(
        [str(COMMAND), "status", str(place.file), *words],
        env=environment(MLFLOW_TRACKING_URI=uri), cwd=place.folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seen(proxy: FaultyProxy, database: postgres.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("faulty")
    grid = {"methods": ["at"], "seeds": [0]}
    place = Place(folder, "faulty", uri=proxy.uri, training=TRAINING, grid=grid)
    seen = Seen(place, list(place.trials())[1])
    root = Folder(str(folder / "runs" / "faulty"))
    env = {"MLFLOW_TRACKING_URI": proxy.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "5", **slowly(folder, EPOCHS[1], SECONDS)}
    with place.started("submit", **env) as process:
        wait_for(lambda: place.epochs(seen.long) >= 2 or process.poll() is not None, "two epochs", 600)
        for way in ("reset", "500", "hang", "slow"):
            before = place.epochs(seen.long)
            proxy.way = way
            wait_for(lambda: proxy.done[way] >= 3, f"questions that are answered by {way}", 200)  # noqa: B023
            if way != "slow":
                wait_for(lambda: noted(root).get(seen.long), f"a note of what waits after {way}", 200)
            if way == "reset":
                seen.status = json.loads(look(place, proxy.uri, "--json"))
                seen.text = look(place, proxy.uri)
            proxy.way = "pass"
            wait_for(lambda: not noted(root), f"all to be sent after {way}", 200)
            seen.failed[way] = place.epochs(seen.long) - before
        victim = next(pid for pid in children(database.process_id) if b"flatsweep" in command(pid))
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: "reinitializing" in database.log.read_text(errors="replace"), "Postgres' restart", 60)
        seen.restarts = database.log.read_text(errors="replace").count("reinitializing")
        assert place.epochs(seen.long) < EPOCHS[1], "it was through before everything had failed"
        seen.code = process.wait(600)
    seen.said = place.output("stdout") + place.output("stderr")
    return seen


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
    assert seen.place.attempts(seen.long) == 1 and went_on(seen.place, seen.long) == []


def test_status_says_what_waits_while_the_server_is_away(seen: Seen) -> None:
    status = seen.status
    assert "no answer from the tracking server" in status["store_problem"]
    assert status["driver_alive"] and status["waiting"]["records"] > 0 and status["waiting"]["trials"] == 1
    assert status["waiting"]["seconds"] >= 10 and status["waiting"]["reason"]
    rows = {row["trial_id"]: row for row in status["trials"]}
    assert rows[seen.long]["state"] == "running" and rows[seen.long]["waits_for"].startswith("MLflow: ")
    assert rows[seen.long]["train_loss"] is not None, "what the storage knows is shown"
    assert "no answer from the tracking server" in seen.text and "waiting: MLflow unreachable for " in seen.text


def test_the_live_view_says_so_too(seen: Seen) -> None:
    assert "waiting   MLflow unreachable for " in seen.said
    assert "MLflow has taken all records that were queued" in seen.said
    assert "Traceback" not in seen.said


def test_the_end_is_that_of_an_undisturbed_sweep(seen: Seen, tmp_path: Path) -> None:
    assert seen.code == 0, seen.said
    as_undisturbed(seen.place, tmp_path)
